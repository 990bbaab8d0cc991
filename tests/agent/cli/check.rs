//! `tfo-agent check`: what it finds, and that it writes nothing.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use serde_json::json;
use tfo_testbed::host::{UNSET, in_own_mounts};
use tfo_testbed::output::{code, json_ending, json_of, stdout};
use tfo_testbed::skip_unless;

use super::{DERIVE, SECRET, derive_host, fields, places};

#[test]
fn check_tells_facts_as_text_and_json_and_writes_nothing() {
    skip_unless!(tfo_testbed::need_netns());
    let host = derive_host();
    host.netns().run(|| std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3")).unwrap();
    let output = host.run("check", &["--config-only"]);
    code(&output, 0);
    let text = stdout(&output);
    assert!(text.contains("clocks of two nodes may differ by 1h") && text.contains("0 errors, 0 warnings"), "{text}");
    let found = json_ending(&host.run("check", &["--config-only", "--format", "json"]), 0);
    let always = ["at", "cookie_lifetime_secs", "joints", "ok", "problems", "retention_secs", "skew_tolerance_secs"];
    assert_eq!(fields(&found), always);
    assert_eq!((&found["ok"], &found["skew_tolerance_secs"]), (&json!(true), &json!(3600)));
    let found = json_of(&host.run("check", &["--format", "json"]));
    // The look at the host is the one that `tfoctl status` shows (tests/ctl/local/status.rs).
    let seen = ["boot", "clock_synchronised", "host", "kernel", "namespaces", "sysctl_file"];
    let mut all = [&always[..], &seen].concat();
    all.sort_unstable();
    assert_eq!(fields(&found), all);
    assert_eq!(
        (&found["sysctl_file"]["state"], &found["namespaces"][0]["tcp_fastopen"]),
        (&json!("absent"), &json!(3))
    );
    let text = stdout(&host.run("check", &[]));
    assert!(text.contains("\n  kernel       no key set\n  tcp_fastopen 0x3: client, server\n"), "{text}");
    // Two warnings are correct: the clock may be unsynchronised, and the boot does not read the scratch directory.
    let expected = ["clock_unsynchronised", "not_read_at_boot"];
    assert!(places(&found).iter().any(|(_, _, kind)| *kind == "not_read_at_boot"), "{found}");
    let others: Vec<_> = places(&found).into_iter().filter(|(_, _, kind)| !expected.contains(kind)).collect();
    assert_eq!((&found["ok"], others), (&json!(true), vec![]));
    assert_eq!((host.kernel().as_str(), host.sysctl_d()), (UNSET, vec![]));
    assert!(!host.path("run").exists() && !host.lock_file().exists());
}

#[test]
fn check_warns_of_what_is_unsafe_but_works() {
    skip_unless!(tfo_testbed::need_netns());
    let host = derive_host();
    host.netns().run(|| std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1")).unwrap();
    std::fs::set_permissions(host.config_file(), PermissionsExt::from_mode(0o664)).unwrap();
    let found = json_ending(&host.run("check", &["--format", "json"]), 0);
    let kinds: Vec<_> = places(&found).into_iter().map(|(_, _, kind)| kind).collect();
    assert!(kinds.contains(&"config_exposed") && kinds.contains(&"tfo_off"), "{kinds:?}");
    let config_only = json_of(&host.run("check", &["--config-only", "--format", "json"]));
    assert_eq!(places(&config_only), [(None, "", "config_exposed")]);
}

#[test]
fn check_finds_the_file_that_wins_at_boot() {
    skip_unless!(tfo_testbed::need_netns());
    let host = derive_host();
    let mut unshare = host.command("unshare");
    in_own_mounts(
        &mut unshare,
        "mount -t tmpfs none /etc/sysctl.d
         printf '# a comment\nnet/ipv4/tcp_fastopen_key = 1-2-3-4\n' >/etc/sysctl.d/99-other.conf
         sed -i 's,^sysctl_file.*,sysctl_file = \"/etc/sysctl.d/50-tcp_fastopen_key.conf\",' \"$2\"
         \"$1\" once --config \"$2\" >/dev/null
         exec \"$1\" check --format json --config \"$2\"",
    );
    let output = unshare.arg(tfo_testbed::agent_path()).arg(host.config_file()).output().unwrap();
    let found = json_ending(&output, 1);
    let winner = found["problems"].as_array().unwrap().iter().find(|problem| problem["kind"] == "boot_order");
    let winner = winner.unwrap_or_else(|| panic!("{found}"));
    assert_eq!((&winner["file"], &winner["line"]), (&json!("/etc/sysctl.d/99-other.conf"), &json!(2)));
    assert!(!stdout(&output).contains("1-2-3-4"));
}

/// Kinds of what `check` finds, and how it ends.
#[track_caller]
fn kinds_of(output: &Output) -> (Option<i32>, Vec<String>) {
    let found = json_of(output);
    (output.status.code(), places(&found).into_iter().map(|(_, _, kind)| kind.to_owned()).collect())
}

#[test]
fn check_finds_a_kernel_that_cannot_share() {
    skip_unless!(tfo_testbed::need_netns() && tfo_testbed::need_tool("setarch"));
    let host = derive_host();
    let mut old = host.command("setarch");
    old.arg("--uname-2.6").arg(tfo_testbed::agent_path()).args(["check", "--format", "json", "--config"]);
    let (code, kinds) = kinds_of(&old.arg(host.config_file()).output().unwrap());
    assert_eq!((code, kinds.contains(&"old_kernel".to_owned())), (Some(1), true), "{kinds:?}");
}

#[test]
fn check_finds_a_clock_that_is_behind_and_an_entry_that_came_too_late() {
    skip_unless!(tfo_testbed::need_netns() && tfo_testbed::need_tool("cc"));
    let host = derive_host();
    code(&host.run("once", &[]), 0);
    let clock = tfo_testbed::kernel_clock::KernelClock::new(&host.path(""));
    let check =
        || kinds_of(&host.agent("check").args(["--format", "json"]).envs(clock.environment()).output().unwrap());
    let has = |kind: &str, (code, kinds): (Option<i32>, Vec<String>)| (code, kinds.iter().any(|found| found == kind));
    assert_eq!(has("clock_behind", check()), (Some(0), false));
    assert_eq!(has("late_entry", check()), (Some(0), false));

    let now = tfo_host::runtime::clock::now().secs();
    let at = |secs: u64| tfo_model::time::UnixTime::from_secs(secs).to_string();
    host.write("etc/other", SECRET.repeat(2), 0o400);
    let late = format!("[[source.schedule]]\nsecret = \"@/etc/other\"\nnot_before = \"{}\"\n", at(now - 3_600));
    host.configure(&format!("{DERIVE}{late}"));
    assert_eq!(has("late_entry", check()), (Some(0), true));

    host.configure(DERIVE);
    let file = host.persisted().unwrap();
    let installed_at = file.lines().find_map(|line| line.strip_prefix("# installed_at: ")).unwrap();
    host.write("sysctl.d/50-tcp_fastopen_key.conf", file.replace(installed_at, &at(now + 86_400)), 0o600);
    assert_eq!(has("clock_behind", check()), (Some(1), true));
    clock.set_synchronised(true);
    assert_eq!(has("clock_behind", check()), (Some(0), false), "the clock was wrong then");
}

#[test]
fn check_tells_of_a_file_that_is_not_its_own() {
    skip_unless!(tfo_testbed::need_netns());
    let host = derive_host();
    let has = || kinds_of(&host.run("check", &["--format", "json"])).1.contains(&"foreign_file".to_owned());
    assert!(!has(), "there is none");
    host.write("sysctl.d/50-tcp_fastopen_key.conf", "net.ipv4.tcp_fastopen_key=1-2-3-4\n", 0o600);
    assert!(has());
    host.configure(&format!("enabled = false\n{DERIVE}"));
    assert!(!has(), "it stays as it is");
    host.configure(DERIVE);
    code(&host.run("once", &[]), 0);
    assert!(!has());
}
