//! `tfoctl` for one host: against the real kernel, and against servers and clients that nobody here wrote.

mod bench;
mod get;
mod keys;
mod stats;
mod status;
