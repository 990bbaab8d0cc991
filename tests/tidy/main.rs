//! The walls of the package (CONTRIBUTING.md), checked on its source: what is pure stays pure, who may import
//! whom, `unsafe` in one file, files that can be read in one sitting, names that say something.
//!
//! Each rule has a test that feeds it a text which breaks it.

mod tokens;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use tokens::{Token, paths, test_code, tokens};

/// Longest source file without its test code, in lines.  The aim is 400.
const FILE_LINES_MAX: usize = 500;

/// The one file with `unsafe`.
const UNSAFE_HOME: &str = "src/host/runtime/sys.rs";

/// Pure: values in, values out.
const PURE: [&str; 3] = ["src/model/", "src/engine/", "src/kernel/text.rs"];

/// What a pure file must not name.  A path matches if it begins with one of these.
const IMPURE: [&str; 22] = [
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::os",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "std::time::SystemTime",
    "std::time::Instant",
    "SystemTime",
    "Instant",
    "tokio",
    "tracing",
    "ring",
    "rustix",
    "libc",
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
    "print",
    "println",
    "eprintln",
];

/// Of `std::net` a pure file may name addresses, which are values; everything else there is a socket.
const PURE_NET: [&str; 6] = ["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6"];

/// Programs; whatever they are made of must not know them.
const PROGRAMS: [&str; 4] = ["agent", "coordinator", "ctl", "demo"];

/// Names that say nothing, or hide a built-in crate.
const EMPTY_NAMES: [&str; 5] = ["core", "common", "util", "utils", "helpers"];

/// Which of our modules the files under a directory may name.
fn may_import(module: &str, imported: &str) -> bool {
    if module == imported {
        return true;
    }
    match module {
        "model" => false,
        "engine" => imported == "model",
        "ctl" => ["model", "kernel", "wire", "config", "crypto", "tls", "runtime"].contains(&imported),
        "agent" | "coordinator" => !PROGRAMS.contains(&imported),
        // tfo-demo is the fleet on one machine: it starts the others as programs.
        "demo" => !PROGRAMS.contains(&imported),
        "lib" | "bin" => true,
        _ => !PROGRAMS.contains(&imported),
    }
}

