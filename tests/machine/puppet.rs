//! The Puppet module by the real tools: the manifest of its README on three hosts that have nothing of ours, its unit tests, and what
//! its community's linters say.

use std::fs;
use std::process::{Command, Output};

use serde_json::json;

use super::boot::installed_key;
use super::boot::site::Site;
use super::recipes::{self, CONFIG, NODES, SECRET};
use tfo_testbed::machine::{Machine, need_machine};
use tfo_testbed::output::{said, stdout};
use tfo_testbed::package::{Packages, need_packages};
use tfo_testbed::{SOON, need_tool, poll_until, repository, scratch_in_memory, skip_unless};

/// Its first block is the manifest.
const README: &str = include_str!("../../config/puppet/tfo_fleet/README.md");
/// The module.
const MODULE: &str = "config/puppet/tfo_fleet";
/// The coordinator's host makes keys of its own beside it.
const OWN: &str = "if $trusted['certname'] == 'tfo1.example.org' {\n  include tfo_fleet::agent\n}\n";
/// Where Hiera looks, for secrets by the module's function.
const HIERA: &str = "version: 5\nhierarchy:\n  - name: Secrets\n    path: \"%{trusted.certname}.secrets.yaml\"\n    \
                     data_hash: tfo_fleet::sensitive_yaml_data\n  - name: Hosts\n    \
                     paths: [\"%{trusted.certname}.yaml\", all.yaml]\n    data_hash: yaml_data\n";
/// Where Puppet keeps what it knows of its runs: reports, states of resources, catalogs.
const KEPT: [&str; 3] = ["/var/lib/puppet", "/var/cache/puppet", "/var/log/puppet"];

/// A host of the fleet with Puppet's files on it.
struct Managed<'a> {
    machine: &'a Machine,
    certname: String,
}

impl<'a> Managed<'a> {
    /// Brings module, manifest, packages, and data with those that are secret, as a server or a checkout would.
    fn new(site: &'a Site, host: &str, packages: &Packages, data: [&serde_json::Value; 2]) -> Self {
        let (machine, certname) = (site.on(host), format!("{host}.example.org"));
        machine.run(&["mkdir", "-p", "/root/data", "/root/modules"]);
        let copy = Command::new("cp").arg("-r").arg(repository(MODULE)).arg(machine.path("/root/modules/")).status();
        assert!(copy.expect("cp starts").success());
        let names = ["tfo-agent", "tfo-coordinator", "tfoctl"];
        let [agent, coordinator, ctl] = names.map(|name| {
            let file = packages.file(name);
            let inside = format!("/root/{}", file.file_name().expect("a file").to_string_lossy());
            fs::copy(&file, machine.path(&inside)).expect("the machine has room");
            inside
        });
        let all = json!({
            "tfo_fleet::agent::package_file": agent,
            "tfo_fleet::coordinator::package_files": { "tfo-coordinator": coordinator, "tfoctl": ctl },
        });
        machine.write_new("/root/data/all.yaml", &all.to_string());
        machine.write_new(&format!("/root/data/{certname}.yaml"), &data[0].to_string());
        machine.write_new(&format!("/root/data/{certname}.secrets.yaml"), &data[1].to_string());
        machine.write_new("/root/hiera.yaml", HIERA);
        machine.write_new("/root/site.pp", &format!("{}{OWN}", recipes::block(README, "puppet")));
        Self { machine, certname }
    }

    /// One run; gives everything that Puppet can print, and that it keeps.  It must end with this detailed exit code: 0 unchanged,
    /// 2 changed.
    #[track_caller]
    fn apply(&self, expected: i32, options: &[&str]) -> String {
        let mut command =
            vec!["puppet", "apply", "--certname", &self.certname, "--detailed-exitcodes", "--show_diff", "--debug"];
        command.extend(["--modulepath", "/root/modules", "--hiera_config", "/root/hiera.yaml"]);
        command.extend(options);
        command.push("/root/site.pp");
        let output = self.machine.output(&command);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(expected), "{}: {text}", self.certname);
        let kept = self.machine.run(&[&["grep", "--recursive", "--text", "--no-filename", ""], &KEPT[..]].concat());
        assert!(kept.contains("!ruby/object:Puppet::Transaction::Report"), "no report was kept");
        text + &kept
    }
}

