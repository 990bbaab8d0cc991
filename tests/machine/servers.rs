//! Servers that are instances of templates, by Debian's own units: each starts after the agent has installed its keys.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::boot::{SYSCTL_FILE, installed, need, persisted_key, seen};
use tfo_testbed::machine::{Image, Machine};
use tfo_testbed::output::said;
use tfo_testbed::skip;

/// Debian's packages, and the units from them that are started here.
const SERVERS: [(&str, &[&str]); 4] = [
    ("knot-resolver", &["kresd@1.service", "kresd@2.service"]),
    ("dnsdist", &["dnsdist@edge.service", "dnsdist.service"]),
    ("pdns-server", &["pdns@edge.service", "pdns.service"]),
    ("pdns-recursor", &["pdns-recursor@edge.service", "pdns-recursor.service"]),
];

/// Where they have their units, inside the packages.
const UNIT_DIR: &str = "lib/systemd/system";

/// In place of the program: a TFO server that notes the key which it found.  Without what would keep it from that.
const FAKE: &str = "[Service]\nType=oneshot\nRemainAfterExit=yes\nWatchdogSec=0\nRestart=no\nUser=root\nGroup=root\nExecStartPre=\n\
                    ExecStopPost=\nExecStart=\nCapabilityBoundingSet=~\nAmbientCapabilities=\nWorkingDirectory=/\nProtectSystem=no\n\
                    SystemCallFilter=\nExecStart=/usr/bin/python3 /usr/lib/tfo-test/listener.py";

/// The packages' files, unpacked once for all tests of a run.  None, and the test is skipped, where they cannot be had.
#[track_caller]
fn need_units() -> Option<PathBuf> {
    let dir = tfo_testbed::shared("server-units");
    let lock = std::fs::File::create(tfo_testbed::shared("server-units.lock")).expect("target/tmp takes it");
    lock.lock().expect("a lock can be waited for");
    let is_there = || SERVERS.iter().all(|(package, _)| dir.join(package).is_dir());
    if is_there() {
        return Some(dir);
    }
    std::fs::create_dir_all(&dir).expect("target/tmp takes it");
    let apt = |words: &[&str]| Command::new("apt-get").args(words).current_dir(&dir).output();
    let names = SERVERS.map(|(package, _)| package);
    let download = [&["-qq", "download"][..], &names].concat();
    let done = |output: std::io::Result<std::process::Output>| output.is_ok_and(|output| output.status.success());
    let downloaded = done(apt(&download)) || done(apt(&["-qq", "update"])) && done(apt(&download));
    if !downloaded {
        skip("needs Debian's packages of knot-resolver, dnsdist and PowerDNS");
        return None;
    }
    for entry in std::fs::read_dir(&dir).expect("it was made").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(package) = names.iter().find(|package| name.starts_with(&format!("{package}_"))) else { continue };
        let output = Command::new("dpkg-deb").arg("--extract").arg(entry.path()).arg(dir.join(package)).output();
        assert!(output.as_ref().is_ok_and(|output| output.status.success()), "{name}: {output:?}");
    }
    is_there().then_some(dir)
}

fn units() -> impl Iterator<Item = (&'static str, &'static str)> {
    SERVERS.iter().flat_map(|(package, units)| units.iter().map(move |unit| (*package, *unit)))
}

/// The name under which a unit's server notes what it found.
fn noted(unit: &str) -> String {
    unit.replace(['@', '.'], "-")
}

/// Debian's units, their programs replaced, and enabled.
fn with_servers(mut image: Image, from: &Path) -> Image {
    for (number, (package, unit)) in (7_100..).zip(units()) {
        let file = unit.split_once('@').map_or(unit.to_owned(), |(stem, _)| format!("{stem}@.service"));
        let text = std::fs::read_to_string(from.join(package).join(UNIT_DIR).join(&file)).expect("the package has it");
        let fake = format!("{FAKE} {} {number}\n", noted(unit));
        image =
            image.unit(&file, &text).file(&format!("/etc/systemd/system/{unit}.d/fake.conf"), fake, 0o644).enable(unit);
    }
    let target = std::fs::read_to_string(from.join("knot-resolver").join(UNIT_DIR).join("kresd.target"));
    image.unit("kresd.target", &target.expect("the package has it")).enable("kresd.target")
}

fn is_after_the_agent(machine: &Machine, unit: &str) -> bool {
    machine.property(unit, "After").split(' ').any(|other| other == "tfo-agent.service")
}

#[test]
fn instances_of_templates_start_after_the_agent() {
    let Some(packages) = need() else { return };
    let Some(from) = need_units() else { return };
    // The first boot of all: a server that starts before the agent gets a random key of the kernel's.
    let machine = with_servers(installed(packages), &from).enable("tfo-agent").boot();
    let key = persisted_key(&machine.read(SYSCTL_FILE));
    for (_, unit) in units() {
        assert!(is_after_the_agent(&machine, unit), "{unit}: {}", machine.property(unit, "After"));
        assert_eq!(seen(&machine, &noted(unit)), key, "{unit}");
    }
    assert!(machine.property("tfo-agent.service", "Before").split(' ').any(|unit| unit == "exim4.service"));
    let checked = said(&machine.output(&["tfo-agent", "check"]));
    assert!(!checked.contains("unit_order"), "{checked}");

    // The control: it is the drop-ins that do it.
    machine.run(&["sh", "-c", "rm -r /usr/lib/systemd/system/*@.service.d"]);
    machine.run(&["systemctl", "daemon-reload"]);
    for (_, unit) in units() {
        assert_eq!(is_after_the_agent(&machine, unit), !unit.contains('@'), "{unit}");
    }
}
