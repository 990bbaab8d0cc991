//! What is wrong with a host, from what was seen of it.  Pure.

use std::io;

use super::gather::{Facts, FileState, Kernel, Site};
use crate::host::namespaces;
use tfo_config::agent::InstallMode;
use tfo_host::kernel::namespace::NamespaceError;
use tfo_host::kernel::procfs::{KernelError, SERVER_BIT, SERVER_WITHOUT_COOKIE_BIT};
use tfo_host::kernel::release;
use tfo_model::node::KeySource;
use tfo_model::problem::Problem;
use tfo_model::state::BackupSlot;
use tfo_model::time::span_text;
use tfo_wire::status::State;

/// How late a change may be made where no schedule says more, in seconds: a poll of the agent, and its retry.
const LATE_SECS: u64 = 60;

/// Whether it may be the picture of an agent that is just at it, so that a second look is worth while.
pub(super) fn may_pass(problem: &Problem) -> bool {
    ["drift", "kernel_unset", "other_keys_at_boot", "status_unreadable"].contains(&problem.kind)
}

/// Everything that is wrong.
pub(super) fn judge(facts: &Facts) -> Vec<Problem> {
    let mut problems = facts.config.problems.clone();
    problems.extend(agent(facts));
    problems.extend(overdue(facts));
    problems.extend(file(facts));
    problems.extend(facts.namespaces.iter().flat_map(|site| kernel(facts, site)));
    problems.extend(facts.namespaces.iter().flat_map(bits));
    problems.extend(release::problem());
    problems.extend(clock(facts));
    problems
}

fn agent(facts: &Facts) -> Option<Problem> {
    let path = facts.status_path.display();
    let status = match &facts.status {
        None => {
            let message = format!("no agent has run here since the last boot: there is no {path}");
            let remedy = if facts.config.present {
                "systemctl start tfo-agent, or `tfo-agent once`"
            } else {
                "set one up with `tfo-agent init`; if it has another configuration file, name that with --agent-config"
            };
            return Some(Problem::error("no_agent", message, remedy));
        }
        Some(Err(error)) => {
            let remedy = "make it readable, or use a tfoctl that is as new as the agent";
            let message = format!("the agent's report cannot be read: {error}");
            return Some(Problem::error("status_unreadable", message, remedy).in_file(&facts.status_path));
        }
        Some(Ok(status)) => status,
    };
    let kind = match status.state {
        State::Ok => return None,
        State::Degraded => "agent_degraded",
        State::Failed => "agent_failed",
    };
    let why = status.error.as_ref().map_or_else(
        || "the keys are not everywhere where they belong".to_owned(),
        |error| format!("{}: {}", error.kind, error.message),
    );
    Some(Problem::error(kind, format!("the agent says: {why}"), "see `tfo-agent check` and its log"))
}

/// An agent that is alive makes the change when it is due, or says why not.
fn overdue(facts: &Facts) -> Option<Problem> {
    let due = facts.told()?.next_change_at?;
    let late_secs = facts.now.secs_since(due);
    (late_secs > facts.config.tolerance_secs.unwrap_or(LATE_SECS).max(LATE_SECS)).then(|| {
        let message = format!("the keys should have changed at {due}, {} ago, and did not", span_text(late_secs));
        Problem::error(
            "overdue",
            message,
            "look whether the agent, or the timer that runs it, is alive: systemctl status 'tfo-agent*'",
        )
    })
}

fn file(facts: &Facts) -> Vec<Problem> {
    let (path, installs) = (facts.file_path.display(), facts.config.mode == InstallMode::Install);
    let managed = facts.config.present || facts.told().is_some() || facts.record().is_some();
    if !managed || !installs {
        return Vec::new();
    }
    let remedy = "the agent writes it at its next pass; if not, see `tfo-agent check`";
    let state = match &facts.file {
        FileState::Absent => Some(Problem::error("no_keys_at_boot", format!("there is no {path}"), remedy)),
        FileState::Foreign => {
            Some(Problem::error("no_keys_at_boot", format!("{path} is not what the agent wrote"), remedy))
        }
        FileState::Unreadable(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let message = format!("not seen: what {path} sets at boot; it holds keys, and only root may read it");
            Some(Problem::warning("not_root", message, "run it as root"))
        }
        FileState::Unreadable(error) => {
            Some(Problem::error("sysctl_file", format!("cannot read {path}: {error}"), "make it readable for root"))
        }
        FileState::Ours(record) => facts.held().filter(|held| held.pair() != record.prints.pair()).map(|_| {
            let message = format!("{path} sets other keys at boot than the agent has installed");
            Problem::error("other_keys_at_boot", message, remedy)
        }),
    };
    let read_at_boot = !matches!(facts.file, FileState::Absent | FileState::Foreign);
    let order = if read_at_boot { facts.boot.problems(&facts.file_path) } else { Vec::new() };
    state.into_iter().chain(order).collect()
}

