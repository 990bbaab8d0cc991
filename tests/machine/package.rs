//! The Debian packages on a real systemd, with the real dpkg: first installation, upgrade, removal, purge.

use std::process::Command;

use tfo_testbed::host::{KEY_FILE, UNSET};
use tfo_testbed::machine::{Image, Machine, need_machine};
use tfo_testbed::output::stdout;
use tfo_testbed::package::{Packages, inside, install, need_packages};
use tfo_testbed::{SOON, poll_until, skip_unless};

const SYSCTL_FILE: &str = "/etc/sysctl.d/50-tcp_fastopen_key.conf";
/// A directory and a configuration as the packages make them.
const OWNED: &str = "755 root root\n644 root root";

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
    // Its configuration is a copy of the example, and no conffile; the secret is made by `init`, which leaves the
    // configuration alone.
    assert_eq!(machine.run(&["dpkg-query", "--show", "--showformat=${Conffiles}", "tfo-agent"]), "");
    let before = machine.read("/etc/tfo-fleet/agent.toml");
    assert_eq!(before, machine.read("/usr/share/tfo-fleet/agent.toml"));
    assert_eq!(machine.run(&["stat", "--format=%a %U %G", "/etc/tfo-fleet", "/etc/tfo-fleet/agent.toml"]), OWNED);
    machine.run(&["tfo-agent", "init"]);
    assert_eq!(machine.read("/etc/tfo-fleet/agent.toml"), before);
    machine.run(&["systemctl", "enable", "--now", "tfo-agent"]);
    assert_ne!(key(&machine), UNSET);
    let page =
        machine.run(&["sh", "-c", "zcat /usr/share/man/man8/tfo-agent.8.gz /usr/share/man/man5/tfo-agent.toml.5.gz"]);
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

/// The packages, and the configuration of each.
const CONFIGURED: [(&str, &str); 3] =
    [("tfo-agent", "agent.toml"), ("tfo-coordinator", "coordinator.toml"), ("tfoctl", "ctl.toml")];

