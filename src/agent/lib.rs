//! The agent: gets keys from its source, installs them, verifies, reports.

pub mod check;
pub mod cli;
pub mod contact;
pub mod hook;
pub mod host;
pub mod init;
pub mod locks;
pub mod metrics;
pub mod preflight;
pub mod report;
pub mod run;
pub mod server_bit;
pub mod service;
pub mod source;
pub mod status;
pub mod talk;
pub mod timer;
pub mod units;
pub mod which;
pub mod worker;
