//! What systemd says of the agent's services: whether it has given one up (after a crash loop the keys stay, and nobody looks
//! after them), and whether it lets the daemon run a hook.  For `check`; nothing where there is no systemd.

use std::path::Path;
use std::process::Command;

use super::timer::{SYSTEMD_RUNS, output, property};
use tfo_model::problem::Problem;

const SERVICES: [&str; 2] = ["tfo-agent.service", "tfo-agent-once.service"];

/// A warning for each of our services that has failed: what made it fail may be mended by now.
#[must_use]
pub fn failed() -> Vec<Problem> {
    if !Path::new(SYSTEMD_RUNS).exists() {
        return Vec::new();
    }
    SERVICES.iter().filter_map(|service| failure(service, &shown(service)?)).collect()
}

/// A warning if the daemon's unit is loaded and executes nothing but the agent.
#[must_use]
pub fn executes_nothing() -> Option<Problem> {
    if !Path::new(SYSTEMD_RUNS).exists() {
        return None;
    }
    closed(&output(Command::new("systemctl").args(["show", "--property=NoExecPaths", SERVICES[0]]))?)
}

fn closed(shown: &str) -> Option<Problem> {
    let closed = property(shown, "NoExecPaths")?.split(' ').any(|path| path == "/");
    closed.then(|| {
        let message =
            format!("{} may execute no other program (NoExecPaths=/), so on_detached cannot run", SERVICES[0]);
        let remedy = format!(
            "copy examples/on-detached.conf to /etc/systemd/system/{}.d/, `systemctl daemon-reload`, restart it",
            SERVICES[0]
        );
        Problem::warning("hook_not_allowed", message, remedy).at_key("source.on_detached")
    })
}

fn shown(service: &str) -> Option<String> {
    output(Command::new("systemctl").args(["show", "--property=ActiveState,Result,NRestarts", service]))
}

fn failure(service: &str, shown: &str) -> Option<Problem> {
    if property(shown, "ActiveState")? != "failed" {
        return None;
    }
    let restarts = property(shown, "NRestarts").unwrap_or("0");
    let result = property(shown, "Result").unwrap_or("unknown");
    let message = format!("{service} has failed ({result}, after {restarts} restarts); the installed keys stay");
    let remedy = format!(
        "see `journalctl -u {service}`, then `systemctl reset-failed {service}` and start it, or wait for its timer"
    );
    Some(Problem::warning("service_failed", message, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_service_is_told() {
        let shown = |state: &str| format!("Result=start-limit-hit\nNRestarts=30\nActiveState={state}\n");
        assert_eq!(failure("x.service", &shown("active")), None);
        assert_eq!(failure("x.service", ""), None);
        let told = failure("x.service", &shown("failed")).unwrap();
        assert!(told.message.contains("x.service has failed (start-limit-hit, after 30 restarts)"), "{}", told.message);
    }

    #[test]
    fn a_unit_that_executes_nothing_is_told() {
        assert_eq!(closed("NoExecPaths=\n"), None, "not loaded, or open");
        assert_eq!(closed("NoExecPaths=-/tmp -/run/lock\n"), None);
        assert_eq!(closed("NoExecPaths=/ -/tmp\n").unwrap().kind, "hook_not_allowed");
    }
}
