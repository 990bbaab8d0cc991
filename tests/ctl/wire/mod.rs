//! `tfoctl probe`, `verify` and `sniff` against the real kernel, nginx and haproxy, in network namespaces of the tests' own; tshark is the
//! judge of what there was to see.

mod probe;
mod refusals;
mod sniff;
mod verify;
mod world;
