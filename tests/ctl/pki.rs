//! `tfoctl pki` as an operator runs it.  The judge is `openssl`, which shares no code with what makes the certificates.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tfo_testbed::output::{code, json_of, stderr, stdout, text};
use tfo_testbed::skip_unless;

/// Seconds of a day.
const DAY: i64 = 86_400;

/// An authority in a scratch directory.
struct Pki {
    dir: TempDir,
}

impl Pki {
    /// A fresh authority without constraints.
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(more: &[&str]) -> Self {
        let pki = Self { dir: tfo_testbed::scratch() };
        pki.ok("init", more);
        pki
    }

    /// Where the authority lies.
    fn path(&self, name: &str) -> String {
        self.dir.path().join("pki").join(name).to_str().expect("scratch paths are ASCII").to_owned()
    }

    fn command(&self, command: &str, more: &[&str]) -> Command {
        let mut ctl = Command::new(tfo_testbed::program("tfoctl"));
        ctl.args(["pki", command, "--dir", &self.path("")]).args(more).stdin(Stdio::null());
        ctl
    }

    fn run(&self, command: &str, more: &[&str]) -> Output {
        self.command(command, more).output().expect("tfoctl starts")
    }

    #[track_caller]
    fn ok(&self, command: &str, more: &[&str]) -> String {
        let output = self.run(command, more);
        assert_eq!(output.status.code(), Some(0), "{command} {more:?}: {}", stderr(&output));
        assert_eq!(stderr(&output), "");
        stdout(&output)
    }

    #[track_caller]
    fn json(&self, command: &str, more: &[&str]) -> Value {
        let output = self.run(command, &[more, &["--format", "json"]].concat());
        code(&output, 0);
        json_of(&output)
    }

    /// Runs it, sees it refused with this code, and nothing in the directory changed.
    #[track_caller]
    fn refused(&self, command: &str, more: &[&str], code: i32, says: &str) {
        let before = self.content();
        let output = self.run(command, more);
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{command} {more:?}: {stderr}");
        assert!(stderr.contains(says), "{command} {more:?}: no {says:?} in {stderr}");
        assert_eq!(stdout(&output), "");
        assert_eq!(self.content(), before, "{command} {more:?} changed something");
    }

    /// Every file with its mode and bytes.
    fn content(&self) -> Vec<(String, u32, Vec<u8>)> {
        fn below(directory: &Path) -> Vec<(String, u32, Vec<u8>)> {
            let entries = std::fs::read_dir(directory).expect("the directory is there");
            let paths = entries.map(|entry| entry.expect("it can be read").path());
            let content = |path: std::path::PathBuf| match path.is_dir() {
                true => below(&path),
                // A link that leads nowhere has no content.
                false if !path.is_file() => Vec::new(),
                false => {
                    let bytes = std::fs::read(&path).expect("we are its owner");
                    vec![(path.display().to_string(), mode(&path), bytes)]
                }
            };
            paths.flat_map(content).collect()
        }
        let mut found = below(Path::new(&self.path("")));
        found.sort();
        found
    }

    /// `openssl verify` of a certificate; gives its verdict.
    fn verify(&self, name: &str, more: &[&str]) -> Result<(), String> {
        let (ca, certificate) = (self.path("ca.crt"), self.path(name));
        let output = openssl(&[&["verify", "-x509_strict", "-CAfile", &ca], more, &[&certificate]].concat());
        if output.status.success() { Ok(()) } else { Err(stderr(&output)) }
    }

    /// The same with the revocation list.
    fn verify_with_list(&self, name: &str, more: &[&str]) -> Result<(), String> {
        let list = self.path("crl.pem");
        self.verify(name, &[&["-crl_check", "-CRLfile", &list], more].concat())
    }

    /// What `openssl x509` prints of a certificate.
    fn shown(&self, name: &str, what: &[&str]) -> String {
        let file = self.path(name);
        text(&openssl(&[&["x509", "-noout", "-in", &file], what].concat()).stdout)
    }
}

