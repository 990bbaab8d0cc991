//! The coordinator's machine: PROTOCOL.md rules 1 to 16 as pure code.

pub mod document;
pub mod policy;
pub mod record;
