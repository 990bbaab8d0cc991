//! Configuration files: read once, all problems collected, converted into settings whose fields cannot be wrong.

pub mod agent;
pub mod ctl;
pub mod reader;
pub mod secret;
