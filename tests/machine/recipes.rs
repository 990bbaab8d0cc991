//! The Ansible roles and the Puppet modules on a machine, and one run of each tool.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use tfo_testbed::machine::Machine;
use tfo_testbed::output::said;

/// Where each of the tools looks in root's home, and below config/.
const PLACES: [(&str, &str); 2] = [("ansible", "roles"), ("puppet", "modules")];

/// Brings a role and a module of one name to a machine, as a checkout does.
pub(crate) fn bring(machine: &Machine, name: &str) {
    for (tool, place) in PLACES {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(tool).join(name);
        let to = format!("/root/{place}/{name}");
        for file in files_in(&from) {
            let inside = format!("{to}/{}", file.strip_prefix(&from).expect("it is in there").display());
            let directory = Path::new(&inside).parent().expect("a file has one").to_owned();
            machine.run(&["mkdir", "-p", directory.to_str().expect("an ASCII path")]);
            machine.write_new(&inside, &fs::read_to_string(&file).expect("it was listed"));
        }
    }
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    paths.flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}

/// One run of a role; gives how many tasks changed something, and everything that was printed.
#[track_caller]
pub(crate) fn play(machine: &Machine, role: &str, variables: &Value, options: &[&str]) -> (u32, String) {
    // As from a vault: in a file, not in the argument list.
    machine.write_new("/root/variables.json", &variables.to_string());
    machine.write_new("/root/play.yml", &format!("- hosts: all\n  gather_facts: false\n  roles: [{role}]\n"));
    let mut command =
        vec!["env", "ANSIBLE_PIPELINING=1", "ansible-playbook", "-vvv", "--diff", "-c", "local", "-i", "box,"];
    command.extend([
        "-e",
        "@/root/variables.json",
        "-e",
        "ansible_python_interpreter=/usr/bin/python3",
        "/root/play.yml",
    ]);
    command.extend(options);
    let output = machine.output(&command);
    let text = said(&output);
    assert!(output.status.success(), "{text}\n{}", machine.journal(None));
    let changed = text.rsplit_once("changed=").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    (changed.unwrap_or_else(|| panic!("no recap: {text}")), text)
}

/// One run of a manifest; gives puppet's detailed exit code (0 unchanged, 2 changed) and everything that was printed.
pub(crate) fn apply(machine: &Machine, manifest: &str, options: &[&str]) -> (Option<i32>, String) {
    machine.write_new("/root/site.pp", manifest);
    let mut command =
        vec!["puppet", "apply", "--detailed-exitcodes", "--show_diff", "--debug", "--modulepath", "/root/modules"];
    command.extend(options);
    command.push("/root/site.pp");
    let output = machine.output(&command);
    (output.status.code(), said(&output))
}
