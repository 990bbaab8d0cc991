//! The test support itself: a namespace is separate and leaves nothing behind, and a skip is recorded.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tfo_testbed::host::KEY_FILE;
use tfo_testbed::output::stdout;
use tfo_testbed::transcript::{below, plain, typed, varies};
use tfo_testbed::{NetNs, skip_unless};

#[test]
fn a_namespace_has_its_own_key_and_is_gone_afterwards() {
    skip_unless!(tfo_testbed::need_netns());
    let text = "00000001-00000002-00000003-00000004";
    let netns = NetNs::new();
    netns.run(|| std::fs::write(KEY_FILE, text)).unwrap();
    let inside = netns.command("cat").arg(KEY_FILE).output().unwrap();
    assert_eq!(stdout(&inside).trim(), text);
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

#[test]
fn transcripts_compare_counts_and_not_what_differs_from_run_to_run() {
    for counted in ["2", "2/2", "(1)", "0", "1,", "3\"", "cp1.cache.example.org", "coordinator,"] {
        assert!(!varies(counted), "{counted}");
    }
    for differs in [
        "2026-11-23T02:22:01Z",
        "1s;",
        "(1s",
        "88ms",
        "134",
        "└─134",
        "995.",
        "0.1.0-1",
        "(0.1.0-1)",
        "36dfb53f8ac17b5a,4cf234b509bfbf1f",
        "4cf234b509bfbf1f,-",
        "722e3f741f75613f2bd84acfd5c28f33,",
        "/etc/tfo-fleet/kek",
        "pki/ca.crt",
    ] {
        assert!(varies(differs), "{differs}");
    }
    let [old, new] =
        ["     Active: active (running)\n     CPU: 8ms\n", "     Active: active (running)\n   Invocation: 3f\n"];
    assert_eq!(plain(old), plain(new));
    assert_ne!(plain("0 errors, 1 warnings"), plain("0 errors, 2 warnings"));
    assert_ne!(plain("$ tfoctl nodes"), plain("$ tfoctl pools"));
}

#[test]
fn a_transcript_is_read_from_its_section() {
    let page = "# T\n\n## A\n\n```sh\nx\n```\n\n```\n$ no\n```\n\n## B\n\n```text\ntfo1# cat <<END\n> a\n> END\n> \nb\n> c\ncp1# d\n```\n";
    assert_eq!(typed(below(page, "## A")), [("$ ", "no".to_owned())]);
    let all = typed(below(page, "## B"));
    assert_eq!(all, [("tfo1# ", "cat <<END\na\nEND\n".to_owned()), ("cp1# ", "d".to_owned())]);
}

#[test]
fn a_port_is_given_once_and_not_where_a_server_listens() {
    let first = tfo_testbed::free_port();
    let _server = TcpListener::bind(first).expect("the port is free for its server");
    let more: Vec<SocketAddr> = (0..50).map(|_| tfo_testbed::free_port()).collect();
    let distinct: HashSet<&SocketAddr> = more.iter().collect();
    assert!(distinct.len() == 50 && !more.contains(&first), "{more:?}");
    assert!(more.iter().all(|address| tfo_testbed::ports::PORTS.contains(&address.port())), "{more:?}");
}
