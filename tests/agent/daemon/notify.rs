//! What the service manager hears: readiness, status, watchdog, reload, stop.

use crate::{reload, running};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rustix::process::Signal;

use tfo_testbed::daemon::{DaemonHost, key_text, lasting, secret_bytes};
use tfo_testbed::{SOON, need_netns, poll_until, skip_unless};

#[test]
fn ready_comes_after_the_first_verified_install_and_names_the_keys() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.configure(&lasting(&host), "");
    let mut daemon = host.start();
    let ready = daemon.ready();
    assert_eq!(host.persisted_keys(), Some(host.kernel()));
    let status = host.status();
    let text = ready.value("STATUS").expect("READY=1 comes with a STATUS=");
    for slot in ["primary", "backup"] {
        let fingerprint = status[slot]["fingerprint"].as_str().unwrap();
        assert!(text.contains(&format!("{slot} {fingerprint}")), "{text}");
    }
    assert!(text.contains(status["phase"].as_str().unwrap()), "{text}");
    assert!(text.contains(status["next_change_at"].as_str().unwrap()), "{text}");
    assert_eq!(daemon.messages().len(), 1, "nothing before it: {:?}", daemon.messages());

    let kernel = host.kernel();
    daemon.stop();
    daemon.expect(1, "STOPPING=1");
    assert_eq!(host.kernel(), kernel, "the keys stay");
    assert_eq!(host.persisted_keys(), Some(kernel));
}

#[test]
fn not_ready_while_the_keys_are_not_in_the_file() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.configure(&lasting(&host), "verify_interval = \"1s\"");
    // Not even root can replace a directory by a file.
    fs::create_dir(host.sysctl_file()).unwrap();
    let daemon = host.start();
    daemon.logs("sysctl_file");
    assert!(poll_until(SOON, || daemon.messages().len() >= 2), "it tries again");
    for message in daemon.messages() {
        assert!(message.value("READY").is_none(), "{message:?}");
        assert!(message.value("STATUS").unwrap().starts_with("degraded: primary "), "{message:?}");
    }
    assert_eq!(host.status()["state"], "degraded");
    assert_eq!(host.status()["error"]["kind"], "sysctl_file");
    fs::remove_dir(host.sysctl_file()).unwrap();
    daemon.ready();
    assert_eq!(host.status()["state"], "ok");
    assert_eq!(host.persisted_keys(), Some(host.kernel()));
}

#[test]
fn not_ready_without_keys_at_all() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    let path = host.path("keys");
    host.put("keys", key_text(1).as_bytes(), 0o400);
    host.configure(&format!("[source]\nkind = \"random\"\n# {path:?}"), "verify_interval = \"1s\"");
    // A random key that cannot be kept is not installed.
    fs::create_dir(host.sysctl_file()).unwrap();
    let daemon = host.start();
    daemon.logs("sysctl_file");
    assert!(poll_until(SOON, || daemon.messages().len() >= 2), "it tries again");
    assert!(daemon.messages().iter().all(|message| message.value("READY").is_none()));
    assert_eq!(host.kernel(), "00000000-00000000-00000000-00000000");
    assert_eq!((&host.status()["state"], &host.status()["phase"]), (&"failed".into(), &"empty".into()));
    fs::remove_dir(host.sysctl_file()).unwrap();
    daemon.ready();
    assert_eq!(host.persisted_keys(), Some(host.kernel()));
}

