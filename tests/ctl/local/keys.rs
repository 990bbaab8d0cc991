//! `keygen`, `derive` and `cookie`: key material in, key material or its public face out.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::bench::{Cable, FAMILIES, KEYS, code, ctl, json_of, pinned, program};
use tfo_testbed::daemon::{PYTHON, secret_bytes};
use tfo_testbed::output::{stderr, stdout};
use tfo_testbed::{need_netns, need_tool, scratch, skip_unless};

const ORACLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testbed/oracle.py");

/// Runs the program with this input.
fn ctl_with(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(program());
    let mut child =
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may have read enough, or refused, before all is written.
    child.stdin.take().unwrap().write_all(input).ok();
    child.wait_with_output().unwrap()
}

fn put(dir: &Path, name: &str, content: &[u8], mode: u32) -> String {
    let path: PathBuf = dir.join(name);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The kind of the only problem, as the text on stderr names it, is not shown: its words are.
#[track_caller]
fn refused(output: &Output, expected: i32, words: &str) {
    code(output, expected);
    assert_eq!(stdout(output), "");
    assert!(stderr(output).contains(words) && stderr(output).contains("remedy: "), "{}", stderr(output));
}

// ---- keygen ----

#[test]
fn keygen_makes_a_key_that_cookie_takes() {
    let made = ctl(&["keygen"]);
    code(&made, 0);
    let other = ctl(&["keygen"]);
    assert_ne!(stdout(&made), stdout(&other));
    assert!(tfo_model::key_text::parse(&made.stdout).is_ok(), "{}", stdout(&made));
    let cookies = ctl_with(&["cookie", "--key-file", "-", "--src", "192.0.2.1", "--dst", "192.0.2.2"], &made.stdout);
    code(&cookies, 0);

    let both = json_of(&ctl(&["keygen", "--format", "json"]));
    let key = tfo_model::key_text::parse(both["key"].as_str().unwrap().as_bytes()).unwrap();
    let print = tfo_crypto::fingerprint::fingerprint(key.primary());
    assert_eq!(both, json!({"fingerprint": print, "file": null, "key": both["key"]}));
}

#[test]
fn keygen_never_overwrites_and_its_file_is_private() {
    let dir = scratch();
    let out = dir.path().join("key");
    let name = out.to_str().unwrap();
    let made = json_of(&ctl(&["keygen", "--out", name, "--format", "json"]));
    let text = std::fs::read(&out).unwrap();
    let keys = tfo_model::key_text::parse(&text).unwrap();
    let print = tfo_crypto::fingerprint::fingerprint(keys.primary());
    assert_eq!(made, json!({"fingerprint": print, "file": name}), "no key where it went into a file");
    assert_eq!(std::fs::metadata(&out).unwrap().mode() & 0o7777, 0o600);

    refused(&ctl(&["keygen", "--out", name]), 3, "File exists");
    assert_eq!(std::fs::read(&out).unwrap(), text);
    let dangling = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &dangling).unwrap();
    refused(&ctl(&["keygen", "--out", dangling.to_str().unwrap()]), 3, "File exists");
    assert!(!dir.path().join("elsewhere").exists());
    refused(&ctl(&["keygen", "--out", "/nonexistent/key"]), 1, "No such file");
}

// ---- derive ----

/// What the oracle says: (phase, kernel text).
fn oracle(cases: &[Value]) -> Vec<(String, String)> {
    let mut child = Command::new(PYTHON);
    let mut child = child.arg(ORACLE).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let input: String = cases.iter().map(|case| format!("{case}\n")).collect();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let line = |line: &str| line.split_once(' ').map(|(phase, keys)| (phase.to_owned(), keys.to_owned())).unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(line).collect()
}

fn unix(text: &Value) -> u64 {
    text.as_str().unwrap().parse::<tfo_model::time::UnixTime>().unwrap().secs()
}

