//! The repository as such: the contract of the API, the shipped configurations, the layout, `tests/run`, the testbed
//! itself; and read as text: pages and links, citations, words.

#[cfg(test)]
mod api;
#[cfg(test)]
mod attacks;
mod citations;
#[cfg(test)]
mod config_examples;
#[cfg(test)]
mod layout;
mod pages;
#[cfg(test)]
mod recipes;
#[cfg(test)]
mod runner;
#[cfg(test)]
mod testbed;
mod words;

use std::path::{Path, PathBuf};
use std::process::Command;
use tfo_testbed::output::{stderr, stdout};

/// The top level of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files that git tracks, as paths from the top level.
fn tracked() -> Vec<String> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().expect("git is installed");
    let names = stdout(&listed);
    let names: Vec<String> = names.split('\0').filter(|name| root().join(name).is_file()).map(str::to_owned).collect();
    assert!(names.len() > 100, "git lists {} files: {}", names.len(), stderr(&listed));
    names
}

/// The text of a tracked file; none if it is not text.
fn text(file: &str) -> Option<String> {
    std::fs::read_to_string(root().join(file)).ok()
}

/// A file from the top level.
fn page(file: &str) -> PathBuf {
    root().join(file)
}
