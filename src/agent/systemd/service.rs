//! Whether systemd has given up one of the agent's services (after a crash loop the keys stay, but no agent verifies them),
//! and whether it lets the daemon run a hook.

use super::{AGENT, Properties, Systemctl};
use tfo_model::problem::Problem;

const SERVICES: [&str; 2] = [AGENT, "tfo-agent-once.service"];

/// A warning for each service that has failed; the cause may be fixed by now.
#[must_use]
pub fn failed() -> Vec<Problem> {
    let Some(systemctl) = Systemctl::booted() else { return Vec::new() };
    let found = |service| failure(service, &systemctl.show(service, "ActiveState,Result,NRestarts")?);
    SERVICES.into_iter().filter_map(found).collect()
}

/// A warning if the daemon's unit is loaded and executes nothing but the agent.
#[must_use]
pub fn executes_nothing() -> Option<Problem> {
    closed(&Systemctl::booted()?.show(AGENT, "NoExecPaths")?)
}

fn closed(shown: &Properties) -> Option<Problem> {
    let closed = shown.get("NoExecPaths")?.split(' ').any(|path| path == "/");
    closed.then(|| {
        let message = format!("{AGENT} may not execute other programs (NoExecPaths=/), so on_detached cannot run");
        let remedy = format!(
            "copy examples/on-detached.conf to /etc/systemd/system/{AGENT}.d/, `systemctl daemon-reload`, restart it"
        );
        Problem::warning("hook_not_allowed", message, remedy).at_key("source.on_detached")
    })
}

fn failure(service: &str, shown: &Properties) -> Option<Problem> {
    if shown.get("ActiveState")? != "failed" {
        return None;
    }
    let restarts = shown.get("NRestarts").unwrap_or("0");
    let result = shown.get("Result").unwrap_or("unknown");
    let message = format!("{service} has failed ({result}, after {restarts} restarts); the installed keys stay");
    let remedy = format!(
        "read `journalctl -u {service}`, then `systemctl reset-failed {service}` and start it, or wait for its timer"
    );
    Some(Problem::warning("service_failed", message, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_service_is_reported() {
        let shown = |state: &str| Properties(format!("Result=start-limit-hit\nNRestarts=30\nActiveState={state}\n"));
        assert_eq!(failure("x.service", &shown("active")), None);
        assert_eq!(failure("x.service", &Properties(String::new())), None);
        let found = failure("x.service", &shown("failed")).unwrap();
        assert!(
            found.message.contains("x.service has failed (start-limit-hit, after 30 restarts)"),
            "{}",
            found.message
        );
    }

    #[test]
    fn a_unit_that_executes_nothing_is_reported() {
        let closed = |shown: &str| closed(&Properties(shown.to_owned()));
        assert_eq!(closed("NoExecPaths=\n"), None, "not loaded, or open");
        assert_eq!(closed("NoExecPaths=-/tmp -/run/tfo-agent\n"), None);
        assert_eq!(closed("NoExecPaths=/ -/tmp\n").unwrap().kind, "hook_not_allowed");
    }
}
