//! Help and completions.

use std::process::{Command, Stdio};

use super::fake::text;

fn ctl(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(tfo_testbed::program("tfoctl")).args(arguments).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The fleet commands of docs/reference/commands.md.
const COMMANDS: [&str; 20] = [
    "pools",
    "nodes",
    "rotate",
    "pause",
    "resume",
    "abort",
    "advance",
    "import",
    "recover",
    "exclude",
    "include",
    "deny",
    "allow",
    "forget",
    "move",
    "expect",
    "audit",
    "watch",
    "coordinators",
    "contexts",
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
    for part in [
        "\nLook at the fleet:\n",
        "\nThis host:\n",
        "\nExamples:\n",
        "\nFiles:\n",
        "\nEnvironment:\n",
        "  TFO_CONTEXT\n",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
    assert!(!ctl(&["keygen", "--help"]).1.contains("--pool") && ctl(&["nodes", "--help"]).1.contains("--pool"));
    assert_eq!(ctl(&[]).0, Some(2));
}

#[test]
fn completions_are_made_for_three_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, stderr) = ctl(&["completions", shell]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(script.contains("TFOCTL_COMPLETE") && script.contains(shell), "{shell}: {script}");
    }
    assert_eq!(ctl(&["completions", "cmd"]).0, Some(2));
}
