//! `tests/run` and `.ci/run` count right, never call nothing a success, and see what is left behind: against a made-up cargo.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tfo_testbed::output::stdout;
use tfo_testbed::skip_unless;

/// Exit status and last line of one of our scripts; `nextest` is what `cargo nextest` does, `build` what a build and `cargo doc` do.
fn run(script: &str, args: &[&str], nextest: &str, build: &str) -> (Option<i32>, String) {
    let dir = tfo_testbed::scratch();
    let program = |name: &str, body: &str| {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/bash\n{body}")).expect("the scratch directory is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the scratch directory is ours");
    };
    let metadata = r#"{"packages":[{"targets":[{"name":"once","kind":["bench"]},{"name":"a","kind":["lib"]}]}]}"#;
    // `summary TEXT` prints what nextest prints at its end.
    let cargo = format!(
        "summary() {{ echo \"     Summary [   1.2s] 9 tests run: $1\"; }}\n\
         case $1 in\nmetadata) echo '{metadata}' ;;\ntest|doc) {build} ;;\nnextest) {nextest} ;;\nbench) [ \"$TFO_SMOKE\" = 1 ] ;;\nmutants) echo one ;;\nesac\n"
    );
    program("cargo", &cargo);
    program("rustup", "echo clippy-driver\n");
    program("cargo-mutants", "");
    // Nothing is installed: all tools are there, as far as the script sees.
    program("id", "echo 1000\n");
    let mut path = dir.path().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").expect("PATH is set"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let mut command = Command::new(script);
    command
        .args(args)
        .env("PATH", path)
        .env("TFO_RUN_ROOT", dir.path())
        .env("CARGO_TARGET_DIR", dir.path().join("target"));
    let output = command.output().expect("the script starts");
    let text = stdout(&output);
    (output.status.code(), text.lines().last().unwrap_or_default().to_owned())
}

/// What a run of tests prints and does, and what the two scripts make of it.
const CASES: [(&str, &str, i32, i32); 10] = [
    ("summary '7 passed, 0 skipped'", "7 passed, 0 failed, 0 skipped", 0, 0),
    ("summary '7 passed (2 slow, 1 leaky), 0 skipped'", "7 passed, 0 failed, 0 skipped", 0, 0),
    ("summary '7 passed, 2 failed, 0 skipped'; exit 100", "7 passed, 2 failed, 0 skipped", 1, 1),
    ("summary '7 passed, 1 failed, 1 timed out, 0 skipped'; exit 100", "7 passed, 2 failed, 0 skipped", 1, 1),
    ("summary '3 passed, 1 skipped'", "3 passed, 0 failed, 1 skipped", 0, 1),
    (
        r"summary '3 passed, 0 skipped'; printf 'a::b\tno root\n' >> $TFO_SKIP_LOG",
        "2 passed, 0 failed, 1 skipped",
        0,
        1,
    ),
    (
        r"summary '3 passed, 0 skipped'; printf 'a\tx\na\ty\nb\tx\n' >> $TFO_SKIP_LOG",
        "1 passed, 0 failed, 2 skipped",
        0,
        1,
    ),
    // Nothing ran, or nothing but skips; a runner that died.
    ("exit 101", "0 passed, 1 failed, 0 skipped", 1, 1),
    ("summary '0 passed, 0 skipped'", "0 passed, 1 failed, 0 skipped", 1, 1),
    (r"summary '1 passed, 0 skipped'; printf 'a\tx\n' >> $TFO_SKIP_LOG", "0 passed, 1 failed, 1 skipped", 1, 1),
];

#[test]
fn the_summary_tells_what_happened() {
    skip_unless!(tfo_testbed::need_tool("awk"));
    for (nextest, summary, run_status, ci_status) in CASES {
        assert_eq!(run("tests/run", &[], nextest, ":"), (Some(run_status), summary.to_owned()), "{nextest}");
        assert_eq!(run(".ci/run", &[], nextest, ":"), (Some(ci_status), summary.to_owned()), ".ci/run: {nextest}");
    }
}

/// A program of the build that outlives the tests, for longer than the script waits on a busy machine.
const STILL_RUNS: &str = "mkdir -p $CARGO_TARGET_DIR; cp /bin/sleep $CARGO_TARGET_DIR/tfo-agent; \
                          $CARGO_TARGET_DIR/tfo-agent 30 > /dev/null 2>&1 &";

#[test]
fn a_warning_a_broken_build_wrong_documentation_and_what_is_left_behind_each_count_as_one_failed() {
    skip_unless!(tfo_testbed::need_tool("awk"));
    let ran = "summary '3 passed, 0 skipped'";
    let one_failed =
        |ended: (Option<i32>, String)| assert_eq!(ended, (Some(1), "3 passed, 1 failed, 0 skipped".to_owned()));
    one_failed(run("tests/run", &[], ran, "echo 'warning: unused variable'"));
    one_failed(run("tests/run", &[], ran, "exit 101"));
    // Documentation that is wrong, beside a build that is right.
    one_failed(run("tests/run", &["--long"], ran, "[ $1 != doc ]"));
    for left in ["mkdir -p $TFO_RUN_ROOT/tmp/tfo-test-1", "mkdir -p $TFO_RUN_ROOT/run/netns/tfo-test-1", STILL_RUNS] {
        one_failed(run("tests/run", &[], &format!("{left}\n{ran}"), ":"));
    }
}

#[test]
fn each_size_has_its_switch_and_full_runs_the_benchmarks() {
    skip_unless!(tfo_testbed::need_tool("python3"));
    for (args, size, passed) in [(&[][..], "short", 3), (&["--long"], "long", 3), (&["--full"], "full", 5)] {
        let nextest = format!("[ \"$TFO_SIZE\" = {size} ] && summary '3 passed, 0 skipped'");
        let ended = run("tests/run", args, &nextest, ":");
        assert_eq!(ended, (Some(0), format!("{passed} passed, 0 failed, 0 skipped")), "{args:?}");
    }
    assert_eq!(run("tests/run", &["--everything"], "summary '3 passed, 0 skipped'", ":").0, Some(2));
}
