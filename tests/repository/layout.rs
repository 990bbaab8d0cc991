//! The walls of the workspace, as far as the compiler does not hold them: who may depend on whom, and files that can be
//! read in one sitting.
//!
//! `unsafe_code = "deny"` of the workspace keeps `unsafe` in src/host/runtime/sys.rs, clippy.toml keeps the clock in
//! src/host/runtime/clock.rs.

use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file without its tests, in lines.  The aim is 400.
const FILE_LINES_MAX: usize = 500;

/// What the pure crates must not have: clocks, sockets, logs, randomness.
const IMPURE: [&str; 8] = ["libc", "reqwest", "ring", "rusqlite", "rustix", "socket2", "tokio", "tracing"];

/// The programs: no crate depends on one of them, apart from the root package, which is their `main`.
const PROGRAMS: [&str; 4] = ["tfo-agent", "tfo-coordinator", "tfo-ctl", "tfo-demo"];

/// Names of what the `[dependencies]` of a manifest list.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut section = "";
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section == "[dependencies]" && line.starts_with(char::is_alphabetic) {
            names.extend(line.split(['.', ' ', '=']).next());
        }
    }
    names
}

/// What is wrong with the dependencies of a crate.
fn broken_walls(name: &str, manifest: &str) -> Vec<String> {
    let is_wrong = |dependency: &&str| match name {
        "model" => dependency.starts_with("tfo-") || IMPURE.contains(dependency),
        "engine" => (dependency.starts_with("tfo-") && *dependency != "tfo-model") || IMPURE.contains(dependency),
        "wire" => dependency.starts_with("tfo-") && *dependency != "tfo-model",
        _ => PROGRAMS.contains(dependency),
    };
    dependencies(manifest).into_iter().filter(is_wrong).map(|wrong| format!("{name} depends on {wrong}")).collect()
}

/// Lines before the file's tests.
fn lines(source: &str) -> usize {
    source.split("\n#[cfg(test)]\nmod tests").next().unwrap_or(source).lines().count()
}

/// All Rust files below a directory.
fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_crate_depends_on_what_it_must_not_know() {
    let mut crates = 0;
    for entry in fs::read_dir(tfo_testbed::repository("src")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(manifest) = fs::read_to_string(path.join("Cargo.toml")) else { continue };
        assert_eq!(broken_walls(path.file_name().unwrap().to_str().unwrap(), &manifest), [""; 0]);
        crates += 1;
    }
    assert!(crates >= 10, "the crates have moved: {crates}");
}

/// What the page has of a crate's dependencies on our own crates: the third column of its row.
fn documented<'a>(page: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let row = page.lines().find_map(|line| line.strip_prefix(&format!("| `{name}` | ")))?;
    let ours = row.split(" | ").nth(1)?;
    Some(ours.split(", ").filter(|name| *name != "–").collect())
}

#[test]
fn the_architecture_page_has_every_crate_with_its_dependencies() {
    let page = fs::read_to_string(tfo_testbed::repository("docs/architecture.md")).unwrap();
    let table = page.split_once("\n## Crates\n").unwrap().1;
    for entry in fs::read_dir(tfo_testbed::repository("src")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(manifest) = fs::read_to_string(path.join("Cargo.toml")) else { continue };
        let name = path.file_name().unwrap().to_str().unwrap();
        let mut ours: Vec<&str> = dependencies(&manifest).iter().filter_map(|name| name.strip_prefix("tfo-")).collect();
        ours.sort_unstable();
        assert_eq!(documented(table, name), Some(ours), "the row of {name} in docs/architecture.md");
    }
    assert_eq!(documented("| `a` | 12 | b, c | serde |\n", "a"), Some(vec!["b", "c"]));
    assert_eq!(documented("| `a` | 12 | – | serde |\n", "a"), Some(vec![]));
    assert_eq!(documented("| `a` | 12 | – | serde |\n", "b"), None);
}

#[test]
fn a_dependency_through_a_wall_is_found() {
    let of = |name: &str| format!("[package]\nname = \"x\"\n\n[dependencies]\n{name}.workspace = true\n[lints]\n");
    for (crate_name, dependency) in [
        ("model", "tfo-engine"),
        ("model", "tokio"),
        ("engine", "tfo-wire"),
        ("engine", "rustix"),
        ("wire", "tfo-engine"),
        ("store", "tfo-coordinator"),
        ("agent", "tfo-ctl"),
    ] {
        assert_eq!(broken_walls(crate_name, &of(dependency)).len(), 1, "{crate_name}: {dependency}");
    }
    for (crate_name, dependency) in [("engine", "tfo-model"), ("wire", "tfo-model"), ("agent", "tokio")] {
        assert_eq!(broken_walls(crate_name, &of(dependency)), [""; 0]);
    }
    assert_eq!(
        dependencies("[dependencies]\na = \"1\"\nb = { path = \"b\" }\n[dev-dependencies]\nc = \"1\"\n"),
        ["a", "b"]
    );
}

#[test]
fn every_file_can_be_read_in_one_sitting() {
    let mut files = Vec::new();
    ["src", "benches"].iter().for_each(|dir| rust_files(&tfo_testbed::repository(dir), &mut files));
    let count = |file: &PathBuf| lines(&fs::read_to_string(file).unwrap());
    let long: Vec<_> = files.iter().filter(|file| count(file) > FILE_LINES_MAX).collect();
    assert!(!files.is_empty() && long.is_empty(), "more than {FILE_LINES_MAX} lines without tests: {long:?}");
    assert_eq!(lines("fn f() {}\n\n#[cfg(test)]\nmod tests {\n}\n"), 1);
}
