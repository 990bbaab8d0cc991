//! Several network namespaces: each has its own key, each has one agent.

use crate::running;
use tfo_testbed::daemon::{DaemonHost, kernel_of, lasting};
use tfo_testbed::host::UNSET;
use tfo_testbed::output::stderr;
use tfo_testbed::{NetNs, need_netns, skip_unless};

#[test]
fn keys_go_to_the_named_namespaces_and_to_no_other() {
    skip_unless!(need_netns());
    let (host, named, other) = (DaemonHost::new(), NetNs::new(), NetNs::new());
    host.configure(&lasting(&host), &format!("namespaces = [{:?}]", named.name()));
    host.once_ok();
    let key = host.kernel();
    assert_ne!(key, UNSET);
    assert_eq!(kernel_of(&named), key);
    assert_eq!(kernel_of(&other), UNSET, "a namespace that nobody named");
    let status = host.status();
    let names: Vec<_> = status["namespaces"].as_array().unwrap().iter().map(|n| n["name"].clone()).collect();
    assert_eq!(names, ["own", named.name()]);
    assert_eq!(status["namespaces"][0]["primary"], status["namespaces"][1]["primary"]);

    // One alone that differs is written, and no other.
    named.set_keys("1-2-3-4");
    let output = host.once(&["--format", "json"]);
    assert!(output.status.success());
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["file"]["changed"], false);
    assert_eq!(said["namespaces"][0]["changed"], false);
    assert_eq!(said["namespaces"][1]["changed"], true);
    assert_eq!(kernel_of(&named), key);
}

#[test]
fn a_namespace_that_does_not_exist_is_named() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.configure(&lasting(&host), "namespaces = [\"tfo-no-such\"]");
    let output = host.once(&["--format", "json"]);
    assert_eq!(output.status.code(), Some(2));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problem = &said["problems"][0];
    assert_eq!(problem["kind"], "namespace");
    assert!(problem["message"].as_str().unwrap().contains("tfo-no-such"), "{problem}");
    assert_eq!(problem["key"], "install.namespaces");
    assert_eq!(problem["file"], host.config_file().to_str().unwrap());
    assert!(problem["line"].is_u64(), "{problem}");
    assert_eq!(host.kernel(), UNSET, "nothing is touched");
    assert!(!host.sysctl_file().exists());
}

#[test]
fn one_agent_per_namespace() {
    skip_unless!(need_netns());
    let (host, mut daemon) = running("");
    let key = host.kernel();
    // In parallel: each waits its seconds for the other agent before it gives up.
    let outer = DaemonHost::new();
    outer.configure(&lasting(&outer), &format!("namespaces = [{:?}]", host.netns().name()));
    let refused = std::thread::scope(|scope| {
        let jobs = [
            scope.spawn(|| host.once(&[])),
            scope.spawn(|| host.agent("run").output().unwrap()),
            scope.spawn(|| outer.once(&[])),
        ];
        jobs.map(|job| job.join().unwrap())
    });
    for output in refused {
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(&format!("pid {} (run)", daemon.pid())), "it names the other: {said}");
    }
    assert_eq!(outer.kernel(), UNSET, "the agent that was refused has written nothing, not even at home");
    assert!(!outer.sysctl_file().exists());
    assert_eq!(host.kernel(), key);
    assert!(host.once(&["--dry-run"]).status.success(), "looking is allowed");
    // An agent of another namespace does not get in the way, and a lock ends with its holder.
    outer.configure(&lasting(&outer), "");
    outer.once_ok();
    daemon.stop();
    host.once_ok();
}

#[test]
fn one_namespace_under_two_names_is_refused() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.configure(&lasting(&host), &format!("namespaces = [{:?}]", host.netns().name()));
    let output = host.once(&[]);
    let said = stderr(&output);
    assert!(!output.status.success() && said.contains(host.netns().name()), "{said}");
    assert_eq!(host.kernel(), UNSET);
}
