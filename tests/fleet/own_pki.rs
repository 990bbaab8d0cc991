//! Fleets whose certificates come from elsewhere, made as the pages tell: commands, hooks and manifests are read from the pages.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tfo_testbed::config::{client_files, fast};
use tfo_testbed::fleet::{Fleet, URL, node};
use tfo_testbed::output::{said, stderr};
use tfo_testbed::pki::{Ca, Identity, Leaf};
use tfo_testbed::{PATIENCE, has_tool, need_netns, need_tool, poll_until, skip_unless};

const OPENSSL: &str = include_str!("../../docs/how-to/own-pki-openssl.md");
const PUPPET: &str = include_str!("../../docs/how-to/own-pki-puppet.md");
const ACME: &str = include_str!("../../docs/how-to/own-pki-acme.md");

/// The hosts of [`Fleet`] besides its nodes.
const CENTER: &str = "tfo1.example.org";
const OPERATOR: &str = "ops1.example.org";

/// The code blocks in a language below a heading.
#[track_caller]
fn blocks<'a>(page: &'a str, heading: &str, language: &str) -> Vec<&'a str> {
    let (_, section) = page.split_once(&format!("\n{heading}\n")).expect("the page has the section");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let fence = format!("```{language}\n");
    section.split(&fence).skip(1).map(|block| block.split_once("```").expect("it ends").0).collect()
}

#[track_caller]
fn succeeded(what: &str, output: &Output) {
    assert!(output.status.success(), "{what}\n{}", said(output));
}

/// Types a block of a page on the coordinator's host.
#[track_caller]
fn type_in(fleet: &Fleet, directory: &str, block: &str) {
    let script = format!("set -eu\ncd ./{directory}\n{block}");
    succeeded(&script, &fleet.shell(&script));
}

/// Puts certificates in the place of those of `tfoctl pki`: NAME gives a certificate and a key.
fn equip(fleet: &Fleet, ca: &[u8], crl: &[u8], of: impl Fn(&str) -> [Vec<u8>; 2]) {
    for (number, host) in fleet.hosts.iter().enumerate() {
        let [cert, key] = of(&node(number));
        host.put("ca.crt", ca, 0o644);
        host.put("node.crt", &cert, 0o644);
        host.put("node.key", &key, 0o400);
    }
    for (name, role) in [(CENTER, "coordinator"), (OPERATOR, "operator")] {
        let [cert, key] = of(name);
        fleet.center.put(&format!("{role}.crt"), &cert, 0o644);
        fleet.center.put(&format!("{role}.key"), &key, 0o400);
    }
    fleet.believe(ca, crl);
}

/// All programs take the certificates, and say nothing about them; then a node is revoked.
#[track_caller]
fn works_until_revoked(fleet: &mut Fleet, revoke: impl FnOnce(&Fleet)) {
    let found = fleet.coordinator("check", &[], 0);
    assert!(!found.contains("certificate") && !found.contains("revocation"), "{found}");
    fleet.serve();
    fleet.start_agents();
    fleet.first_key();
    fleet.rotate();
    let (_, warnings) = fleet.ends(&["pools"], 0);
    assert_eq!(warnings, "");
    for (host, daemon) in fleet.hosts.iter().zip(&fleet.daemons) {
        let (status, log) = (host.status(), daemon.as_ref().expect("it runs").log());
        assert_eq!((&status["state"], &status["error"]), (&"ok".into(), &serde_json::Value::Null), "{status:#}");
        assert!(!log.contains("tls_") && !log.contains("certificate"), "{log}");
    }
    revoke(fleet);
    let refused = || fleet.hosts[0].status()["error"]["kind"] == "certificate_revoked";
    assert!(poll_until(PATIENCE, refused), "{:#}\n{}", fleet.hosts[0].status(), fleet.log());
    assert_eq!(fleet.hosts[1].status()["contact"], "connected");
}

#[test]
fn the_commands_of_the_page_make_an_authority_with_openssl() {
    skip_unless!(need_netns() && need_tool("openssl"));
    let mut fleet = Fleet::new(2, &fast(2));
    type_in(&fleet, "", blocks(OPENSSL, "## Make the authority", "sh")[0]);
    let [request, clients, server] = blocks(OPENSSL, "## Issue a certificate", "sh")[..] else { panic!("{OPENSSL}") };
    for name in [&node(0), &node(1), OPERATOR, CENTER] {
        // The hosts' directories are one here.
        let request = request.replace("cp1.example.org", name).replace("node.key", &format!("{name}.key"));
        type_in(&fleet, "fleet-ca", &request);
    }
    type_in(&fleet, "fleet-ca", clients);
    let (for_node, _) = clients.split_at(clients.rfind("SAN=").expect("two commands"));
    type_in(&fleet, "fleet-ca", &for_node.replace(&node(0), &node(1)));
    type_in(&fleet, "fleet-ca", &server.replace("192.0.2.1", "10.99.0.1"));
    let read =
        |fleet: &Fleet, name: &str| fs::read(fleet.center.path(&format!("fleet-ca/{name}"))).expect("it was made");
    equip(&fleet, &read(&fleet, "ca.crt"), &read(&fleet, "crl.pem"), |name| {
        ["crt", "key"].map(|kind| read(&fleet, &format!("{name}.{kind}")))
    });
    works_until_revoked(&mut fleet, |fleet| {
        type_in(fleet, "fleet-ca", blocks(OPENSSL, "## Revoke a certificate", "sh")[0]);
        fleet.center.put("crl.pem", &read(fleet, "crl.pem"), 0o644);
    });
}

