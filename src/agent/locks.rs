//! The locks of all namespaces that an agent looks after.

use std::time::Duration;

use tfo_cli::report::Outcome;
use tfo_config::agent::AgentSettings;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::runtime::lock::{LockError, NamespaceLock};
use tfo_model::problem::{Problem, chain};

/// One namespace's lock, with the identity that it is for.
pub type HeldLock = (String, NamespaceLock);

/// Identities of all namespaces in the settings, the own one first.
///
/// # Errors
/// Fails if one does not exist, or if two names mean the same one.
pub fn identities(settings: &AgentSettings) -> Result<Vec<String>, Problem> {
    let named = settings.install.namespaces.iter().map(|name| Namespace::Named(name.value.clone()));
    let mut identities: Vec<String> = Vec::new();
    for namespace in std::iter::once(Namespace::Own).chain(named) {
        let identity = namespace.identity().map_err(|error| {
            let remedy = format!("make it with `ip netns add {namespace}`, or take it out of install.namespaces");
            Problem::error("namespace", chain(&error), remedy)
        })?;
        let identity = identity.to_string();
        if identities.contains(&identity) {
            let message = format!("namespace {namespace} is another name for one that is looked after already");
            return Err(Problem::error("namespace", message, "take it out of install.namespaces"));
        }
        identities.push(identity);
    }
    Ok(identities)
}

/// Takes the locks of the namespaces in the settings, except for those that are `held` already.
///
/// # Errors
/// Fails if another agent holds one of them, or if a lock file cannot be used.
pub fn take(
    settings: &AgentSettings,
    program: &str,
    patience: Duration,
    held: &[HeldLock],
) -> Result<Vec<HeldLock>, Problem> {
    let is_held = |identity: &String| held.iter().any(|(other, _)| other == identity);
    let missing = identities(settings)?.into_iter().filter(|identity| !is_held(identity));
    missing
        .map(|identity| match NamespaceLock::take(&identity, program, patience) {
            Ok(lock) => Ok((identity, lock)),
            Err(error) => Err(problem(&error)),
        })
        .collect()
}

/// Kind of the problem that another agent is there.
const ANOTHER_AGENT: &str = "another_agent";

/// How a command ends that could not take its locks: refused only where another agent holds one.
#[must_use]
pub fn outcome(problem: &Problem) -> Outcome {
    if problem.kind == ANOTHER_AGENT { Outcome::Refused } else { Outcome::Failed }
}

fn problem(error: &LockError) -> Problem {
    match error {
        LockError::Held { .. } => {
            let remedy = "stop it (`systemctl stop tfo-agent`), or use `once --dry-run` to look only";
            Problem::error(ANOTHER_AGENT, format!("{error}; nothing was written"), remedy)
        }
        LockError::Failed { .. } => {
            let message = format!("{}; nothing was written", chain(error));
            Problem::error("lock", message, "make /run/lock writable (ReadWritePaths=/run/lock in the unit)")
        }
    }
}
