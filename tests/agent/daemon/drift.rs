//! Another program writes the key, or the file: the agent repairs, counts and names it.

use crate::{running, start_ready};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use tfo_crypto::fingerprint::pair_print;
use tfo_host::kernel::sysctl_d::{self, Persisted};
use tfo_model::key::KeyPair;
use tfo_model::key_text;
use tfo_model::time::UnixTime;

use tfo_testbed::daemon::{DaemonHost, kernel_of, key_text, lasting};
use tfo_testbed::kernel_clock::KernelClock;
use tfo_testbed::output::{json_of, stderr};
use tfo_testbed::{NetNs, SOON, need_netns, need_tool, poll_until, skip_unless};

#[test]
fn a_changed_kernel_is_repaired_and_the_other_file_is_named() {
    skip_unless!(need_netns() && need_tool("unshare"));
    let (host, named) = (DaemonHost::new(), NetNs::new());
    host.configure(&lasting(&host), &format!("verify_interval = \"1s\"\nnamespaces = [{:?}]", named.name()));
    // The daemon sees an /etc/sysctl.d in which another program's file sets the key.
    let other = host.path("other.d");
    fs::create_dir(&other).unwrap();
    let line = format!("# x\n\nnet.ipv4.tcp_fastopen_key = {}\n", key_text(7));
    fs::write(other.join("99-other.conf"), &line).unwrap();
    let script = format!(
        "exec unshare --mount /bin/sh -c 'mount --bind {} /etc/sysctl.d && exec \"$@\"' sh \"$@\"",
        other.display()
    );
    let daemon = host.start_with(&script);
    daemon.ready();
    let key = host.kernel();
    assert_eq!(host.status()["drift_repairs"], 0);

    host.set_kernel(&key_text(7));
    assert!(poll_until(SOON, || host.kernel() == key), "{}", daemon.log());
    assert!(poll_until(SOON, || host.status()["drift_repairs"] == 1));
    daemon.logs("/etc/sysctl.d/99-other.conf:3 also sets the key");
    daemon.logs("drift");
    assert!(!daemon.log().contains("00000007"), "no key in the log");

    // The backup alone, in the other namespace.
    let primary = &key[..35];
    named.set_keys(primary);
    assert!(poll_until(SOON, || kernel_of(&named) == key), "{}", daemon.log());
    assert!(poll_until(SOON, || host.status()["drift_repairs"] == 2));
    daemon.logs(&format!("namespace {}", named.name()));
    assert!(poll_until(SOON, || host.status()["error"].is_null()), "it is over: {}", host.status());
    assert_eq!(host.status()["state"], "ok");
}

#[test]
fn a_file_that_was_edited_or_deleted_is_written_again() {
    skip_unless!(need_netns());
    let (host, daemon) = running("verify_interval = \"1s\"");
    let (key, whole) = (host.kernel(), fs::read(host.sysctl_file()).unwrap());
    let text = String::from_utf8(whole.clone()).unwrap();
    let edits = [
        None,
        Some(text.replace("phase: ", "phase: x")),
        Some(text.replace(&key, &key_text(3))),
        Some(format!("{text}net.ipv4.tcp_fastopen = 0\n")),
        Some(text[..text.len() - 10].to_owned()),
        Some(String::new()),
    ];
    for (edit, count) in edits.into_iter().zip(1..) {
        match edit {
            None => fs::remove_file(host.sysctl_file()).unwrap(),
            Some(text) => fs::write(host.sysctl_file(), text).unwrap(),
        }
        let again = || fs::read(host.sysctl_file()).is_ok_and(|now| now == whole);
        assert!(poll_until(SOON, again), "edit {count}: {}", daemon.log());
        assert!(poll_until(SOON, || host.status()["drift_repairs"] == count), "{}", host.status());
        assert_eq!(host.kernel(), key);
    }
    assert_eq!(fs::metadata(host.sysctl_file()).unwrap().mode() & 0o7777, 0o600);
    let left: Vec<_> = fs::read_dir(host.path("sysctl.d")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "no temporary file: {left:?}");
}

