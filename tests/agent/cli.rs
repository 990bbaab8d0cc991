//! `tfo-agent` as people and programs call it: what it prints, how it ends, and what it refuses without touching anything.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tfo_testbed::host::{Host, UNSET, in_own_mounts};
use tfo_testbed::output::{code, json_ending, json_of, stderr, stdout};
use tfo_testbed::skip_unless;

const OLD: &str = "7a0c91e3-55d1f0b8-19c64e2f-8d3ba670,e1f25d06-3b98c7a4-60d2194e-f58b037c";
const NEW: &str = "c4d7302b-a1659ef8-0e83bd57-924f1c6a,7a0c91e3-55d1f0b8-19c64e2f-8d3ba670";
/// Fingerprints of the keys above, by Python's hashlib: sha256(b"tfo-fleet/v1/fingerprint" + raw)[:8].
const OLD_PRINTS: (&str, &str) = ("6c3f8e4b21cc43a0", "8733a57999198333");

const SECRET: &[u8] = b"Dz6q0vXk1rT9sYb4Lw8nGmHcJ2eUaPfK";

/// A good derive source, with the secret that [`derive_host`] writes.
const DERIVE: &str = "[source]\nkind = \"derive\"\n[[source.schedule]]\nsecret = \"@/etc/secret\"\n";

fn derive_host() -> Host {
    let host = Host::new();
    host.write("etc/secret", SECRET, 0o400);
    host.configure(DERIVE);
    host
}

/// A host with an installed pair, which no refused configuration may touch.
fn installed_host() -> Host {
    let host = Host::new();
    host.use_keys(OLD);
    code(&host.run("once", &[]), 0);
    assert_eq!(host.kernel(), OLD);
    host
}

/// Names of an object's fields, sorted.
fn fields(value: &Value) -> Vec<&str> {
    let mut fields: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    fields.sort_unstable();
    fields
}

/// (line, key, kind) of each problem, in the order of the output.
fn places(found: &Value) -> Vec<(Option<u64>, &str, &str)> {
    let problems = found["problems"].as_array().expect("a list");
    problems
        .iter()
        .map(|p| {
            (p["line"].as_u64(), p["key"].as_str().unwrap_or(""), p["kind"].as_str().expect("a step of the test works"))
        })
        .collect()
}

// ---- help and usage ----

#[test]
fn help_is_enough_to_go_on() {
    for arguments in
        [&["--help"][..], &["init", "--help"], &["run", "--help"], &["once", "--help"], &["check", "--help"]]
    {
        let output = tfo_testbed::agent().args(arguments).output().unwrap();
        code(&output, 0);
        let text = stdout(&output);
        assert!(text.contains("Usage: tfo-agent"), "{text}");
        assert!(text.contains("Exit codes:"), "{arguments:?} says nothing of exit codes:\n{text}");
        if arguments.len() > 1 && arguments[0] != "init" {
            assert!(text.contains("[default: /etc/tfo-fleet/agent.toml]"), "{text}");
        }
    }
    let text = stdout(&tfo_testbed::agent().arg("--help").output().unwrap());
    for command in ["init", "run", "once", "check"] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(command)), "{command}:\n{text}");
    }
    let text = stdout(&tfo_testbed::agent().args(["once", "--help"]).output().unwrap());
    for option in ["--config", "--dry-run", "--detailed-exit-codes", "--format"] {
        assert!(text.contains(option), "{option}:\n{text}");
    }
}

