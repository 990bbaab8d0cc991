//! The test support itself: a namespace is separate and leaves nothing behind, and a skip is recorded.

use std::time::Duration;

use tfo_testbed::host::KEY_FILE;
use tfo_testbed::{NetNs, skip_unless};

#[test]
fn a_namespace_has_its_own_key_and_is_gone_afterwards() {
    skip_unless!(tfo_testbed::need_netns());
    let text = "00000001-00000002-00000003-00000004";
    let netns = NetNs::new();
    netns.run(|| std::fs::write(KEY_FILE, text)).unwrap();
    let inside = netns.command("cat").arg(KEY_FILE).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&inside.stdout).trim(), text);
    assert_ne!(std::fs::read_to_string(KEY_FILE).unwrap().trim(), text, "the host's own key is another one");

    let mut left_behind = netns.command("sleep").arg("600").spawn().unwrap();
    let path = netns.path();
    assert!(path.exists());
    let pids = || std::process::Command::new("ip").args(["netns", "pids", netns.name()]).output().unwrap().stdout;
    assert!(tfo_testbed::poll_until(Duration::from_secs(5), || !pids().is_empty()), "the child has entered");
    drop(netns);
    assert!(!path.exists());
    let ended = tfo_testbed::poll_some(Duration::from_secs(5), || left_behind.try_wait().unwrap());
    assert!(ended.is_some_and(|status| !status.success()), "what ran inside was killed");
}

#[test]
fn a_namespace_is_gone_after_a_panic_inside() {
    skip_unless!(tfo_testbed::need_netns());
    let netns = NetNs::new();
    let path = netns.path();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        netns.run(|| -> () { std::panic::resume_unwind(Box::new("on purpose")) });
    }));
    assert_eq!(*panicked.unwrap_err().downcast::<&str>().unwrap(), "on purpose");
    assert!(!path.exists());
}

#[test]
fn polling_ends() {
    assert!(!tfo_testbed::poll_until(Duration::from_millis(30), || false));
    let mut looks = 0;
    assert!(tfo_testbed::poll_until(Duration::from_secs(60), || {
        looks += 1;
        looks == 3
    }));
}