/// A broken rule, at its place.
#[derive(Debug)]
struct Broken {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// Everything wrong with one source file; `file` is its path in the package.
fn check(file: &str, source: &str) -> Vec<Broken> {
    let all = tokens(source);
    let tests = test_code(&all);
    let in_tests = |index: usize| tests.iter().any(|range| range.contains(&index));
    let code: Vec<Token> =
        all.iter().enumerate().filter(|(index, _)| !in_tests(*index)).map(|(_, token)| token.clone()).collect();

    let mut broken = Vec::new();
    let mut add = |line: usize, what: String| broken.push(Broken { file: file.to_owned(), line, what });
    if file != UNSAFE_HOME {
        for token in all.iter().filter(|token| token.text == "unsafe") {
            add(token.line, format!("unsafe outside {UNSAFE_HOME}"));
        }
    }
    for name in module_names(file, &all).filter(|(name, _)| EMPTY_NAMES.contains(&name.as_str())) {
        add(name.1, format!("a module named {}", name.0));
    }
    if file.starts_with("src/") {
        let test_lines: usize = tests.iter().map(|range| all[range.end - 1].line - all[range.start].line + 1).sum();
        let lines = source.lines().count() - test_lines;
        if lines > FILE_LINES_MAX {
            add(lines, format!("{lines} lines without tests, at most {FILE_LINES_MAX}"));
        }
        let pure = PURE.iter().any(|pure| file.starts_with(pure));
        for (path, line) in paths(&code) {
            let path = absolute(file, &path);
            if pure && impure(&path) {
                add(line, format!("{} in a pure module", path.join("::")));
            }
            if let [root, imported, ..] = &*path
                && root == "crate"
                && imported.chars().all(|c| c.is_lowercase() || c == '_')
                && !may_import(top_module(file), imported)
            {
                add(line, format!("{} must not know {}", top_module(file), path.join("::")));
            }
        }
    }
    broken
}

/// `agent` for src/agent/run.rs and src/agent.rs.
fn top_module(file: &str) -> &str {
    let inner = file.trim_start_matches("src/");
    inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs")
}

/// A path with `super` and `self` replaced by what they stand for in this file.
fn absolute(file: &str, path: &[String]) -> Vec<String> {
    let mut module: Vec<String> = vec!["crate".to_owned()];
    module.extend(file.trim_start_matches("src/").trim_end_matches(".rs").split('/').map(str::to_owned));
    if module.last().is_some_and(|name| name == "mod" || name == "lib") {
        module.pop();
    }
    let Some(first) = path.first().filter(|first| *first == "super" || *first == "self") else { return path.to_vec() };
    let ups = if first == "self" { 0 } else { path.iter().take_while(|segment| *segment == "super").count() };
    module.truncate(module.len().saturating_sub(ups).max(1));
    module.extend(path.iter().skip(ups.max(1)).cloned());
    module
}

fn impure(path: &[String]) -> bool {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    if let ["std" | "core", "net", what, ..] = path[..] {
        return !PURE_NET.contains(&what);
    }
    let begins = |with: &str| with.split("::").enumerate().all(|(i, segment)| path.get(i) == Some(&segment));
    path[..] == ["std", "net"] || IMPURE.iter().any(|with| begins(with)) || path.contains(&"SystemRandom")
}

/// Names of the modules that a file is or declares, with lines.
fn module_names<'a>(file: &'a str, tokens: &'a [Token]) -> impl Iterator<Item = (String, usize)> + 'a {
    let own = file.trim_end_matches(".rs").split('/').map(|name| (name.to_owned(), 1));
    let declared = tokens.windows(2).filter(|pair| pair[0].text == "mod");
    own.chain(declared.map(|pair| (pair[1].text.clone(), pair[1].line)))
}

/// Every Rust file below a directory of the package.
fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory").flatten().map(|entry| entry.path()) {
        if entry.is_dir() && entry.file_name().is_none_or(|name| name != "target") {
            rust_files(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

#[test]
fn the_package_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "tests", "benches"].map(|dir| root.join(dir)).iter().filter(|dir| dir.exists()) {
        rust_files(dir, &mut files);
    }
    let names: Vec<String> =
        files.iter().map(|file| file.strip_prefix(root).unwrap().to_str().unwrap().to_owned()).collect();
    // The rules are about these: if they move, the rules have to follow.
    for home in PURE.iter().chain([&UNSAFE_HOME]) {
        assert!(names.iter().any(|name| name.starts_with(home)), "{home} is gone");
    }
    let broken: Vec<String> = names
        .iter()
        .flat_map(|name| check(name, &fs::read_to_string(root.join(name)).unwrap()))
        .map(|broken| broken.to_string())
        .collect();
    assert!(broken.is_empty(), "{} broken rules:\n{}", broken.len(), broken.join("\n"));
}

/// What `check` says, as text.
fn said(file: &str, source: &str) -> Vec<String> {
    check(file, source).iter().map(Broken::to_string).collect()
}

#[test]
fn impure_names_are_found_in_pure_files() {
    let cases = [
        "use std::fs;",
        "use std::{fmt, fs::File};",
        "use std::{fmt, net::{IpAddr, TcpStream}};",
        "use ::std::env;",
        "fn f() { std::env::var(\"X\"); }",
        "fn f() -> u8 { ::std::process::id() }",
        "use tokio::sync::mpsc;",
        "fn f() { tracing::info!(\"x\"); }",
        "use std::time::{Duration, SystemTime};",
        "fn f() { Instant::now(); }",
        "use ring::rand::SystemRandom;",
        "use std::net::*;",
        "use std::net;",
        "fn f() { println!(\"x\"); }",
        "mod inner { use std::thread; }",
        "fn f<'a>(x: &'a str) { let c = '\"'; rustix::fs::stat(x); }",
    ];
    for case in cases {
        for file in ["src/model/a.rs", "src/engine/b/c.rs", "src/kernel/text.rs"] {
            assert_eq!(said(file, case).len(), 1, "{case} in {file}: {:?}", said(file, case));
        }
        assert_eq!(said("src/kernel/procfs.rs", case), [""; 0], "{case}");
    }
}

#[test]
fn pure_code_comments_strings_and_tests_are_left_alone() {
    let source = r##"
        //! Reads no clock: not `SystemTime::now`, no std::fs.
        use std::net::{IpAddr, Ipv4Addr};
        use std::{fmt, time::Duration, collections::{BTreeMap, BTreeSet as Set}};
        use super::key::TfoKey;
        /* use std::fs; /* nested */ use tokio; */
        const TEXT: &str = "std::fs::read \" tokio::main";
        const RAW: &str = r#"use std::env; " unsafe"#;
        fn lifetime<'a>(c: &'a char) -> bool { *c == '\'' || *c == '"' || *c == b'\n' as char }
        #[cfg(test)]
        mod tests {
            use std::fs;
            fn f() { tokio::spawn(); if true { } }
        }
    "##;
    assert_eq!(said("src/model/a.rs", source), [""; 0]);
    // Test code ends with its item.
    let after = format!("{source} fn g() {{ std::fs::read(\"x\"); }}");
    assert_eq!(said("src/model/a.rs", &after), ["src/model/a.rs:15: std::fs::read in a pure module"]);
}

