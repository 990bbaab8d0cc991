//! The units as files: systemd accepts them, their exposure is bounded, and both ways to run the agent share one sandbox.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tfo_testbed::output::{stderr, stdout};
use tfo_testbed::skip_unless;

/// Bounds of `systemd-analyze security`: the agent reads the clock's state and keeps timers, all others need neither.
const AGENT_EXPOSURE_MAX: f64 = 1.8;
const OTHER_EXPOSURE_MAX: f64 = 1.5;

/// Where the units expect the agent.
const INSTALLED_AGENT: &str = "/usr/bin/tfo-agent";

fn systemd_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

/// The units whose names end in `suffix`, never none.
fn units(suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(systemd_dir()).expect("systemd/ is there").flatten().map(|entry| entry.path());
    let units: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(suffix)).collect();
    assert!(!units.is_empty(), "no {suffix} in {}", systemd_dir().display());
    units
}

/// The overall exposure level, 0 (closed) to 10.
fn exposure(unit: &Path) -> f64 {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(unit)
        .output()
        .expect("systemd-analyze starts");
    let text = stdout(&output);
    let (_, level) = text.rsplit_once("Overall exposure level for ").unwrap_or_else(|| panic!("{output:?}"));
    let level = level.split(' ').nth(1).unwrap_or_else(|| panic!("{output:?}"));
    level.parse().expect("a level is a number")
}

/// `Key=value` lines of a unit's sandbox, in order (a later SystemCallFilter= acts on the earlier ones).
fn sandbox(unit: &str) -> Vec<String> {
    let text = fs::read_to_string(systemd_dir().join(unit)).expect("the unit is there");
    let (_, rest) = text.split_once("# --- sandbox").unwrap_or_else(|| panic!("{unit} marks no sandbox"));
    let (sandbox, _) = rest.split_once("[Install]").expect("a unit ends with [Install]");
    sandbox.lines().skip(1).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn exposure_is_bounded() {
    skip_unless!(tfo_testbed::need_tool("systemd-analyze"));
    for unit in units(".service") {
        let name = unit.file_name().unwrap().to_str().unwrap();
        let max = if name.starts_with("tfo-agent") { AGENT_EXPOSURE_MAX } else { OTHER_EXPOSURE_MAX };
        let level = exposure(&unit);
        assert!(level <= max, "{name}: {level} > {max}");
    }
    // The control: the same unit without its sandbox is seen as wide open.
    let dir = tfo_testbed::scratch();
    let open = dir.path().join("open.service");
    fs::write(&open, "[Service]\nType=notify\nExecStart=/bin/true\n").unwrap();
    assert!(exposure(&open) > 9.0, "{}", exposure(&open));
}

#[test]
fn daemon_and_timer_run_in_the_same_sandbox() {
    let (daemon, once) = (sandbox("tfo-agent.service"), sandbox("tfo-agent-once.service"));
    assert!(daemon.len() > 20, "{daemon:?}");
    assert_eq!(daemon, once);
}

#[test]
fn systemd_accepts_every_unit_and_the_example_drop_ins() {
    skip_unless!(tfo_testbed::need_tool("systemd-analyze"));
    // Copies that name the agent of this build: the one in /usr/bin need not be installed here.
    let dir = tfo_testbed::scratch();
    let agent = tfo_testbed::agent_path().to_str().unwrap();
    let mut copies = Vec::new();
    for unit in units(".service").into_iter().chain(units(".timer")) {
        let text = fs::read_to_string(&unit).unwrap().replace(INSTALLED_AGENT, agent);
        let text = text.replace("/usr/bin/tfo-coordinator", tfo_testbed::program("tfo-coordinator"));
        let copy = dir.path().join(unit.file_name().unwrap());
        fs::write(&copy, text).unwrap();
        copies.push(copy);
    }
    // Each example says on its first line where it goes.
    let drop_ins = dir.path().join("tfo-agent.service.d");
    for example in fs::read_dir(systemd_dir().join("examples")).unwrap().flatten() {
        let text = fs::read_to_string(example.path()).unwrap();
        let (_, place) = text.split_once("/etc/systemd/system/").expect("it names its place");
        let unit = dir.path().join(place.split('/').next().unwrap());
        fs::create_dir_all(&unit).unwrap();
        fs::copy(example.path(), unit.join(example.file_name())).unwrap();
    }
    assert!(drop_ins.is_dir() && dir.path().join("tfo-coordinator.service.d").is_dir());
    let verify = || Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&copies).output().unwrap();
    let output = verify();
    let complaints = stderr(&output);
    // Units of the host that mention others are not ours to judge.
    let ours: Vec<_> = complaints.lines().filter(|line| line.contains("tfo-")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
    assert!(output.status.success(), "{complaints}");

    // The control: a directive that systemd does not know is seen, in a drop-in too.
    fs::write(drop_ins.join("wrong.conf"), "[Service]\nProtectEverything=yes\n").unwrap();
    let complaints = String::from_utf8_lossy(&verify().stderr).into_owned();
    assert!(complaints.contains("ProtectEverything"), "{complaints}");
}

#[test]
fn tmpfiles_makes_the_runtime_directory() {
    skip_unless!(tfo_testbed::need_root() && tfo_testbed::need_tool("systemd-tmpfiles"));
    let root = tfo_testbed::scratch();
    let config = systemd_dir().join("tmpfiles.d/tfo-fleet.conf");
    let made = Command::new("systemd-tmpfiles")
        .arg("--create")
        .arg(format!("--root={}", root.path().display()))
        .arg(config)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&root.path().join("run/tfo-agent").metadata().unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o755);
}
