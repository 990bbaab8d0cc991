//! What one program tells another: the types of API v1 and its errors, and status.json.  The only serde for the network.
//!
//! Must not know: stores, decisions; sockets and TLS only as `client` uses them.  A field may be added with a serde
//! default; anything else is a v2.
//! `tests/repository/snapshots/` pins every type, so that a change shows in review.

pub mod client;
pub mod error;
pub mod status;
pub mod v1;