#[test]
fn the_module_takes_three_hosts_from_nothing_to_a_fleet_that_has_rotated() {
    let (true, Some(packages)) = (need_machine() && need_tool("puppet"), need_packages()) else { return };
    let mut site = Site::new(packages);
    recipes::prepare(&site);
    let own = json!({ "tfo_fleet::agent::mode": "timer", "tfo_fleet::agent::config": CONFIG });
    let secret = json!({ "tfo_fleet::agent::secret": SECRET });
    let mut all = Managed::new(&site, "tfo1", packages, [&own, &secret]).apply(2, &[]);
    assert!(all.contains("Found key: \"tfo_fleet::agent::secret\" value: "), "--debug has changed");
    let key = recipes::own_key(&site);
    let center = site.on("tfo1");
    assert!(poll_until(SOON, || center.output(&["tfoctl", "pools"]).status.success()), "{}", center.journal(None));
    let token = center.run(&["tfoctl", "token", "create", "--uses", "2", "--expires", "1h"]);

    let [one, other] = NODES.map(|(host, name)| {
        let data = json!({ "tfo_fleet::agent::node_name": name });
        Managed::new(&site, host, packages, [&data, &json!({ "tfo_fleet::agent::token": token })])
    });
    let noop = one.apply(0, &["--noop"]);
    assert!(noop.contains("Exec[tfo-agent join]"), "{noop}");
    recipes::assert_fresh(one.machine);
    all += &noop;
    all += &one.apply(2, &[]);
    all += &other.apply(2, &[]);
    recipes::assert_waiting_for_the_first_key(&site);
    recipes::rotate(&mut site);

    recipes::spoil(site.on("tfo1"));
    let [center, node] =
        ["tfo1", "cp1"].map(|host| Managed { machine: site.on(host), certname: format!("{host}.example.org") });
    all += &center.apply(2, &[]);
    assert_eq!(installed_key(center.machine), key);
    all += &center.apply(0, &[]);
    all += &node.apply(0, &[]);
    recipes::assert_untold(&all, &key, &token);
}

/// One of the module's tools in a copy of it.
fn run_in(directory: &std::path::Path, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(directory)
        .env("HOME", directory)
        .env("TMPDIR", directory)
        .output()
        .expect("it starts")
}

/// True if Debian's package of Ruby code is installed; otherwise skips.
#[track_caller]
fn need_ruby(package: &str) -> bool {
    let found = std::path::Path::new("/usr/share/doc").join(package).join("copyright").exists();
    if !found {
        tfo_testbed::skip(&format!("needs the Debian package {package}"));
    }
    found
}

#[test]
fn the_module_passes_its_unit_tests_and_linters_and_its_reference_is_up_to_date() {
    skip_unless!(need_tool("puppet") && need_tool("puppet-lint") && need_tool("metadata-json-lint"));
    skip_unless!(need_ruby("ruby-rspec-puppet") && need_ruby("puppet-strings") && need_tool("eyaml"));
    // In memory: each example has a directory of its own.
    let place = scratch_in_memory();
    let copy = Command::new("cp").arg("-r").arg(repository(MODULE)).arg(place.path()).status();
    assert!(copy.expect("cp starts").success());
    let module = place.path().join("tfo_fleet");
    let reference = module.join("REFERENCE.md");
    let committed = fs::read_to_string(&reference).expect("it is committed");
    for (program, arguments) in [
        ("/usr/bin/rspec", &["--no-color"][..]),
        ("puppet-lint", &["functions", "manifests", "types"]),
        ("metadata-json-lint", &["metadata.json"]),
        ("puppet", &["strings", "generate", "--format", "markdown"]),
    ] {
        let output = run_in(&module, program, arguments);
        assert!(output.status.success(), "{program}: {}", said(&output));
        if program.ends_with("rspec") {
            let (text, passed) = (stdout(&output), |text: &str| text.contains(" examples, 0 failures"));
            assert!(passed(&text) && !text.contains("\n0 examples"), "{text}");
        }
    }
    let made = fs::read_to_string(&reference).expect("it was made");
    assert!(
        made == committed,
        "REFERENCE.md differs from the manifests; remedy: puppet strings generate --format markdown"
    );
}
