//! Configurations, files and hosts that are refused, with their place, and without touching anything.

use std::os::unix::fs::{MetadataExt, chown};
use std::process::Command;

use serde_json::{Value, json};
use tfo_testbed::host::{Host, UNSET, in_own_mounts};
use tfo_testbed::output::{code, json_ending, json_of, stderr, stdout};
use tfo_testbed::skip_unless;

use super::{DERIVE, NEW, SECRET, derive_host, installed_host, places};

/// What must not change when a configuration is refused.
fn installed(host: &Host) -> (String, Option<String>, u64, i64) {
    let found = std::fs::metadata(host.sysctl_file()).expect("a step of the test works");
    (host.kernel(), host.persisted(), found.ino(), found.mtime_nsec())
}

/// Line, key and kind of a problem that is expected.
type Place = (Option<u64>, &'static str, &'static str);

/// The errors alone: this machine may have reasons of its own for a warning.
fn errors(found: &Value) -> Value {
    let problems = found["problems"].as_array().expect("a list");
    json!({"problems": problems.iter().filter(|problem| problem["severity"] == "error").collect::<Vec<_>>()})
}

/// Every command refuses the configuration that stands, for exactly these reasons, and touches nothing.
#[track_caller]
fn refused(host: &Host, expected: &[Place]) {
    let mut sorted = expected.to_vec();
    sorted.sort_unstable();
    let problems = |found: &Value| {
        let mut places: Vec<(Option<u64>, String, String)> = places(&errors(found))
            .into_iter()
            .map(|(line, key, kind)| (line, key.to_owned(), kind.to_owned()))
            .collect();
        places.sort_unstable();
        places
    };
    let same = |found: &Value| {
        let found_places = problems(found);
        let found_places: Vec<_> = found_places.iter().map(|(l, k, d)| (*l, k.as_str(), d.as_str())).collect();
        assert_eq!(found_places, sorted, "{found:#}");
        for problem in errors(found)["problems"].as_array().expect("a step of the test works") {
            let said = |field: &str| problem[field].as_str().is_some_and(|text| !text.is_empty());
            assert!(said("file") && said("message") && said("remedy"), "{problem}");
        }
    };
    let before = installed(host);
    let output = host.run("once", &["--format", "json"]);
    code(&output, 2);
    same(&json_of(&output));
    code(&host.run("once", &["--format", "json", "--detailed-exit-codes"]), 1);
    code(&host.run("once", &["--dry-run", "--detailed-exit-codes"]), 1);
    let output = host.run("check", &["--format", "json"]);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{}", stdout(&output));
    same(&json_of(&output));
    let output = host.run("run", &[]);
    code(&output, 2);
    let log = stderr(&output);
    assert!(expected.iter().all(|(_, _, kind)| log.contains(&format!("kind=\"{kind}\""))), "{log}");
    // As text: the place first, so that an editor can jump there.
    let text = stderr(&host.run("once", &[]));
    for (line, key, _) in expected {
        let place = line.map_or_else(String::new, |line| format!(":{line}: "));
        assert!(text.contains(&place) && text.contains(key), "{place}{key} is not in:\n{text}");
    }
    assert_eq!(text.lines().filter(|line| line.starts_with("  remedy: ")).count(), expected.len(), "{text}");
    assert_eq!(installed(host), before, "a refused configuration touched what is installed");
}