fn openssl(arguments: &[&str]) -> Output {
    Command::new("openssl").args(arguments).stdin(Stdio::null()).output().expect("openssl starts")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").mode() & 0o7777
}

/// True with `openssl`; otherwise skips.
#[track_caller]
fn ready() -> bool {
    tfo_testbed::need_tool("openssl")
}

#[test]
fn an_authority_and_its_certificates_pass_openssl() {
    skip_unless!(ready());
    let pki = Pki::new();
    pki.ok("issue", &["--node", "cp1.example.org"]);
    pki.ok("issue", &["--operator", "ops1.example.org"]);
    pki.ok("issue", &["--viewer", "view.example.org"]);
    pki.ok("issue", &["--coordinator", "c1.example.org", "--address", "192.0.2.7", "--address", "2001:db8::7"]);

    for client in ["cp1.example.org/node.crt", "ops1.example.org/operator.crt", "view.example.org/viewer.crt"] {
        assert_eq!(pki.verify_with_list(client, &["-purpose", "sslclient"]), Ok(()), "{client}");
        assert!(pki.verify(client, &["-purpose", "sslserver"]).is_err(), "{client} is no server");
        assert_eq!(extension(&pki, client, "extendedKeyUsage"), "TLS Web Client Authentication");
    }
    let server = "c1.example.org/coordinator.crt";
    for purpose in ["sslserver", "sslclient"] {
        assert_eq!(pki.verify_with_list(server, &["-purpose", purpose]), Ok(()), "{purpose}");
    }
    assert_eq!(pki.verify(server, &["-verify_hostname", "c1.example.org"]), Ok(()));
    assert!(pki.verify(server, &["-verify_hostname", "c2.example.org"]).is_err());
    for address in ["192.0.2.7", "2001:db8::7"] {
        assert_eq!(pki.verify(server, &["-verify_ip", address]), Ok(()), "{address}");
    }
    assert!(pki.verify(server, &["-verify_ip", "192.0.2.8"]).is_err());

    let names = extension(&pki, "cp1.example.org/node.crt", "subjectAltName");
    assert_eq!(names, "DNS:cp1.example.org", "and no other name");
    let names = extension(&pki, server, "subjectAltName");
    assert_eq!(names, "DNS:c1.example.org, IP Address:192.0.2.7, IP Address:2001:DB8:0:0:0:0:0:7");
    assert_eq!(extension(&pki, server, "keyUsage"), "Digital Signature");
    assert_eq!(extension(&pki, "ca.crt", "basicConstraints"), "CA:TRUE, pathlen:0");
    assert_eq!(extension(&pki, "ca.crt", "keyUsage"), "Certificate Sign, CRL Sign");
    // Each key is the one of its certificate.
    for name in ["cp1.example.org/node", "ca"] {
        let of_key = openssl(&["pkey", "-pubout", "-in", &pki.path(&format!("{name}.key"))]);
        assert_eq!(pki.shown(&format!("{name}.crt"), &["-pubkey"]), stdout(&of_key));
    }
}

/// The value of an extension, on one line.
#[track_caller]
fn extension(pki: &Pki, file: &str, name: &str) -> String {
    let shown = pki.shown(file, &["-ext", name]);
    shown.lines().nth(1).unwrap_or_else(|| panic!("{file} has no {name}")).trim().to_owned()
}

