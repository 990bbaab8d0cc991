//! What systemd knows of the agent's units, for `check`; nothing on a host without systemd.

pub mod order;
pub mod service;
pub mod timer;

use std::path::Path;
use std::process::Command;

/// The daemon's unit.
const AGENT: &str = "tfo-agent.service";

/// Systemd's programs, on a host where systemd is PID 1.
#[derive(Debug, Clone, Copy)]
struct Systemctl(());

impl Systemctl {
    /// None without systemd (`sd_booted(3)`).
    fn booted() -> Option<Self> {
        Path::new("/run/systemd/system").exists().then_some(Self(()))
    }

    /// `systemctl show` for these properties of a unit.
    fn show(self, unit: &str, properties: &str) -> Option<Properties> {
        let property = format!("--property={properties}");
        output(Command::new("systemctl").args(["show", &property, unit])).map(Properties)
    }

    /// `systemd-analyze calendar`: the next two instants, in UTC.
    fn calendar(self, specification: &str) -> Option<String> {
        let mut analyze = Command::new("systemd-analyze");
        output(analyze.env("TZ", "UTC").args(["calendar", "--iterations=2", specification]))
    }
}

/// Standard output of a command that succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.env("LC_ALL", "C").output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// Properties of one unit, one a line.
#[derive(Debug)]
struct Properties(String);

impl Properties {
    fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Of a property that may occur more than once.
    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix('='))
    }
}