#[test]
fn an_unchanged_host_is_not_written() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.configure(&lasting(&host), "verify_interval = \"1s\"");
    host.once_ok();
    let inode = fs::metadata(host.sysctl_file()).unwrap().ino();
    let daemon = start_ready(&host);
    assert!(poll_until(SOON, || daemon.messages().len() >= 3), "it polls");
    host.once(&["--dry-run"]);
    assert_eq!(fs::metadata(host.sysctl_file()).unwrap().ino(), inode);
    assert!(!daemon.log().contains("installed"), "{}", daemon.log());
}

/// Puts other keys into the file, installed at another time; gives the header and the keys.
fn other_install(host: &DaemonHost, shift: impl Fn(UnixTime) -> UnixTime) -> (sysctl_d::Record, KeyPair) {
    let Persisted::Ours { mut record, .. } = sysctl_d::read(&host.sysctl_file()).unwrap() else { panic!("not ours") };
    let keys = key_text::parse(format!("{},{}", key_text(1), key_text(2)).as_bytes()).unwrap();
    let print = pair_print(&keys);
    record.prints.primary.fingerprint = print.primary;
    record.prints.backup.as_mut().unwrap().fingerprint = print.backup.unwrap();
    record.installed_at = shift(record.installed_at);
    sysctl_d::write(&host.sysctl_file(), &record, &keys).unwrap();
    (record, keys)
}