#[test]
fn usage_errors_end_with_2_and_with_detailed_exit_codes_1() {
    let cases: [&[&str]; 6] = [
        &[],
        &["mend"],
        &["once", "--frmat", "json"],
        &["once", "--format", "xml"],
        &["check", "x"],
        &["init", "--dir"],
    ];
    for arguments in cases {
        let output = tfo_testbed::agent().args(arguments).output().unwrap();
        code(&output, 2);
        assert!(stdout(&output).is_empty() && stderr(&output).contains("--help"), "{}", stderr(&output));
    }
    code(&tfo_testbed::agent().args(["once", "--detailed-exit-codes", "--frmat"]).output().unwrap(), 1);
    let output = tfo_testbed::agent().arg("--version").output().unwrap();
    code(&output, 0);
    assert_eq!(stdout(&output).trim(), concat!("tfo-agent ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_has_gone_is_no_panic() {
    skip_unless!(tfo_testbed::need_netns());
    let host = derive_host();
    // A pipe whose reading end is closed before the program starts; once for each stream.
    for arguments in [&["once"][..], &["once", "--format", "json"], &["check", "--format", "json"], &["--help"]] {
        for both in [false, true] {
            let mut command = host.command(tfo_testbed::agent_path());
            command.args(arguments);
            if arguments[0] != "--help" {
                command.arg("--config").arg(host.config_file());
            }
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            command.stdout(writer.try_clone().unwrap());
            let mut child = if both { command.stderr(writer) } else { command.stderr(Stdio::piped()) }.spawn().unwrap();
            let mut said = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                stderr.read_to_string(&mut said).unwrap();
            }
            let status = child.wait().unwrap();
            assert!(!said.contains("panicked"), "{said}");
            assert!(matches!(status.code(), Some(0 | 1)), "{arguments:?}: {status}");
        }
    }
    // The agent does its work even if no program reads the output.
    assert_ne!(host.kernel(), UNSET);
}

// ---- init ----

#[test]
fn init_makes_what_check_accepts_and_never_overwrites() {
    let dir = tfo_testbed::scratch();
    let target = dir.path().join("etc/tfo-fleet");
    let init = || tfo_testbed::agent().args(["init", "--dir"]).arg(&target).output().unwrap();
    let first = init();
    code(&first, 0);
    let (secret, config) = (target.join("fleet.secret"), target.join("agent.toml"));
    assert!(stdout(&first).contains(&format!("made  {}", secret.display())), "{}", stdout(&first));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&target), mode(&secret), mode(&config)), (0o755, 0o400, 0o644));
    let bytes = std::fs::read(&secret).unwrap();
    assert_eq!(bytes.len(), 32);
    let check = tfo_testbed::agent().args(["check", "--config-only", "--config"]).arg(&config).output().unwrap();
    code(&check, 0);
    // What an operator has changed stays.
    std::fs::write(&config, "# mine").unwrap();
    let second = init();
    code(&second, 0);
    assert!(stdout(&second).contains(&format!("kept  {}", config.display())), "{}", stdout(&second));
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "# mine");
    assert_eq!(std::fs::read(&secret).unwrap(), bytes);
    // `init` keeps a dangling link too: an operator may have put it there on purpose.
    std::fs::remove_file(&secret).unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &secret).unwrap();
    code(&init(), 0);
    assert!(secret.is_symlink() && !dir.path().join("elsewhere").exists());
}

#[test]
fn init_says_why_it_cannot() {
    let dir = tfo_testbed::scratch();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let output = tfo_testbed::agent().args(["init", "--dir"]).arg(dir.path().join("file/x")).output().unwrap();
    code(&output, 1);
    assert!(stderr(&output).contains("remedy:") && stdout(&output).is_empty(), "{}", stderr(&output));
}

// ---- once ----

#[test]
fn once_installs_then_finds_nothing_to_do() {
    skip_unless!(tfo_testbed::need_netns());
    let host = Host::new();
    host.use_keys(OLD);
    let output = host.run("once", &["--dry-run", "--detailed-exit-codes"]);
    code(&output, 2);
    assert!(stdout(&output).contains("would be written"), "{}", stdout(&output));
    assert_eq!((host.kernel().as_str(), host.sysctl_d()), (UNSET, vec![]));
    assert!(!host.path("run").exists() && !host.lock_file().exists(), "a dry run writes nothing at all");

    let output = host.run("once", &["--detailed-exit-codes"]);
    code(&output, 2);
    let text = stdout(&output);
    assert!(text.contains("namespace own: written") && text.contains("50-tcp_fastopen_key.conf: written"), "{text}");
    assert!(stderr(&output).is_empty(), "{}", stderr(&output));
    assert_eq!((host.kernel().as_str(), host.persisted_keys().as_deref()), (OLD, Some(OLD)));
    assert_eq!(std::fs::metadata(host.path("run/status.json")).unwrap().mode() & 0o7777, 0o644);

    let file = || {
        let found = std::fs::metadata(host.sysctl_file()).unwrap();
        (found.ino(), found.mtime(), found.mtime_nsec(), found.mode() & 0o7777)
    };
    let before = file();
    for arguments in [&["--detailed-exit-codes"][..], &["--detailed-exit-codes", "--dry-run"], &[]] {
        let output = host.run("once", arguments);
        code(&output, 0);
        let text = stdout(&output);
        assert!(text.contains("namespace own: unchanged") && text.contains(".conf: unchanged"), "{text}");
        assert_eq!(file(), before, "the file was touched");
    }
    assert_eq!(before.3, 0o600);
}

