//! The generated pages of docs/reference are what the generator writes today, and its command line can be asked for help.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use support::scratch;

/// How the pages are made again.
const MAKE: &str = "cargo run --bin tfo-manual -- --docs docs/reference";

fn manual(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tfo-manual"));
    command.current_dir(directory).args(arguments).output().expect("tfo-manual can be run")
}

#[test]
fn the_generated_pages_are_up_to_date() {
    let made = scratch();
    let output = manual(made.path(), &["--docs", "."]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |path: &Path| {
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}; remedy: {MAKE}", path.display()))
    };
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference");
    for page in ["commands.md", "configuration.md"] {
        let (new, old) = (read(&made.path().join(page)), read(&committed.join(page)));
        let differs = new.lines().zip(old.lines()).position(|(new, old)| new != old);
        assert!(
            new == old,
            "docs/reference/{page} differs from the programs and config/*.toml from line {} on; remedy: {MAKE}",
            differs.map_or_else(|| new.lines().count().min(old.lines().count()) + 1, |line| line + 1)
        );
    }
}

#[test]
fn help_prints_usage_and_makes_no_directory() {
    let here = scratch();
    let output = manual(here.path(), &["--help"]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("Usage: tfo-manual"), "{printed}");
    assert!(manual(here.path(), &["--no-such-option"]).status.code() == Some(2));
    assert_eq!(std::fs::read_dir(here.path()).expect("it is there").count(), 0, "something was written");
}
