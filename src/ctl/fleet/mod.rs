//! The fleet commands: what an operator sees and does through the coordinators.
//!
//! The coordinator decides; these modules ask it.  `ask` sends requests, `command` is the shape of every command to a pool,
//! `consent` explains a command to how many nodes before it is sent, `follow` follows a rotation, `shown` shows the
//! results, `roster` the nodes, `verdict` says how a pool is, `complete` tells the shell names,
//! `coordinators` are those of a pool, `tokens` lets nodes enrol, `renew` prolongs the operator's own certificate, `console` is the coordinator's pages with
//! buttons.  A command that can do harm carries the revision or generation that the operator saw, so that it is refused if
//! the pool has changed since.

mod ask;
mod audit;
mod chain;
mod command;
mod complete;
mod connect;
mod consent;
mod console;
mod coordinators;
mod ends;
mod failure;
mod follow;
mod judge;
mod keys;
mod look;
mod moving;
mod nodes;
mod renew;
mod roster;
mod rotate;
mod shown;
mod steps;
mod targets;
mod tokens;
mod verdict;
mod watch;

pub(crate) use audit::{AuditArgs, audit};
pub(crate) use command::CommandArgs;
pub(crate) use complete::{contexts as context_names, nodes as node_names, pools as pool_names};
pub(crate) use connect::ConnectArgs;
pub(crate) use console::{ConsoleArgs, console};
pub(crate) use coordinators::{CoordinatorsArgs, coordinators};
pub(crate) use keys::{ImportArgs, RecoverArgs, import, recover};
pub(crate) use look::{NodesArgs, PoolsArgs, contexts, list_nodes, pools};
pub(crate) use moving::{MoveArgs, move_nodes};
pub(crate) use nodes::{
    ExcludeArgs, ExpectedArgs, ForgetArgs, NodeArgs, allow, deny, exclude, expect, forget, include,
};
pub(crate) use renew::{RenewArgs, renew};
pub(crate) use rotate::{RotateArgs, rotate};
pub(crate) use steps::{AbortArgs, ResumeArgs, abort, advance, pause, resume};
pub(crate) use tokens::{TokenArgs, token};
pub(crate) use verdict::{CheckArgs, check};
pub(crate) use watch::{WatchArgs, watch};