/// What the manifest of the coordinator brings, besides `ca.crt`.
const CENTER_FILES: [&str; 3] = ["crl.pem", "coordinator.crt", "coordinator.key"];

/// The command line of `puppetserver ca`, which Debian packages apart from the server.
const PUPPET_CA: &str = "require 'puppetserver/ca/cli'; exit Puppetserver::Ca::Cli.run(ARGV)";

/// What the server does for `puppetserver ca revoke`: the list of the signing authority, the first of the chain, is made again.
const PUPPET_REVOKE: &str = "require 'openssl'; include OpenSSL
ca, key, list, cert = ARGV.map { |path| File.read(path) }
lists = list.scan(/-----BEGIN X509 CRL.*?-----END X509 CRL-----\\n/m).map { |text| X509::CRL.new(text) }
gone = X509::Revoked.new
gone.serial, gone.time = X509::Certificate.new(cert).serial, Time.now
lists[0].add_revoked(gone)
lists[0].last_update, lists[0].next_update = Time.now, Time.now + 5 * 365 * 86400
lists[0].sign(PKey.read(key), 'SHA256')
abort 'not its key' unless lists[0].issuer == X509::Certificate.new(ca).subject
File.write(ARGV[2], lists.map(&:to_pem).join)";

#[track_caller]
fn ruby(dir: &Path, script: &str, arguments: &[&str]) {
    let output = Command::new("ruby").args(["-e", script, "--"]).args(arguments).current_dir(dir).output();
    succeeded(&format!("{arguments:?}"), &output.expect("ruby starts"));
}

fn need_puppet_ca() -> bool {
    let is_there = has_tool("ruby")
        && Command::new("ruby")
            .args(["-e", "require 'puppetserver/ca/cli'"])
            .output()
            .is_ok_and(|it| it.status.success());
    if !is_there {
        tfo_testbed::skip("needs the Debian package ruby-puppetserver-ca-cli");
    }
    is_there
}

/// Applies a manifest of the page on a host, whose directories are elsewhere than the page says.
#[track_caller]
fn apply(manifest: &str, name: &str, ssl: &Path, to: &Path) {
    let own = tfo_testbed::scratch();
    let manifest = manifest
        .replace("/var/lib/puppet/ssl", ssl.to_str().expect("an ASCII path"))
        .replace("/etc/tfo-fleet", to.to_str().expect("an ASCII path"))
        // The package makes this user.
        .replace("'tfo-coordinator'", "'root'");
    let file = own.path().join("site.pp");
    fs::write(&file, manifest).expect("the scratch directory is ours");
    let mut puppet = Command::new("puppet");
    puppet.args(["apply", "--detailed-exitcodes", "--certname", name]);
    for setting in ["--confdir", "--vardir", "--rundir", "--logdir"] {
        puppet.arg(setting).arg(own.path());
    }
    let output = puppet.arg(&file).output().expect("puppet starts");
    assert_eq!(output.status.code(), Some(2), "2: all is well, and something was changed: {}", said(&output));
}

