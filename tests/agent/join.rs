//! `tfo-agent join`: one token makes this host a node; what can go wrong on the way is told, and can be done again.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use tfo_pki::token::{AuthorityPin, Token};
use tfo_testbed::daemon::DaemonHost;
use tfo_testbed::fake_coordinator::{FakeCoordinator, Reply, refusal, renewing, told};
use tfo_testbed::host::in_own_mounts;
use tfo_testbed::output::{stderr, stdout};
use tfo_testbed::pki::{Ca, DAY};
use tfo_testbed::secrets::{Secrets, base64_value, decode};
use tfo_testbed::terminal::terminal;
use tfo_testbed::{SOON, agent_path, need_netns, need_tool, poll_until, skip_unless};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

const NAME: &str = "n1.example.org";

/// A host without a certificate, whose configuration asks for one, and the two ports of a coordinator.
struct Site {
    host: DaemonHost,
    pki: Ca,
    api: FakeCoordinator,
    enrolment: FakeCoordinator,
}

fn pin(ca: &Ca) -> AuthorityPin {
    AuthorityPin::of(&CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap()
}

impl Site {
    fn new() -> Self {
        let (host, pki) = (DaemonHost::new(), Ca::new("ours"));
        let api = FakeCoordinator::start(host.netns(), &pki);
        let enrolment = FakeCoordinator::enrolling(host.netns(), &pki);
        enrolment.certify(&pki, 30 * DAY, &[api.url()]);
        api.tell(told(3, "steady", 1, Some(2)));
        host.configure(&renewing(&host, &[api.url()]), "");
        Self { host, pki, api, enrolment }
    }

    /// A token for these addresses, in a file of its owner's.
    fn token(&self, ca: &Ca, urls: &[String]) -> Token {
        let urls = urls.iter().map(|url| url.parse().unwrap()).collect();
        let token = Token::fresh(pin(ca), urls).unwrap();
        self.host.put("token", token.reveal().as_bytes(), 0o600);
        token
    }

    fn good_token(&self) -> Token {
        self.token(&self.pki, &[self.enrolment.url()])
    }

    fn join(&self, more: &[&str]) -> Output {
        let token = self.host.text_path("token");
        let arguments = ["--format", "json", "--name", NAME, "--token-file", &token];
        self.host.run("join", &[&arguments[..], more].concat())
    }

    #[track_caller]
    fn joins(&self, code: i32, more: &[&str]) -> Value {
        let output = self.join(more);
        assert_eq!(output.status.code(), Some(code), "{}{}", stdout(&output), stderr(&output));
        serde_json::from_str(&stdout(&output)).unwrap()
    }

    /// What a failed run says, by kind.
    #[track_caller]
    fn fails(&self, code: i32, kind: &str) -> String {
        let found = self.joins(code, &[]);
        assert_eq!(found["problems"][0]["kind"], kind, "{found}");
        found.to_string()
    }

    fn pair(&self) -> Option<String> {
        fs::read_to_string(self.host.path("node.pem")).ok()
    }
}

#[test]
fn one_token_makes_a_node_that_has_its_keys() {
    skip_unless!(need_netns());
    let site = Site::new();
    let token = site.good_token();
    let would = site.joins(2, &["--if-needed", "--dry-run", "--detailed-exit-codes"]);
    assert_eq!((&would["joined"], &would["dry_run"]), (&true.into(), &true.into()), "{would}");
    assert_eq!((site.pair(), site.enrolment.asked().len()), (None, 0), "a dry run uses no token");
    let joined = site.joins(0, &[]);
    assert_eq!((&joined["joined"], &joined["node"]), (&true.into(), &NAME.into()), "{joined}");
    site.api.acknowledged(3);
    assert_eq!(site.host.kernel(), super::contact::install::pair(1, 2));
    let asked = site.enrolment.asked();
    let [asked] = asked.as_slice() else { panic!("{asked:#?}") };
    assert_eq!((asked.what.as_str(), &asked.body["name"]), ("POST /v1/enrol", &NAME.into()));
    assert_eq!(asked.body["token_id"], token.id.as_str());
    assert_eq!(asked.body["secret"], token.secret.text().expose());
    // The key stays here: only the request has gone, and nothing printed has either.
    let pair = site.pair().unwrap();
    let key = pair.split("-----BEGIN PRIVATE KEY-----").nth(1).unwrap().lines().nth(1).unwrap();
    assert!(!asked.body.to_string().contains(key) && !joined.to_string().contains(key));
    assert!(!joined.to_string().contains(token.secret.text().expose()));
    assert_eq!(fs::metadata(site.host.path("node.pem")).unwrap().mode() & 0o777, 0o400);
    assert_eq!(fs::read_to_string(site.host.path("ca.crt")).unwrap(), site.pki.pem);
    assert!(!site.host.path("node.pem.join").exists());

    // For config management: the second run looks at nothing but the certificate, not even at the token.
    fs::remove_file(site.host.path("token")).unwrap();
    let again = site.joins(0, &["--if-needed"]);
    assert_eq!((&again["joined"], site.enrolment.asked().len(), site.pair()), (&false.into(), 1, Some(pair.clone())));
    for more in [&[][..], &["--dry-run"]] {
        let again = site.joins(0, &[&["--if-needed", "--detailed-exit-codes"], more].concat());
        assert_eq!((&again["joined"], site.enrolment.asked().len()), (&false.into(), 1), "{more:?}");
    }
    // Another name, or a certificate that has ended, needs it.
    let output = site.host.run("join", &["--if-needed", "--name", "n2.example.org", "--token-file", "/none"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    site.pki.equip_pair(&site.host, NAME, -30 * DAY, -1);
    site.good_token();
    assert_eq!(site.joins(0, &["--if-needed"])["joined"], true);
    assert_eq!(site.enrolment.asked().len(), 2);
    // Beside a daemon, which takes the new files by itself, it only asks whether all is well.
    let mut daemon = crate::start_ready(&site.host);
    site.api.certify(&site.pki, DAY, &[]);
    let joined = site.joins(0, &[]);
    assert_eq!((&joined["runs"], &joined["problems"]), (&true.into(), &serde_json::json!([])), "{joined}");
    daemon.stop();
}

/// The private scalar in a pair's PKCS#8: what must be seen nowhere, unlike the public key beside it.
fn scalar(pair: &str) -> Vec<u8> {
    let der = PrivateKeyDer::from_pem_slice(pair.as_bytes()).unwrap();
    let der = der.secret_der();
    let at = der.windows(2).position(|two| two == [0x04, 0x20]).expect("an octet string of 32 bytes");
    der[at + 2..at + 34].to_vec()
}

#[test]
fn neither_token_nor_private_keys_are_seen_anywhere() {
    skip_unless!(need_netns());
    let site = Site::new();
    let token = site.good_token();
    site.enrolment.certify(&site.pki, 8, &[site.api.url()]);
    site.api.certify(&site.pki, 8, &[site.api.url()]);
    let mut secrets = Secrets::<8>::new();
    let text = token.secret.text();
    let digits: Vec<u8> = text.expose().bytes().collect();
    secrets.add("token", &decode(&digits, 6, |digit| base64_value(digit, *b"-_")));
    let output = site.host.run("join", &["--name", NAME, "--token-file", &site.host.text_path("token")]);
    assert!(output.status.success(), "{}", stderr(&output));
    secrets.add("first key", &scalar(&site.pair().unwrap()));
    let mut daemon = site.host.start_with("TFO_LOG=trace exec \"$@\"");
    daemon.ready();
    let first = site.pair();
    assert!(poll_until(4 * SOON, || site.pair() != first), "{}", daemon.log());
    secrets.add("next key", &scalar(&site.pair().unwrap()));
    assert!(poll_until(SOON, || daemon.log().contains("certificate renewed")), "{}", daemon.log());
    for name in ["cmdline", "environ", "comm", "status", "maps", "limits"] {
        secrets.absent(name, fs::read(format!("/proc/{}/{name}", daemon.pid())).unwrap());
    }
    daemon.stop();
    secrets.absent("stdout", stdout(&output));
    secrets.absent("stderr", stderr(&output));
    secrets.absent("the log", daemon.log());
    secrets.absent("status.json", site.host.status().to_string());
    for asked in site.api.asked() {
        secrets.absent(&asked.what, asked.body.to_string());
    }
    // The control: where they belong they are found.
    let found = |hay: &[u8]| secrets.find(hay).len();
    assert!(found(&fs::read(site.host.path("token")).unwrap()) > 0 && found(site.pair().unwrap().as_bytes()) > 0);
}

/// Each system call of `join` with bytes of the secret or of the private key is one that must have them: none has them in its
/// arguments or its environment, and what goes over the network is encrypted.
#[test]
fn token_and_private_key_pass_through_no_other_system_call() {
    skip_unless!(need_netns() && need_tool("strace"));
    let site = Site::new();
    let token = site.good_token();
    let (trace, file) = (site.host.path("strace"), site.host.text_path("token"));
    let mut strace = site.host.command("strace");
    strace.args(["-f", "-qqq", "-x", "-y", "-s", "65536", "-o"]).arg(&trace).arg("--");
    strace.arg(agent_path()).args(["join", "--format", "json", "--name", NAME, "--token-file", &file, "--config"]);
    let output = strace.arg(site.host.config_file()).output().unwrap();
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    let mut secrets = Secrets::<8>::new();
    let text = token.secret.text();
    let digits: Vec<u8> = text.expose().bytes().collect();
    secrets.add("token", &decode(&digits, 6, |digit| base64_value(digit, *b"-_")));
    secrets.add("key", &scalar(&site.pair().unwrap()));
    let mut calls = BTreeSet::new();
    let trace = fs::read_to_string(trace).unwrap();
    for line in trace.lines().filter(|line| !secrets.find(line.as_bytes()).is_empty()) {
        let call = line.split_once(' ').unwrap().1.trim_start();
        let (name, rest) = call.split_once('(').unwrap();
        // The kernel's randomness comes from no file, and is what the key is made of.
        let file = rest.split(['<', '>']).nth(1).unwrap_or_default().replace(&site.host.text_path(""), "");
        calls.insert(format!("{name} {file}").trim_end().to_owned());
    }
    let expected = ["getrandom", "read node.pem", "read token", "write node.pem.join.tmp", "write node.pem.tmp"];
    assert_eq!(calls.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn the_secret_goes_to_no_server_of_another_authority() {
    skip_unless!(need_netns());
    let site = Site::new();
    let other = Ca::new("other");
    site.token(&other, &[site.enrolment.url()]);
    let said = site.fails(3, "wrong_authority");
    assert!(said.contains("nothing was sent"), "{said}");
    assert_eq!((site.enrolment.asked().len(), site.pair()), (0, None));
    // A server that borrows the authority's certificate, and was certified by another.
    let impostor = FakeCoordinator::enrolling(site.host.netns(), &other);
    site.token(&site.pki, &[impostor.url()]);
    site.fails(3, "wrong_authority");
    assert_eq!(impostor.asked().len(), 0);
    // It asks the next address, where one does not answer, or is of a coordinator without the authority's key.
    let keyless = FakeCoordinator::enrolling(site.host.netns(), &site.pki);
    keyless.on("POST /v1/enrol", [refusal(503, "no_authority")]);
    site.token(&site.pki, &["https://127.0.0.1:9".to_owned(), keyless.url(), site.enrolment.url()]);
    site.joins(0, &[]);
    assert_eq!((keyless.asked().len(), site.enrolment.asked().len()), (1, 1), "in their order, each once");
    // If none has it, that is the reason.
    site.token(&site.pki, &[keyless.url()]);
    site.fails(1, "no_authority");
}

#[test]
fn every_refusal_is_clear_and_changes_nothing() {
    skip_unless!(need_netns());
    let site = Site::new();
    let token = site.good_token();
    for kind in ["token_refused", "name_not_allowed", "name_taken", "bad_request_key"] {
        site.enrolment.on("POST /v1/enrol", [refusal(403, kind)]);
        let said = site.fails(3, kind);
        assert!(!said.contains(token.secret.text().expose()), "{said}");
    }
    let stranger = site.pki.client(&[NAME]);
    let answer = |chain: &str| {
        Reply::Json(
            200,
            serde_json::json!({
                "certificate": stranger.cert_pem, "chain": chain, "pools": ["edge"], "urls": [site.api.url()],
            }),
        )
    };
    for (reply, kind) in [
        (refusal(503, "unavailable"), "coordinator_unavailable"),
        (Reply::Raw(404, "<html>".to_owned()), "not_enrolment"),
        (Reply::Raw(200, "{}".to_owned()), "not_enrolment"),
        (Reply::Drop, "coordinator_unreachable"),
        (answer(&site.pki.pem), "certificate_unusable"),
        (answer(""), "certificate_unusable"),
    ] {
        site.enrolment.on("POST /v1/enrol", [reply.clone()]);
        site.fails(1, kind);
        assert_eq!(site.pair(), None, "{reply:?}");
    }
    // A token that is none is refused here, without being quoted.
    for text in ["hello", "tfo1.0123456789ab", &format!("{}x", *token.reveal()).replace("https", "http")] {
        site.host.put("token", text.as_bytes(), 0o600);
        let said = site.fails(2, "bad_token");
        assert!(!said.contains(token.secret.text().expose()), "{said}");
    }
    site.host.put("token", token.reveal().as_bytes(), 0o644);
    site.fails(2, "secret_exposed");
    // A configuration of another hand.
    site.host.put("token", token.reveal().as_bytes(), 0o600);
    let asked = site.enrolment.asked().len();
    site.host.configure("[source]\nkind = \"random\"\n", "");
    let text = fs::read_to_string(site.host.config_file()).unwrap();
    let said = site.fails(2, "config_exists");
    assert!(said.contains("renew = true"), "{said}");
    assert_eq!((site.enrolment.asked().len(), fs::read_to_string(site.host.config_file()).unwrap()), (asked, text));
    assert_eq!((site.pair(), site.host.persisted()), (None, None));
}

#[test]
fn a_run_that_was_cut_off_is_finished_by_the_next_one_without_the_token() {
    skip_unless!(need_netns());
    let site = Site::new();
    site.good_token();
    // The answer is there, and its parts cannot be written: a directory is in the way.
    fs::create_dir_all(site.host.path("node.pem/x")).unwrap();
    site.fails(1, "join_write");
    let kept = site.host.path("node.pem.join");
    assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o777, 0o400);
    fs::remove_dir_all(site.host.path("node.pem")).unwrap();
    fs::remove_file(site.host.path("token")).unwrap();
    let saved = fs::read(&kept).unwrap();
    let joined = site.joins(0, &["--if-needed"]);
    assert_eq!((&joined["resumed"], &joined["joined"], kept.exists()), (&true.into(), &true.into(), false), "{joined}");
    assert_eq!(site.enrolment.asked().len(), 1, "one use of the token");
    // Cut off after everything was written, before the answer was removed: the same again changes nothing.
    let pair = site.pair();
    site.host.put("node.pem.join", &saved, 0o400);
    assert_eq!(site.joins(0, &[])["resumed"], true);
    assert_eq!((site.pair(), kept.exists()), (pair, false));
    // One of another name, or half of one, is not used.
    for left in [String::from_utf8_lossy(&saved).replace("n1.", "n2.").into_bytes(), saved[..saved.len() / 2].to_vec()]
    {
        site.host.put("node.pem.join", &left, 0o400);
        let said = site.joins(2, &[]);
        assert_eq!(said["problems"][0]["kind"], "secret_missing", "it needs the token: {said}");
    }
}

#[test]
fn on_a_fresh_host_it_writes_the_configuration_and_says_the_next_step() {
    skip_unless!(need_netns());
    let site = Site::new();
    let token = site.good_token();
    let (etc, state) = (site.host.path("fresh/etc"), site.host.path("fresh/state"));
    fs::create_dir_all(&etc).unwrap();
    // As the package leaves it: the example, unchanged.
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/agent.toml");
    fs::copy(example, etc.join("agent.toml")).unwrap();
    // Stands for systemd's, which must not act on this host.
    let systemctl = site.host.path("systemctl");
    let systemd = |ends: i32| {
        let script = format!("#!/bin/sh\necho \"$@\" >> {}\nexit {ends}\n", site.host.text_path("asked"));
        site.host.put("systemctl", script.as_bytes(), 0o755);
    };
    systemd(1);
    let run = |more: &[&str]| {
        let mut command: Command = site.host.command("unshare");
        let script = "mount --bind $1 /etc/sysctl.d; mount -t tmpfs none /run; shift; exec \"$@\"";
        in_own_mounts(&mut command, script);
        command.arg(site.host.path("sysctl.d")).arg(agent_path()).args(["join", "--token-file", "-", "--name", NAME]);
        command.arg("--config").arg(etc.join("agent.toml")).arg("--dir").arg(&state).args(more);
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", systemctl.parent().unwrap().display());
        command.env("PATH", path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(token.reveal().as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let said = stdout(&output);
    assert!(
        said.contains("n1.example.org has joined") && said.contains("Next: systemctl enable --now tfo-agent"),
        "{said}"
    );
    assert!(!(said + &stderr(&output)).contains(token.secret.text().expose()));
    let config = fs::read_to_string(etc.join("agent.toml")).unwrap();
    assert!(config.contains("renew = true") && config.contains(&site.api.url()), "{config}");
    assert!(state.join("node.pem").exists() && state.join("ca.crt").exists());
    site.api.acknowledged(3);
    // From now on it is a configuration, and is kept.
    let output = run(&["--if-needed"]);
    assert_eq!(
        (output.status.code(), stdout(&output).contains("nothing was done")),
        (Some(0), true),
        "{}",
        stderr(&output)
    );
    // Where the service cannot be enabled, the host has joined all the same, and it says what is left to do.
    let output = run(&["--enable"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("has joined, but tfo-agent.service was not enabled"), "{}", stderr(&output));
    systemd(0);
    let output = run(&["--enable"]);
    assert_eq!(
        (output.status.code(), stdout(&output).contains("is enabled and runs")),
        (Some(0), true),
        "{}",
        stderr(&output)
    );
    let asked = fs::read_to_string(site.host.path("asked")).unwrap();
    assert_eq!(asked.lines().filter(|line| *line == "enable --now tfo-agent.service").count(), 2, "{asked}");
    assert_eq!(fs::read_to_string(etc.join("agent.toml")).unwrap(), config);
}

#[test]
fn on_a_terminal_it_asks_for_the_token_and_takes_one_line() {
    let (mut ours, theirs) = terminal();
    let scratch = tfo_testbed::scratch();
    let mut command = Command::new(agent_path());
    command.args(["join", "--token-file", "-", "--name", NAME, "--config"]).arg(scratch.path().join("agent.toml"));
    command.arg("--dir").arg(scratch.path()).stdin(theirs.try_clone().unwrap());
    let mut child = command.stdout(Stdio::null()).stderr(theirs).spawn().unwrap();
    drop(command);
    let mut shown = String::new();
    let mut until = |text: &str| {
        let mut bytes = [0; 4_096];
        while !shown.contains(text) {
            let count = ours.read(&mut bytes).unwrap_or(0);
            assert!(count > 0, "{text} is not shown: {shown}");
            shown += &String::from_utf8_lossy(&bytes[..count]);
        }
        // Enter, and no end of the file.
        ours.write_all(b"tfo1.not-a-token\n").unwrap();
    };
    until("Token, then Enter: ");
    until("the token is cut off");
    assert_eq!(child.wait().unwrap().code(), Some(2));
}
