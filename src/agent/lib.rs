//! The agent: gets keys from its source, installs them, verifies, reports.

pub mod check;
pub mod cli;
pub mod confine;
pub mod contact;
pub mod hook;
pub mod init;
pub mod join;
pub mod locks;
pub mod looking;
pub mod metrics;
pub mod observation;
pub mod oci;
pub mod once;
pub mod passing;
pub mod placement;
pub mod preflight;
pub mod reconcile;
pub mod report;
pub mod run;
mod scrape;
pub mod server_bit;
pub mod source;
pub mod status;
pub mod systemd;
