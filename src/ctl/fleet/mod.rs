//! The fleet commands: what an operator sees and does through the coordinators.
//!
//! Nothing is decided here; the coordinator decides.  What is here: asking it (`ask`), saying beforehand what a command
//! will do and to how many nodes (`consent`), following a rotation (`follow`), and showing all of it.  Every command that
//! can harm carries what the operator saw, so that it is refused where the pool has moved on.

mod ask;
mod connect;
mod consent;
mod failure;
mod follow;
mod keys;
mod look;
mod nodes;
mod rotate;
mod shown;
mod steps;
mod watch;

pub use keys::{ImportArgs, RecoverArgs, import, recover};
pub use look::{AuditArgs, NodesArgs, PoolsArgs, audit, list_nodes, pools};
pub use nodes::{ExcludeArgs, NodeArgs, deny, exclude, forget};
pub use rotate::{RotateArgs, rotate};
pub use steps::{AbortArgs, AdvanceArgs, ResumeArgs, StepArgs, abort, advance, pause, resume};
pub use watch::{WatchArgs, watch};
