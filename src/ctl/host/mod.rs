//! TFO diagnostics for one host: what its kernel does, and what servers do from outside.

pub mod cookie;
pub mod derive;
pub mod get;
pub mod key_file;
pub mod keygen;
mod namespaces;
pub mod reveal;
pub mod stats;
pub mod status;
