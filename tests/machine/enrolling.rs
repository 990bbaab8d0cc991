//! A fleet by configuration management: a coordinator and its nodes from one variable, by Ansible and by Puppet; truthful
//! check mode, a second run that changes nothing, and no token in any output.

use serde_json::{Value, json};

use super::boot::installed_key;
use super::boot::site::Site;
use super::recipes::{apply, bring, play};
use tfo_testbed::host::UNSET;
use tfo_testbed::machine::{Image, Machine, need_machine};
use tfo_testbed::package::{install, need_packages};
use tfo_testbed::{SOON, by_size, poll_until};

const TOKEN: &str = "/root/token";
/// The coordinator's configuration as `init` has written it: the package's example has this line commented out.
const INITIALISED: &str = "\nca_key";

/// Neither the whole token nor its secret was printed.
#[track_caller]
fn assert_untold(token: &str, text: &str) {
    let secret = token.split('.').nth(2).expect("version, id, secret, pin, addresses");
    assert!(secret.len() > 10 && !text.contains(secret), "the token was printed:\n{text}");
}

/// Check mode that tells what a run would do and does nothing (not in the short run: each takes ten seconds of both cores);
/// the run; another one, which changes nothing.  Gives what they printed.
#[track_caller]
fn three_plays(
    machine: &Machine,
    role: &str,
    variables: &Value,
    done: impl Fn() -> bool,
    between: impl FnOnce(),
) -> String {
    let mut all = String::new();
    if by_size(false, true, true) {
        let (would, text) = play(machine, role, variables, &["--check"]);
        assert!(would > 0 && !done(), "{text}");
        all += &text;
    }
    let (changed, text) = play(machine, role, variables, &[]);
    assert!(changed > 0 && done(), "{text}");
    between();
    let (again, second) = play(machine, role, variables, &[]);
    assert_eq!(again, 0, "{second}");
    all + &text + &second
}

#[test]
fn ansible_makes_a_coordinator_and_its_nodes_join() {
    let (true, Some(packages)) = (need_machine() && tfo_testbed::need_tool("ansible-playbook"), need_packages()) else {
        return;
    };
    let mut site = Site::new(packages);
    let center = site.on("tfo1");
    bring(center, "tfo_coordinator");
    center.run(&["sh", "-c", "dpkg --force-unsafe-io --install /root/*.deb"]);
    let variables = json!({
        "tfo_coordinator_name": "tfo1.example.org",
        "tfo_coordinator_nodes": ["*.cache.example.org"],
        "tfo_coordinator_token_file": TOKEN,
    });
    let is_made = || center.read("/etc/tfo-fleet/coordinator.toml").contains(INITIALISED);
    let text = three_plays(center, "tfo_coordinator", &variables, is_made, || ());
    let token = center.read(TOKEN);
    assert_untold(&token, &text);
    assert_eq!(center.property("tfo-coordinator", "ActiveState"), "active");

    // The controller has the token; here each host is its own.  One that has joined does not miss it.
    let node = site.on("cp1");
    bring(node, "tfo_agent");
    node.run(&["sh", "-c", "dpkg --force-unsafe-io --install /root/*.deb"]);
    node.write_new(TOKEN, &token);
    let variables = json!({ "tfo_agent_token_file": TOKEN, "tfo_agent_name": "cp1.cache.example.org" });
    let has_joined = || node.path("/var/lib/tfo-agent/node.pem").exists();
    let text = three_plays(node, "tfo_agent", &variables, has_joined, || drop(node.run(&["rm", TOKEN])));
    assert_untold(&token, &text);
    assert_eq!(node.property("tfo-agent", "UnitFileState"), "enabled");
    site.type_on("tfo1", "tfoctl rotate --first --expect 1 --wait --yes");
    assert_ne!(installed_key(site.on("cp1")), UNSET);
}

#[test]
fn puppet_makes_a_coordinator_and_a_node_joins() {
    let (true, Some(packages)) = (need_machine() && tfo_testbed::need_tool("puppet"), need_packages()) else { return };
    let image = Image::new().file("/etc/hosts", "127.0.0.1 localhost tfo1.example.org\n", 0o644);
    let names = ["tfo-coordinator", "tfoctl", "tfo-agent"];
    let machine = names.iter().fold(image, |image, name| packages.bring(image, name)).boot();
    machine.run(&["sysctl", "-q", "-w", "net.ipv4.tcp_fastopen=3"]);
    names.iter().for_each(|name| drop(install(&machine, name)));
    ["tfo_coordinator", "tfo_agent"].iter().for_each(|name| bring(&machine, name));
    let center = "class { 'tfo_coordinator': manage_package => false, coordinator_name => 'tfo1.example.org', \
                  nodes => ['*.cache.example.org'] }\n";
    let is_made = || machine.read("/etc/tfo-fleet/coordinator.toml").contains(INITIALISED);
    let (code, text) = apply(&machine, center, &[]);
    assert!(code == Some(2) && is_made(), "{text}");

    let create = ["tfoctl", "token", "create", "--uses", "1", "--expires", "1h"];
    assert!(poll_until(SOON, || machine.output(&["tfoctl", "pools"]).status.success()), "{}", machine.journal(None));
    let token = machine.run(&create);
    let both = format!(
        "{center}class {{ 'tfo_agent': manage_package => false, token => Sensitive('{token}'), node_name => \
         'n1.cache.example.org' }}\n"
    );
    let has_joined = || machine.path("/var/lib/tfo-agent/node.pem").exists();
    let mut noop = String::new();
    if by_size(false, true, true) {
        noop = apply(&machine, &both, &["--noop"]).1;
        assert!(!has_joined() && noop.contains("tfo-agent join"), "{noop}");
    }
    let (code, text) = apply(&machine, &both, &[]);
    assert!(code == Some(2) && has_joined(), "{text}");
    let (code, second) = apply(&machine, &both, &[]);
    assert_eq!(code, Some(0), "{second}");
    assert_untold(&token, &[noop, text, second].concat());
    machine.run(&["tfoctl", "rotate", "--first", "--expect", "1", "--wait", "--yes"]);
    assert_ne!(installed_key(&machine), UNSET);
}