#[test]
fn keys_are_their_owners_alone_and_never_printed() {
    skip_unless!(ready());
    let pki = Pki { dir: tfo_testbed::scratch() };
    let mut said = pki.ok("init", &[]);
    said += &pki.ok("issue", &["--node", "cp1"]);
    said += &pki.ok("issue", &["--operator", "ops", "--format", "json"]);
    said += &pki.ok("list", &["--format", "json"]);
    for (file, mode) in [("ca.key", 0o600), ("cp1/node.key", 0o600), ("index.json", 0o600), ("ca.crt", 0o644)] {
        assert_eq!(self::mode(Path::new(&pki.path(file))), mode, "{file}");
    }
    assert_eq!(mode(Path::new(&pki.path(""))), 0o700);
    for key in ["ca.key", "cp1/node.key", "ops/operator.key"] {
        let pem = std::fs::read_to_string(pki.path(key)).unwrap();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{key}");
        for line in pem.lines().filter(|line| line.len() > 20 && !line.starts_with('-')) {
            assert!(!said.contains(line), "a line of {key} was printed");
            for (file, _, bytes) in pki.content().iter().filter(|(file, ..)| !file.ends_with(key)) {
                assert!(!text(bytes).contains(line), "a line of {key} is in {file}");
            }
        }
    }
}

#[test]
fn hosts_get_a_year_people_three_months_and_nobody_more_than_the_authority() {
    skip_unless!(ready());
    let pki = Pki::with(&["--days", "200"]);
    let ends = |more: &[&str]| {
        let made = pki.json("issue", more);
        let end: tfo_model::time::UnixTime = made["not_after"].as_str().unwrap().parse().unwrap();
        let days = end.secs_since(tfo_host::runtime::clock::now()).div_ceil(86_400);
        (days, made["shortened"].as_bool().unwrap())
    };
    assert_eq!(ends(&["--operator", "ops"]), (90, false));
    assert_eq!(ends(&["--viewer", "view"]), (90, false));
    assert_eq!(ends(&["--node", "n1", "--days", "5"]), (5, false));
    // 397 days are more than the authority has.
    assert_eq!(ends(&["--node", "n2"]), (200, true));
    assert_eq!(ends(&["--coordinator", "c1"]), (200, true));
    assert_eq!(pki.verify("n2/node.crt", &[]), Ok(()));
    let in_days = |days: i64| (now() + days * DAY).to_string();
    assert_eq!(pki.verify("n1/node.crt", &["-attime", &in_days(4)]), Ok(()));
    assert!(pki.verify("n1/node.crt", &["-attime", &in_days(6)]).is_err_and(|why| why.contains("expired")));
    let plain = Pki::new();
    let made = plain.json("issue", &["--node", "n"]);
    let end: tfo_model::time::UnixTime = made["not_after"].as_str().unwrap().parse().unwrap();
    assert_eq!(end.secs_since(tfo_host::runtime::clock::now()).div_ceil(86_400), 397);
}

fn now() -> i64 {
    i64::try_from(tfo_host::runtime::clock::now().secs()).expect("it is before 9999")
}

#[test]
fn a_revoked_certificate_is_on_the_list_and_the_others_are_not() {
    skip_unless!(ready());
    let pki = Pki::new();
    pki.ok("issue", &["--node", "cp1"]);
    pki.ok("issue", &["--node", "cp2"]);
    assert_eq!(pki.verify_with_list("cp1/node.crt", &[]), Ok(()), "the list of the beginning is empty");

    let revoked = pki.json("revoke", &["cp1"]);
    assert_eq!(revoked["revoked"][0]["name"], "cp1");
    assert_eq!(revoked["crl"]["number"], 2);
    assert!(pki.verify_with_list("cp1/node.crt", &[]).is_err_and(|why| why.contains("certificate revoked")));
    assert_eq!(pki.verify_with_list("cp2/node.crt", &[]), Ok(()));

    // By number, as openssl prints it.
    let serial = pki.shown("cp2/node.crt", &["-serial"]).trim().trim_start_matches("serial=").to_owned();
    pki.ok("revoke", &["--serial", &serial]);
    assert!(pki.verify_with_list("cp2/node.crt", &[]).is_err_and(|why| why.contains("certificate revoked")));
    // Revoking it once more is not an error, and renews the list.
    let again = pki.json("revoke", &["cp1"]);
    assert_eq!((again["revoked"].as_array().unwrap().len(), &again["crl"]["number"]), (0, &Value::from(4)));
    assert_eq!(again["crl"]["revoked"], 2);
    pki.refused("revoke", &["cp7"], 1, "has issued no certificate for cp7");
    pki.refused("revoke", &["--serial", &"0".repeat(32)], 1, "has issued no certificate for serial");
    pki.refused("revoke", &["--serial", "12"], 2, "32 hex digits");
    pki.refused("revoke", &[], 2, "required");
}