/// The same for one host and many configurations; each is what stands below `[install]`, from line 5 on.
#[test]
fn wrong_values_are_refused_with_their_place() {
    skip_unless!(tfo_testbed::need_netns());
    let host = installed_host();
    host.write("etc/secret", SECRET, 0o400);
    let entry = |line: &str| format!("{DERIVE}{line}\n");
    let two = |first: &str, second: &str| {
        format!("{DERIVE}{first}\n[[source.schedule]]\nsecret = \"@/etc/secret\"\n{second}\n")
    };
    let cases: Vec<(String, Vec<Place>)> = vec![
        (entry("intervall = \"1h\""), vec![(Some(9), "source.schedule[0].intervall", "unknown_key")]),
        (format!("{DERIVE}[sourcery]\n"), vec![(Some(9), "sourcery", "unknown_key")]),
        (format!("sysctl = \"x\"\n{DERIVE}"), vec![(Some(5), "install.sysctl", "unknown_key")]),
        (entry("interval = 24"), vec![(Some(9), "source.schedule[0].interval", "wrong_type")]),
        (format!("enabled = \"no\"\n{DERIVE}"), vec![(Some(5), "install.enabled", "wrong_type")]),
        (format!("namespaces = \"a\"\n{DERIVE}"), vec![(Some(5), "install.namespaces", "wrong_type")]),
        (entry("interval = \"24\""), vec![(Some(9), "source.schedule[0].interval", "bad_unit")]),
        (entry("interval = \"24 parsecs\""), vec![(Some(9), "source.schedule[0].interval", "bad_unit")]),
        (entry("interval = \"-1h\""), vec![(Some(9), "source.schedule[0].interval", "bad_unit")]),
        (entry("interval = \"1500ms\""), vec![(Some(9), "source.schedule[0].interval", "bad_unit")]),
        (entry("interval = \"9s\""), vec![(Some(9), "source.schedule[0].interval", "out_of_range")]),
        (entry("interval = \"604801s\""), vec![(Some(9), "source.schedule[0].interval", "out_of_range")]),
        (
            entry("algorithm = \"tofurkey\"\ninterval = \"11s\""),
            vec![(Some(10), "source.schedule[0].interval", "out_of_range")],
        ),
        (
            entry("interval = \"1h\"\nstage_lead = \"1h\""),
            vec![(Some(10), "source.schedule[0].stage_lead", "out_of_range")],
        ),
        (
            entry("interval = \"1h\"\nstage_lead = \"0s\""),
            vec![(Some(10), "source.schedule[0].stage_lead", "out_of_range")],
        ),
        (entry("algorithm = \"md5\""), vec![(Some(9), "source.schedule[0].algorithm", "bad_value")]),
        (entry("not_before = \"2026-12-01\""), vec![(Some(9), "source.schedule[0].not_before", "bad_value")]),
        (two("", ""), vec![(Some(10), "source.schedule[1].not_before", "schedule")]),
        (entry("not_before = \"2026-12-01T00:00:00Z\""), vec![(Some(7), "source.schedule[0].not_before", "schedule")]),
        ("[source]\nkind = \"oracle\"\n".into(), vec![(Some(6), "source.kind", "bad_value")]),
        ("[source]\n".into(), vec![(Some(5), "source.kind", "missing_key")]),
        ("[source]\nkind = \"derive\"\n".into(), vec![(Some(5), "source.schedule", "missing_key")]),
        (
            "[source]\nkind = \"derive\"\n[[source.schedule]]\n".into(),
            vec![(Some(7), "source.schedule[0].secret", "missing_key")],
        ),
        ("[source]\nkind = \"file\"\n".into(), vec![(Some(5), "source.path", "missing_key")]),
        ("[source]\nkind = \"random\"\ninterval = \"8d\"\n".into(), vec![(Some(7), "source.interval", "out_of_range")]),
        (format!("verify_interval = \"0s\"\n{DERIVE}"), vec![(Some(5), "install.verify_interval", "out_of_range")]),
        (format!("verify_interval = \"3601s\"\n{DERIVE}"), vec![(Some(5), "install.verify_interval", "out_of_range")]),
        (format!("namespaces = [\"../x\"]\n{DERIVE}"), vec![(Some(5), "install.namespaces", "bad_value")]),
        (format!("{DERIVE}[metrics]\ntextfile = \"/x/tfo.txt\"\n"), vec![(Some(10), "metrics.textfile", "bad_value")]),
        (format!("{DERIVE}[metrics]\nlisten = \"9440\"\n"), vec![(Some(10), "metrics.listen", "bad_value")]),
    ];
    for (config, expected) in cases {
        host.configure(&config);
        println!("{config}");
        refused(&host, &expected);
    }
}

#[test]
fn wrong_joints_are_refused_with_their_place() {
    skip_unless!(tfo_testbed::need_netns());
    let host = installed_host();
    host.write("etc/secret", SECRET, 0o400);
    host.write("etc/static", NEW, 0o400);
    let entry = |lines: &str| format!("[[source.schedule]]\nsecret = \"@/etc/secret\"\n{lines}\n");
    let start = "[source]\nkind = \"derive\"\n";
    let at = |time: &str| format!("not_before = \"{time}\"");
    // Not rising.
    let (december, november) = (at("2026-12-01T00:00:00Z"), at("2026-11-01T00:00:00Z"));
    host.configure(&format!("{start}{}{}{}", entry(""), entry(&december), entry(&november)));
    refused(&host, &[(Some(13), "source.schedule[2].not_before", "schedule")]);
    // An entry that is shorter than its own interval.
    let soon = at("2026-12-01T12:00:00Z");
    host.configure(&format!("{start}{}{}{}", entry(""), entry(&december), entry(&soon)));
    refused(&host, &[(Some(10), "source.schedule[1].not_before", "schedule")]);
    // tofurkey does not bind the interval into its keys: at this joint both sides have the same counter.
    // 2026-12-01 is 1 796 083 200 s = 20 788 days, so the last counter before it is 20 787; with an interval of 86 406 s
    // the first one after it is ceil(1 796 083 200 / 86 406) = 20 787 too.
    let tofurkey = "algorithm = \"tofurkey\"\n";
    let joint = format!("{tofurkey}interval = \"86406s\"\n{december}");
    host.configure(&format!("{start}{}{}", entry(tofurkey), entry(&joint)));
    refused(&host, &[(Some(12), "source.schedule[1].secret", "equal_keys")]);
}

