//! `tests/run` and `.ci/run` count right, never call nothing a success, and see what is left behind: against a made-up cargo.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tfo_testbed::output::stdout;
use tfo_testbed::skip_unless;

/// Exit status and last line of one of our scripts; `nextest` is what `cargo nextest` does, `build` what a build, `cargo doc` and
/// `cargo deny` do.
fn run(script: &str, args: &[&str], nextest: &str, build: &str) -> (Option<i32>, String) {
    run_in(Path::new(env!("CARGO_MANIFEST_DIR")), script, args, nextest, build)
}

/// The same of the script in this checkout.
fn run_in(checkout: &Path, script: &str, args: &[&str], nextest: &str, build: &str) -> (Option<i32>, String) {
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
         case $1 in\nmetadata) echo '{metadata}' ;;\ntest|doc|deny) {build} ;;\nnextest) {nextest} ;;\nbench) [ \"$TFO_SMOKE\" = 1 ] ;;\nmutants) case \" $* \" in *' --list '*) echo one ;; *) {build} ;; esac ;;\nesac\n"
    );
    program("cargo", &cargo);
    program("rustup", "echo clippy-driver\n");
    program("cargo-mutants", "");
    program("cargo-deny", "");
    // Nothing is installed: all tools are there, as far as the script sees.
    program("id", "echo 1000\n");
    let mut path = dir.path().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").expect("PATH is set"));
    let mut command = Command::new(checkout.join(script));
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
const CASES: [(&str, &str, i32, i32); 9] = [
    ("summary '7 passed, 0 skipped'", "7 passed, 0 failed, 0 skipped", 0, 0),
    ("summary '7 passed (2 slow, 1 leaky), 0 skipped'", "7 passed, 0 failed, 0 skipped", 0, 0),
    ("summary '7 passed, 2 failed, 0 skipped'; exit 100", "7 passed, 2 failed, 0 skipped", 1, 1),
    ("summary '7 passed, 1 failed, 1 timed out, 0 skipped'; exit 100", "7 passed, 2 failed, 0 skipped", 1, 1),
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

#[test]
fn what_the_short_run_leaves_out_is_skipped_nowhere_else() {
    skip_unless!(tfo_testbed::need_tool("awk"));
    let nextest = |profile: &str| format!("[ \"${{@: -1}}\" = {profile} ] && summary '3 passed, 1 skipped'");
    let whole = || (Some(0), "3 passed, 0 failed, 0 skipped".to_owned());
    assert_eq!(run("tests/run", &[], &nextest("short"), ":"), whole());
    let skipped = |status| (Some(status), "3 passed, 0 failed, 1 skipped".to_owned());
    assert_eq!(run("tests/run", &["--long"], &nextest("default"), ":"), skipped(0));
    assert_eq!(run(".ci/run", &[], &nextest("default"), ":"), skipped(1));
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
    // A crate that deny.toml refuses.
    one_failed(run("tests/run", &["--long"], ran, "[ $1 != deny ]"));
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
    // A mutant that no unit test notices, and one that hangs, which a test has noticed.
    for (status, summary) in [(2, "4 passed, 1 failed, 0 skipped"), (3, "5 passed, 0 failed, 0 skipped")] {
        let mutants = format!("[ $1 != mutants ] || exit {status}");
        let ended = run("tests/run", &["--full"], "summary '3 passed, 0 skipped'", &mutants);
        assert_eq!(ended, (Some(i32::from(status == 2)), summary.to_owned()));
    }
    assert_eq!(run("tests/run", &["--everything"], "summary '3 passed, 0 skipped'", ":").0, Some(2));
}

/// Rows of a page of soak hours: simulated and real; and what it says of all of them.
fn hours(page: &str) -> (Vec<(f64, f64)>, String) {
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| 2")?.split('|').map(str::trim).collect();
        Some((cells[2].parse().expect("hours"), cells[3].parse().expect("hours")))
    };
    let told = page.lines().find(|line| line.starts_with("**In all")).expect("the page has a sum");
    (page.lines().filter_map(row).collect(), told.to_owned())
}

fn told(rows: &[(f64, f64)]) -> String {
    let (simulated, real): (f64, f64) = rows.iter().fold((0.0, 0.0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
    format!("**In all: {simulated:.0} simulated hours, {real:.1} real hours.**")
}

#[test]
fn hours_of_soak_are_added_to_the_page_unless_something_has_failed() {
    skip_unless!(tfo_testbed::need_tool("awk") && tfo_testbed::need_tool("python3"));
    const PAGE: &str = "docs/reference/soak.md";
    let (own, checkout) = (Path::new(env!("CARGO_MANIFEST_DIR")), tfo_testbed::scratch());
    for file in ["tests/run", "config/release/tools", PAGE] {
        let copy = checkout.path().join(file);
        fs::create_dir_all(copy.parent().expect("it is below the checkout")).expect("the scratch directory is ours");
        fs::copy(own.join(file), copy).expect("the scratch directory is ours");
    }
    let page = || fs::read_to_string(checkout.path().join(PAGE)).expect("it is there");
    let (mut rows, said) = hours(&page());
    assert_eq!(said, told(&rows), "{PAGE}");
    let before = page();
    let soaked = r"printf 'simulated\t7200\nreal\t1800\nreal\t900\n' >> $TFO_SOAK_LOG; summary";
    for (summary, more) in [
        ("'2 passed, 1 failed, 0 skipped'; exit 100", None),
        ("'3 passed, 0 skipped'", Some((2.0, 0.75))),
        ("'3 passed, 0 skipped'", Some((2.0, 0.75))),
    ] {
        let (status, last) = run_in(checkout.path(), "tests/run", &["--full"], &format!("{soaked} {summary}"), ":");
        assert_eq!(status == Some(0), more.is_some(), "{last}");
        rows.extend(more);
        assert_eq!(hours(&page()), (rows.clone(), told(&rows)));
        assert!(more.is_some() || page() == before, "a run that failed has added its hours");
    }
    // All else is as it was.
    let text = |page: &str| -> Vec<String> {
        let is_sum = |line: &&str| line.starts_with("| 2") || line.starts_with("**In all");
        page.lines().filter(|line| !is_sum(line)).map(str::to_owned).collect()
    };
    assert_eq!(text(&page()), text(&before));
}