#[test]
fn derive_walks_as_the_oracle_does() {
    skip_unless!(need_tool(PYTHON));
    let dir = scratch();
    let secret = secret_bytes(7);
    let file = put(dir.path(), "secret", &secret, 0o400);
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let rows = [
        ("hkdf-sha256", "24h", 86_400, None, 3_600),
        ("hkdf-sha256", "10s", 10, None, 5),
        ("hkdf-sha256", "7d", 604_800, Some("2d"), 172_800),
        ("tofurkey", "6h", 21_600, None, 10_800),
        ("tofurkey", "24h", 86_400, Some("1h"), 3_600),
    ];
    for (algorithm, interval, interval_secs, lead, lead_secs) in rows {
        let mut arguments = vec!["derive", "--secret", &file, "--interval", interval, "--algorithm", algorithm];
        arguments.extend(lead.into_iter().flat_map(|lead| ["--stage-lead", lead]));
        arguments.extend(["--at", "2026-12-01T00:00:00+01:00", "--count", "9", "--reveal", "--format", "json"]);
        let found = json_of(&ctl(&arguments));
        let steps = found["steps"].as_array().unwrap();
        assert_eq!((steps.len(), &steps[0]["at"]), (9, &json!("2026-11-30T23:00:00Z")));
        let case = |now: u64| {
            let entry = json!({"algorithm": algorithm, "secret": hex, "interval": interval_secs, "lead": lead_secs, "not_before": null});
            json!({"now": now, "entries": [entry]})
        };
        // At the step itself, and in its last second: the change comes then, not earlier and not later.
        let ends = steps.iter().flat_map(|step| [unix(&step["at"]), unix(&step["next_change_at"]) - 1]);
        let expected = oracle(&ends.map(case).collect::<Vec<_>>());
        for (step, expected) in steps.iter().flat_map(|step| [step, step]).zip(expected) {
            let shown = [&step["primary"]["key"], &step["backup"]["key"]].map(|key| key.as_str().unwrap());
            assert_eq!((step["phase"].as_str().unwrap().to_owned(), shown.join(",")), expected, "{step}");
            assert_eq!(step["primary"]["epoch"].as_u64().unwrap() % interval_secs, 0);
        }
        for pair in steps.windows(2) {
            assert_eq!(pair[0]["next_change_at"], pair[1]["at"], "the steps are the changes");
            assert_ne!(pair[0]["phase"], pair[1]["phase"]);
        }
    }
}

#[test]
fn derive_shows_keys_only_when_asked() {
    let dir = scratch();
    let file = put(dir.path(), "secret", &secret_bytes(7), 0o400);
    let run = |more: &[&str]| {
        let base = ["derive", "--secret", &file, "--interval", "24h", "--at", "2026-12-01T00:00:00Z"];
        ctl(&[&base, more].concat())
    };
    let found = json_of(&run(&["--format", "json", "--count", "2"]));
    pinned("derive", &found);
    let text = stdout(&run(&[]));
    let fingerprint = found["steps"][0]["primary"]["fingerprint"].as_str().unwrap();
    assert!(text.contains(fingerprint) && !text.contains(','), "{text}");
    let revealed = stdout(&run(&["--reveal"]));
    let key = revealed.lines().last().unwrap().trim();
    let keys = tfo_model::key_text::parse(key.as_bytes()).unwrap();
    assert_eq!(tfo_crypto::fingerprint::fingerprint(keys.primary()).to_string(), fingerprint);
}

#[test]
fn derive_refuses_what_the_agent_refuses() {
    let dir = scratch();
    let good = put(dir.path(), "good", &secret_bytes(7), 0o400);
    let weak = put(dir.path(), "weak", &[7; 64], 0o400);
    let short = put(dir.path(), "short", b"short", 0o400);
    let open = put(dir.path(), "open", &secret_bytes(7), 0o644);
    let none = dir.path().join("none").to_str().unwrap().to_owned();
    let run = |secret: &str, more: &[&str]| {
        ctl(&[&["derive", "--secret", secret, "--at", "now", "--interval"], more].concat())
    };
    refused(&run(&weak, &["24h"]), 2, "one byte repeated");
    refused(&run(&short, &["24h"]), 2, "it needs at least 32");
    refused(&run(&open, &["24h"]), 2, "users other than its owner");
    refused(&run(&none, &["24h"]), 2, "does not exist");
    refused(&run("credential:fleet", &["24h"]), 2, "CREDENTIALS_DIRECTORY");
    refused(&run(&good, &["9s"]), 2, "10 seconds to 7 days");
    refused(&run(&good, &["24h", "--stage-lead", "24h"]), 2, "shorter than the interval");
    refused(&run(&good, &["11s", "--algorithm", "tofurkey"]), 2, "odd");
    // clap's own refusals.
    for wrong in [&["24"][..], &["24h", "--count", "0"], &["24h", "--algorithm", "static"]] {
        code(&run(&good, wrong), 2);
    }
    code(&ctl(&["derive", "--secret", &good, "--interval", "24h", "--at", "tomorrow"]), 2);
}

