//! The Ansible role and the Puppet module, by the real tools, on a real systemd: truthful check mode, a second run that
//! changes nothing, no secret in any output.

use super::recipes::{self, bring};
use tfo_testbed::by_size;
use tfo_testbed::host::{KEY_FILE, UNSET};
use tfo_testbed::machine::{Image, Machine, need_machine};
use tfo_testbed::package::{install, need_packages};

const SECRET: &str = "Dz6q0vXk1rT9sYb4Lw8nGmHcJ2eUaPfK";
const SECRET_BASE64: &str = "RHo2cTB2WGsxclQ5c1liNEx3OG5HbUhjSjJlVWFQZks=";
/// The longest interval: a key that changes between two runs of one test is a once-a-week event.
const CONFIG: &str = "[source]\nkind = \"derive\"\n[[source.schedule]]\nsecret = \"/etc/tfo-fleet/fleet.secret\"\n\
                      interval = \"7d\"\nstage_lead = \"1h\"\n";

/// How an agent runs; a play takes ten seconds of both cores, so the short run tries one.
fn modes() -> &'static [&'static str] {
    by_size(&["daemon"], &["timer", "daemon"], &["timer", "daemon"])
}

/// A machine with the package's file, the role and the module on its disk.
fn machine(packages: &tfo_testbed::package::Packages) -> Machine {
    let machine = packages.bring(Image::new(), "tfo-agent").boot();
    bring(&machine, "tfo_agent");
    machine
}

fn key(machine: &Machine) -> String {
    machine.run(&["cat", KEY_FILE])
}

/// Neither the secret nor the key that was made from it.
#[track_caller]
fn assert_no_secret(text: &str, key: &str) {
    let hex: String = key.split(['-', ',']).collect();
    let groups: Vec<&str> = key.split(['-', ',']).collect();
    for secret in [SECRET, SECRET_BASE64, key, &hex, groups[0], groups[7]] {
        assert!(!text.contains(secret), "a secret was printed:\n{text}");
    }
}

/// One run of the role; gives how many tasks changed something, and everything that was printed.
#[track_caller]
fn play(machine: &Machine, mode: &str, options: &[&str]) -> (u32, String) {
    let variables = serde_json::json!({
        "tfo_agent_mode": mode,
        "tfo_agent_config": CONFIG,
        "tfo_agent_secret_base64": SECRET_BASE64,
    });
    recipes::play(machine, "tfo_agent", &variables, options)
}

#[test]
fn the_ansible_role_tells_the_truth_and_changes_nothing_twice() {
    let (true, Some(packages)) = (need_machine() && tfo_testbed::need_tool("ansible-playbook"), need_packages()) else {
        return;
    };
    let machine = machine(packages);
    let is_short = by_size(true, false, false);
    if !is_short {
        // Check mode on a fresh host, which has neither program nor units yet.
        let (would, text) = play(&machine, "daemon", &["--check"]);
        assert!(would > 0, "{text}");
        assert!(!machine.path("/etc/tfo-fleet").exists(), "check mode wrote");
    }
    install(&machine, "tfo-agent");
    for mode in modes() {
        let before = key(&machine);
        let (would, text) = play(&machine, mode, &["--check"]);
        assert!(would > 0, "{mode}: {text}");
        assert_eq!(key(&machine), before, "{mode}: check mode wrote");
        let (changed, text) = play(&machine, mode, &[]);
        assert!(changed > 0, "{mode}: {text}");
        let now = key(&machine);
        assert_ne!(now, UNSET);
        assert_no_secret(&text, &now);
        let both = [&[][..], &["--check"]];
        for options in by_size(&both[..1], &both, &both) {
            let (again, text) = play(&machine, mode, options);
            assert_eq!(again, 0, "{mode} {options:?}: {text}");
            assert_no_secret(&text, &now);
        }
        let unit = if *mode == "timer" { "tfo-agent-once.timer" } else { "tfo-agent.service" };
        assert_eq!(machine.property(unit, "ActiveState"), "active");
        assert_eq!(machine.property(unit, "UnitFileState"), "enabled");
    }
    if is_short {
        return;
    }
    // Check mode reports drift, and the next run fixes it.
    play(&machine, "timer", &[]);
    let right = key(&machine);
    machine.run(&["sh", "-c", &format!("echo 00000001-00000002-00000003-00000004 > {KEY_FILE}")]);
    let (would, text) = play(&machine, "timer", &["--check"]);
    assert_eq!(would, 1, "{text}");
    assert_ne!(key(&machine), right);
    assert_eq!(play(&machine, "timer", &[]).0, 1);
    assert_eq!(key(&machine), right);
}

/// One run of the module; gives puppet's detailed exit code (0 unchanged, 2 changed) and everything that was printed.
fn apply(machine: &Machine, mode: &str, options: &[&str]) -> (Option<i32>, String) {
    let manifest = format!(
        "class {{ 'tfo_agent': mode => '{mode}', manage_package => false, secret => Sensitive('{SECRET}'), config => @(END) }}\n{CONFIG}| END\n"
    );
    recipes::apply(machine, &manifest, options)
}

#[test]
fn the_puppet_module_changes_nothing_twice() {
    let (true, Some(packages)) = (need_machine() && tfo_testbed::need_tool("puppet"), need_packages()) else { return };
    let machine = machine(packages);
    install(&machine, "tfo-agent");
    for mode in modes() {
        if by_size(false, true, true) {
            let before = key(&machine);
            let (code, text) = apply(&machine, mode, &["--noop"]);
            assert_eq!(code, Some(0), "{mode}: {text}");
            assert_eq!(key(&machine), before, "{mode}: noop wrote");
        }
        let (code, text) = apply(&machine, mode, &[]);
        assert_eq!(code, Some(2), "{mode}: {text}");
        let now = key(&machine);
        assert_ne!(now, UNSET);
        assert_no_secret(&text, &now);
        let (code, text) = apply(&machine, mode, &[]);
        assert_eq!(code, Some(0), "{mode}, second run: {text}");
        assert_no_secret(&text, &now);
        let unit = if *mode == "timer" { "tfo-agent-once.timer" } else { "tfo-agent.service" };
        assert_eq!(machine.property(unit, "ActiveState"), "active");
    }
    if by_size(true, false, false) {
        return;
    }
    apply(&machine, "timer", &[]);
    let right = key(&machine);
    machine.run(&["sh", "-c", &format!("echo 00000001-00000002-00000003-00000004 > {KEY_FILE}")]);
    assert_eq!(apply(&machine, "timer", &[]).0, Some(2));
    assert_eq!(key(&machine), right);
}
