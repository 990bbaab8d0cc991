//! The .rpm packages: installed by the real rpm on a real systemd with scriptlets as on Fedora, and held against Debian's.

use std::collections::BTreeSet;
use std::process::Command;

use tfo_testbed::host::{KEY_FILE, UNSET};
use tfo_testbed::machine::{Image, Machine, need_machine};
use tfo_testbed::output::{said, stdout};
use tfo_testbed::package::{Packages, need_packages, need_rpms};
use tfo_testbed::{SOON, poll_until, skip_unless};

const PACKAGES: [&str; 3] = ["tfo-agent", "tfo-coordinator", "tfoctl"];

/// What systemd's own helper does on Fedora for the macros of its RPM packages: a preset, disable, restart.  Debian has none.
/// What it is asked is in /run/helper.
const FAKE_HELPER: &str = "#!/bin/sh
echo \"$@\" >> /run/helper
verb=$1
shift
case $verb in
install-system-units) systemctl --no-reload preset \"$@\" ;;
remove-system-units) systemctl --no-reload disable --now \"$@\" ;;
mark-restart-system-units) systemctl daemon-reload; systemctl try-restart \"$@\" ;;
esac
";

/// Debian's rpm warns a person that packages of the system are dpkg's, and knows nothing of libraries that dpkg installed.
const RPM: [&str; 3] = ["rpm", "--force-debian", "--nodeps"];

fn rpm(machine: &Machine, arguments: &[&str]) -> String {
    machine.run(&[&RPM[..], arguments].concat())
}

fn key(machine: &Machine) -> String {
    machine.run(&["cat", KEY_FILE])
}

#[test]
fn an_rpm_starts_nothing_restarts_what_runs_and_leaves_the_key() {
    let (true, Some(packages)) = (need_machine(), need_rpms()) else { return };
    let image = Image::new()
        .file("/usr/lib/systemd/systemd-update-helper", FAKE_HELPER, 0o755)
        // Fedora's last preset.
        .file("/usr/lib/systemd/system-preset/99-default-disable.preset", "disable *\n", 0o644);
    let (image, file) = packages.deliver(image, "tfo-agent");
    let machine = image.boot();
    let file = format!("/root/{file}");

    rpm(&machine, &["--install", &file]);
    assert_eq!(
        machine.read("/run/helper"),
        "install-system-units tfo-agent.service tfo-agent-once.service tfo-agent-once.timer\n"
    );
    for unit in ["tfo-agent.service", "tfo-agent-once.timer"] {
        assert_eq!(machine.property(unit, "ActiveState"), "inactive");
        assert_eq!(machine.property(unit, "UnitFileState"), "disabled");
    }
    assert_eq!(key(&machine), UNSET);
    machine.run(&["tfo-agent", "init"]);
    machine.run(&["systemctl", "enable", "--now", "tfo-agent"]);
    let (before, agent) = (key(&machine), machine.property("tfo-agent", "MainPID"));
    assert_ne!(before, UNSET);

    // An upgrade keeps an edited configuration, the key, and what is enabled.
    let config = "/etc/tfo-fleet/agent.toml";
    let edited = format!("{}# An operator's own line.\n", machine.read(config));
    machine.write(config, &edited);
    rpm(&machine, &["--upgrade", "--force", &file]);
    assert!(poll_until(SOON, || machine.property("tfo-agent", "MainPID") != agent), "it was not restarted");
    assert!(poll_until(SOON, || machine.property("tfo-agent", "ActiveState") == "active"));
    assert_eq!(machine.property("tfo-agent", "UnitFileState"), "enabled");
    assert_eq!((key(&machine), machine.read(config)), (before.clone(), edited.clone()));
    let changed = machine.output(&[&RPM[..], &["--verify", "tfo-agent"]].concat());
    assert_eq!(stdout(&changed).trim(), format!("S.5....T.  c {config}"), "only the operator's file differs");

    rpm(&machine, &["--erase", "tfo-agent"]);
    assert_ne!(machine.property("tfo-agent", "ActiveState"), "active");
    assert_eq!(key(&machine), before);
    for kept in ["/etc/sysctl.d/50-tcp_fastopen_key.conf", "/etc/tfo-fleet/fleet.secret"] {
        assert!(machine.path(kept).exists(), "{kept}");
    }
    assert_eq!(machine.read("/etc/tfo-fleet/agent.toml.rpmsave"), edited);
    for gone in ["/usr/bin/tfo-agent", "/usr/lib/systemd/system/tfo-agent.service", config] {
        assert!(!machine.path(gone).exists(), "{gone} is still there");
    }
}