#[test]
fn a_revocation_list_has_an_end_and_can_be_renewed() {
    skip_unless!(ready());
    let pki = Pki::new();
    pki.ok("issue", &["--node", "cp1"]);
    let at = |days: i64| (now() + days * DAY).to_string();
    assert_eq!(pki.verify_with_list("cp1/node.crt", &["-attime", &at(396)]), Ok(()), "as long as a host's certificate");
    let list = pki.json("crl", &["--days", "10"]);
    assert_eq!((&list["number"], &list["revoked"]), (&Value::from(2), &Value::from(0)));
    assert_eq!(pki.verify_with_list("cp1/node.crt", &["-attime", &at(9)]), Ok(()));
    let old = pki.verify_with_list("cp1/node.crt", &["-attime", &at(11)]);
    assert!(old.is_err_and(|why| why.contains("CRL has expired")));
    let shown = openssl(&["crl", "-noout", "-text", "-in", &pki.path("crl.pem")]);
    let shown = stdout(&shown);
    assert!(shown.contains("X509v3 CRL Number") && shown.contains("X509v3 Authority Key Identifier"), "{shown}");
    let listed = pki.json("list", &[]);
    assert_eq!(listed["crl_next_update"], list["next_update"]);
}

#[test]
fn nothing_is_overwritten_and_what_is_no_name_is_refused() {
    skip_unless!(ready());
    let pki = Pki::new();
    pki.ok("issue", &["--node", "cp1"]);
    pki.refused("init", &[], 3, "files are never overwritten");
    pki.refused("issue", &["--node", "cp1"], 3, "cp1/node.crt exists already");
    // Each file alone is in the way, and so is a link that leads nowhere.
    std::fs::remove_file(pki.path("cp1/node.crt")).unwrap();
    pki.refused("issue", &["--node", "cp1"], 3, "cp1/node.key exists already");
    std::fs::create_dir(pki.path("cp9")).unwrap();
    symlink("/nowhere", pki.path("cp9/node.key")).unwrap();
    pki.refused("issue", &["--node", "cp9"], 3, "cp9/node.key exists already");

    for bad in ["CP1", "a b", "../x", "*.example.org", "", "a..b", "a/b", "-x"] {
        pki.refused("issue", &["--node", "--", bad], 2, "DNS name");
    }
    pki.refused("issue", &["--node", "192.0.2.1"], 2, "--address");
    for own in ["ca.crt", "ca.key", "crl.pem", "index.json", "lock"] {
        pki.refused("issue", &["--node", own], 2, "authority's own");
    }
    pki.refused("issue", &["--coordinator", "c", "--address", "300.1.1.1"], 2, "--address");
    pki.refused("issue", &["cp3"], 2, "required");
    pki.refused("issue", &["--node", "--viewer", "cp3"], 2, "cannot be used with");
    for days in ["0", "826", "-1", "99999999999"] {
        pki.refused("issue", &["--node", "cp3", &format!("--days={days}")], 2, "--days");
    }
    let nowhere = Pki { dir: tfo_testbed::scratch() };
    let output = nowhere.run("issue", &["--node", "cp1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("pki init"), "{}", stderr(&output));
    assert!(!Path::new(&nowhere.path("")).exists(), "a wrong --dir makes nothing");
}

#[test]
fn a_node_is_never_given_an_operators_name() {
    skip_unless!(ready());
    let pki = Pki::new();
    let other = pki.path("other");
    pki.ok("issue", &["--operator", "ops1"]);
    pki.refused("issue", &["--node", "ops1", "--out", &other], 3, "ops1 has a certificate as operator");
    pki.refused("issue", &["--viewer", "ops1", "--out", &other], 3, "ops1 has a certificate as operator");
    pki.ok("issue", &["--node", "cp1"]);
    pki.refused("issue", &["--operator", "cp1", "--out", &other], 3, "cp1 has a certificate as node");
    // A successor of the same kind, and a coordinator that runs on a node, go elsewhere.
    pki.ok("issue", &["--operator", "ops1", "--out", &other]);
    assert_eq!(std::fs::read(pki.path("ca.crt")).unwrap(), std::fs::read(pki.path("other/ca.crt")).unwrap());
    pki.ok("issue", &["--coordinator", "cp1", "--out", &other]);
    assert_eq!(pki.verify("other/coordinator.crt", &["-purpose", "sslserver"]), Ok(()));
    // Once revoked the name is free; both certificates of the name are revoked at once.
    assert_eq!(pki.json("revoke", &["ops1"])["revoked"].as_array().unwrap().len(), 2);
    pki.ok("issue", &["--node", "ops1", "--out", &pki.path("third")]);
    // A directory of another authority's takes nothing from this one.
    let foreign = Pki::new();
    pki.refused("issue", &["--node", "cp2", "--out", &foreign.path("")], 3, "another authority");
}

#[test]
fn an_authority_held_to_a_domain_vouches_for_nothing_else() {
    skip_unless!(ready());
    let pki = Pki::with(&["--domain", "example.org", "--domain", "cache"]);
    for good in ["cp1.example.org", "a.b.example.org", "x.cache"] {
        pki.ok("issue", &["--node", good]);
        assert_eq!(pki.verify(&format!("{good}/node.crt"), &[]), Ok(()), "{good}");
    }
    pki.ok("issue", &["--coordinator", "c.example.org", "--address", "192.0.2.1"]);
    assert_eq!(pki.verify("c.example.org/coordinator.crt", &["-verify_ip", "192.0.2.1"]), Ok(()));
    for bad in ["example.com", "evilexample.org", "org"] {
        pki.refused("issue", &["--node", bad], 3, "issues only names in example.org, cache");
    }
    // The constraint is in the certificate, where others enforce it, and not only in our own refusal.
    assert!(pki.shown("ca.crt", &["-ext", "nameConstraints"]).contains("critical"));
    let (key, request, forged) = (pki.path("f.key"), pki.path("f.csr"), pki.path("forged.crt"));
    let made = openssl(&[
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        &key,
        "-out",
        &request,
        "-subj",
        "/OU=node",
        "-addext",
        "subjectAltName=DNS:cp1.example.com",
    ]);
    assert!(made.status.success(), "{}", stderr(&made));
    let (ca, ca_key) = (pki.path("ca.crt"), pki.path("ca.key"));
    let signed = openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-copy_extensions",
        "copy",
        "-out",
        &forged,
        "-days",
        "5",
    ]);
    assert!(signed.status.success(), "{}", stderr(&signed));
    let verdict = openssl(&["verify", "-CAfile", &ca, &forged]);
    assert!(stderr(&verdict).contains("permitted subtree violation"), "{}", stderr(&verdict));
}

