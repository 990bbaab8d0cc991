//! `tfoctl status`: what the agent says about this host, what the kernel says, and whether the two agree.

mod gather;
mod judge;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use report::StatusReport;
use tfo_cli::report::{Failure, Format, Outcome, deliver_as};
use tfo_config::agent::DEFAULT_FILE;
use tfo_host::runtime::clock;
use tfo_model::ids::NamespaceName;
use tfo_model::problem::first_error;

/// An agent that is just at it has written one place and not yet the next: longer than any pass takes.
const SECOND_LOOK: Duration = Duration::from_millis(500);

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// The agent's configuration, which says where its files are; without the file, the usual places
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    agent_config: PathBuf,
    /// Network namespace under /run/netns, as often as wanted; without it all that the agent looks after
    #[arg(long = "namespace", value_name = "NAME")]
    namespaces: Vec<NamespaceName>,
}

/// Looks at everything and says what is wrong.
///
/// # Errors
/// Fails if nobody reads the output any more.  What is wrong with the host is a result.
pub fn run(arguments: &StatusArgs, format: Format) -> Result<Outcome, Failure> {
    let look = || {
        let facts = gather::gather(&arguments.agent_config, &arguments.namespaces, clock::now());
        let problems = judge::judge(&facts);
        (facts, problems)
    };
    let (mut facts, mut problems) = look();
    if problems.iter().any(judge::may_pass) {
        std::thread::sleep(SECOND_LOOK);
        (facts, problems) = look();
    }
    let outcome = if first_error(&problems).is_some() { Outcome::Failed } else { Outcome::Done };
    deliver_as(&StatusReport::of(facts, problems), format, outcome)
}
