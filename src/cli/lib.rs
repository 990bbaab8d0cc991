//! What the command lines of the programs share: how a command starts, shows its result, and ends.
//!
//! * [`frame`]: parse the arguments, run the command, print its problems, exit.
//! * [`report`]: exit codes, output formats, results, failures.
//! * [`host_report`]: what `tfo-agent check` and `tfoctl status` show of a host.
//! * [`plan`]: what a command to a pool will do, in words.
//! * [`output`]: notices that stdout has no reader any more.
//! * [`reload`]: how a daemon ends a reload of its configuration.
//! * [`systemctl`]: how a command ends with `--enable`.
//! * [`terminal`], [`screen`], [`bar`], [`scroll`], [`table`], [`plain`]: text for terminals.

pub mod bar;
pub mod frame;
pub mod host_report;
pub mod output;
pub mod plain;
pub mod plan;
pub mod reload;
pub mod report;
pub mod screen;
pub mod scroll;
pub mod systemctl;
pub mod table;
pub mod terminal;
