//! The authority of a fleet that has no PKI of its own: what it signs, what a node brings to it, and the directory in which an
//! authority that is kept by hand lies.
//!
//! Must not know: sockets, pools, stores, where the files of a host lie.

pub mod authority;
pub mod directory;
pub mod index;
pub mod issued;
pub mod key;
pub mod list;
mod pem;
pub mod renewal;
pub mod request;
pub mod role;
pub mod serial;
pub mod token;
