//! The daemon when strangers are at its listener, when it has no descriptors, and when something odd is in a file's place.

use crate::{running, start_ready};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use super::status::scrape;
use tfo_testbed::daemon::{Daemon, DaemonHost, derive, key_text, lasting};
use tfo_testbed::host::KEY_FILE;
use tfo_testbed::output::{stderr, stdout};
use tfo_testbed::{SOON, need_netns, need_tool, poll_until, skip_unless};

const ADDRESS: &str = "127.0.0.1:9440";

fn fed(daemon: &Daemon) -> usize {
    daemon.messages().iter().filter(|message| message.text.contains("WATCHDOG=1")).count()
}

/// Connections that send nothing, and others that send the beginning of a request.
fn crowd(host: &DaemonHost, idle: usize, slow: usize) -> Vec<TcpStream> {
    // This process needs more descriptors than are usual, too.
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let limit = rustix::process::Rlimit { current: hard, maximum: hard };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("up to the hard limit");
    host.netns().run(|| {
        let connect = || TcpStream::connect(ADDRESS).expect("it accepts");
        let mut all: Vec<TcpStream> = (0..idle).map(|_| connect()).collect();
        for _ in 0..slow {
            let mut stream = connect();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nX-A: ").expect("the beginning is taken");
            all.push(stream);
        }
        all
    })
}

#[test]
fn strangers_at_the_metrics_port_stop_nothing() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    let listen = format!("[metrics]\nlisten = {ADDRESS:?}");
    host.configure(&derive(&host, "10s", "5s"), &format!("verify_interval = \"1s\"\n{listen}"));
    let daemon = host.start_with("export WATCHDOG_USEC=2000000 WATCHDOG_PID=$$; ulimit -n 1024; exec \"$@\"");
    daemon.ready();
    let mut strangers = crowd(&host, 2_000, 50);
    let fed_before = fed(&daemon);
    // The slots change every five seconds, and a slow head gets a byte more at each look.
    let mut held = vec![host.kernel()];
    let two_changes = || {
        for stream in strangers.iter_mut().skip(2_000) {
            stream.write_all(b"x").ok();
        }
        let now = host.kernel();
        if held.last() != Some(&now) {
            held.push(now);
        }
        held.len() > 2
    };
    assert!(poll_until(SOON, two_changes), "keys do not move: {}", daemon.log());
    assert_eq!(host.persisted_keys(), Some(host.kernel()));
    for _ in 0..10 {
        assert!(scrape(&host, ADDRESS).starts_with("HTTP/1.1 200"), "{}", daemon.log());
    }
    assert!(fed(&daemon) > fed_before + 2, "the watchdog is not fed: {:?}", daemon.messages());
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    assert!(open < 50, "{open} descriptors");
    assert_eq!(host.status()["state"], "ok");
    assert_eq!(host.status()["drift_repairs"], 0);
    for word in ["open files", "drift", "descriptors"] {
        assert!(!daemon.log().contains(word), "{}", daemon.log());
    }
}

#[test]
fn a_pass_has_descriptors_of_its_own() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.configure(&lasting(&host), &format!("verify_interval = \"1s\"\n[metrics]\nlisten = {ADDRESS:?}"));
    // Fewer than the connections would take: beside the reserve there are about five.
    let daemon = host.start_with("ulimit -n 24; exec \"$@\"");
    daemon.ready();
    // The kernel takes them; the agent cannot accept them all.
    let _strangers = crowd(&host, 40, 0);
    for round in 1..=3 {
        let seen = daemon.messages().len();
        host.set_kernel(&key_text(9));
        let repaired = || host.status()["drift_repairs"] == round && daemon.messages().len() > seen;
        assert!(poll_until(SOON, repaired), "{round}: {}", daemon.log());
        assert_eq!(host.persisted_keys(), Some(host.kernel()));
    }
    assert!(!daemon.log().contains("open files"), "{}", daemon.log());
}

#[test]
fn the_lack_of_descriptors_has_its_own_name_and_is_no_drift() {
    skip_unless!(need_netns() && need_tool("prlimit"));
    let (host, daemon) = running("verify_interval = \"1s\"");
    let limit = |to: &str| {
        let pid = daemon.pid().to_string();
        let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={to}:1024")]).status();
        assert!(limited.expect("prlimit (util-linux)").success());
    };
    let status = host.path("run/status.json");
    limit("3");
    assert!(poll_until(SOON, || !status.exists()), "a status stays that nothing can replace: {}", daemon.log());
    daemon.logs("descriptors");
    host.set_kernel(&key_text(9));
    limit("1024");
    let repaired = || status.exists() && host.status()["state"] == "ok" && host.kernel() != key_text(9);
    assert!(poll_until(SOON, repaired), "{}", daemon.log());
    assert_eq!(host.persisted_keys(), Some(host.kernel()));
    let log = daemon.log();
    // It is not known who changed what could not be read.
    assert!(host.status()["drift_repairs"] == 0 && !log.contains("another program changed the keys"), "{log}");
    for line in log.lines().filter(|line| line.contains("problem") && line.contains("open files")) {
        assert!(line.contains("kind=\"descriptors\""), "{line}");
    }
}