/// What an .rpm would install.
fn files_of_rpm(packages: &Packages, package: &str) -> BTreeSet<String> {
    let listed = Command::new("rpm").args(["--query", "--list", "--package"]).arg(packages.file(package)).output();
    stdout(&listed.expect("rpm starts")).lines().map(str::to_owned).collect()
}

/// The files of a .deb, without directories.
fn files_of_deb(packages: &Packages, package: &str) -> BTreeSet<String> {
    let listed = Command::new("dpkg-deb").arg("--contents").arg(packages.file(package)).output();
    let listed = stdout(&listed.expect("dpkg-deb starts"));
    let names = listed.lines().filter(|line| !line.starts_with('d')).filter_map(|line| line.split(" ./").nth(1));
    names.map(|name| format!("/{name}")).collect()
}

/// Both systems name some places differently, and each has files that its own rules ask for.
fn in_rpm(name: &str) -> Option<String> {
    let own = name.ends_with("/copyright") || name.contains("/changelog.Debian");
    // cargo-deb packs long texts; rpm packs the whole.
    let name = if name.starts_with("/usr/share/doc/") { name.trim_end_matches(".gz") } else { name };
    (!own).then(|| name.replace("/zsh/vendor-completions/", "/zsh/site-functions/"))
}

#[test]
fn an_rpm_has_the_files_of_the_deb_and_rpmlint_finds_nothing() {
    let (Some(rpms), Some(debs)) = (need_rpms(), need_packages()) else { return };
    skip_unless!(tfo_testbed::need_tool("rpmlint"));
    for package in PACKAGES {
        let mut expected: BTreeSet<String> =
            files_of_deb(debs, package).iter().filter_map(|name| in_rpm(name)).collect();
        let config = package.trim_start_matches("tfo").trim_start_matches('-');
        expected.insert(format!("/etc/tfo-fleet/{config}.toml"));
        for license in ["LICENSE-APACHE", "LICENSE-MIT"] {
            expected.insert(format!("/usr/share/licenses/{package}/{license}"));
        }
        assert_eq!(files_of_rpm(rpms, package), expected, "{package}");
        // Into an empty folder, whose database then knows each file as it was packed.
        let root = tfo_testbed::scratch();
        let run = |arguments: &[&str]| {
            let mut command = Command::new("rpm");
            command.arg("--root").arg(root.path()).arg("--force-debian").args(arguments);
            let output = command.output().expect("rpm starts");
            assert!(output.status.success(), "{arguments:?}: {}", said(&output));
            stdout(&output)
        };
        run(&["--install", "--nodeps", "--noscripts", rpms.file(package).to_str().expect("an ASCII path")]);
        assert_eq!(run(&["--verify", "--nodeps", "--noscripts", package]), "");
        let synopsis =
            std::fs::read_to_string(tfo_testbed::repository(&format!("config/debian/{package}/description")));
        let (synopsis, _) = synopsis.as_deref().expect("it is there").split_once('\n').expect("two parts");
        let summary = run(&["--query", "--queryformat", "%{SUMMARY}", package]);
        assert_eq!(summary.to_lowercase(), synopsis.to_lowercase());
    }
    let mut rpmlint = Command::new("rpmlint");
    rpmlint.arg("--strict").arg("--config").arg(tfo_testbed::repository("config/rpm/rpmlint.toml"));
    let output = rpmlint.args(PACKAGES.map(|package| rpms.file(package))).output().expect("rpmlint starts");
    // The programs under test have their symbols; those of a release have none.
    let found = said(&output);
    let found: Vec<&str> = found.lines().filter(|line| line.contains(": E: ") || line.contains(": W: ")).collect();
    assert!(found.iter().all(|line| line.contains(": E: unstripped-binary-or-object /usr/bin/tfo")), "{found:#?}");
}