#[test]
fn secrets_that_cannot_be_used_are_refused_with_their_place() {
    skip_unless!(tfo_testbed::need_netns() && tfo_testbed::need_tool("mkfifo"));
    let host = installed_host();
    host.configure(DERIVE);
    let key = "source.schedule[0].secret";
    let expect = |kind: &'static str| {
        println!("{kind}");
        refused(&host, &[(Some(8), key, kind)]);
        std::fs::remove_file(host.path("etc/secret")).ok();
    };
    expect("secret_missing");
    for mode in [0o440, 0o404, 0o460, 0o602, 0o601] {
        host.write("etc/secret", SECRET, mode);
        expect("secret_exposed");
    }
    host.write("etc/secret", SECRET, 0o400);
    chown(host.path("etc/secret"), Some(65_534), None).unwrap();
    expect("secret_exposed");
    host.write("etc/secret", &SECRET[..31], 0o400);
    expect("secret_weak");
    host.write("etc/secret", [b'x'; 64], 0o400);
    expect("secret_weak");
    host.write("etc/secret", "", 0o400);
    expect("secret_weak");
    host.write("etc/secret", SECRET.repeat(1_000), 0o400);
    expect("secret_too_long");
    std::os::unix::fs::symlink("/dev/zero", host.path("etc/secret")).unwrap();
    expect("secret_unreadable");
    std::os::unix::fs::symlink("secret", host.path("etc/secret")).unwrap();
    expect("secret_unreadable");
    // No process writes to this FIFO: an agent that opens it without care waits forever.
    assert!(Command::new("mkfifo").arg(host.path("etc/secret")).status().unwrap().success());
    expect("secret_unreadable");

    host.configure(&DERIVE.replace("@/etc/secret", "etc/secret"));
    refused(&host, &[(Some(8), key, "bad_value")]);
    host.configure(&DERIVE.replace("@/etc/secret", "credential:a/b"));
    refused(&host, &[(Some(8), key, "bad_value")]);
    host.configure(&DERIVE.replace("@/etc/secret", "credential:fleet"));
    let output = host.run("once", &["--format", "json"]);
    code(&output, 2);
    assert_eq!(places(&json_of(&output)), [(Some(8), key, "credential_unseen")]);
    // In a reload systemd shows the credentials to the service alone, not to this check.
    let output = host.run("check", &["--config-only", "--format", "json"]);
    code(&output, 0);
    assert_eq!(places(&json_of(&output)), [(Some(8), key, "credential_unseen")]);
    code(&host.run("check", &[]), 2);
}

#[test]
fn once_writes_the_textfile_and_a_dry_run_does_not() {
    skip_unless!(tfo_testbed::need_netns());
    let host = derive_host();
    host.configure(&format!("{DERIVE}[metrics]\ntextfile = \"@/etc/tfo.prom\"\n"));
    code(&host.run("once", &["--dry-run"]), 0);
    assert!(!host.path("etc/tfo.prom").exists());
    code(&host.run("once", &[]), 0);
    let text = std::fs::read_to_string(host.path("etc/tfo.prom")).expect("the textfile is there");
    assert!(text.contains("tfo_agent_verified{namespace=\"own\"} 1\n"), "{text}");
}

