//! The agent with a coordinator: real TLS, real long polls, real keys in a kernel, against a coordinator that the test
//! scripts.

mod hostile;
mod install;
mod once;
mod real;
mod refused;
mod report;
mod sandbox;
mod start;
