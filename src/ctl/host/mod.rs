//! TFO diagnostics for one host: what its kernel does, and what servers do from outside.

mod ending;
mod key_ring;
pub mod link;
pub mod packet;
pub mod pcap;
pub mod probe;
mod raw;
pub mod sniff;
mod target;
pub mod tcp_option;
pub mod verify;
