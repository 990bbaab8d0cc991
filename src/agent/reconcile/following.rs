//! Namespaces that come and go: those that are there now are managed, and those that are gone are forgotten without a problem.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::PassMode;
use crate::observation::ManagedNamespace;
use tfo_config::agent::{InstallMode, InstallSettings};
use tfo_host::kernel::namespace::{Namespace, NamespaceIdentity};
use tfo_host::kernel::namespace_found::{FOUND_MAX, find};
use tfo_host::runtime::lock::{LockError, NamespaceLock};
use tfo_model::problem::{Problem, chain};

/// After so many passes a namespace that another agent manages is asked for again: each question waits for a moment.
const PASSES_UNTIL_ASKED: u32 = 20;

/// Those that other agents manage, and for how many passes they are left to them.
#[derive(Debug, Default)]
pub(super) struct Following {
    left: BTreeMap<NamespaceIdentity, u32>,
}

impl Following {
    /// Follows the places of the settings.
    pub(super) fn update(
        &mut self,
        install: &InstallSettings,
        managed: &mut Vec<ManagedNamespace>,
        mode: PassMode,
        problems: &mut Vec<Problem>,
    ) {
        if install.places.is_empty() {
            return;
        }
        let lasting = managed.iter().map(|managed| &managed.namespace).filter(|namespace| !namespace.is_found());
        let known: BTreeSet<NamespaceIdentity> = lasting.filter_map(|namespace| namespace.identity().ok()).collect();
        let found = find(install.places.iter().map(|place| &place.value), &known);
        if found.more {
            let message = format!("there are more than {FOUND_MAX} network namespaces, and the rest gets no keys");
            let remedy = "name narrower places in install.namespaces, or run an agent in some of them";
            problems.push(Problem::error("too_many_namespaces", message, remedy).at_key("install.namespaces"));
        }
        let mut new: BTreeMap<NamespaceIdentity, Namespace> =
            found.namespaces.into_iter().filter_map(by_identity).collect();
        // One that is there still may have another name, and another process that leads to it.
        managed.retain_mut(|managed| match &managed.namespace {
            Namespace::Found(own) => match new.remove(&own.identity()) {
                Some(now) => {
                    managed.namespace = now;
                    true
                }
                None => false,
            },
            Namespace::Own | Namespace::Named(_) => true,
        });
        let mut new: Vec<Namespace> = new.into_values().collect();
        new.sort();
        let writes = mode == PassMode::Apply && install.mode == InstallMode::Install;
        let mut left = std::mem::take(&mut self.left);
        for namespace in new {
            let Ok(identity) = namespace.identity() else { continue };
            match left.remove(&identity) {
                Some(passes) if passes > 0 => drop(self.left.insert(identity, passes - 1)),
                _ if !writes => managed.push(ManagedNamespace::found(namespace, None)),
                _ => match NamespaceLock::take(&identity.to_string(), "found", Duration::ZERO) {
                    Ok(lock) => managed.push(ManagedNamespace::found(namespace, Some(lock))),
                    Err(LockError::Held { .. }) => drop(self.left.insert(identity, PASSES_UNTIL_ASKED)),
                    Err(error @ LockError::Failed { .. }) => {
                        let remedy = "give root (or the agent's own user) /run/tfo-agent, and no other user";
                        problems.push(Problem::error("lock", chain(&error), remedy));
                    }
                },
            }
        }
    }
}

fn by_identity(namespace: Namespace) -> Option<(NamespaceIdentity, Namespace)> {
    match &namespace {
        Namespace::Found(found) => Some((found.identity(), namespace)),
        Namespace::Own | Namespace::Named(_) => None,
    }
}
