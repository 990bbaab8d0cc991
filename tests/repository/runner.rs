//! `tests/run` and `.ci/run` count right and never call nothing a success: both against a made-up cargo.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Exit status and last line of a script of ours, with `cargo_test` as what `cargo test` does.
fn run(script: &str, args: &[&str], cargo_test: &str) -> (Option<i32>, String) {
    let dir = tfo_testbed::scratch();
    let cargo = dir.path().join("cargo");
    let metadata = r#"{"packages":[{"targets":[{"name":"once","kind":["bench"]},{"name":"a","kind":["lib"]}]}]}"#;
    let body = format!(
        "#!/bin/bash\nstep=$1\nresult() {{ echo \"test result: $1. $2 passed; $3 failed; $4 ignored; 0 measured; 0 filtered out; finished in 0.00s\"; }}\n\
         case $step in\nmetadata) echo '{metadata}' ;;\ntest) {cargo_test} ;;\nbench) [ \"$TFO_SMOKE\" = 1 ] ;;\nesac\n"
    );
    fs::write(&cargo, body).expect("the scratch directory is ours");
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).expect("the scratch directory is ours");
    let mut path = dir.path().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").expect("PATH is set"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let output = Command::new(script).args(args).env("PATH", path).output().expect("the script starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text.lines().last().unwrap_or_default().to_owned())
}

/// What a run of tests prints and does, and what the two scripts make of it.
const CASES: [(&str, &str, i32, i32); 9] = [
    ("result ok 3 0 0; result ok 4 0 0", "7 passed, 0 failed, 0 skipped", 0, 0),
    ("result ok 3 0 0; result FAILED 4 2 0; exit 101", "7 passed, 2 failed, 0 skipped", 1, 1),
    ("result ok 3 0 1", "3 passed, 0 failed, 1 skipped", 0, 1),
    (r"result ok 3 0 0; printf 'a::b\tno root\n' >> $TFO_SKIP_LOG", "2 passed, 0 failed, 1 skipped", 0, 1),
    (r"result ok 3 0 0; printf 'a\tx\na\ty\nb\tx\n' >> $TFO_SKIP_LOG", "1 passed, 0 failed, 2 skipped", 0, 1),
    // A binary that crashed, a build that failed.
    ("result ok 3 0 0; exit 101", "3 passed, 1 failed, 0 skipped", 1, 1),
    ("exit 101", "0 passed, 1 failed, 0 skipped", 1, 1),
    // Nothing ran, or nothing but skips.
    ("result ok 0 0 0", "0 passed, 1 failed, 0 skipped", 1, 1),
    (r"result ok 1 0 0; printf 'a\tx\n' >> $TFO_SKIP_LOG", "0 passed, 1 failed, 1 skipped", 1, 1),
];

#[test]
fn the_summary_tells_what_happened() {
    tfo_testbed::skip_unless!(tfo_testbed::need_tool("awk") && tfo_testbed::need_tool("python3"));
    for (cargo_test, summary, run_status, ci_status) in CASES {
        assert_eq!(run("tests/run", &[], cargo_test), (Some(run_status), summary.to_owned()), "{cargo_test}");
        assert_eq!(run(".ci/run", &[], cargo_test), (Some(ci_status), summary.to_owned()), ".ci/run: {cargo_test}");
    }
}

#[test]
fn full_sets_its_switch_and_runs_the_benchmarks() {
    tfo_testbed::skip_unless!(tfo_testbed::need_tool("awk") && tfo_testbed::need_tool("python3"));
    let cargo_test = r#"[ "${TFO_FULL-}" = 1 ] && result ok 3 0 0"#;
    assert_eq!(run("tests/run", &["--full"], cargo_test), (Some(0), "4 passed, 0 failed, 0 skipped".to_owned()));
    assert_eq!(run("tests/run", &[], cargo_test).0, Some(1));
    assert_eq!(run("tests/run", &["--everything"], "result ok 3 0 0").0, Some(2));
}
