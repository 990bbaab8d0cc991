//! Configuration files: read once, all problems collected, converted into settings whose fields cannot be wrong.

pub mod agent;
pub mod contact;
pub mod coordinator;
pub mod ctl;
pub mod reader;
