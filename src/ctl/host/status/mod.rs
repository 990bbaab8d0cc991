//! `tfoctl status`: the agent's report, what the kernel holds, and whether the two agree.

mod gather;
mod judge;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use tfo_cli::report::{Failure, Format, Outcome, deliver_as};
use tfo_config::agent::DEFAULT_FILE;
use tfo_host::runtime::clock;
use tfo_model::ids::NamespaceName;
use tfo_model::problem::first_error;

/// Pause before a second look: longer than any pass of an agent, which writes one place after the other.
const SECOND_LOOK: Duration = Duration::from_millis(500);

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// The agent's configuration, which names its files; if it is missing, the default paths apply
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    agent_config: PathBuf,
    /// Network namespace under /run/netns; may be given several times; without it, all that the agent manages
    #[arg(long = "namespace", value_name = "NAME")]
    namespaces: Vec<NamespaceName>,
}

/// Examines the host and reports what is wrong.
///
/// # Errors
/// Fails if the output cannot be written.  Problems of the host are a result, not an error.
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
    deliver_as(&report::of(&facts, problems), format, outcome)
}
