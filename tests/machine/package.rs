//! The Debian packages on a real systemd, with the real dpkg: first installation, upgrade, removal, purge.

use std::process::Command;

use tfo_testbed::host::{KEY_FILE, UNSET};
use tfo_testbed::machine::{Image, Machine, need_machine};
use tfo_testbed::package::{Packages, install, need_packages};
use tfo_testbed::{SOON, poll_until, skip_unless};

const SYSCTL_FILE: &str = "/etc/sysctl.d/50-tcp_fastopen_key.conf";
/// A machine with the package's file on its disk, the host's python3 and dpkg, and nothing of ours installed.
fn fresh(packages: &Packages) -> Machine {
    packages.bring(Image::new(), "tfo-agent").boot()
}

fn key(machine: &Machine) -> String {
    machine.run(&["cat", KEY_FILE])
}

/// From nothing to a running agent, as docs/how-to/install.md says.
fn running(packages: &Packages) -> Machine {
    let machine = fresh(packages);
    install(&machine, "tfo-agent");
    machine.run(&["tfo-agent", "init"]);
    machine.run(&["systemctl", "enable", "--now", "tfo-agent"]);
    machine
}

#[test]
fn an_installation_starts_nothing_and_says_what_comes_next() {
    let (true, Some(packages)) = (need_machine(), need_packages()) else { return };
    let machine = fresh(packages);
    let said = install(&machine, "tfo-agent");
    assert!(said.contains("tfo-agent check && systemctl enable --now tfo-agent"), "{said}");
    assert_eq!(machine.property("tfo-agent", "ActiveState"), "inactive");
    assert_eq!(machine.property("tfo-agent", "UnitFileState"), "disabled");
    assert_eq!(key(&machine), UNSET);
    // Its configuration is a conffile; the secret is made by `init`, which leaves the configuration alone.
    machine.run(&[
        "sh",
        "-c",
        "dpkg-query --show --showformat='${Conffiles}' tfo-agent | grep /etc/tfo-fleet/agent.toml",
    ]);
    let before = machine.read("/etc/tfo-fleet/agent.toml");
    machine.run(&["tfo-agent", "init"]);
    assert_eq!(machine.read("/etc/tfo-fleet/agent.toml"), before);
    machine.run(&["systemctl", "enable", "--now", "tfo-agent"]);
    assert_ne!(key(&machine), UNSET);
    let page =
        machine.run(&["sh", "-c", "zcat /usr/share/man/man8/tfo-agent.8.gz /usr/share/man/man5/agent.toml.5.gz"]);
    assert!(page.contains("detailed") && page.contains("stage_lead"), "{page}");
    machine.run(&["bash", "-c", ". /usr/share/bash-completion/completions/tfo-agent && complete -p tfo-agent"]);
}

#[test]
fn an_upgrade_restarts_the_agent_and_keeps_the_key() {
    let (true, Some(packages)) = (need_machine(), need_packages()) else { return };
    let machine = running(packages);
    let (before, agent) = (key(&machine), machine.property("tfo-agent", "MainPID"));
    // The kernel's key and the file are looked at all the time that the upgrade takes.
    let watch = "while [ ! -e /run/stop ]; do cat /proc/sys/net/ipv4/tcp_fastopen_key; test -s /etc/sysctl.d/50-tcp_fastopen_key.conf || echo gone; done | sort | uniq -c > /run/watched; touch /run/done";
    let mut watching = machine.command("sh").args(["-c", watch]).spawn().unwrap();
    install(&machine, "tfo-agent");
    assert!(poll_until(SOON, || machine.property("tfo-agent", "MainPID") != agent), "it was not restarted");
    assert!(poll_until(SOON, || machine.property("tfo-agent", "ActiveState") == "active"));
    machine.run(&["touch", "/run/stop"]);
    assert!(watching.wait().unwrap().success());
    let watched = machine.read("/run/watched");
    assert_eq!(watched.lines().count(), 1, "another key, or no file, at some moment: {watched}");
    assert!(watched.contains(&before), "{watched}");
}

#[test]
fn a_removal_keeps_the_key_and_a_purge_takes_what_the_agent_made() {
    let (true, Some(packages)) = (need_machine(), need_packages()) else { return };
    let machine = running(packages);
    let before = key(&machine);
    let said = machine.run(&["dpkg", "--remove", "tfo-agent"]);
    assert!(said.contains("keeps its TCP Fast Open key"), "{said}");
    assert_eq!(key(&machine), before);
    assert!(machine.path(SYSCTL_FILE).exists() && machine.path("/etc/tfo-fleet/fleet.secret").exists());
    assert_ne!(machine.property("tfo-agent", "ActiveState"), "active");

    machine.run(&["dpkg", "--purge", "tfo-agent"]);
    for gone in [SYSCTL_FILE, "/etc/tfo-fleet", "/run/tfo-agent", "/usr/bin/tfo-agent"] {
        assert!(!machine.path(gone).exists(), "{gone} is still there");
    }
    assert_eq!(key(&machine), before, "until the next boot");
    drop(machine);

    // The package does not remove a sysctl.d file of that name that another program wrote.
    let machine = running(packages);
    machine.run(&["dpkg", "--remove", "tfo-agent"]);
    machine.write(SYSCTL_FILE, "net.ipv4.tcp_fastopen_key = 00000001-00000002-00000003-00000004\n");
    machine.run(&["dpkg", "--purge", "tfo-agent"]);
    assert!(machine.path(SYSCTL_FILE).exists());
}

/// A server of which the agent's unit does not know.
const PROXY: &str = "[Service]\nExecStart=/usr/bin/python3 -m http.server 443\n[Install]\nWantedBy=multi-user.target\n";

#[test]
fn check_tells_which_server_may_start_before_the_agent() {
    let (true, Some(packages)) = (need_machine(), need_packages()) else { return };
    let machine = running(packages);
    machine.write("/etc/systemd/system/proxy.service", PROXY);
    machine.run(&["systemctl", "daemon-reload"]);
    machine.run(&["systemctl", "start", "proxy"]);
    let told = || {
        let output = machine.output(&["tfo-agent", "check"]);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert!(poll_until(SOON, || told().contains("proxy.service listens on port 443")), "{}", told());
    let order = "[Unit]\nAfter=tfo-agent.service\n";
    machine.run(&["mkdir", "-p", "/etc/systemd/system/proxy.service.d"]);
    machine.write_new("/etc/systemd/system/proxy.service.d/order.conf", order);
    machine.run(&["systemctl", "daemon-reload"]);
    assert!(!told().contains("unit_order"), "{}", told());
}

#[test]
fn lintian_finds_no_error_and_the_examples_are_there() {
    let Some(packages) = need_packages() else { return };
    skip_unless!(tfo_testbed::need_tool("lintian"));
    for package in ["tfo-agent", "tfo-coordinator"] {
        let listed = Command::new("dpkg-deb").arg("--contents").arg(packages.file(package)).output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        for example in ["tfo-fleet.rules.yml", "tfo-fleet.json"] {
            assert!(listed.contains(&format!("/usr/share/doc/{package}/examples/{example}")), "{listed}");
        }
        assert!(listed.contains(&format!("/usr/share/doc/{package}/how-to/troubleshooting.md")), "{listed}");
    }
    let files = ["tfo-agent", "tfo-coordinator", "tfoctl"].map(|package| packages.file(package));
    let output = Command::new("lintian").args(["--allow-root", "--fail-on", "error"]).args(files).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");
}
