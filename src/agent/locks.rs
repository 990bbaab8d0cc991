//! The locks of all namespaces that an agent manages.

use std::collections::BTreeSet;
use std::time::Duration;

use super::observation;
use tfo_cli::report::{Failure, Outcome};
use tfo_config::agent::AgentSettings;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::runtime::descriptors;
use tfo_host::runtime::lock::{LockError, NamespaceLock};
use tfo_model::problem::{Problem, chain};

/// One namespace's lock.
pub struct HeldLock {
    /// Identity of the namespace.
    pub identity: String,
    lock: NamespaceLock,
}

/// Identities of all namespaces in the settings, the own one first.
///
/// # Errors
/// Fails if one does not exist, or if two names stand for the same one.
pub fn identities(settings: &AgentSettings) -> Result<Vec<String>, Failure> {
    let named = settings.install.namespaces.iter().map(|name| Namespace::Named(name.value.clone()));
    let mut identities: Vec<String> = Vec::new();
    for namespace in std::iter::once(Namespace::Own).chain(named) {
        let unusable = |error| Failure::new(Outcome::Failed, observation::not_entered(&namespace, &error));
        let identity = namespace.identity().map_err(unusable)?.to_string();
        if identities.contains(&identity) {
            let message = format!("namespace {namespace} is another name of one that is already managed");
            let problem = Problem::error("namespace", message, "remove it from install.namespaces");
            return Err(Failure::new(Outcome::Failed, problem));
        }
        identities.push(identity);
    }
    Ok(identities)
}

/// Takes the locks of the namespaces in the settings, except for those that are already `held`.
///
/// # Errors
/// Fails if another agent holds one of them, or if a lock file cannot be used.
pub fn take(
    settings: &AgentSettings,
    program: &str,
    patience: Duration,
    held: &[HeldLock],
) -> Result<Vec<HeldLock>, Failure> {
    let is_held = |identity: &String| held.iter().any(|lock| lock.identity == *identity);
    let missing = identities(settings)?.into_iter().filter(|identity| !is_held(identity));
    missing
        .map(|identity| match NamespaceLock::take(&identity, program, patience) {
            Ok(lock) => Ok(HeldLock { identity, lock }),
            Err(error) => Err(not_locked(&error)),
        })
        .collect()
}

/// Keeps the locks up to date: takes again what was taken away (an operator removed the directory of a running agent: `systemctl
/// clean`, or a unit with the same RuntimeDirectory= and without RuntimeDirectoryPreserve=), and follows a namespace that was
/// made again under its name.  The identity of one that is gone may return as another agent's, so its lock is given back.
///
/// # Errors
/// Fails if another agent has come meanwhile, or if a lock file cannot be used.
pub fn keep(settings: &AgentSettings, program: &str, held: &mut Vec<HeldLock>) -> Result<(), Failure> {
    let all_in_place = held.iter().all(|one| one.lock.is_in_place());
    if all_in_place && settings.install.namespaces.is_empty() {
        return Ok(());
    }
    let named = settings.install.namespaces.iter().map(|name| Namespace::Named(name.value.clone()));
    // One that does not exist now is a problem of the pass.
    let present = std::iter::once(Namespace::Own).chain(named).filter_map(|one| Some(one.identity().ok()?.to_string()));
    let present: BTreeSet<String> = present.collect();
    held.retain(|one| present.contains(&one.identity) && one.lock.is_in_place());
    for identity in present {
        if !held.iter().any(|one| one.identity == identity) {
            let lock = NamespaceLock::take(&identity, program, Duration::ZERO).map_err(|error| not_locked(&error))?;
            held.push(HeldLock { identity, lock });
        }
    }
    Ok(())
}

fn not_locked(error: &LockError) -> Failure {
    match error {
        LockError::Held { .. } => {
            let remedy = "stop it (`systemctl stop tfo-agent`), or use `once --dry-run` to look only";
            Failure::new(
                Outcome::Refused,
                Problem::error("another_agent", format!("{error}; nothing was written"), remedy),
            )
        }
        LockError::Failed { .. } => {
            let message = format!("{}; nothing was written", chain(error));
            let remedy = "give root (or the agent's own user) /run/tfo-agent, and no other user: RuntimeDirectory=tfo-agent \
                          and RuntimeDirectoryPreserve=yes in the unit";
            let problem = descriptors::problem_of(error, Problem::error("lock", message, remedy));
            Failure::new(Outcome::Failed, problem)
        }
    }
}
