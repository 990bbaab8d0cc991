//! What the daemon makes of its sources while it runs: schedules, secrets that go and come, files, random keys.

use crate::{reload, running, start_ready};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rustix::process::Signal;
use tfo_host::runtime::clock;
use tfo_model::time::UnixTime;

use tfo_testbed::daemon::{DaemonHost, derive, key_text, lasting, secret_bytes};
use tfo_testbed::{SOON, need_netns, now, poll_some, poll_until, skip_unless};

/// Waits until status.json has this state and kind of error.
#[track_caller]
fn expect_state(host: &DaemonHost, state: &str, kind: Option<&str>) {
    let is = || {
        let status = host.status();
        status["state"] == state && status["error"]["kind"].as_str() == kind
    };
    assert!(poll_until(SOON, is), "not {state} {kind:?}: {}", host.status());
}

#[test]
fn a_secret_that_goes_away_and_comes_back() {
    skip_unless!(need_netns());
    let (host, mut daemon) = running("verify_interval = \"1s\"");
    let key = host.kernel();
    fs::remove_file(host.path("fleet.secret")).unwrap();
    expect_state(&host, "degraded", Some("secret_missing"));
    assert_eq!((host.kernel(), host.persisted_keys()), (key.clone(), Some(key.clone())));
    // It still looks after what is installed, and says what is wrong once.
    host.set_kernel(&key_text(9));
    assert!(poll_until(SOON, || host.kernel() == key), "{}", daemon.log());
    let polls = daemon.messages().len();
    assert!(poll_until(SOON, || daemon.messages().len() >= polls + 2));
    assert_eq!(daemon.log().matches("secret_missing").count(), 1, "{}", daemon.log());
    assert!(daemon.messages().last().unwrap().value("STATUS").unwrap().starts_with("degraded: "));

    host.put("fleet.secret", &secret_bytes(1), 0o444);
    expect_state(&host, "degraded", Some("secret_exposed"));
    fs::set_permissions(host.path("fleet.secret"), fs::Permissions::from_mode(0o400)).unwrap();
    expect_state(&host, "ok", None);
    assert_eq!(host.kernel(), key);
    daemon.logs("all problems are resolved");
    daemon.stop();
}

#[test]
fn a_replaced_secret_is_refused_for_as_long_as_it_is_there() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.configure(&derive(&host, "10s", "5s"), "verify_interval = \"1s\"");
    let mut daemon = start_ready(&host);
    host.put("fleet.secret", &secret_bytes(2), 0o400);
    expect_state(&host, "degraded", Some("secret_changed"));
    let (key, from) = (host.kernel(), clock::now());
    // Two intervals on, none of the keys of then is in the schedule any more.
    assert!(poll_until(3 * SOON, || clock::now() > from.plus(21)));
    expect_state(&host, "degraded", Some("secret_changed"));
    assert_eq!(host.kernel(), key);
    host.put("fleet.secret", &secret_bytes(1), 0o400);
    expect_state(&host, "ok", None);
    assert_ne!(host.kernel(), key);
    daemon.stop();
}

#[test]
fn a_secret_that_is_replaced_in_place_is_not_taken() {
    skip_unless!(need_netns());
    let (host, mut daemon) = running("verify_interval = \"1s\"");
    let key = host.kernel();
    host.put("fleet.secret", &secret_bytes(2), 0o400);
    expect_state(&host, "degraded", Some("secret_changed"));
    assert_eq!((host.kernel(), host.persisted_keys()), (key.clone(), Some(key.clone())));
    host.put("fleet.secret", &secret_bytes(1), 0o400);
    expect_state(&host, "ok", None);
    host.put("fleet.secret", &[5; 48], 0o400);
    expect_state(&host, "degraded", Some("secret_weak"));
    assert_eq!(host.kernel(), key);
    // Nor does the refusal wear off with a reload of the same configuration.
    host.put("fleet.secret", &secret_bytes(2), 0o400);
    expect_state(&host, "degraded", Some("secret_changed"));
    reload(&daemon);
    expect_state(&host, "degraded", Some("secret_changed"));
    assert_eq!(host.kernel(), key);
    // A restart is the operator's word that the new one is meant.
    host.put("fleet.secret", &secret_bytes(2), 0o400);
    daemon.stop();
    let _daemon = start_ready(&host);
    assert_ne!(host.kernel(), key);
    assert_eq!(host.persisted_keys(), Some(host.kernel()));
}

