//! The Ansible collection by the real tools: built and installed as its users do it, and the playbook of its README run from one
//! controller on three hosts that have nothing of ours.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;
use tempfile::TempDir;

use super::boot::installed_key;
use super::boot::site::Site;
use super::recipes::{self, CONFIG, NODES, SECRET_BASE64};
use tfo_testbed::machine::need_machine;
use tfo_testbed::output::said;
use tfo_testbed::package::{Packages, need_packages};
use tfo_testbed::{need_tool, repository, scratch, skip_unless};

/// Its first block is the playbook.
const README: &str = include_str!("../../config/ansible/README.md");
/// The hosts, as the inventory names them.
const HOSTS: [&str; 3] = ["tfo1", "cp1", "cp2"];
/// Where the README's playbook keeps the token, in the home of who runs it.
const TOKEN: &str = "tfo-fleet.token";
/// The coordinator's host makes keys of its own beside it.
const OWN: &str =
    "- name: The coordinator's host\n  hosts: coordinator\n  gather_facts: false\n  roles: [tfo.fleet.agent]\n";

/// In the place of ssh, `ssh OPTIONS HOST COMMAND`: the machines have no sshd.
const SSH: &str = "#!/bin/bash\nhost=${@: -2:1} command=${@: -1}\ncase $host in\n";
/// Modules through stdin, files through a pipe: sftp and a kept connection need a real ssh.
const SETTINGS: &str = "[defaults]\ninventory = inventory.json\n[connection]\npipelining = true\n\
                        [ssh_connection]\nssh_args =\ntransfer_method = piped\n";

/// The one who runs Ansible: a home with the collection, the inventory and the playbooks.
struct Controller {
    home: TempDir,
}

/// One run: how many tasks changed something on each host, and everything that was printed.
struct Played {
    changed: BTreeMap<String, u32>,
    text: String,
}

impl Controller {
    fn new(site: &Site, packages: &Packages) -> Self {
        let controller = Self { home: scratch() };
        let collection = repository("config/ansible");
        controller.runs("ansible-galaxy", &["collection", "build", collection.to_str().expect("an ASCII path")]);
        let built = fs::read_dir(controller.home.path()).expect("it is ours").flatten();
        let built = built.map(|entry| entry.file_name()).find(|name| name.to_string_lossy().ends_with(".tar.gz"));
        let built = built.expect("it was built");
        controller.runs("ansible-galaxy", &["collection", "install", "--offline", built.to_str().expect("ASCII")]);
        controller.write("ansible.cfg", SETTINGS);
        controller.write("fleet.yml", recipes::block(README, "yaml"));
        controller.write("own.yml", OWN);
        let cases = HOSTS.map(|host| {
            let enter = site.on(host).command("sh");
            let words = std::iter::once(enter.get_program()).chain(enter.get_args());
            let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
            format!("{host}) exec {} -c \"$command\" ;;\n", words.join(" "))
        });
        controller.write("ssh", &format!("{SSH}{}esac\n", cases.concat()));
        let ssh = controller.home.path().join("ssh");
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("it was just written");
        let own = json!({
            "tfo_agent_mode": "timer",
            "tfo_agent_config": CONFIG,
            "tfo_agent_secret_base64": SECRET_BASE64,
        });
        let nodes: BTreeMap<_, _> =
            NODES.iter().map(|(host, name)| (host, json!({ "tfo_agent_name": name }))).collect();
        let inventory = json!({ "all": {
            "vars": {
                "ansible_ssh_executable": ssh,
                "ansible_python_interpreter": "/usr/bin/python3",
                "tfo_agent_deb": packages.file("tfo-agent"),
                "tfo_coordinator_debs": [packages.file("tfoctl"), packages.file("tfo-coordinator")],
            },
            "hosts": { "localhost": {
                "ansible_connection": "local",
                "ansible_remote_tmp": controller.home.path().join("tmp"),
            } },
            "children": { "coordinator": { "hosts": { "tfo1": own } }, "nodes": { "hosts": nodes } },
        }});
        controller.write("inventory.json", &inventory.to_string());
        controller
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.home.path().join(name), text).expect("it is ours");
    }

    fn token(&self) -> std::path::PathBuf {
        self.home.path().join(TOKEN)
    }

    #[track_caller]
    fn runs(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.home.path()).env("HOME", self.home.path());
        let output = command.output().expect("it starts");
        assert!(output.status.success(), "{program}: {}", said(&output));
        output
    }

    /// One run of both playbooks, as verbose as Ansible can be about what its modules get and give.
    #[track_caller]
    fn play(&self, options: &[&str]) -> Played {
        let output = self.runs("ansible-playbook", &[&["-vvv", "--diff", "fleet.yml", "own.yml"], options].concat());
        let text = said(&output);
        // That of the second playbook counts the first one, too.
        let (_, recap) = text.rsplit_once("PLAY RECAP").unwrap_or_else(|| panic!("no recap: {text}"));
        let changed = HOSTS.map(|host| {
            let line = recap.lines().find(|line| line.split_whitespace().next() == Some(host));
            let count = line.and_then(|line| line.split_once("changed=")?.1.split_whitespace().next()?.parse().ok());
            (host.to_owned(), count.unwrap_or_else(|| panic!("{host}: {recap}")))
        });
        Played { changed: changed.into(), text }
    }
}

