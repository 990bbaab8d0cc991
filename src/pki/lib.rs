//! The authority of a fleet that has no PKI of its own: what it signs, and what a node brings to it.
//!
//! Must not know: sockets, pools, stores, where files lie.

pub mod authority;
pub mod issued;
pub mod list;
mod pem;
pub mod renewal;
pub mod request;
pub mod role;
pub mod serial;
pub mod token;
