//! TLS 1.3 with client certificates: files, reload, revocation, and who a peer is.

pub mod client;
