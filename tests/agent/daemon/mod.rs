//! The daemon as systemd runs it: `tfo-agent run` in a network namespace, with a notify socket of the test's.

mod drift;
mod notify;
mod siege;
mod sources;
mod status;
