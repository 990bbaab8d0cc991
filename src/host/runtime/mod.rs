//! The process and its host: clocks, files, notifications, logs, and the only `unsafe`.

pub mod clock;
pub mod confine;
pub mod descriptors;
pub mod event_loop;
pub mod files;
pub mod lock;
pub mod log;
pub mod notify;
pub mod process;
pub mod sheet;
pub mod sys;
pub mod usage;