#[test]
fn an_entry_that_comes_too_late_is_told_once() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    let source = lasting(&host);
    host.configure(&source, "verify_interval = \"1s\"");
    let mut daemon = start_ready(&host);
    host.put("other.secret", &secret_bytes(2), 0o400);
    let entry = |at: u64| {
        let secret = host.path("other.secret");
        format!(
            "[[source.schedule]]\nsecret = {secret:?}\ninterval = \"24h\"\nnot_before = \"{}\"\n",
            UnixTime::from_secs(at)
        )
    };
    // In good time: nothing is said.
    let now = clock::now().secs();
    host.configure(&(source.clone() + &entry(now + 30 * 86_400)), "verify_interval = \"1s\"");
    daemon.signal(Signal::HUP);
    daemon.logs("reloaded");
    let polls = daemon.messages().len();
    assert!(poll_until(SOON, || daemon.messages().len() >= polls + 3));
    assert!(!daemon.log().contains("late_entry"), "{}", daemon.log());

    let late = source + &entry(now - 3_600);
    host.configure(&late, "verify_interval = \"1s\"");
    daemon.signal(Signal::HUP);
    daemon.logs("late_entry");
    let polls = daemon.messages().len();
    assert!(poll_until(SOON, || daemon.messages().len() >= polls + 3));
    assert_eq!(daemon.log().matches("late_entry").count(), 1, "{}", daemon.log());
    daemon.stop();
    let daemon = start_ready(&host);
    assert!(!daemon.log().contains("late_entry"), "the file remembers the joint: {}", daemon.log());
}

/// Kernel text and unix time, in milliseconds, whenever it changes.
fn next_change(host: &DaemonHost, from: &str) -> (String, u64) {
    let changed = poll_some(Duration::from_secs(12), || {
        let text = host.kernel();
        // After the text: a change between the two would seem to have come before its time.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let millis = u64::try_from(now.tv_sec).unwrap() * 1_000 + u64::try_from(now.tv_nsec).unwrap() / 1_000_000;
        (text != from).then_some((text, millis))
    });
    changed.expect("the keys change")
}

#[test]
fn a_short_schedule_walks_through_its_phases_on_the_second() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.configure(&derive(&host, "10s", "5s"), "verify_interval = \"1h\"");
    let daemon = start_ready(&host);
    let (mut before, _) = next_change(&host, &host.kernel());
    for _ in 0..3 {
        let (after, at) = next_change(&host, &before);
        // One that came early would be late by almost a whole phase; a busy machine delays it by some of this.
        assert!(at % 5_000 < 3_000, "{} ms late: {}", at % 5_000, daemon.log());
        let [(old, old_backup), (new, new_backup)] = [&before, &after].map(|text| text.split_once(',').unwrap());
        if at / 5_000 % 2 == 0 {
            assert_eq!((new, new_backup), (old_backup, old), "promoted: swapped");
        } else {
            assert_eq!(new, old, "staged: the primary stays");
            assert_ne!(new_backup, old_backup);
        }
        let phase = if at / 5_000 % 2 == 0 { "steady" } else { "staged" };
        assert!(poll_until(SOON, || host.status()["phase"] == phase), "{}", host.status());
        assert_eq!(host.persisted_keys().as_ref(), Some(&after));
        before = after;
    }
}

#[test]
fn a_key_file_is_installed_when_it_changes_and_only_if_it_is_right() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    let first = format!("{},{}", key_text(1), key_text(2));
    host.put("keys", format!("{first}\n").as_bytes(), 0o400);
    host.configure(&format!("[source]\nkind = \"file\"\npath = {:?}", host.path("keys")), "verify_interval = \"1s\"");
    let mut daemon = start_ready(&host);
    assert_eq!(host.kernel(), first);
    let status = host.status();
    assert_eq!((&status["source"], &status["phase"]), (&"file".into(), &"steady".into()));
    assert!(status["primary"]["epoch"].is_null() && status["next_change_at"].is_null());

    let second = format!("{},{}", key_text(2), key_text(3));
    host.put("keys", second.as_bytes(), 0o400);
    assert!(poll_until(SOON, || host.kernel() == second), "{}", daemon.log());
    assert!(poll_until(SOON, || host.persisted_keys().as_ref() == Some(&second)));
    assert_eq!(host.status()["drift_repairs"], 0, "a change of the source is no drift");

    for garbage in ["", "junk", "1-2-3-4", &second[..70], &format!("{},{}", key_text(4), key_text(4)), &key_text(0)] {
        host.put("keys", garbage.as_bytes(), 0o400);
        expect_state(&host, "degraded", Some("key_text"));
        assert_eq!(host.kernel(), second);
        host.put("keys", second.as_bytes(), 0o400);
        expect_state(&host, "ok", None);
    }
    host.put("keys", key_text(5).as_bytes(), 0o440);
    expect_state(&host, "degraded", Some("secret_exposed"));
    assert_eq!(host.kernel(), second);
    fs::remove_file(host.path("keys")).unwrap();
    expect_state(&host, "degraded", Some("secret_missing"));
    assert_eq!((host.kernel(), host.persisted_keys()), (second.clone(), Some(second)));
    // One key alone drops the backup, as it says.
    host.put("keys", key_text(5).as_bytes(), 0o400);
    expect_state(&host, "ok", None);
    assert_eq!(host.kernel(), key_text(5));
    assert!(host.status()["backup"].is_null());
    daemon.stop();
}

