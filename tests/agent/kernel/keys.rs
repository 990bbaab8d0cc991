//! Derived keys, read back from the kernel, against `tests/testbed/oracle.py`.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tfo_host::runtime::clock;
use tfo_model::time::UnixTime;

use tfo_testbed::daemon::{DaemonHost, PYTHON, secret_bytes};
use tfo_testbed::{need_netns, need_tool, skip_unless};

fn unix_now() -> u64 {
    clock::now().secs()
}

/// What the oracle says for each case: phase and kernel text.
fn oracle(cases: &[Value]) -> Vec<(String, String)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testbed/oracle.py");
    let mut child = Command::new(PYTHON)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the oracle starts");
    let lines: String = cases.iter().map(|case| format!("{case}\n")).collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the oracle failed");
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<_> = answers.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(answers.len(), cases.len());
    answers.into_iter().map(|(phase, text)| (phase.to_owned(), text.to_owned())).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One entry of a schedule, for both sides.
struct Entry {
    algorithm: &'static str,
    secret: Vec<u8>,
    interval: u64,
    lead: u64,
    not_before: Option<u64>,
}

impl Entry {
    fn for_oracle(&self) -> Value {
        json!({
            "algorithm": self.algorithm, "secret": hex(&self.secret), "interval": self.interval, "lead": self.lead,
            "not_before": self.not_before,
        })
    }
}

/// Runs `once` with these entries on a fresh host; the case for the oracle, and what agent and kernel said.
fn run(entries: &[Entry]) -> (Value, String, String) {
    let host = DaemonHost::new();
    let mut source = "[source]\nkind = \"derive\"\n".to_owned();
    for (index, entry) in entries.iter().enumerate() {
        let name = format!("secret-{index}");
        host.put(&name, &entry.secret, 0o400);
        source += &format!(
            "[[source.schedule]]\nsecret = {:?}\ninterval = \"{}s\"\nstage_lead = \"{}s\"\nalgorithm = \"{}\"\n",
            host.path(&name),
            entry.interval,
            entry.lead,
            entry.algorithm
        );
        if let Some(at) = entry.not_before {
            source += &format!("not_before = \"{}\"\n", UnixTime::from_secs(at));
        }
    }
    host.configure(&source, "");
    // A run over a second's edge is repeated: then it is not known which second it took.
    for _ in 0..20 {
        let before = unix_now();
        host.once_ok();
        if before == unix_now() {
            let entries: Vec<Value> = entries.iter().map(Entry::for_oracle).collect();
            let phase = host.status()["phase"].as_str().unwrap().to_owned();
            assert_eq!(host.persisted_keys(), Some(host.kernel()), "file and kernel hold the same");
            return (json!({"now": before, "entries": entries}), phase, host.kernel());
        }
    }
    panic!("no run within one second");
}

fn assert_oracle_agrees(runs: Vec<(Value, String, String)>) {
    let cases: Vec<Value> = runs.iter().map(|(case, ..)| case.clone()).collect();
    for ((case, phase, kernel), expected) in runs.into_iter().zip(oracle(&cases)) {
        assert_eq!((phase, kernel), expected, "{case}");
    }
}

#[test]
fn the_kernel_holds_what_the_oracle_derives() {
    skip_unless!(need_netns() && need_tool(PYTHON.trim_start_matches("/usr/bin/")));
    let mut runs = Vec::new();
    let mut phases = [0, 0];
    for (index, interval) in (0u8..).zip([10, 600, 5_400, 86_400, 604_800]) {
        let left = interval - unix_now() % interval;
        // One lead that has begun already and one that has not, where the interval leaves room for it.
        for (staged, lead) in [(1, left + 60), (0, left.saturating_sub(60)), (2, interval / 2)] {
            if lead == 0 || lead >= interval {
                continue;
            }
            for algorithm in ["hkdf-sha256", "tofurkey"] {
                let secret = secret_bytes(index).into_iter().cycle().take(32 + 97 * usize::from(index)).collect();
                let run = run(&[Entry { algorithm, secret, interval, lead, not_before: None }]);
                if staged < 2 {
                    assert_eq!(run.1, ["steady", "staged"][staged], "{}", run.0);
                    phases[staged] += 1;
                }
                runs.push(run);
            }
        }
    }
    assert!(phases.iter().all(|count| *count >= 2), "both phases were seen: {phases:?}");
    assert_oracle_agrees(runs);
}

#[test]
fn a_new_entry_takes_over_as_the_oracle_says() {
    skip_unless!(need_netns());
    let mut runs = Vec::new();
    // Seconds from now to the joint: behind us by one segment or more, just passed, just ahead, far ahead.
    for ahead in [-7_000_i64, -500, -30, 30, 500, 2_500, 9_000] {
        for algorithms in [["hkdf-sha256", "hkdf-sha256"], ["tofurkey", "hkdf-sha256"]] {
            let old = Entry {
                algorithm: algorithms[0],
                secret: secret_bytes(2),
                interval: 3_600,
                lead: 1_800,
                not_before: None,
            };
            let joint = unix_now().checked_add_signed(ahead).unwrap();
            let new = Entry {
                algorithm: algorithms[1],
                secret: secret_bytes(3),
                interval: 1_800,
                lead: 600,
                not_before: Some(joint),
            };
            runs.push(run(&[old, new]));
        }
    }
    assert_oracle_agrees(runs);
}
