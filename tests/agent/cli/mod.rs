//! `tfo-agent` as people and programs call it: what it prints, how it ends, and what it refuses without touching anything.

mod check;
mod refused;

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tfo_testbed::host::{Host, UNSET};
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
        "landlock",
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
    assert_eq!(fields(&status["namespaces"][0]), ["backup", "found", "name", "primary", "tcp_fastopen", "verified_at"]);
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
