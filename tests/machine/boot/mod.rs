//! A real systemd boots our units with the real programs: who is first, the watchdog, the reload, the timer, the sandbox;
//! and a fleet from the packages alone.
//!
//! Each test boots machines of its own (`tfo_testbed::machine`), about half a second each.

mod planted;
pub(crate) mod site;
pub(crate) mod transcript;
mod walk_through;

use std::path::Path;

use tfo_testbed::host::{KEY_FILE, UNSET};
use tfo_testbed::machine::{Image, Machine, need_machine};
use tfo_testbed::output::said as told;
use tfo_testbed::package::{Packages, need_packages, unpacked};
use tfo_testbed::{PATIENCE, SOON, poll_until, skip_unless};

/// Where the agent persists the key.
pub(crate) const SYSCTL_FILE: &str = "/etc/sysctl.d/50-tcp_fastopen_key.conf";

const CONFIG_FILE: &str = "/etc/tfo-fleet/agent.toml";

/// The longest interval: a key that changes between two machines of one test is a once-a-week event.
const CONFIG: &str = r#"
[source]
kind = "derive"
[[source.schedule]]
secret     = "/etc/tfo-fleet/fleet.secret"
interval   = "7d"
stage_lead = "1h"
algorithm  = "hkdf-sha256"
"#;

/// True, with the packages, where a machine can be booted and packages can be packed; otherwise skips.
#[track_caller]
pub(crate) fn need() -> Option<&'static Packages> {
    if need_machine() { need_packages() } else { None }
}

/// A machine with the agent from its package, configured, and not enabled.
pub(crate) fn installed(packages: &Packages) -> Image {
    let support = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testbed");
    let image = Image::new().copy(&support.join("listener.py"), "/usr/lib/tfo-test/listener.py", 0o644);
    unpacked(packages, image, "tfo-agent").file(CONFIG_FILE, CONFIG, 0o644).file(
        "/etc/tfo-fleet/fleet.secret",
        "Dz6q0vXk1rT9sYb4Lw8nGmHcJ2eUaPfK\n",
        0o400,
    )
}