#[test]
fn a_credential_is_found_where_systemd_puts_it() {
    skip_unless!(tfo_testbed::need_netns());
    let (host, plain) = (Host::new(), derive_host());
    std::fs::create_dir(host.path("credentials")).unwrap();
    // systemd shows a credential of a service with User= as 0440: its ACL lets only the service in.
    host.write("credentials/fleet", SECRET, 0o440);
    host.configure(&DERIVE.replace("@/etc/secret", "credential:fleet"));
    let once = |name: &str| {
        let mut agent = host.agent("once");
        agent.args(["--format", "json"]).env("CREDENTIALS_DIRECTORY", host.path(name)).output().unwrap()
    };
    let output = once("credentials");
    code(&output, 0);
    code(&plain.run("once", &[]), 0);
    assert_eq!(host.kernel(), plain.kernel(), "the same secret makes the same keys");
    let output = once("nowhere");
    code(&output, 2);
    assert_eq!(places(&json_of(&output)), [(Some(8), "source.schedule[0].secret", "credential_unseen")]);
}

#[test]
fn key_files_with_anything_but_keys_are_refused() {
    skip_unless!(tfo_testbed::need_netns());
    let host = installed_host();
    let zero = format!("{NEW},{UNSET}");
    let (primary, _) = NEW.split_once(',').unwrap();
    let cases = [
        "",
        "\n",
        "garbage",
        &NEW.to_uppercase(),
        &format!("{NEW},{primary}"),
        &format!("{primary},{primary}"),
        UNSET,
        &zero,
        &format!("{primary},{UNSET}"),
        &NEW[..70],
        &format!("{NEW} # mine"),
        &format!(" {NEW}"),
        &NEW.replace(',', ":"),
    ];
    for text in cases {
        println!("{text:?}");
        host.use_keys(text);
        refused(&host, &[(Some(7), "source.path", "key_text")]);
    }
    host.use_keys(&"x".repeat(5_000));
    refused(&host, &[(Some(7), "source.path", "secret_too_long")]);
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    skip_unless!(tfo_testbed::need_netns() && tfo_testbed::need_tool("mkfifo"));
    let host = installed_host();
    // Several syntax errors: what comes after the first is a guess.
    host.write(
        "etc/agent.toml",
        "[source\nkind = \"derive\"\n[install]\nenabled = = true\nverify_interval = \"30s\n",
        0o644,
    );
    refused(&host, &[(Some(1), "", "syntax")]);
    let duplicate = format!("[source]\nkind = \"file\"\nkind = \"file\"\npath = {:?}\n", host.text_path("etc/keys"));
    host.write("etc/agent.toml", duplicate, 0o644);
    refused(&host, &[(Some(3), "", "syntax")]);

    host.write("etc/agent.toml", b"[source]\nkind = \"\xff\xfe\"\n", 0o644);
    refused(&host, &[(None, "", "config_unreadable")]);
    host.write("etc/agent.toml", "# x\n".repeat(1 << 19), 0o644);
    refused(&host, &[(None, "", "config_unreadable")]);
    std::fs::remove_file(host.config_file()).unwrap();
    refused(&host, &[(None, "", "config_missing")]);
    std::fs::create_dir(host.config_file()).unwrap();
    refused(&host, &[(None, "", "config_unreadable")]);
    std::fs::remove_dir(host.config_file()).unwrap();
    // Endless, or without a writer: neither memory nor time without end.
    std::os::unix::fs::symlink("/dev/zero", host.config_file()).unwrap();
    refused(&host, &[(None, "", "config_unreadable")]);
    std::fs::remove_file(host.config_file()).unwrap();
    assert!(Command::new("mkfifo").arg(host.config_file()).status().unwrap().success());
    refused(&host, &[(None, "", "config_unreadable")]);
    std::fs::remove_file(host.config_file()).unwrap();
    host.write("etc/agent.toml", "", 0o644);
    refused(&host, &[(Some(1), "source", "missing_key")]);
}

// ---- hosts that do not allow it ----

#[test]
fn a_read_only_etc_is_refused_before_anything_is_written() {
    skip_unless!(tfo_testbed::need_netns() && tfo_testbed::need_tool("unshare"));
    let host = installed_host();
    host.use_keys(NEW);
    let before = installed(&host);
    for command in ["once", "run", "check"] {
        let mut unshare = host.command("unshare");
        let script = "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"; shift; exec \"$@\"";
        in_own_mounts(&mut unshare, script);
        unshare.arg(host.path("sysctl.d")).arg(tfo_testbed::agent_path());
        let output = unshare.arg(command).arg("--config").arg(host.config_file()).output().unwrap();
        code(&output, if command == "check" { 1 } else { 2 });
        let text = stderr(&output);
        for part in ["agent.toml:4", "install.sysctl_file", "Read-only file system", "ReadWritePaths="] {
            assert!(text.contains(part), "{command} does not say {part}: {text}");
        }
    }
    assert_eq!(installed(&host), before);
}