#[test]
fn a_clock_behind_the_last_install_keeps_the_files_keys() {
    skip_unless!(need_netns() && need_tool("cc"));
    let host = DaemonHost::new();
    host.configure(&lasting(&host), "verify_interval = \"1s\"");
    host.once_ok();
    let scheduled = host.kernel();
    // Keys of a day that this host's clock has not reached.
    let (mut record, later) = other_install(&host, |at| at.plus(30 * 86_400));
    let installed_at = record.installed_at;

    let clock = KernelClock::new(&host.path(""));
    let mut daemon = host.start_beside(&clock);
    daemon.ready();
    assert_eq!(host.kernel(), format!("{},{}", key_text(1), key_text(2)), "the kernel gets what the file remembers");
    let status = host.status();
    assert_eq!((&status["state"], &status["error"]["kind"]), (&"degraded".into(), &"clock_behind".into()));
    assert_eq!(status["installed_at"], installed_at.to_string());
    assert!(status["error"]["message"].as_str().unwrap().contains(&installed_at.to_string()));
    // Where the clock is right and was wrong then: the kernel says so, or an operator does.
    clock.set_synchronised(true);
    assert!(poll_until(SOON, || host.kernel() == scheduled), "{}", daemon.log());
    assert!(poll_until(SOON, || host.status()["state"] == "ok"), "{}", host.status());
    clock.set_synchronised(false);
    daemon.stop();
    sysctl_d::write(&host.sysctl_file(), &record, &later).unwrap();
    let mut daemon = host.start_beside(&clock);
    daemon.ready();
    assert_ne!(host.kernel(), scheduled);
    fs::remove_file(host.sysctl_file()).unwrap();
    assert!(poll_until(SOON, || host.kernel() == scheduled), "{}", daemon.log());
    assert!(poll_until(SOON, || host.status()["state"] == "ok"), "{}", host.status());
    daemon.stop();
    sysctl_d::write(&host.sysctl_file(), &record, &later).unwrap();

    // `once` and `check` see the same; within the tolerance the schedule is followed.
    let output = host.agent("once").arg("--detailed-exit-codes").envs(clock.environment()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(host.kernel(), format!("{},{}", key_text(1), key_text(2)));
    let check = host.agent("check").envs(clock.environment()).output().unwrap();
    assert!(stderr(&check).contains("the installed keys stay") && !check.status.success());
    record.installed_at = UnixTime::from_secs(installed_at.secs() - 30 * 86_400 + 1_800);
    sysctl_d::write(&host.sysctl_file(), &record, &later).unwrap();
    host.once_ok();
    assert_eq!(host.kernel(), scheduled);
}

/// A battery that is years ahead at boot, before NTP: the keys of the last install stay, and nothing has to be repaired by hand.
#[test]
fn an_unsynchronised_clock_is_not_followed_far() {
    skip_unless!(need_netns() && need_tool("cc"));
    let host = DaemonHost::new();
    host.configure(&lasting(&host), "verify_interval = \"1s\"");
    host.once_ok();
    let scheduled = host.kernel();
    // As if today were ten years ahead of the last install, which had other keys.
    let (record, _) = other_install(&host, |at| at.minus(3_650 * 86_400));

    let clock = KernelClock::new(&host.path(""));
    let mut daemon = host.start_beside(&clock);
    daemon.ready();
    let kept = format!("{},{}", key_text(1), key_text(2));
    let seen = daemon.messages().len();
    assert!(poll_until(SOON, || daemon.messages().len() >= seen + 2), "it looks again");
    assert_eq!(host.kernel(), kept, "{}", daemon.log());
    let status = host.status();
    assert_eq!((&status["state"], &status["error"]["kind"]), (&"degraded".into(), &"clock_ahead".into()));
    assert_eq!(status["installed_at"], record.installed_at.to_string());
    clock.set_synchronised(true);
    assert!(poll_until(SOON, || host.kernel() == scheduled), "{}", daemon.log());
    assert!(poll_until(SOON, || host.status()["state"] == "ok"), "{}", host.status());
    daemon.stop();
}

#[test]
fn a_file_that_others_may_read_is_closed() {
    skip_unless!(need_netns());
    let (host, mut daemon) = running("verify_interval = \"1s\"");
    let (key, installed_at) = (host.kernel(), host.status()["installed_at"].clone());
    let mode = || fs::metadata(host.sysctl_file()).unwrap().mode() & 0o7777;
    let open = || fs::set_permissions(host.sysctl_file(), fs::Permissions::from_mode(0o644)).unwrap();
    open();
    assert!(poll_until(SOON, || mode() == 0o600), "{}", daemon.log());
    // A problem of its own name: no program has changed a key.
    daemon.logs("sysctl_file_exposed");
    assert_eq!(host.status()["drift_repairs"], 0, "{}", daemon.log());
    daemon.stop();
    open();
    let checked = json_of(&host.run("check", &["--format", "json"]));
    let found = checked["problems"].as_array().unwrap().iter().find(|problem| problem["kind"] == "sysctl_file_exposed");
    assert_eq!(found.unwrap()["file"], host.sysctl_file().to_str().unwrap());
    host.once_ok();
    assert_eq!((mode(), host.kernel()), (0o600, key));
    assert_eq!(host.status()["installed_at"], installed_at, "its memory is kept");
}

#[test]
fn a_namespace_that_goes_away_and_comes_back() {
    skip_unless!(need_netns());
    let (host, named) = (DaemonHost::new(), NetNs::new());
    let name = named.name().to_owned();
    host.configure(&lasting(&host), &format!("verify_interval = \"1s\"\nnamespaces = [{name:?}]"));
    let mut daemon = start_ready(&host);
    let key = host.kernel();
    let ip = |verb: &str| assert!(Command::new("ip").args(["netns", verb, &name]).status().unwrap().success());
    ip("del");
    assert!(poll_until(SOON, || host.status()["state"] == "failed"), "{}", host.status());
    assert_eq!(host.status()["error"]["kind"], "namespace");
    assert!(host.status()["error"]["message"].as_str().unwrap().contains(&name));
    host.set_kernel(&key_text(9));
    assert!(poll_until(SOON, || host.kernel() == key), "the others are looked after: {}", daemon.log());
    ip("add");
    assert!(poll_until(SOON, || kernel_of(&named) == key), "{}", daemon.log());
    assert!(poll_until(SOON, || host.status()["state"] == "ok"), "{}", host.status());
    assert!(daemon.alive());
}
