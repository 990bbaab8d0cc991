//! Help and completions.

use std::process::{Command, Stdio};

use super::fake::text;
use tfo_testbed::{need_tool, scratch, skip_unless};

fn ctl(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(tfo_testbed::program("tfoctl")).args(arguments).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The fleet commands of docs/reference/commands.md.
const COMMANDS: [&str; 17] = [
    "pools", "nodes", "rotate", "pause", "resume", "abort", "advance", "import", "recover", "exclude", "include",
    "deny", "allow", "forget", "expect", "audit", "watch",
];

#[test]
fn help_names_every_command_and_exit_code() {
    let (code, help, _) = ctl(&["--help"]);
    assert_eq!(code, Some(0));
    for command in COMMANDS.iter().chain(&["pki", "completions"]) {
        assert!(help.contains(&format!("  {command} ")), "{command}: {help}");
        assert_eq!(ctl(&[command, "--help"]).0, Some(0), "{command}");
    }
    assert!(help.contains("4 not converged in time"), "{help}");
    assert_eq!(ctl(&[]).0, Some(2));
}

#[test]
fn completions_are_made_for_three_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, stderr) = ctl(&["completions", shell]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(script.contains("rotate") && script.contains("key-file"), "{shell}");
    }
    assert_eq!(ctl(&["completions", "cmd"]).0, Some(2));
    skip_unless!(need_tool("bash"));
    let dir = scratch();
    let file = dir.path().join("tfoctl.bash");
    std::fs::write(&file, ctl(&["completions", "bash"]).1).unwrap();
    let file = file.to_str().unwrap();
    // As bash asks when Tab is pressed after `tfoctl no`.
    let ask = format!(
        ". {file}; COMP_WORDS=(tfoctl no); COMP_CWORD=1; COMP_LINE='tfoctl no'; COMP_POINT=9; _tfoctl tfoctl no tfoctl; \
         echo \"${{COMPREPLY[@]}}\""
    );
    let output = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
    assert_eq!(text(&output.stdout).trim(), "nodes", "{}", text(&output.stderr));
}
