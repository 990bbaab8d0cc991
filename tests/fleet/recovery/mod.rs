//! Recovery, tried as an operator would: real coordinator, real agents with keys in their kernels, `tfoctl` as it is typed.
//!
//! Each scenario is a page of docs/how-to; what is typed there is what is run here.

mod back;
mod beginning;
mod certificates;
mod killed;
mod store;
mod transcript;
mod watch;