#[test]
fn a_kernel_without_the_key_file_is_refused() {
    skip_unless!(tfo_testbed::need_netns() && tfo_testbed::need_tool("unshare"));
    let host = installed_host();
    host.use_keys(NEW);
    let before = installed(&host);
    // An empty directory over it: the file is not there for this process.
    for (script, kind) in [
        ("mount -t tmpfs none /proc/sys/net/ipv4; exec \"$@\"", "kernel_file_missing"),
        (
            "mount --bind /proc/sys/net/ipv4 /proc/sys/net/ipv4; mount -o remount,bind,ro /proc/sys/net/ipv4; exec \"$@\"",
            "kernel_not_allowed",
        ),
    ] {
        for command in ["once", "check"] {
            let mut unshare = host.command("unshare");
            in_own_mounts(&mut unshare, script);
            unshare.arg(tfo_testbed::agent_path()).arg(command).args(["--format", "json", "--config"]);
            let output = unshare.arg(host.config_file()).output().unwrap();
            code(&output, if command == "check" { 1 } else { 2 });
            let found = errors(&json_of(&output));
            assert_eq!(places(&found), [(None, "", kind)], "{found:#}");
            assert_eq!(found["problems"][0]["file"], "/proc/sys/net/ipv4/tcp_fastopen_key");
        }
    }
    assert_eq!(installed(&host), before);
}

#[test]
fn a_user_without_permission_hears_of_everything_at_once() {
    skip_unless!(tfo_testbed::need_netns() && tfo_testbed::need_tool("setpriv"));
    let host = installed_host();
    host.write("etc/secret", SECRET, 0o400);
    host.configure(&format!(
        "namespaces = [\"tfo-no-such-namespace\"]\n{DERIVE}[metrics]\ntextfile = \"/no/such/tfo.prom\"\n"
    ));
    std::fs::copy(tfo_testbed::agent_path(), host.path("tfo-agent")).unwrap();
    let before = installed(&host);
    let mut nobody = host.command("setpriv");
    nobody
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"])
        .arg(host.path("tfo-agent"));
    let found = json_ending(
        &nobody.args(["once", "--format", "json", "--config"]).arg(host.config_file()).output().unwrap(),
        2,
    );
    let mut found_places = places(&found);
    found_places.sort_unstable();
    let expected = [
        (None, "", "kernel_not_allowed"),
        (Some(4), "install.sysctl_file", "directory_not_writable"),
        (Some(5), "install.namespaces", "namespace"),
        (Some(9), "source.schedule[0].secret", "secret_unreadable"),
        (Some(11), "metrics.textfile", "directory_not_writable"),
    ];
    assert_eq!(found_places, expected, "{found:#}");
    for problem in found["problems"].as_array().unwrap() {
        assert!(
            problem["file"].is_string() && problem["remedy"].as_str().is_some_and(|text| !text.is_empty()),
            "{problem}"
        );
    }
    assert_eq!(installed(&host), before);
}

/// One run reports every problem in the text, in the secrets and on the host, so that an operator can fix all at once.
#[test]
fn all_problems_come_at_once() {
    skip_unless!(tfo_testbed::need_netns());
    let host = installed_host();
    host.write("etc/exposed", SECRET, 0o444);
    host.write("etc/weak", [7; 32], 0o400);
    let december = "not_before = \"2026-12-01T00:00:00Z\"";
    host.configure(&format!(
        "namespaces = [\"tfo-no-such-namespace\"]
verify_interval = 30
[source]
kind = \"derive\"
[[source.schedule]]
secret = \"@/etc/missing\"
intervall = \"24h\"
[[source.schedule]]
secret = \"@/etc/exposed\"
interval = \"1h\"
stage_lead = \"2h\"
{december}
[[source.schedule]]
secret = \"@/etc/weak\"
algorithm = \"tofurkey\"
interval = \"11s\"
[extra]
"
    ));
    refused(
        &host,
        &[
            (Some(5), "install.namespaces", "namespace"),
            (Some(6), "install.verify_interval", "wrong_type"),
            (Some(10), "source.schedule[0].secret", "secret_missing"),
            (Some(11), "source.schedule[0].intervall", "unknown_key"),
            (Some(13), "source.schedule[1].secret", "secret_exposed"),
            (Some(15), "source.schedule[1].stage_lead", "out_of_range"),
            (Some(18), "source.schedule[2].secret", "secret_weak"),
            (Some(20), "source.schedule[2].interval", "out_of_range"),
            (Some(21), "extra", "unknown_key"),
        ],
    );
}