#[test]
fn forbidden_imports_between_modules_are_found() {
    let cases = [
        ("src/agent/run.rs", "use crate::coordinator::driver;"),
        ("src/coordinator/driver.rs", "use crate::agent;"),
        ("src/coordinator/driver.rs", "use super::super::agent::run;"),
        ("src/coordinator.rs", "use super::agent::run;"),
        ("src/coordinator/a/mod.rs", "use super::super::agent::run;"),
        ("src/ctl/commands.rs", "fn f() { crate::store::open() }"),
        ("src/ctl/commands.rs", "use crate::{model::key, engine::schedule};"),
        ("src/model/key.rs", "use crate::crypto::fingerprint;"),
        ("src/engine/schedule.rs", "use crate::kernel::text;"),
        ("src/kernel/procfs.rs", "use crate::agent::status;"),
        ("src/demo/fleet.rs", "use crate::agent::run;"),
    ];
    for (file, case) in cases {
        assert_eq!(said(file, case).len(), 1, "{case} in {file}: {:?}", said(file, case));
    }
    let allowed = [
        ("src/ctl/commands.rs", "use crate::{model, kernel::text, wire, config, crypto, tls, ctl::report};"),
        ("src/agent/run.rs", "use crate::{engine, kernel, runtime, agent::status}; use super::source;"),
        ("src/engine/schedule.rs", "use crate::model::key::TfoKey; use super::backoff;"),
        ("src/bin/tfo-agent.rs", "fn main() { tfo_agent::main() }"),
    ];
    for (file, case) in allowed {
        assert_eq!(said(file, case), [""; 0], "{case} in {file}");
    }
}

#[test]
fn unsafe_long_files_and_empty_names_are_found() {
    assert_eq!(said("src/kernel/a.rs", "fn f() { unsafe { g() } }").len(), 1);
    assert_eq!(said("tests/a.rs", "#[cfg(test)] mod t { unsafe fn f() {} }").len(), 1);
    assert_eq!(said("src/host/runtime/sys.rs", "fn f() { unsafe { g() } }"), [""; 0]);
    assert_eq!(said("src/kernel/a.rs", "#![deny(unsafe_code)] // unsafe"), [""; 0]);

    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "// x\n".repeat(1000));
    let body = |lines| format!("{}{tests}", "fn f() {}\n".repeat(lines));
    assert_eq!(said("src/kernel/a.rs", &body(FILE_LINES_MAX)), [""; 0]);
    assert_eq!(said("src/kernel/a.rs", &body(FILE_LINES_MAX + 1)).len(), 1);

    for (file, source) in [("src/utils.rs", ""), ("src/core/mod.rs", ""), ("src/a.rs", "mod common;")] {
        assert_eq!(said(file, source).len(), 1, "{file} {source}");
    }
}
