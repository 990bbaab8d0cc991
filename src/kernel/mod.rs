//! The host's edge: the key file of the kernel, its counters, network namespaces, and the file that sets the key at boot.

pub mod namespace;
pub mod procfs;
pub mod sysctl_d;
pub mod text;
