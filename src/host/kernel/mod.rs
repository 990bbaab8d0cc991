//! The host's edge: the key file of the kernel, its counters, network namespaces, and the file that sets the key at boot.

pub mod boot_order;
pub mod key_writers;
pub mod namespace;
pub mod namespace_found;
pub mod netstat;
pub mod procfs;
pub mod release;
pub mod synproxy;
pub mod sysctl_d;
pub mod tcp_info;
