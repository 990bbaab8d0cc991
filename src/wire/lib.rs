//! What the programs send each other: the types of API v1 and its errors, the client, and status.json.
//!
//! Must not know: stores and decisions; sockets and TLS only as [`client`] uses them.
//!
//! Invariants: a type may gain a field with a serde default; any other change needs a v2.  `tests/repository/snapshots/` pins every
//! type, so that a change shows in review.

pub mod base_url;
pub mod client;
pub mod error;
pub mod page;
pub mod status;
pub mod v1;