#[test]
fn random_keys_rotate_and_survive_a_restart() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    // What made cookies before us becomes the first backup.
    host.set_kernel(&key_text(6));
    host.configure("[source]\nkind = \"random\"\ninterval = \"10s\"", "verify_interval = \"1h\"");
    let mut daemon = start_ready(&host);
    let first = host.kernel();
    let (first_primary, backup) = first.split_once(',').unwrap();
    assert_eq!(backup, key_text(6));
    daemon.stop();
    let _daemon = start_ready(&host);
    assert_eq!(host.kernel(), first, "a restart goes on with the same keys");
    let epoch = host.status()["primary"]["epoch"].as_u64().unwrap();
    let (second, at) = next_change(&host, &first);
    let (second_primary, backup) = second.split_once(',').unwrap();
    assert_eq!(backup, first_primary);
    assert_ne!(second_primary, first_primary);
    assert!(at / 1_000 >= epoch + 10 && at / 1_000 <= epoch + 11, "{at} {epoch}");
}

#[test]
fn an_agent_that_is_switched_off_writes_nothing_but_its_status() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.set_kernel(&key_text(6));
    host.configure(&lasting(&host), "verify_interval = \"1s\"\nenabled = false");
    let mut daemon = host.start();
    let ready = daemon.ready();
    assert!(ready.value("STATUS").unwrap().contains("read-only"), "{ready:?}");
    assert!(poll_until(SOON, || daemon.messages().len() >= 3), "it polls");
    assert_eq!(host.kernel(), key_text(6));
    assert!(!host.sysctl_file().exists());
    let status = host.status();
    assert_eq!(status["state"], "ok");
    assert_ne!(status["namespaces"][0]["primary"], status["primary"]["fingerprint"]);
    assert!(status["namespaces"][0]["verified_at"].is_null());
    let output = host.once(&["--dry-run", "--detailed-exit-codes"]);
    assert_eq!(output.status.code(), Some(0), "nothing would be written");
    daemon.stop();
    assert_eq!(host.kernel(), key_text(6));
}

#[test]
fn a_change_that_cannot_be_made_is_not_tried_without_pause() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.configure(&derive(&host, "10s", "5s"), "verify_interval = \"1h\"");
    let mut daemon = host.start_with("export WATCHDOG_USEC=1000000 WATCHDOG_PID=$$; exec \"$@\"");
    daemon.ready();
    next_change(&host, &host.kernel());
    let key = host.kernel();
    fs::remove_file(host.path("fleet.secret")).unwrap();
    expect_state(&host, "degraded", Some("secret_missing"));
    let missed = poll_until(SOON, || {
        let next: UnixTime = host.status()["next_change_at"].as_str().unwrap().parse().unwrap();
        clock::now() > next.plus(1)
    });
    assert!(missed, "the instant of the change is past");
    let (start, from) = (now(), daemon.messages().len());
    let fed = || daemon.messages()[from..].iter().filter(|message| message.text.contains("WATCHDOG=1")).count();
    assert!(poll_until(SOON, || fed() >= 4), "the watchdog starves: {:?}", daemon.messages().last());
    let passes = daemon.messages().len() - from - fed();
    assert!(passes <= 1, "{passes} passes in {:?}", start.elapsed());
    assert!(daemon.alive());
    assert_eq!(host.kernel(), key);
    // Once the secret is back, the schedule continues without a restart.
    host.put("fleet.secret", &secret_bytes(1), 0o400);
    daemon.signal(Signal::HUP);
    assert!(poll_until(SOON, || host.kernel() != key), "{}", daemon.log());
    expect_state(&host, "ok", None);
}

#[test]
fn random_keys_are_looked_after_while_the_file_cannot_be_written() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.configure("[source]\nkind = \"random\"\ninterval = \"10s\"", "verify_interval = \"1s\"");
    let mut daemon = start_ready(&host);
    let key = host.kernel();
    fs::remove_file(host.sysctl_file()).unwrap();
    fs::create_dir(host.sysctl_file()).unwrap();
    host.set_kernel(&key_text(9));
    assert!(poll_until(SOON, || host.kernel() == key), "{}", daemon.log());
    // Due, but a key that cannot be kept is not installed.
    let due: UnixTime = host.status()["next_change_at"].as_str().unwrap().parse().unwrap();
    assert!(poll_until(2 * SOON, || clock::now() > due.plus(2)));
    assert_eq!(host.kernel(), key);
    host.set_kernel(&key_text(9));
    assert!(poll_until(SOON, || host.kernel() == key), "{}", daemon.log());
    assert!(!daemon.log().contains("secret_changed"), "{}", daemon.log());
    assert!(daemon.messages().len() < 40, "{} passes", daemon.messages().len());
    fs::remove_dir(host.sysctl_file()).unwrap();
    assert!(poll_until(SOON, || host.persisted_keys().is_some_and(|text| text.ends_with(&format!(",{}", &key[..35])))));
    assert!(poll_until(SOON, || host.persisted_keys() == Some(host.kernel())));
    assert!(daemon.alive());
}