#[test]
fn a_list_tells_what_holds_and_what_does_not() {
    skip_unless!(ready());
    let pki = Pki::new();
    pki.ok("issue", &["--node", "b", "--days", "29"]);
    pki.ok("issue", &["--node", "a"]);
    pki.ok("issue", &["--node", "c"]);
    pki.ok("revoke", &["c"]);
    let listed = pki.json("list", &[]);
    let states: Vec<(&str, &str)> = listed["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [("a", "valid"), ("b", "expiring"), ("c", "revoked")]);
    let shown = pki.ok("list", &[]);
    assert!(shown.starts_with("NAME  ROLE  STATE     UNTIL"), "{shown}");
    assert_eq!(shown.lines().count(), 5, "{shown}");
}

#[test]
fn a_broken_or_exposed_authority_signs_nothing() {
    skip_unless!(ready());
    let pki = Pki::new();
    let key = pki.path("ca.key");
    let set_mode = |mode| std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
    for mode in [0o640, 0o644, 0o602] {
        set_mode(mode);
        pki.refused("issue", &["--node", "cp1"], 1, "users other than its owner");
        pki.refused("crl", &[], 1, "users other than its owner");
    }
    set_mode(0o400);
    pki.ok("issue", &["--node", "cp0"]);
    set_mode(0o600);
    let foreign = Pki::new();
    let own = std::fs::read(&key).unwrap();
    std::fs::copy(foreign.path("ca.key"), &key).unwrap();
    pki.refused("issue", &["--node", "cp1"], 1, "not the private key of ca.crt");
    std::fs::write(&key, "no key").unwrap();
    pki.refused("issue", &["--node", "cp1"], 1, "not a PEM private key");
    std::fs::remove_file(&key).unwrap();
    pki.refused("issue", &["--node", "cp1"], 1, "it does not exist");
    pki.ok("list", &[]);
    std::fs::write(&key, own).unwrap();
    set_mode(0o600);
    pki.ok("issue", &["--node", "cp1"]);
    let index = std::fs::read_to_string(pki.path("index.json")).unwrap();
    for broken in ["", "{}", &index.replace("\"version\": 1", "\"version\": 2"), &index.replace("\"node\"", "\"king\"")]
    {
        std::fs::write(pki.path("index.json"), broken).unwrap();
        pki.refused("issue", &["--node", "cp2"], 1, "index.json");
        pki.refused("list", &[], 1, "index.json");
    }
    // A leaf cannot sign.
    std::fs::write(pki.path("index.json"), index).unwrap();
    std::fs::copy(pki.path("cp1/node.crt"), pki.path("ca.crt")).unwrap();
    pki.refused("issue", &["--node", "cp2"], 1, "certificate authority");
}

#[test]
fn many_at_once_lose_nothing() {
    skip_unless!(ready());
    let pki = Pki::new();
    let names: Vec<String> = (0..12).map(|n| format!("cp{n}")).collect();
    let started: Vec<Child> = names
        .iter()
        .map(|name| pki.command("issue", &["--node", name]).stdout(Stdio::null()).spawn().expect("tfoctl starts"))
        .collect();
    // The same name twice: one gets it.
    let twins: Vec<Child> = (0..2)
        .map(|_| {
            let mut issue = pki.command("issue", &["--node", "twin"]);
            issue.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("tfoctl starts")
        })
        .collect();
    for mut child in started {
        assert!(child.wait().unwrap().success());
    }
    let mut codes: Vec<_> = twins.into_iter().map(|mut twin| twin.wait().unwrap().code()).collect();
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(3)]);
    let listed = pki.json("list", &[]);
    assert_eq!(listed["certificates"].as_array().unwrap().len(), 13);
    for name in &names {
        assert_eq!(pki.verify(&format!("{name}/node.crt"), &[]), Ok(()), "{name}");
    }
}

#[test]
fn a_held_lock_is_waited_for() {
    // Whose files tfoctl has open, only root can see: it is not dumpable.
    skip_unless!(tfo_testbed::need_root());
    let pki = Pki::new();
    let lock = std::fs::File::open(pki.path("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut waiting = pki.command("issue", &["--node", "cp1"]).stdout(Stdio::null()).spawn().unwrap();
    // It has come as far as the lock when it has opened it.
    let lock_path = pki.path("lock");
    let fds = format!("/proc/{}/fd", waiting.id());
    let opened = tfo_testbed::poll_until(std::time::Duration::from_secs(10), || {
        std::fs::read_dir(&fds).is_ok_and(|fds| {
            fds.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == Path::new(&lock_path)))
        })
    });
    assert!(opened && waiting.try_wait().unwrap().is_none());
    assert!(!Path::new(&pki.path("cp1/node.key")).exists());
    drop(lock);
    assert!(waiting.wait().unwrap().success());
}
