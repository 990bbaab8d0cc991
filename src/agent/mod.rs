//! The agent: gets keys from its source, installs them, verifies, reports.

pub mod check;
pub mod cli;
pub mod host;
pub mod init;
pub mod locks;
pub mod metrics;
pub mod preflight;
pub mod run;
pub mod source;
pub mod status;
pub mod timer;
pub mod worker;
