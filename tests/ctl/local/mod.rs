//! `tfoctl` for one host: against the real kernel, and against third-party servers and clients.

mod bench;
mod get;
mod keys;
mod stats;
mod status;