fn kernel(facts: &Facts, site: &Site) -> Vec<Problem> {
    let name = &site.namespace;
    let mut problems = Vec::new();
    let shown = match &site.kernel {
        Kernel::NotEntered(error @ NamespaceError::Enter { .. }) => {
            let message = format!("not seen: namespace {name}; {error}");
            return vec![Problem::warning("not_root", message, "run it as root: entering needs CAP_SYS_ADMIN")];
        }
        Kernel::NotEntered(error) => return vec![namespaces::problem(name, error)],
        Kernel::NotRead(KernelError::NotAllowed { path, .. }) => {
            let message = format!(
                "not seen: the keys that the kernel holds in namespace {name}; only root may read {}",
                path.display()
            );
            return vec![Problem::warning("not_root", message, "run it as root, or with CAP_NET_ADMIN")];
        }
        Kernel::NotRead(error) => return vec![error.problem(name)],
        Kernel::Unset => None,
        Kernel::Keys { print, zero } => {
            if *zero {
                let message = format!(
                    "namespace {name}: a slot of the kernel holds the all-zero key, whose cookies anybody can make"
                );
                problems.push(Problem::error(
                    "zero_key",
                    message,
                    "install keys with an agent, or find out who wrote it",
                ));
            }
            Some(*print)
        }
    };
    let target = facts.held().map(|held| match facts.backup_slot {
        Some(BackupSlot::Absent) => held.pair().primary_alone(),
        Some(BackupSlot::Present) | None => held.pair(),
    });
    match (target, shown) {
        _ if facts.config.mode == InstallMode::LookOnly => {}
        (Some(_), None) => {
            let message = format!("namespace {name}: the kernel holds no key");
            problems.push(Problem::error(
                "kernel_unset",
                message,
                "look whether the agent is alive, and whether it looks after this namespace",
            ));
        }
        (Some(target), Some(shown)) if target != shown => {
            let message = format!("namespace {name}: the kernel holds other keys than the agent has installed");
            let remedy = "find the program that wrote them (timers, cron, tofurkey, sysctl); the agent repairs it at its next look";
            problems.push(Problem::error("drift", message, remedy));
        }
        (None, _) | (Some(_), Some(_)) => {}
    }
    problems
}

fn bits(site: &Site) -> Option<Problem> {
    let (bits, name) = (site.bits?, &site.namespace);
    if bits & SERVER_BIT == 0 {
        let message = format!("namespace {name}: the server side of TFO is off (net.ipv4.tcp_fastopen has no 0x2)");
        let remedy = "set net.ipv4.tcp_fastopen = 3, unless it is off on purpose";
        return Some(Problem::warning("tfo_off", message, remedy));
    }
    (bits & SERVER_WITHOUT_COOKIE_BIT != 0).then(|| {
        let message = format!(
            "namespace {name}: the server takes data with any cookie or none (bit 0x200): keys mean nothing here"
        );
        Problem::warning("no_cookie_needed", message, "take 0x200 out of net.ipv4.tcp_fastopen, unless that is meant")
    })
}

fn clock(facts: &Facts) -> Option<Problem> {
    let source = facts.told().map(|status| &status.source).or(facts.record().map(|record| &record.source));
    let uses_clock = source.is_some_and(|source| source.known().is_some_and(KeySource::uses_clock));
    (uses_clock && facts.clock_synchronised == Some(false)).then(|| {
        let message = "the kernel says that its clock is not synchronised, and the keys depend on it";
        Problem::warning("clock_unsynchronised", message, "run chrony, timesyncd or another NTP client")
    })
}
