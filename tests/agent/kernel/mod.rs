//! The agent's edges against the real kernel and the real sysctl programs, in network namespaces of the tests' own.

mod boot_order;
mod caveats;
mod cookies;
mod keys;
mod namespaces;
mod passing;
mod text;