impl Played {
    /// Exactly so many changes on each of [`HOSTS`].
    #[track_caller]
    fn changes(&self, expected: [u32; 3]) {
        assert_eq!(HOSTS.map(|host| self.changed[host]), expected, "{}", self.text);
    }
}

#[test]
fn the_collection_takes_three_hosts_from_nothing_to_a_fleet_that_has_rotated() {
    let (true, Some(packages)) = (need_machine() && need_tool("ansible-playbook"), need_packages()) else { return };
    let mut site = Site::new(packages);
    recipes::prepare(&site);
    let controller = Controller::new(&site, packages);
    let would = controller.play(&["--check"]);
    assert!(would.changed.values().all(|count| *count > 0), "{}", would.text);
    HOSTS.iter().for_each(|host| recipes::assert_fresh(site.on(host)));
    assert!(!controller.token().exists(), "check mode wrote a token");
    let mut all = would.text;
    let first = controller.play(&[]);
    assert!(first.changed.values().all(|count| *count > 0), "{}", first.text);
    let token = fs::read_to_string(controller.token()).expect("the role wrote it");
    assert_eq!(fs::metadata(controller.token()).expect("it is there").permissions().mode() & 0o777, 0o600);
    recipes::assert_waiting_for_the_first_key(&site);
    let own = recipes::own_key(&site);
    recipes::rotate(&mut site);

    // The one thing that differs is told by check mode, and put right by the next run.
    recipes::spoil(site.on("tfo1"));
    // The token is gone as well: nodes that have joined do not miss it, and the coordinator would make another.
    let elsewhere = controller.token().with_extension("away");
    fs::rename(controller.token(), &elsewhere).expect("it is there");
    let would = controller.play(&["--check"]);
    would.changes([2, 0, 0]);
    assert!(recipes::is_spoilt(site.on("tfo1")) && !controller.token().exists(), "check mode wrote");
    fs::rename(elsewhere, controller.token()).expect("it is there");
    all += &would.text;
    let second = controller.play(&[]);
    second.changes([1, 0, 0]);
    assert_eq!(installed_key(site.on("tfo1")), own);
    recipes::assert_untold(&(all + &first.text + &second.text), &own, &token);
}

#[test]
fn the_collection_is_clean_by_its_communitys_linter() {
    skip_unless!(need_tool("ansible-lint"));
    // A copy: the linter keeps its caches beside what it reads.
    let place = scratch();
    let copy = Command::new("cp").arg("-r").arg(repository("config/ansible")).arg(place.path()).status();
    assert!(copy.expect("cp starts").success());
    let lint = |directory: &Path| {
        let mut command = Command::new("ansible-lint");
        command.args(["--profile", "production", "--strict", "--offline", "--nocolor"]).current_dir(directory);
        command.env("HOME", place.path()).output().expect("it starts")
    };
    let collection = place.path().join("ansible");
    let output = lint(&collection);
    assert!(output.status.success(), "{}", said(&output));
}
