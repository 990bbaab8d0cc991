//! Pure types: what a key, a fingerprint, an epoch and a cookie are.
//!
//! Nothing here reads a clock, a file, a socket, the environment or randomness, and nothing logs.
//! `tests/tidy.rs` fails when that changes.

pub mod cookie;
pub mod count;
pub mod ids;
pub mod key;
pub mod problem;
pub mod state;
pub mod time;
