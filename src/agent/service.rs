//! Whether systemd has given up one of the agent's services: after a crash loop the keys stay, and nobody looks after
//! them.  For `check`; nothing where there is no systemd.

use std::path::Path;
use std::process::Command;

use super::timer::{SYSTEMD_RUNS, output, property};
use crate::model::problem::Problem;

const SERVICES: [&str; 2] = ["tfo-agent.service", "tfo-agent-once.service"];

/// A warning for each of our services that has failed: what made it fail may be mended by now.
#[must_use]
pub fn failed() -> Vec<Problem> {
    if !Path::new(SYSTEMD_RUNS).exists() {
        return Vec::new();
    }
    SERVICES.iter().filter_map(|service| failure(service, &shown(service)?)).collect()
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
}