#[test]
fn what_is_in_the_place_of_the_sysctl_d_file_hangs_nothing() {
    skip_unless!(need_netns() && need_tool("mkfifo"));
    let (host, mut daemon) = running("verify_interval = \"1s\"");
    let file = host.sysctl_file();
    let target = host.write("target", "untouched", 0o600);
    let pipe = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().expect("coreutils").success());
    for what in ["a pipe", "a link", "a link to a device", "a socket"] {
        fs::remove_file(&file).unwrap();
        match what {
            "a pipe" => pipe(&file),
            "a link" => std::os::unix::fs::symlink(&target, &file).unwrap(),
            "a link to a device" => std::os::unix::fs::symlink("/dev/zero", &file).unwrap(),
            _ => drop(std::os::unix::net::UnixDatagram::bind(&file).unwrap()),
        }
        let healed = || file.symlink_metadata().is_ok_and(|found| found.is_file());
        assert!(poll_until(SOON, healed), "{what}: {}", daemon.log());
        assert_eq!(host.persisted_keys(), Some(host.kernel()), "{what}");
    }
    assert_eq!(fs::read(&target).unwrap(), b"untouched");
    // A pipe that another file of the directory is, and which wins by its name.
    pipe(&host.path("sysctl.d/99-pipe.conf"));
    fs::remove_file(&file).unwrap();
    pipe(&file);
    assert!(poll_until(SOON, || file.is_file()), "{}", daemon.log());
    daemon.stop();
}

/// At the start as well, in `check` and for the operator's `status`.
#[test]
fn a_pipe_at_the_start_hangs_nothing() {
    skip_unless!(need_netns() && need_tool("mkfifo"));
    let host = DaemonHost::new();
    host.configure(&lasting(&host), "");
    let made = Command::new("mkfifo").arg(host.sysctl_file()).status();
    assert!(made.expect("coreutils").success());
    let checked = host
        .command("timeout")
        .arg("60")
        .arg(tfo_testbed::agent_path())
        .args(["check", "--config"])
        .arg(host.config_file())
        .output()
        .unwrap();
    assert_ne!(checked.status.code(), Some(124), "it hangs");
    let daemon = start_ready(&host);
    assert_eq!(host.persisted_keys(), Some(host.kernel()), "{}", daemon.log());
    assert!(Path::new(KEY_FILE).exists());
}

/// A monitoring directory that is missing, or another user's, is a problem of monitoring.
#[test]
fn monitoring_does_not_decide_about_keys() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    let textfile = host.path("prometheus/tfo.prom");
    host.configure(&lasting(&host), &format!("verify_interval = \"1s\"\n[metrics]\ntextfile = {textfile:?}"));
    let daemon = start_ready(&host);
    assert_eq!(host.persisted_keys(), Some(host.kernel()));
    daemon.logs("cannot write");
    assert_eq!(host.status()["state"], "ok");
    crate::reload(&daemon);
    // The same in the look that a reload takes, and in a single run; only `check` calls it an error.
    let told = |command: &str, more: &[&str]| {
        let output = host.run(command, more);
        (output.status.code(), stderr(&output) + &stdout(&output))
    };
    let (code, text) = told("check", &["--reload"]);
    assert!(code == Some(0) && text.contains("metrics.textfile"), "{code:?} {text}");
    let (code, text) = told("check", &[]);
    assert!(code == Some(1) && text.contains("metrics.textfile") && text.contains("error: "), "{code:?} {text}");
    fs::create_dir(host.path("prometheus")).unwrap();
    assert!(poll_until(SOON, || textfile.exists()), "{}", daemon.log());
    drop(daemon);
    fs::remove_dir_all(host.path("prometheus")).unwrap();
    let (code, text) = told("once", &[]);
    assert!(code == Some(0) && text.contains("warning: "), "{code:?} {text}");
}

#[test]
fn one_lock_for_a_namespace_also_when_its_directory_was_removed() {
    skip_unless!(need_netns());
    let (host, mut daemon) = running("verify_interval = \"1s\"");
    let lock = host.lock_file().to_owned();
    assert!(lock.exists());
    fs::remove_file(&lock).unwrap();
    assert!(poll_until(SOON, || lock.exists()), "it takes its lock again: {}", daemon.log());
    let second = host.once(&[]);
    assert!(stderr(&second).contains("another agent already manages"), "{second:?}");
    daemon.stop();
    assert!(!lock.exists(), "it goes with the agent");
    let mut answer = String::new();
    fs::File::open(host.path("run/status.json")).unwrap().read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"state\""), "status.json stays");
}
