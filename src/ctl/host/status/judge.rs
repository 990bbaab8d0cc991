//! Finds the problems of a host from the facts about it.  Pure.

use std::io;

use super::gather::Facts;
use crate::host::namespaces;
use tfo_config::agent::InstallMode;
use tfo_host::examine::{FileState, NamespaceFacts, Unseen};
use tfo_host::kernel::namespace::NamespaceError;
use tfo_host::kernel::procfs::KernelError;
use tfo_host::kernel::sysctl_d::SYSCTL_FILE_EXPOSED;
use tfo_model::kernel::KernelVersion;
use tfo_model::named::Named;
use tfo_model::problem::Problem;
use tfo_model::state::BackupSlot;
use tfo_model::time::duration_text;
use tfo_wire::status::State;

/// How late a change may be made without a schedule, in seconds: one pass of the agent and a retry.
const LATE_SECS: u64 = 60;

/// Whether an agent in the middle of a pass may have caused the problem, so that a second look is worthwhile.
pub(super) fn may_pass(problem: &Problem) -> bool {
    ["drift", "kernel_unset", "other_keys_at_boot", "status_unreadable"].contains(&problem.kind)
}

/// All problems.
pub(super) fn judge(facts: &Facts) -> Vec<Problem> {
    let mut problems = facts.config.problems.clone();
    problems.extend(agent(facts));
    problems.extend(overdue(facts));
    problems.extend(file(facts));
    problems.extend(facts.host.namespaces.iter().flat_map(|seen| kernel(facts, seen)));
    let reported = facts.reported().map(|status| &status.source);
    let source = reported.or(facts.record().map(|record| &record.source)).and_then(Named::known);
    problems.extend(facts.host.problems(source));
    problems
}

fn agent(facts: &Facts) -> Option<Problem> {
    let path = facts.status_path.display();
    let status = match &facts.status {
        None => {
            let message = format!("no agent has run on this host since the last boot: {path} is missing");
            let remedy = if facts.config.present {
                "systemctl start tfo-agent, or `tfo-agent once`"
            } else {
                "set one up with `tfo-agent init`; if it uses another configuration file, name that with --agent-config"
            };
            return Some(Problem::error("no_agent", message, remedy));
        }
        Some(Err(error)) => {
            let remedy = "make the file readable, or use the tfoctl of the agent's release";
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
        || "the keys are missing from the file or from a kernel".to_owned(),
        |error| format!("{}: {}", error.kind, error.message),
    );
    Some(Problem::error(kind, format!("the agent reports: {why}"), "run `tfo-agent check`, and read the agent's log"))
}

/// A running agent makes a change when it is due, or reports why not: if neither happened, it does not run.
fn overdue(facts: &Facts) -> Option<Problem> {
    let due = facts.reported()?.next_change_at?;
    let late_secs = facts.now.secs_since(due);
    (late_secs > facts.config.tolerance_secs.unwrap_or(LATE_SECS).max(LATE_SECS)).then(|| {
        let message = format!("a key change is overdue: it was due at {due}, {} ago", duration_text(late_secs));
        Problem::error(
            "overdue",
            message,
            "check that the agent, or the timer that runs it, is active: systemctl status 'tfo-agent*'",
        )
    })
}

fn file(facts: &Facts) -> Vec<Problem> {
    let (path, installs) = (facts.file_path.display(), facts.config.mode == InstallMode::Install);
    let managed = facts.config.present || facts.reported().is_some() || facts.record().is_some();
    if !managed || !installs {
        return Vec::new();
    }
    let remedy = "the agent writes it at its next pass; if it does not, run `tfo-agent check`";
    let state = match &facts.host.file {
        FileState::Absent => Some(Problem::error(
            "no_keys_at_boot",
            format!("{path} is missing: this host would boot without the fleet's keys"),
            remedy,
        )),
        FileState::Foreign => Some(Problem::error(
            "no_keys_at_boot",
            format!("{path} was not written by the agent, or was changed since"),
            remedy,
        )),
        FileState::Unreadable(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let message = format!("not seen: what {path} sets at boot; the file holds keys, so only root may read it");
            Some(Problem::warning("not_root", message, "run tfoctl as root"))
        }
        FileState::Unreadable(error) => Some(Problem::error(
            "sysctl_file",
            format!("cannot read {path}: {error}"),
            "make the file readable for root",
        )),
        FileState::Ours(_) if !facts.host.file_is_private => {
            let message = "other users may read the keys in it, or change them";
            let remedy = "the agent closes it at its next pass; find what opened it, and revoke the keys if another user has read them";
            Some(Problem::error(SYSCTL_FILE_EXPOSED, message, remedy).in_file(&facts.file_path))
        }
        FileState::Ours(record) => facts.held().filter(|held| held.pair() != record.prints.pair()).map(|_| {
            let message = format!("the keys that {path} sets at boot are not those that the agent has installed");
            Problem::error("other_keys_at_boot", message, remedy)
        }),
    };
    let read_at_boot = !matches!(facts.host.file, FileState::Absent | FileState::Foreign);
    let order = if read_at_boot { facts.host.boot.problems(&facts.file_path) } else { Vec::new() };
    state.into_iter().chain(order).collect()
}

fn kernel(facts: &Facts, seen: &NamespaceFacts) -> Vec<Problem> {
    let name = &seen.namespace;
    let mut problems = Vec::new();
    let shown = match &seen.kernel {
        Err(Unseen::NotEntered(error @ NamespaceError::Enter { .. })) => {
            let message = format!("not seen: namespace {name}; {error}");
            return vec![Problem::warning("not_root", message, "run tfoctl as root: entering needs CAP_SYS_ADMIN")];
        }
        Err(Unseen::NotEntered(error)) => return vec![namespaces::problem(name, error)],
        Err(Unseen::NotRead(KernelError::NotAllowed { path, .. })) => {
            let message = format!("not seen: the keys in namespace {name}; only root may read {}", path.display());
            return vec![Problem::warning("not_root", message, "run tfoctl as root, or with CAP_NET_ADMIN")];
        }
        Err(Unseen::NotRead(error)) => return vec![error.problem(name)],
        Ok(keys) => {
            if keys.is_some_and(|keys| keys.has_zero) {
                let message = format!("namespace {name}: a slot holds the all-zero key, whose cookies anyone can make");
                let remedy = "install keys with an agent, and find the program that wrote this one";
                problems.push(Problem::error("zero_key", message, remedy));
            }
            keys.map(|keys| keys.print)
        }
    };
    let target = facts.held().map(|held| match facts.host.kernel.map(KernelVersion::backup_slot) {
        Some(BackupSlot::Absent) => held.pair().primary_alone(),
        Some(BackupSlot::Present) | None => held.pair(),
    });
    match (target, shown) {
        _ if facts.config.mode == InstallMode::LookOnly => {}
        (Some(_), None) => {
            let message = format!("namespace {name}: the kernel holds no key");
            let remedy = "check that the agent is active, and that install.namespaces has this namespace";
            problems.push(Problem::error("kernel_unset", message, remedy));
        }
        (Some(target), Some(shown)) if target != shown => {
            let message = format!("namespace {name}: the kernel's keys are not those that the agent has installed");
            let remedy = "find the program that wrote them (timers, cron, tofurkey, sysctl); the agent repairs it at its next pass";
            problems.push(Problem::error("drift", message, remedy));
        }
        (None, _) | (Some(_), Some(_)) => {}
    }
    problems
}
