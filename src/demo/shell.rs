//! A line that is typed on a node, as its root: the tests of migrations do what the documentation says.

use std::fs::File;
use std::process::{Command, Stdio};

use serde::Serialize;

use super::error::DemoError;
use super::node::NodeFiles;

/// What the line said goes here, so that a program which it leaves running holds no pipe of ours.
const SAID_FILE: &str = "said";

/// How a line ended.
#[derive(Debug, Serialize)]
pub(super) struct Ended {
    /// Exit code; null if a signal ended it.
    code: Option<i32>,
    /// Both outputs.
    said: String,
}

/// Runs a line in the node's namespace and directory, to its end.
pub(super) fn run(files: &NodeFiles, line: &str) -> Result<Ended, DemoError> {
    let said = files.path(SAID_FILE);
    let start = || -> std::io::Result<std::process::ExitStatus> {
        let output = File::create(&said)?;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-ec", line]).current_dir(files.path(""));
        shell.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).status()
    };
    let status = files.namespace.within(start)?.map_err(DemoError::step(format!("type on {}", files.name())))?;
    let said = std::fs::read(said).map_err(DemoError::step("read what was said"))?;
    Ok(Ended { code: status.code(), said: String::from_utf8_lossy(&said).into_owned() })
}