#[test]
fn the_watchdog_is_fed_at_half_its_limit_and_only_if_it_is_ours() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.configure(&lasting(&host), "verify_interval = \"1h\"");
    let daemon = host.start_with("export WATCHDOG_USEC=600000 WATCHDOG_PID=$$; exec \"$@\"");
    daemon.ready();
    let fed = || daemon.messages().into_iter().filter(|m| m.text.contains("WATCHDOG=1")).collect::<Vec<_>>();
    assert!(poll_until(SOON, || fed().len() >= 6));
    let gaps: Vec<_> = fed().windows(2).map(|pair| pair[1].at.duration_since(pair[0].at)).collect();
    assert!(gaps.iter().all(|gap| *gap < Duration::from_millis(600)), "{gaps:?}");
    let mut sorted = gaps.clone();
    sorted.sort();
    let middle = sorted[sorted.len() / 2];
    assert!(middle > Duration::from_millis(250) && middle < Duration::from_millis(400), "{gaps:?}");

    let other = DaemonHost::new();
    other.configure(&lasting(&other), "verify_interval = \"1s\"");
    let unwatched = other.start_with("export WATCHDOG_USEC=100000 WATCHDOG_PID=1; exec \"$@\"");
    unwatched.ready();
    assert!(poll_until(SOON, || unwatched.messages().len() >= 3));
    assert!(unwatched.messages().iter().all(|message| !message.text.contains("WATCHDOG")));
}

#[test]
fn a_reload_takes_the_new_configuration_and_a_broken_one_is_refused() {
    skip_unless!(need_netns());
    let (host, mut daemon) = running("verify_interval = \"1h\"");
    let (before, key) = (daemon.messages().len(), host.kernel());

    // Another secret by another name: other keys.
    host.put("other.secret", &secret_bytes(2), 0o400);
    let other = lasting(&host).replace("fleet.secret", "other.secret");
    host.configure(&other, "verify_interval = \"1h\"");
    daemon.signal(Signal::HUP);
    let reloading = daemon.expect(before, "RELOADING=1");
    let monotonic: u64 = reloading.value("MONOTONIC_USEC").expect("systemd 253 wants it").parse().unwrap();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = u64::try_from(now.tv_sec).unwrap() * 1_000_000 + u64::try_from(now.tv_nsec).unwrap() / 1_000;
    assert!(monotonic <= now && now - monotonic < 20_000_000, "{monotonic} {now}");
    let over = daemon.expect(before, "READY=1");
    assert!(over.at >= reloading.at, "READY=1 ends what RELOADING=1 began");
    assert!(poll_until(SOON, || host.kernel() != key), "{}", daemon.log());
    assert!(poll_until(SOON, || host.persisted_keys() == Some(host.kernel())));

    // All kinds of broken: none ends it, each is answered, and the keys stay.
    let key = host.kernel();
    let secret = host.path("fleet.secret");
    for breakage in ["nonsense", "[source]\nkind = \"moon\"\n", "secret"] {
        let (seen, log) = (daemon.messages().len(), daemon.log().len());
        match breakage {
            "secret" => {
                host.configure(&lasting(&host), "verify_interval = \"1h\"");
                fs::set_permissions(&secret, fs::Permissions::from_mode(0o444)).unwrap();
            }
            text => host.put("etc/agent.toml", text.as_bytes(), 0o644),
        }
        daemon.signal(Signal::HUP);
        daemon.expect(seen, "RELOADING=1");
        daemon.expect(seen, "READY=1");
        assert!(poll_until(SOON, || daemon.log()[log..].contains("refused")), "{}", daemon.log());
        assert!(daemon.alive());
        assert_eq!(host.kernel(), key);
    }
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o400)).unwrap();
    // The old configuration stays in force: the agent still repairs drift under it.
    host.configure(&other, "verify_interval = \"1s\"");
    reload(&daemon);
    host.set_kernel(&key_text(9));
    assert!(poll_until(SOON, || host.kernel() == key), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn the_old_configuration_goes_on_after_a_broken_reload() {
    skip_unless!(need_netns());
    let (host, daemon) = running("verify_interval = \"1s\"");
    let key = host.kernel();
    host.put("etc/agent.toml", b"[source", 0o644);
    daemon.signal(Signal::HUP);
    daemon.logs("refused the new configuration");
    host.set_kernel(&key_text(9));
    assert!(poll_until(SOON, || host.kernel() == key), "{}", daemon.log());
}