/// Every field that docs/reference/json.md names, no key, and the values of this install.
#[test]
fn once_as_json_has_the_shape_of_the_design() {
    skip_unless!(tfo_testbed::need_netns());
    let host = Host::new();
    host.use_keys(OLD);
    let slot = |print: &str| json!({"epoch": null, "fingerprint": print});
    let expected = |changed: bool, dry_run: bool| {
        json!({
            "changed": changed, "dry_run": dry_run, "phase": "steady", "generation": null,
            "primary": slot(OLD_PRINTS.0), "backup": slot(OLD_PRINTS.1), "next_change_at": null,
            "file": {"path": host.sysctl_file(), "changed": changed},
            "namespaces": [{"name": "own", "changed": changed}],
            "problems": [],
        })
    };
    assert_eq!(json_of(&host.run("once", &["--format", "json", "--dry-run"])), expected(true, true));
    assert_eq!(json_of(&host.run("once", &["--format", "json"])), expected(true, false));
    assert_eq!(json_of(&host.run("once", &["--format", "json"])), expected(false, false));

    // A clock-bound source has epochs and a next change.
    let host = derive_host();
    let found = json_of(&host.run("once", &["--format", "json"]));
    assert_eq!(fields(&found), fields(&expected(true, false)));
    assert!(found["primary"]["epoch"].is_u64() && found["backup"]["epoch"].is_u64(), "{found}");
    let next = found["next_change_at"].as_str().unwrap();
    assert!(next.len() == 20 && next.ends_with('Z'), "{next}");

    // The same fields where the configuration is refused.
    host.configure("[source]\nkind = \"nonsense\"\n");
    let found = json_ending(&host.run("once", &["--format", "json"]), 2);
    assert_eq!(fields(&found), fields(&expected(true, false)));
    let problem = ["file", "key", "kind", "line", "message", "remedy", "severity"];
    assert_eq!(fields(&found["problems"][0]), problem);
}

#[test]
fn status_json_has_the_shape_of_the_design() {
    skip_unless!(tfo_testbed::need_netns());
    let host = derive_host();
    code(&host.run("once", &[]), 0);
    let status: Value = serde_json::from_slice(&std::fs::read(host.path("run/status.json")).unwrap()).unwrap();
    let expected = [
        "backup",
        "clock_synchronised",
        "contact",
        "drift_repairs",
        "error",
        "generation",
        "installed_at",
        "last_contact_at",
        "namespaces",
        "next_change_at",
        "phase",
        "pool",
        "primary",
        "source",
        "state",
        "version",
    ];
    assert_eq!(fields(&status), expected);
    assert_eq!(fields(&status["namespaces"][0]), ["backup", "name", "primary", "tcp_fastopen", "verified_at"]);
    assert_eq!((status["version"].as_u64(), status["state"].as_str()), (Some(1), Some("ok")));
    assert_eq!(status["namespaces"][0]["primary"], status["primary"]["fingerprint"]);
}

#[test]
fn several_namespaces_are_installed_and_named() {
    skip_unless!(tfo_testbed::need_netns());
    let (host, other) = (Host::new(), Host::new());
    host.use_keys(OLD);
    host.configure(&format!(
        "namespaces = [{:?}]\n[source]\nkind = \"file\"\npath = \"@/etc/keys\"\n",
        other.netns().name()
    ));
    let found = json_of(&host.run("once", &["--format", "json"]));
    assert_eq!(
        found["namespaces"],
        json!([{"name": "own", "changed": true}, {"name": other.netns().name(), "changed": true}])
    );
    assert_eq!((host.kernel().as_str(), other.kernel().as_str()), (OLD, OLD));
}

#[test]
fn a_host_that_only_looks_is_not_written() {
    skip_unless!(tfo_testbed::need_netns());
    let host = Host::new();
    host.use_keys(OLD);
    host.configure("enabled = false\n[source]\nkind = \"file\"\npath = \"@/etc/keys\"\n");
    let output = host.run("once", &["--detailed-exit-codes"]);
    code(&output, 0);
    assert!(stdout(&output).contains("read-only"), "{}", stdout(&output));
    assert_eq!((host.kernel().as_str(), host.sysctl_d()), (UNSET, vec![]));
}

// ---- check ----

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
    let always = ["at", "joints", "ok", "problems", "retention_secs", "skew_tolerance_secs"];
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

// ---- refused configurations ----

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
