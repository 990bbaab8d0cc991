//! TFO diagnostics for one host: what its kernel does, and what servers do from outside.

mod bpf;
pub mod cookie;
pub mod derive;
mod ending;
pub mod get;
pub mod key_file;
mod key_ring;
pub mod keygen;
pub mod link;
mod namespaces;
pub mod packet;
pub mod pcap;
pub mod probe;
mod raw;
pub mod reveal;
pub mod sniff;
pub mod stats;
pub mod status;
mod target;
pub mod tcp_option;
pub mod verify;