#[test]
fn puppets_authority_serves_a_fleet() {
    skip_unless!(need_netns() && need_tool("puppet") && need_puppet_ca());
    let mut fleet = Fleet::new(2, &fast(2));
    let dir = tfo_testbed::scratch();
    let ssl = dir.path().join("ssl");
    fs::create_dir(&ssl).unwrap();
    // Shorter keys than Puppet's, for the time that they take.
    let config = format!(
        "[main]\nconfdir = {dir}\nssldir = {dir}/ssl\ncadir = {dir}/ca\ncertname = {CENTER}\nserver = localhost\n\
         serverport = 1\nkeylength = 2048\n",
        dir = dir.path().display()
    );
    fs::write(dir.path().join("puppet.conf"), config).unwrap();
    let names = [node(0), node(1), OPERATOR.to_owned()].join(",");
    let more = ["--config", "puppet.conf"];
    let addresses = format!("{CENTER},IP:10.99.0.1");
    ruby(dir.path(), PUPPET_CA, &[&["setup", "--subject-alt-names", &addresses], &more[..]].concat());
    ruby(dir.path(), PUPPET_CA, &[&["generate", "--ca-client", "--force", "--certname", &names], &more[..]].concat());
    let read = |name: &str| fs::read(ssl.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let certs = String::from_utf8(read("certs/ca.pem")).unwrap();
    let lists = String::from_utf8(read("crl.pem")).unwrap();
    assert_eq!(
        (certs.matches("BEGIN CERT").count(), lists.matches("BEGIN X509 CRL").count()),
        (2, 2),
        "as the page has it"
    );

    let [on_node, on_coordinator] = blocks(PUPPET, "## Bring the files into place", "puppet")[..] else { panic!() };
    // All by hand, and then one node and the coordinator by Puppet, which takes its time.
    equip(&fleet, certs.as_bytes(), lists.as_bytes(), |name| {
        ["certs", "private_keys"].map(|kind| read(&format!("{kind}/{name}.pem")))
    });
    for (host, files) in [(&fleet.hosts[0], ["ca.crt", "node.crt", "node.key"]), (&fleet.center, CENTER_FILES)] {
        files.iter().for_each(|file| fs::remove_file(host.path(file)).unwrap());
    }
    apply(on_node, &node(0), &ssl, &fleet.hosts[0].path(""));
    apply(on_coordinator, CENTER, &ssl, &fleet.center.path(""));
    works_until_revoked(&mut fleet, |fleet| {
        let (ca, ssl) = (dir.path().join("ca"), ssl.to_str().unwrap());
        let ca = ca.to_str().unwrap();
        let paths = [format!("{ca}/ca_crt.pem"), format!("{ca}/ca_key.pem"), format!("{ssl}/crl.pem")];
        let [cert, key, list] = paths.each_ref().map(String::as_str);
        ruby(dir.path(), PUPPET_REVOKE, &[cert, key, list, &format!("{ssl}/certs/{}.pem", node(0))]);
        fleet.center.put("crl.pem", &fs::read(list).unwrap(), 0o644);
    });
}

/// An authority below a root that signs nothing else, as step-ca makes it.
struct Step {
    root: Ca,
    intermediate: Ca,
}

impl Step {
    /// A certificate for server and client that lives for so many days, in the directory of an ACME client.
    fn certify(&self, dir: &Path, names: &[&str], days: i64) -> Identity {
        let identity =
            self.intermediate.issue(&Leaf { from_secs: -60, ..Leaf::both(names, days) }).below(&self.intermediate);
        fs::write(dir.join("fullchain.pem"), &identity.cert_pem).unwrap();
        fs::write(dir.join("privkey.pem"), &identity.key_pem).unwrap();
        identity
    }

    /// Runs a hook of the page after a renewal, as lego or certbot does.
    #[track_caller]
    fn renew(&self, hook: &str, names: &[&str], days: i64, to: &Path) {
        let lineage = tfo_testbed::scratch();
        self.certify(lineage.path(), names, days);
        let script = lineage.path().join("hook");
        fs::write(&script, hook.replace("/etc/tfo-fleet/node.pem", to.to_str().unwrap())).unwrap();
        let mut command = Command::new("/bin/sh");
        command.arg("-eu").arg(script).env("RENEWED_LINEAGE", lineage.path());
        command.env("LEGO_CERT_PATH", lineage.path().join("fullchain.pem"));
        command.env("LEGO_CERT_KEY_PATH", lineage.path().join("privkey.pem"));
        succeeded(hook, &command.output().unwrap());
    }
}

/// Until when a node's certificate is good, as the coordinator has seen it.
fn certificate_until(fleet: &Fleet, number: usize) -> serde_json::Value {
    let nodes = fleet.json(&["nodes", "--all"]);
    let nodes = nodes["nodes"].as_array().unwrap();
    nodes.iter().find(|one| one["node"] == node(number)).expect("it is known")["certificate_until"].clone()
}

#[test]
fn files_that_an_acme_client_replaces_are_taken_without_a_restart_and_without_a_moment_of_two_halves() {
    skip_unless!(need_netns());
    let root = Ca::new("root");
    let step = Step { intermediate: root.intermediate("step"), root };
    let mut fleet = Fleet::new(2, &fast(2));
    let [lego, certbot] = blocks(ACME, "## One file for both", "sh")[..] else { panic!("two hooks") };
    let center: &[&str] = &[CENTER, "10.99.0.1"];
    // The coordinator, the operator and the first node have one file, the second node has two.
    fleet.center.put("ca.crt", step.intermediate.pem.as_bytes(), 0o644);
    fleet.center.put("crl.pem", step.intermediate.crl(&[]).as_bytes(), 0o644);
    fleet.center.put("root.crt", step.root.pem.as_bytes(), 0o644);
    let path = |name: &str| fleet.center.path(name);
    let (own, ops, first) = (path("coordinator.pem"), path("operator.pem"), fleet.hosts[0].path("node.pem"));
    step.renew(certbot, center, 2, &own);
    step.renew(lego, &[OPERATOR], 2, &ops);
    step.renew(lego, &[&node(0)], 2, &first);
    let config = fs::read_to_string(path("coordinator.toml")).unwrap();
    let config = config.replace("coordinator.crt", "coordinator.pem").replace("coordinator.key", "coordinator.pem");
    fleet.center.put("coordinator.toml", config.as_bytes(), 0o644);
    let ctl = format!("urls = [{URL:?}]\npool = \"edge\"\n{}", client_files(&path("root.crt"), &ops, &ops));
    fleet.center.put(".config/tfo-fleet/ctl.toml", ctl.as_bytes(), 0o644);
    let ca = fleet.hosts[0].path("ca.crt");
    let source = format!(
        "[source]\nkind = \"coordinator\"\nurls = [{URL:?}]\npool = \"edge\"\nwait = \"1s\"\n{}",
        client_files(&ca, &first, &first)
    );
    fleet.hosts[0].configure(&source, "verify_interval = \"1s\"");
    let lineage = tfo_testbed::scratch();
    let put = |fleet: &Fleet, name: &str, text: &str| {
        fleet.hosts[1].put(name, text.as_bytes(), if name == "node.key" { 0o400 } else { 0o644 });
    };
    let pair = step.certify(lineage.path(), &[&node(1)], 2);
    put(&fleet, "node.crt", &pair.cert_pem);
    put(&fleet, "node.key", &pair.key_pem);
    for host in &fleet.hosts {
        host.put("ca.crt", step.root.pem.as_bytes(), 0o644);
    }
    fleet.serve();
    fleet.start_agents();
    fleet.first_key();

    // One file: the new pair is there at once, for each program.
    let before = [0, 1].map(|number| certificate_until(&fleet, number));
    step.renew(certbot, center, 3, &own);
    step.renew(lego, &[OPERATOR], 3, &ops);
    step.renew(lego, &[&node(0)], 3, &first);
    let taken = |number: usize, before: &serde_json::Value| {
        poll_until(PATIENCE, || certificate_until(&fleet, number) != *before)
    };
    assert!(taken(0, &before[0]), "{}", fleet.log());
    assert!(poll_until(PATIENCE, || fleet.log().contains("TLS files reloaded")), "{}", fleet.log());
    fleet.rotate();
    assert!(!fleet.log().contains("tls_key_mismatch"), "{}", fleet.log());

    // Two files, in either order: in between the old pair is in use, and a rotation passes.
    let logged = |text: &str| fleet.daemons[1].as_ref().expect("it runs").log().matches(text).count();
    let mut before = before[1].clone();
    for (days, order) in [(4, ["node.crt", "node.key"]), (5, ["node.key", "node.crt"])] {
        let pair = step.certify(lineage.path(), &[&node(1)], days);
        let text = |name: &str| if name == "node.crt" { &pair.cert_pem } else { &pair.key_pem }.clone();
        let (told, resolved) = (logged("tls_key_mismatch"), logged("all problems are resolved"));
        put(&fleet, order[0], &text(order[0]));
        assert!(poll_until(PATIENCE, || logged("tls_key_mismatch") > told), "{order:?}");
        fleet.rotate();
        assert_eq!(certificate_until(&fleet, 1), before, "{order:?}: half a pair was used");
        put(&fleet, order[1], &text(order[1]));
        assert!(taken(1, &before), "{order:?}: {}", fleet.log());
        assert!(poll_until(PATIENCE, || logged("all problems are resolved") > resolved), "{order:?}");
        before = certificate_until(&fleet, 1);
    }

    // A pair that never fits is a problem with a remedy, and the old one stays.
    let told = logged("tls_key_mismatch");
    put(&fleet, "node.key", &step.certify(lineage.path(), &[&node(1)], 1).key_pem);
    assert!(poll_until(PATIENCE, || logged("tls_key_mismatch") > told));
    let check = fleet.hosts[1].run("check", &["--config-only"]);
    let shown = stderr(&check);
    assert_eq!(check.status.code(), Some(2), "{shown}");
    assert!(
        shown.contains("is not the private key of the certificate") && shown.contains("remedy: use the two files"),
        "{shown}"
    );
    fleet.rotate();
    assert_eq!((certificate_until(&fleet, 1), &fleet.hosts[1].status()["state"]), (before, &"ok".into()));
}