/// A TFO server that starts at boot in the order that `ordering` says, and notes the key it found.
fn listener(image: Image, name: &str, ordering: &str) -> Image {
    // Each on a port of its own; the port plays no part in a cookie.
    let port = 7000 + name.bytes().map(u32::from).sum::<u32>();
    let text = format!(
        "[Unit]\n{ordering}\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=/usr/bin/python3 /usr/lib/tfo-test/listener.py {name} {port}\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    image.unit(&format!("{name}.service"), &text)
}

/// The key that a listener found once it was open.
pub(crate) fn seen(machine: &Machine, name: &str) -> String {
    let file = format!("/run/seen-{name}");
    assert!(poll_until(SOON, || machine.path(&file).exists()), "{name} has not run");
    machine.read(&file).trim().to_owned()
}

/// What the kernel of the machine has now.
pub(crate) fn installed_key(machine: &Machine) -> String {
    machine.run(&["cat", KEY_FILE])
}

/// The key that a sysctl.d file sets.
pub(crate) fn persisted_key(file: &str) -> String {
    let line = file.lines().find_map(|line| line.strip_prefix("net.ipv4.tcp_fastopen_key"));
    line.expect("the file sets the key").trim_start_matches([' ', '=']).trim().to_owned()
}

/// A persisted file as the agent itself wrote it, on a machine that has since gone.
fn persisted_by_the_agent(packages: &Packages) -> String {
    let machine = installed(packages).boot();
    machine.run(&["tfo-agent", "once"]);
    machine.read(SYSCTL_FILE)
}

#[test]
fn a_machine_shares_nothing_dangerous_and_dies_with_its_owner() {
    skip_unless!(need_machine());
    let machine = Image::new().boot();
    for of in ["/proc/1/status", "/proc/self/status"] {
        let status = machine.run(&["cat", of]);
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
        let bounding = u64::from_str_radix(bounding.trim(), 16).unwrap();
        // linux/capability.h: the kernel's modules, raw I/O, the clock, the kernel's log, alarms.
        for (bit, name) in [(16, "SYS_MODULE"), (17, "SYS_RAWIO"), (25, "SYS_TIME"), (34, "SYSLOG"), (35, "WAKE_ALARM")]
        {
            assert_eq!(bounding >> bit & 1, 0, "{of} has CAP_{name}");
        }
    }
    assert!(!machine.output(&["sh", "-c", "echo x > /proc/sys/kernel/domainname"]).status.success());
    for namespace in ["net", "pid", "mnt", "uts", "ipc", "cgroup"] {
        let link = format!("/proc/self/ns/{namespace}");
        let ours = std::fs::read_link(&link).unwrap();
        assert_ne!(machine.run(&["readlink", &link]), ours.to_string_lossy(), "{namespace} is shared with the host");
    }
    let on_host = machine.traces_on_host();
    assert!(on_host.iter().all(|path| path.exists()), "{on_host:?}");
    drop(machine);
    assert!(on_host.iter().all(|path| !path.exists()), "left behind: {on_host:?}");

    // Booted by a thread that ends without dropping it, as a killed test process would.
    let [process, cgroup, dir] = std::thread::spawn(|| Image::new().boot().abandon()).join().unwrap();
    assert!(poll_until(SOON, || !process.exists()), "PID 1 outlived its owner");
    assert!(poll_until(SOON, || std::fs::read_to_string(cgroup.join("cgroup.procs")).is_ok_and(|pids| pids.is_empty())));
    tfo_testbed::machine::remove(&cgroup, &dir);
    assert!(!cgroup.exists() && !dir.exists());
}

#[test]
fn a_persisted_key_is_there_before_the_first_listener() {
    let Some(packages) = need() else { return };
    skip_unless!(tfo_testbed::need_tool("python3"));
    let file = persisted_by_the_agent(packages);
    let key = persisted_key(&file);
    // As early as an ordinary unit can be, and before the agent: only the persisted file can help this one.
    let early = |image| listener(image, "early", "Before=tfo-agent.service").enable("early").enable("tfo-agent");

    let machine = early(installed(packages).file(SYSCTL_FILE, &file, 0o600)).boot();
    assert_eq!(seen(&machine, "early"), key, "without a network manager");
    assert_eq!(machine.property("network.target", "ActiveState"), "inactive");
    assert_eq!(machine.property("tfo-agent.service", "ActiveState"), "active");
    assert_eq!(installed_key(&machine), key);
    drop(machine);

    let image = early(installed(packages).file(SYSCTL_FILE, &file, 0o600)).enable("systemd-networkd");
    let image = listener(image, "server", "After=network.target").enable("server");
    let machine = image.boot();
    assert_eq!(machine.property("systemd-networkd.service", "ActiveState"), "active");
    assert_eq!(machine.property("network.target", "ActiveState"), "active");
    assert_eq!(seen(&machine, "early"), key, "with a network manager");
    assert_eq!(seen(&machine, "server"), key, "with a network manager, after network.target");
    drop(machine);

    // The control: without the file this listener gets a random key of the kernel's.
    let machine = early(installed(packages)).boot();
    let random = seen(&machine, "early");
    assert!(random != key && random != UNSET, "{random}");
    assert_eq!(installed_key(&machine), key, "the agent replaced it");
}

#[test]
fn a_listener_after_the_agent_has_the_key_without_a_persisted_file() {
    let Some(packages) = need() else { return };
    skip_unless!(tfo_testbed::need_tool("python3"));
    // One of the names in the agent's Before=, at the first boot of all.
    let image =
        listener(installed(packages), "nginx", "Description=a well-known server").enable("nginx").enable("tfo-agent");
    let machine = image.boot();
    assert_eq!(seen(&machine, "nginx"), persisted_key(&machine.read(SYSCTL_FILE)));
    drop(machine);

    // Any other server, by its own ordering, and the agent not running yet.
    let machine = listener(installed(packages), "server", "Wants=tfo-agent.service\nAfter=tfo-agent.service").boot();
    assert_eq!(installed_key(&machine), UNSET);
    machine.run(&["systemctl", "start", "server"]);
    assert_eq!(seen(&machine, "server"), persisted_key(&machine.read(SYSCTL_FILE)));
}

#[test]
fn start_returns_after_the_first_verified_install() {
    let Some(packages) = need() else { return };
    let machine = installed(packages).boot();
    assert_eq!(installed_key(&machine), UNSET);
    let key = machine.run(&["sh", "-c", &format!("systemctl start tfo-agent && cat {KEY_FILE}")]);
    assert_eq!(key, persisted_key(&machine.read(SYSCTL_FILE)));
    assert!(machine.path("/run/tfo-agent/status.json").exists());
    assert_ne!(machine.property("tfo-agent", "StatusText"), "");
    machine.run(&["systemctl", "stop", "tfo-agent"]);
    assert_eq!(installed_key(&machine), key, "a stop takes no key away");
    assert_eq!(machine.property("tfo-agent", "Result"), "success");
    drop(machine);

    // A kernel that takes no key: no install, hence no READY, hence no success.
    let image = installed(packages).file(
        "/etc/systemd/system/tfo-agent.service.d/read-only.conf",
        "[Unit]\nStartLimitBurst=1\n[Service]\nReadWritePaths=\nReadWritePaths=/etc/sysctl.d\nTimeoutStartSec=3s\n",
        0o644,
    );
    let machine = image.boot();
    let started = machine.output(&["systemctl", "start", "tfo-agent"]);
    assert!(!started.status.success(), "started without a key: {}", told(&started));
    assert_eq!(installed_key(&machine), UNSET);
}

#[test]
fn the_watchdog_ends_a_hung_agent_and_it_comes_back() {
    let Some(packages) = need() else { return };
    let drop_in = "/etc/systemd/system/tfo-agent.service.d/quick.conf";
    let image =
        installed(packages).file(drop_in, "[Service]\nWatchdogSec=6s\nRestartSec=100ms\n", 0o644).enable("tfo-agent");
    let machine = image.boot();
    let property = |name| machine.property("tfo-agent", name);
    let (hung, key) = (property("MainPID"), installed_key(&machine));
    // A healthy agent is heard again and again first: it is the hang that ends it.
    let heard = || property("WatchdogTimestampMonotonic");
    for _ in 0..2 {
        let before = heard();
        assert!(poll_until(SOON, || heard() != before), "not heard again");
    }
    assert_eq!(property("NRestarts"), "0", "restarted while healthy");
    machine.run(&["systemctl", "kill", "--kill-whom=main", "--signal=STOP", "tfo-agent"]);
    assert!(poll_until(SOON, || property("NRestarts") == "1" && property("ActiveState") == "active"));
    assert_ne!(property("MainPID"), hung);
    assert_eq!(installed_key(&machine), key);
    let journal = machine.journal(Some("tfo-agent"));
    assert!(journal.contains("Watchdog timeout"), "{journal}");
}

#[test]
fn a_reload_takes_a_good_config_and_refuses_a_broken_one() {
    let Some(packages) = need() else { return };
    let machine = installed(packages).enable("tfo-agent").boot();
    let (agent, key) = (machine.property("tfo-agent", "MainPID"), installed_key(&machine));
    let other_file = "/etc/sysctl.d/60-other.conf";

    machine.write(CONFIG_FILE, &format!("{CONFIG}[install]\nsysctl_file = \"{other_file}\"\n"));
    machine.run(&["systemctl", "reload", "tfo-agent"]);
    assert!(poll_until(SOON, || machine.path(other_file).exists()), "the new config is in force");
    assert_eq!(persisted_key(&machine.read(other_file)), key);
    assert!(poll_until(SOON, || machine.property("tfo-agent", "ActiveState") == "active"), "READY after RELOADING");

    machine.write(CONFIG_FILE, &CONFIG.replace("kind = \"derive\"", "kind = \"derived\""));
    let reload = machine.output(&["systemctl", "reload", "tfo-agent"]);
    assert!(!reload.status.success(), "a broken config was taken");
    // systemctl prints no text of the service: it names the place where the reason is.
    assert!(told(&reload).contains("See \"systemctl status tfo-agent.service\""), "{}", told(&reload));
    let refused = "reload refused: /etc/tfo-fleet/agent.toml:3: source.kind: unknown source \"derived\"; \
                   keeping the old configuration; primary ";
    assert!(
        poll_until(SOON, || machine.property("tfo-agent", "StatusText").starts_with(refused)),
        "{}",
        said(&machine)
    );
    let shown = machine.run(&["systemctl", "status", "--no-pager", "--lines=0", "tfo-agent"]);
    assert!(shown.contains(&format!("Status: \"{refused}")), "{shown}");
    let journal = machine.journal(Some("tfo-agent"));
    assert!(journal.contains("agent.toml") && journal.contains("derived"), "no reason in the journal: {journal}");

    // A new systemd, as its upgrade starts it, listens on sockets of its own: they are not the sandbox's either.
    machine.run(&["systemctl", "daemon-reexec"]);
    let listens = || machine.path("/run/systemd/private").exists();
    assert!(poll_until(SOON, listens), "systemd did not come back");
    let seen = machine.run(&["ls", "-A", &format!("/proc/{agent}/root/run/systemd")]);
    assert!(seen.contains("notify") && !seen.contains("private"), "{seen}");

    // Right by itself, and wrong on this host; by a kill that an upgrade has replaced.
    machine.run(&["sh", "-c", "cp /bin/kill /bin/kill.new && mv /bin/kill.new /bin/kill"]);
    machine.write(CONFIG_FILE, &format!("{CONFIG}[install]\nnamespaces = [\"blue\"]\n"));
    assert!(machine.output(&["tfo-agent", "check", "--config-only"]).status.success());
    assert!(!machine.output(&["systemctl", "reload", "tfo-agent"]).status.success(), "an unknown namespace was taken");
    let unknown = || said(&machine).starts_with("reload refused: ") && said(&machine).contains("blue");
    assert!(poll_until(SOON, unknown), "{}", said(&machine));
    assert_eq!(machine.property("tfo-agent", "ActiveState"), "active");
    assert_eq!(machine.property("tfo-agent", "MainPID"), agent, "the old one goes on");
    assert_eq!(installed_key(&machine), key);

    machine.write(CONFIG_FILE, CONFIG);
    machine.run(&["systemctl", "reload", "tfo-agent"]);
    assert!(poll_until(SOON, || said(&machine).starts_with("primary ")), "{}", said(&machine));
}

/// The agent's status line.
fn said(machine: &Machine) -> String {
    machine.property("tfo-agent", "StatusText")
}

#[test]
fn a_crash_loop_is_limited_and_visible() {
    let Some(packages) = need() else { return };
    // The time in which starts count is the unit's own; they are fewer and follow at once, for each takes seconds on a busy machine.
    let drop_in = "/etc/systemd/system/tfo-agent.service.d/quick.conf";
    let quick = "[Unit]\nStartLimitBurst=6\n[Service]\nRestartSec=1ms\n";
    let machine = installed(packages).file(drop_in, quick, 0o644).enable("tfo-agent").boot();
    let property = |name| machine.property("tfo-agent", name);
    assert_eq!(property("StartLimitIntervalUSec"), "10min");
    let (key, burst) = (installed_key(&machine), property("StartLimitBurst"));
    // A crash, and no way to come back.
    machine.write(CONFIG_FILE, "nonsense");
    machine.run(&["systemctl", "kill", "--kill-whom=main", "--signal=ABRT", "tfo-agent"]);
    assert!(poll_until(PATIENCE, || property("ActiveState") == "failed"), "restarts: {}", property("NRestarts"));
    assert_eq!(property("NRestarts"), burst);
    assert_eq!(installed_key(&machine), key);
    let started = machine.journal(Some("tfo-agent")).matches("Starting tfo-agent.service").count();
    assert_eq!(started.to_string(), burst, "and not once more");
    let shown = told(&machine.output(&["systemctl", "status", "--no-pager", "tfo-agent"]));
    assert!(shown.contains("Active: failed") && shown.contains("repeated too quickly"), "{shown}");

    // Once the configuration is fixed, `check` says what is left to do, and that does it.
    machine.write(CONFIG_FILE, CONFIG);
    let check = machine.output(&["tfo-agent", "check"]);
    assert!(check.status.success(), "{}", told(&check));
    let check = told(&check);
    assert!(check.contains(&format!("tfo-agent.service has failed (exit-code, after {burst} restarts)")), "{check}");
    assert!(check.contains("systemctl reset-failed tfo-agent.service"), "{check}");
    machine.run(&["systemctl", "reset-failed", "tfo-agent.service"]);
    machine.run(&["systemctl", "start", "tfo-agent.service"]);
    assert_eq!(installed_key(&machine), key);
    assert!(!told(&machine.output(&["tfo-agent", "check"])).contains("has failed"));
}

#[test]
fn the_timer_way_runs_green_and_leaves_a_daemon_alone() {
    let Some(packages) = need() else { return };
    // Enabling the timer enables the run at boot, too.
    let machine = installed(packages).enable("tfo-agent-once.timer").boot();
    let once = |name| machine.property("tfo-agent-once.service", name);
    assert_eq!(machine.property("tfo-agent-once.timer", "ActiveState"), "active");
    assert!(poll_until(SOON, || once("Result") == "success" && once("ExecMainExitTimestampMonotonic") != "0"));
    assert_eq!(installed_key(&machine), persisted_key(&machine.read(SYSCTL_FILE)));
    machine.run(&["systemctl", "start", "tfo-agent-once"]);
    assert_eq!(once("Result"), "success");
    assert_eq!(machine.run(&["systemctl", "list-units", "--failed", "--no-legend", "--plain"]), "");

    machine.run(&["systemctl", "start", "tfo-agent"]);
    let agent = machine.property("tfo-agent", "MainPID");
    machine.run(&["systemctl", "start", "tfo-agent-once"]);
    assert_eq!(once("Result"), "exec-condition", "skipped beside a daemon");
    assert_eq!(once("ActiveState"), "inactive");
    assert_eq!(machine.property("tfo-agent", "MainPID"), agent);

    // Not all hosts at once, and at once after time off.
    let timer = |name| machine.property("tfo-agent-once.timer", name);
    assert_eq!((&*timer("RandomizedDelayUSec"), &*timer("FixedRandomDelay")), ("2min", "yes"));
    machine.run(&["systemctl", "stop", "tfo-agent", "tfo-agent-once.timer"]);
    machine.run(&["touch", "--date=1 hour ago", "/var/lib/systemd/timers/stamp-tfo-agent-once.timer"]);
    let no_delay = "/run/systemd/system/tfo-agent-once.timer.d";
    machine.run(&["mkdir", "-p", no_delay]);
    machine.write(&format!("{no_delay}/quick.conf"), "[Timer]\nRandomizedDelaySec=0\n");
    machine.run(&["systemctl", "daemon-reload"]);
    let before = once("ExecMainExitTimestampMonotonic");
    machine.run(&["systemctl", "start", "tfo-agent-once.timer"]);
    assert!(poll_until(SOON, || once("ExecMainExitTimestampMonotonic") != before), "a missed run was not made up for");
    drop(machine);

    // Both enabled: the daemon does it.
    let machine = installed(packages).enable("tfo-agent").enable("tfo-agent-once.timer").boot();
    assert_eq!(machine.property("tfo-agent", "ActiveState"), "active");
    assert_eq!(machine.property("tfo-agent-once.service", "Result"), "exec-condition");
    assert_eq!(machine.run(&["systemctl", "list-units", "--failed", "--no-legend", "--plain"]), "");
}

#[test]
fn a_secret_by_credential_survives_a_reload() {
    let Some(packages) = need() else { return };
    let drop_in = "/etc/systemd/system/tfo-agent.service.d/secret.conf";
    let config = CONFIG.replace("/etc/tfo-fleet/fleet.secret", "credential:fleet");
    let load = "[Service]\nLoadCredential=fleet:/etc/tfo-fleet/fleet.secret\n";
    let machine =
        installed(packages).file(drop_in, load, 0o644).file(CONFIG_FILE, &config, 0o644).enable("tfo-agent").boot();
    let key = installed_key(&machine);
    assert_eq!(machine.property("tfo-agent", "ActiveState"), "active");
    let other_file = "/etc/sysctl.d/60-other.conf";
    machine.write(CONFIG_FILE, &format!("{config}[install]\nsysctl_file = \"{other_file}\"\n"));
    machine.run(&["systemctl", "reload", "tfo-agent"]);
    assert!(poll_until(SOON, || machine.path(other_file).exists()), "{}", machine.journal(Some("tfo-agent")));
    assert_eq!(installed_key(&machine), key);

    // Encrypted with this host's key; the secret itself is gone.
    let (secret, encrypted) = ("/etc/tfo-fleet/fleet.secret", "/etc/tfo-fleet/fleet.cred");
    machine.run(&["systemd-creds", "encrypt", "--with-key=host", "--name=fleet", secret, encrypted]);
    machine.run(&["shred", "-u", secret]);
    let restart = |name: &str| {
        machine.write(drop_in, &format!("[Service]\nLoadCredentialEncrypted={name}:{encrypted}\nRestart=no\n"));
        machine.write(CONFIG_FILE, &config.replace("credential:fleet", &format!("credential:{name}")));
        machine.run(&["systemctl", "daemon-reload"]);
        machine.output(&["systemctl", "restart", "tfo-agent"])
    };
    assert!(restart("fleet").status.success(), "{}", machine.journal(Some("tfo-agent")));
    assert_eq!(installed_key(&machine), key);
    assert!(said(&machine).starts_with("primary "), "{}", said(&machine));
    // The name is sealed in: under another one it is not opened, and the unit says so.
    assert!(!restart("other").status.success());
    let shown = told(&machine.output(&["systemctl", "status", "--no-pager", "tfo-agent"]));
    assert!(shown.contains("status=243/CREDENTIALS"), "{shown}");
    assert_eq!(installed_key(&machine), key);
}

#[test]
fn check_computes_whether_the_timer_keeps_up() {
    let Some(packages) = need() else { return };
    let machine = installed(packages).enable("tfo-agent-once.timer").boot();
    let check = || machine.output(&["tfo-agent", "check"]);
    let good = check();
    assert!(good.status.success(), "10 min, 2 min and 10 s fit into an hour: {}", told(&good));
    machine.write(CONFIG_FILE, &CONFIG.replace("\"1h\"", "\"12m\""));
    let late = check();
    assert_eq!(late.status.code(), Some(1), "{}", told(&late));
    let late = told(&late);
    assert!(late.contains("12m 12s late (period 10m, random delay 2m, accuracy 10s, run 2s)"), "{late}");
    machine.run(&["systemctl", "stop", "tfo-agent-once.timer"]);
    assert!(check().status.success(), "a timer that is not active has nothing to keep up with");
}

#[test]
fn other_namespaces_take_the_example_drop_in() {
    let Some(packages) = need() else { return };
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/examples/namespaces.conf");
    let drop_in = "/etc/systemd/system/tfo-agent.service.d/namespaces.conf";
    let config = format!("{CONFIG}[install]\nnamespaces = [\"blue\", \"late-*\", \"unit:private.service\"]\n");
    let in_blue = ["nsenter", "--net=/run/netns/blue", "cat", KEY_FILE];

    let of_units = example.with_file_name("namespaces-of-units.conf");
    let of_units_drop_in = "/etc/systemd/system/tfo-agent.service.d/of-units.conf";
    let private = "[Service]\nPrivateNetwork=yes\nExecStart=/usr/bin/sleep infinity\n";
    let image = installed(packages).file(CONFIG_FILE, &config, 0o644).copy(&example, drop_in, 0o644);
    let machine = image.copy(&of_units, of_units_drop_in, 0o644).unit("private.service", private).boot();
    machine.run(&["ip", "netns", "add", "blue"]);
    assert_eq!(machine.run(&in_blue), UNSET);
    machine.run(&["systemctl", "start", "tfo-agent"]);
    assert_eq!(machine.run(&in_blue), persisted_key(&machine.read(SYSCTL_FILE)));
    assert_eq!(machine.run(&in_blue), installed_key(&machine));
    // Made after the agent has started, as containers are: the mount reaches the unit's own tree.
    machine.run(&["ip", "netns", "add", "late-1"]);
    let in_late = ["nsenter", "--net=/run/netns/late-1", "cat", KEY_FILE];
    assert!(
        poll_until(SOON, || machine.run(&in_late) == installed_key(&machine)),
        "{}",
        machine.journal(Some("tfo-agent"))
    );
    machine.run(&["systemctl", "start", "private"]);
    let file = format!("--net=/proc/{}/ns/net", machine.property("private", "MainPID"));
    let in_unit = || machine.run(&["nsenter", &file, "cat", KEY_FILE]);
    assert!(poll_until(SOON, || in_unit() == installed_key(&machine)), "{}", machine.journal(Some("tfo-agent")));
    machine.run(&["systemctl", "stop", "private"]);
    machine.run(&["ip", "netns", "del", "late-1"]);
    let gone = || !machine.read("/run/tfo-agent/status.json").contains("late-1");
    assert!(poll_until(SOON, gone), "{}", machine.read("/run/tfo-agent/status.json"));
    assert!(said(&machine).starts_with("primary "), "{}", said(&machine));
}

#[test]
fn the_sandbox_lets_the_agent_do_its_work_and_nothing_else() {
    let Some(packages) = need() else { return };
    skip_unless!(tfo_testbed::need_tool("python3"));
    let machine = with_probe(installed(packages)).boot();
    for unit in ["tfo-agent.service", "tfo-agent-once.service"] {
        let (done, told) = probed(&machine, unit, "agent");
        let work = ["the key", "a file in /etc/sysctl.d", "own directory", "its certificate's directory"];
        assert_eq!(done, [&work[..], &[BESIDE_LIBRARIES]].concat(), "{unit}: {told}");
        // It can write there, and so it is the execution that fails.
        for directory in ["/run/tfo-agent", "/etc/sysctl.d", "/var/lib/tfo-agent"] {
            assert!(told.contains(&format!("\nexecute in {directory}: Permission denied\n")), "{unit}: {told}");
        }
    }
}

/// What /usr/lib has of programs can be executed: libraries must be, and systemd knows no difference.
const BESIDE_LIBRARIES: &str = "execute beside the libraries";

/// The same with the probe on its disk.
fn with_probe(image: Image) -> Image {
    let probe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testbed/sandbox_probe.py");
    let image = image.copy(&probe, "/usr/lib/tfo-test/probe.py", 0o644);
    image.copy(Path::new("/bin/true"), "/usr/lib/tfo-test/true", 0o755)
}

/// What can be done from inside a unit's own sandbox, by its user, in its program's place; and what all attempts led to.
fn probed(machine: &Machine, unit: &str, role: &str) -> (Vec<String>, String) {
    let drop_in = format!(
        "[Service]\nType=oneshot\nWatchdogSec=0\nRestart=no\nExecCondition=\nExecStart=\n\
         BindReadOnlyPaths=/usr/bin/python3\nExecStart=/usr/bin/python3 /usr/lib/tfo-test/probe.py {role}\n\
         StandardOutput=truncate:/run/probe.out\nStandardError=inherit\n"
    );
    let directory = format!("/run/systemd/system/{unit}.d");
    machine.run(&["mkdir", "-p", &directory]);
    machine.write(&format!("{directory}/probe.conf"), &drop_in);
    machine.run(&["systemctl", "daemon-reload"]);
    // There whether or not this host has a bus.
    let bus = "import os, socket; os.makedirs('/run/dbus', exist_ok=True); path = '/run/dbus/system_bus_socket'; \
               os.path.exists(path) or socket.socket(socket.AF_UNIX).bind(path)";
    machine.run(&["python3", "-c", bus]);
    machine.run(&["systemctl", "restart", unit]);
    let told = machine.read("/run/probe.out");
    machine.run(&["rm", "-r", &directory]);
    machine.run(&["systemctl", "daemon-reload"]);
    // To the last attempt, and none of them by a mistake of the probe's.
    assert!(told.lines().count() > 30 && told.lines().last().unwrap().starts_with("mount: "), "{unit}: {told}");
    // Not allowed by the filter, whatever the time is and the capabilities are.
    assert!(told.contains("\nset the clock: Operation not permitted\n"), "{unit}: {told}");
    for denied in ["execute", "execute systemctl", "ask the bus"] {
        assert!(told.contains(&format!("\n{denied}: Permission denied\n")), "{unit}: {told}");
    }
    assert!(told.contains("\nask systemd: No such file or directory\n"), "{unit}: {told}");
    let done = told.lines().filter_map(|line| line.strip_suffix(": done")).map(str::to_owned).collect();
    (done, told)
}