/// The next release of a package, with another example, in root's home.
fn next_release(packages: &Packages, image: Image, package: &str, config: &str) -> Image {
    let scratch = tfo_testbed::scratch();
    let (tree, deb) = (scratch.path().join("tree"), scratch.path().join("next.deb"));
    let dpkg_deb = |arguments: &[&std::ffi::OsStr]| {
        let output = Command::new("dpkg-deb").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    dpkg_deb(&["--raw-extract".as_ref(), packages.file(package).as_os_str(), tree.as_os_str()]);
    let change = |file: &str, by: &dyn Fn(&str) -> String| {
        let text = std::fs::read_to_string(tree.join(file)).unwrap();
        let changed = by(&text);
        assert_ne!(text, changed, "{file}");
        std::fs::write(tree.join(file), changed).unwrap();
    };
    change("DEBIAN/control", &|text| text.replace("\nVersion: ", "\nVersion: 9."));
    change(&format!("usr/share/tfo-fleet/{config}"), &|text| format!("# Of the next release.\n{text}"));
    dpkg_deb(&[
        "--root-owner-group".as_ref(),
        "-Znone".as_ref(),
        "--build".as_ref(),
        tree.as_os_str(),
        deb.as_os_str(),
    ]);
    image.copy(&deb, &format!("/root/{package}-next.deb"), 0o644)
}

#[test]
fn an_upgrade_with_a_changed_example_asks_nothing_and_keeps_the_edited_file() {
    let (true, Some(packages)) = (need_machine(), need_packages()) else { return };
    let image = CONFIGURED.iter().fold(Image::new(), |image, (package, config)| {
        next_release(packages, packages.bring(image, package), package, config)
    });
    let machine = image.boot();
    // Pages for man-db to index are not the question here, and take most of the time.
    let dpkg = ["dpkg", "--force-unsafe-io", "--no-triggers"];
    for (package, _) in CONFIGURED {
        machine.run(&[&dpkg[..], &["--install", &inside(package)]].concat());
    }
    let files = CONFIGURED.map(|(_, config)| format!("/etc/tfo-fleet/{config}"));
    let edited = files.each_ref().map(|file| format!("{}# An operator's own line.\n", machine.read(file)));
    files.iter().zip(&edited).for_each(|(file, text)| machine.write(file, text));
    for (((package, config), file), edited) in CONFIGURED.into_iter().zip(&files).zip(&edited) {
        let upgrade =
            format!("DEBIAN_FRONTEND=noninteractive {} -i /root/{package}-next.deb </dev/null 2>&1", dpkg.join(" "));
        let said = machine.run(&["sh", "-c", &upgrade]);
        assert!(!said.contains("***") && !said.contains(".toml"), "{said}");
        let state = machine.run(&["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}${Version}", package]);
        assert!(state.starts_with("ii 9."), "{package}: {state}");
        assert_eq!(machine.read(file), *edited);
        assert!(machine.read(&format!("/usr/share/tfo-fleet/{config}")).starts_with("# Of the next release."));
        // One that is gone comes back as the new example.
        machine.run(&["rm", file]);
        machine.run(&[&format!("/var/lib/dpkg/info/{package}.postinst"), "configure", "9"]);
        assert!(machine.read(file).starts_with("# Of the next release."));
    }
    machine.run(&[&dpkg[..], &["--purge"], &CONFIGURED.map(|(package, _)| package)].concat());
    assert!(!machine.path("/etc/tfo-fleet").exists() && !machine.path("/usr/share/tfo-fleet").exists());
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
    // Nor a secret that config management put in the place of the one of `init`, and says so.
    let (secret, foreign) = ("/etc/tfo-fleet/fleet.secret", "Dz6q0vXk1rT9sYb4Lw8nGmHcJ2eUaPfK\n");
    machine.write(secret, foreign);
    let said = machine.run(&["dpkg", "--purge", "tfo-agent"]);
    assert!(said.contains("fleet.secret stays, because it is not from `tfo-agent init` on this host"), "{said}");
    assert!(machine.path(SYSCTL_FILE).exists());
    assert_eq!(machine.read(secret), foreign);
    assert_eq!(machine.run(&["ls", "/etc/tfo-fleet"]), "fleet.secret");
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
fn lintian_finds_nothing_and_descriptions_and_examples_are_there() {
    let Some(packages) = need_packages() else { return };
    skip_unless!(tfo_testbed::need_tool("lintian"));
    for package in ["tfo-agent", "tfo-coordinator"] {
        let listed = Command::new("dpkg-deb").arg("--contents").arg(packages.file(package)).output().unwrap();
        let listed = stdout(&listed);
        for example in ["tfo-fleet.rules.yml", "tfo-fleet.json"] {
            assert!(listed.contains(&format!("/usr/share/doc/{package}/examples/{example}")), "{listed}");
        }
        assert!(listed.contains(&format!("/usr/share/doc/{package}/how-to/troubleshooting.md")), "{listed}");
    }
    let files = CONFIGURED.map(|(package, _)| packages.file(package));
    for (file, (package, _)) in files.iter().zip(CONFIGURED) {
        let output = Command::new("dpkg-deb").arg("--field").arg(file).arg("Description").output().unwrap();
        let description = stdout(&output);
        let lines: Vec<&str> = description.lines().collect();
        assert!(lines[0].len() <= 60, "{package}: a synopsis is short: {description}");
        assert!(lines[1].starts_with(&format!(" {package} ")), "{package}: {description}");
        let own = std::fs::read_to_string(tfo_testbed::repository(&format!("config/debian/{package}/description")));
        assert_eq!(description.replace("\n ", "\n"), own.unwrap(), "{package}: wrapped as it was written");
    }
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning", "--suppress-tags", "initial-upload-closes-no-bugs"]);
    let output = lintian.args(files).output().unwrap();
    let told = stdout(&output);
    assert!(output.status.success(), "{told}");
}