// ---- cookie ----

#[test]
fn cookies_of_a_file_and_of_a_pipe() {
    let dir = scratch();
    let pair = [KEYS[0], KEYS[1]].join(",");
    let file = put(dir.path(), "keys", format!("{pair}\n").as_bytes(), 0o600);
    let run = |more: &[&str]| ctl(&[&["cookie", "--key-file", &file, "--format", "json"], more].concat());
    let v4 = json_of(&run(&["--src", "10.77.1.1", "--dst", "10.77.1.2"]));
    pinned("cookie", &v4);
    // A dual-stack server's name for an IPv4 client.
    assert_eq!(json_of(&run(&["--src", "::ffff:10.77.1.1", "--dst", "10.77.1.2"])), v4);
    let v6 = json_of(&run(&["--src", "fd77::1", "--dst", "fd77::2"]));
    assert_ne!(v4["cookies"], v6["cookies"]);
    let piped = ["cookie", "--key-file", "-", "--src", "10.77.1.1", "--dst", "10.77.1.2", "--format", "json"];
    assert_eq!(json_of(&ctl_with(&piped, pair.as_bytes())), v4);
    let text = stdout(&ctl(&["cookie", "--key-file", &file, "--src", "10.77.1.1", "--dst", "10.77.1.2"]));
    for cookie in v4["cookies"].as_array().unwrap() {
        assert!(text.contains(cookie["cookie"].as_str().unwrap()), "{text}");
    }
    assert!(!text.contains(KEYS[0]) && !text.contains(KEYS[1]));
}

#[test]
fn cookie_refuses_bad_keys_and_addresses() {
    let dir = scratch();
    let good = put(dir.path(), "good", KEYS[0].as_bytes(), 0o600);
    let run = |place: &str, src: &str, dst: &str| ctl(&["cookie", "--key-file", place, "--src", src, "--dst", dst]);
    let bad = |name: &str, content: &[u8], mode| run(&put(dir.path(), name, content, mode), "192.0.2.1", "192.0.2.2");
    refused(&run(&good, "192.0.2.1", "2001:db8::1"), 2, "are of different address families");
    code(&run(&good, "192.0.2.1", "example.org"), 2);
    refused(&bad("open", KEYS[0].as_bytes(), 0o640), 2, "users other than its owner");
    refused(&bad("three", KEYS.join(",").as_bytes(), 0o600), 2, "more than two keys");
    refused(&bad("empty", b"", 0o600), 2, "contains no key");
    refused(&bad("short", b"1-2-3-4", 0o600), 2, "four groups");
    refused(&bad("long", &[b'0'; 4_096], 0o600), 2, "more than 256 bytes");
    refused(&run("/nonexistent/keys", "192.0.2.1", "192.0.2.2"), 2, "does not exist");
    let piped = ["cookie", "--key-file", "-", "--src", "192.0.2.1", "--dst", "192.0.2.2"];
    refused(&ctl_with(&piped, &[b'0'; 4_096]), 2, "more than 256 bytes");
    refused(&ctl_with(&piped, b"nonsense"), 2, "standard input");
    // A key on the command line is a path that does not exist, and is not repeated as a key.
    refused(&run(KEYS[0], "192.0.2.1", "192.0.2.2"), 2, "does not exist");
}

#[test]
fn cookie_is_what_the_kernel_gives() {
    skip_unless!(need_netns() && need_tool("nginx"));
    let cable = Cable::new();
    let _nginx = cable.nginx();
    for family in &FAMILIES {
        for slots in [[KEYS[0], KEYS[1]], [KEYS[1], KEYS[2]]] {
            let keys = slots.join(",");
            cable.server.set_kernel(&keys);
            cable.rides(&family.url("/"));
            let arguments =
                ["cookie", "--key-file", "-", "--src", family.client, "--dst", family.server, "--format", "json"];
            let cookies = json_of(&ctl_with(&arguments, keys.as_bytes()));
            assert_eq!(cookies["cookies"][0]["cookie"].as_str(), cable.stored(family).as_deref(), "{cookies}");
        }
    }
}
