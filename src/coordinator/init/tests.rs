//! `init` in directories of its own: what it makes, what it finishes, what it refuses.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::preflight::server_files;
use tfo_config::coordinator::CoordinatorSettings;
use tfo_config::ctl::CtlFile;
use tfo_config::reader::ConfigFile;
use tfo_host::secret::SecretPath;
use tfo_tls::client::{ClientFiles, client_identity};
use tfo_tls::server::ServerTls;

/// Certificates are judged by the clock.
fn now() -> UnixTime {
    tfo_host::runtime::clock::now()
}

/// A host without anything.
struct Host {
    dir: TempDir,
    layout: Layout,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let units = vec![path("systemd"), path("usr")];
        let layout = Layout { etc: path("etc"), state: path("state"), units, owner };
        Self { dir, layout }
    }

    fn init(&self, wish: &Wish) -> Result<Vec<PathBuf>, Failure> {
        init(wish, &self.layout, now()).map(|made| made.made)
    }

    /// Everything that is there, with modes and content.
    fn content(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        fn below(path: &Path, found: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
            for entry in fs::read_dir(path).unwrap() {
                let path = entry.unwrap().path();
                let about = path.symlink_metadata().unwrap();
                if about.is_dir() {
                    below(&path, found);
                }
                // `tfoctl pki` locks an authority that is there, too.
                if !path.ends_with("lock") {
                    let bytes = if about.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                    found.insert(path, (about.mode(), bytes));
                }
            }
        }
        let mut found = BTreeMap::new();
        below(self.dir.path(), &mut found);
        found
    }

    /// Whether what was made works together.
    fn check(&self) {
        let layout = &self.layout;
        let settings = CoordinatorSettings::load(&layout.config()).unwrap();
        assert_eq!(ServerTls::check(&server_files(&settings.api)), []);
        let enrolment = settings.enrolment.as_ref().expect("nodes can enrol");
        assert_eq!(enrolment.ca_key.as_ref().unwrap().value, SecretPath::Credential("ca".to_owned()));
        let ctl = CtlFile::load(&layout.ctl()).unwrap().choose(None).unwrap();
        let files = ClientFiles { ca: ctl.ca, cert: ctl.cert, key: ctl.key, crl: None };
        let identity = client_identity(&files, now()).unwrap();
        assert_eq!(identity.notes, []);
        assert!(identity.names.iter().all(|name| settings.access.operators.contains(name)), "{:?}", identity.names);
        let (_, authority, index) = found::open_authority(&layout.authority()).unwrap();
        let list = fs::read_to_string(layout.list()).unwrap();
        assert!(ListFile::read(&list, &authority).unwrap().own.is_some());
        let roles: Vec<Role> = index.certificates.iter().map(|entry| entry.role).collect();
        assert!(
            roles.contains(&Role::Coordinator) && roles.contains(&Role::Operator),
            "each can be revoked: {roles:?}"
        );
        let directories: Vec<&Path> = layout.units.iter().map(PathBuf::as_path).collect();
        assert!(crate::credential::is_loaded("ca", &directories));
        assert!(!layout.unfinished_authority().exists());
    }

    fn put(&self, path: &Path, content: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

fn wish() -> Wish {
    let name: NodeId = "tfo1.example.org".parse().unwrap();
    let nodes = vec![default_nodes(&name).unwrap()];
    Wish { name, addresses: vec!["192.0.2.1".parse().unwrap()], pool: DEFAULT_POOL.parse().unwrap(), nodes }
}

#[test]
fn one_run_makes_a_coordinator_and_a_second_one_nothing() {
    let host = Host::new();
    let made = host.init(&wish()).unwrap();
    host.check();
    let layout = &host.layout;
    for (path, mode) in [
        (layout.authority(), 0o700),
        (layout.authority().join("ca.key"), 0o600),
        (layout.ca(), 0o644),
        (layout.kek(), 0o400),
        (layout.state.clone(), 0o700),
        (layout.key(), 0o400),
        (layout.certificate(), 0o644),
        (layout.list(), 0o644),
        (layout.operator(), 0o400),
        (layout.ctl(), 0o644),
        (layout.config(), 0o644),
        (layout.drop_in(), 0o644),
    ] {
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, mode, "{}", path.display());
    }
    assert_eq!((made.len(), made.last()), (10, Some(&layout.config())));
    let settings = CoordinatorSettings::load(&layout.config()).unwrap();
    let pool = &settings.pools[&"edge".parse().unwrap()].value;
    assert_eq!(pool.nodes, ["*.example.org".parse().unwrap()]);
    let before = host.content();
    assert!(host.init(&wish()).unwrap().is_empty());
    assert_eq!(host.content(), before);
    // An operator's own changes to the policy are not in the way.
    let text = fs::read_to_string(layout.config()).unwrap();
    host.put(&layout.config(), text.replace("#interval = \"1d\"", "interval = \"2d\"").as_bytes());
    assert!(host.init(&wish()).unwrap().is_empty());
}

#[test]
fn a_run_that_was_cut_off_anywhere_is_finished_by_the_next_one() {
    let whole = Host::new().init(&wish()).unwrap().len();
    for done in 0..whole {
        let host = Host::new();
        let made = host.init(&wish()).unwrap();
        // While the authority is made it has another name.
        host.put(&host.layout.unfinished_authority().join("ca.key"), b"half");
        for path in &made[done..] {
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        if done > 0 {
            fs::remove_dir_all(host.layout.unfinished_authority()).unwrap();
        }
        let kept: Vec<Vec<u8>> = made[..done].iter().map(|path| fs::read(path).unwrap_or_default()).collect();
        assert_eq!(host.init(&wish()).unwrap(), made[done..], "after {done} steps");
        host.check();
        let after: Vec<Vec<u8>> = made[..done].iter().map(|path| fs::read(path).unwrap_or_default()).collect();
        assert_eq!(kept, after);
    }
}

#[test]
fn what_is_in_the_way_is_named_all_of_it_and_nothing_changes() {
    let fresh = Host::new();
    let layout = &fresh.layout;
    let own_pki = include_str!("../../../config/coordinator.toml").replace("#listen = \"[::]:9443\"", "");
    let rubbish: [(PathBuf, &[u8]); 10] = [
        (layout.authority(), b"a file"),
        (layout.ca(), b"rubbish"),
        (layout.kek(), &[7; 31]),
        (layout.key(), b"rubbish"),
        (layout.certificate(), b"rubbish"),
        (layout.operator(), b"rubbish"),
        (layout.list(), b"rubbish"),
        (layout.drop_in(), b"[Service]\n"),
        (layout.ctl(), b"urls = 1\n"),
        (layout.config(), own_pki.as_bytes()),
    ];
    for (path, content) in &rubbish {
        fresh.put(path, content);
    }
    let before = fresh.content();
    let failure = fresh.init(&wish()).unwrap_err();
    assert_eq!((failure.outcome, fresh.content()), (Outcome::Refused, before));
    let named: Vec<&PathBuf> = failure.problems.iter().filter_map(|problem| problem.file.as_ref()).collect();
    for (path, _) in &rubbish {
        assert!(named.contains(&path), "{} is not named: {named:?}", path.display());
    }
    // Each alone beside what a whole run made.
    let host = Host::new();
    host.init(&wish()).unwrap();
    let layout = &host.layout;
    let stranger = Host::new();
    stranger.init(&wish()).unwrap();
    let theirs = |path: &Path| fs::read(stranger.dir.path().join(path.strip_prefix(host.dir.path()).unwrap())).unwrap();
    for path in [layout.ca(), layout.key(), layout.certificate(), layout.operator()] {
        let own = fs::read(&path).unwrap();
        host.put(&path, &theirs(&path));
        let before = host.content();
        let failure = host.init(&wish()).unwrap_err();
        assert!(failure.problems.iter().any(|problem| problem.kind == "exists"), "{}", path.display());
        assert_eq!(host.content(), before, "{}", path.display());
        host.put(&path, &own);
    }
    host.check();
    // A link that leads nowhere, and a key that others can read.
    let kek = fs::read(layout.kek()).unwrap();
    fs::remove_file(layout.kek()).unwrap();
    symlink("/nowhere/kek", layout.kek()).unwrap();
    assert_eq!(host.init(&wish()).unwrap_err().problems.len(), 1);
    fs::remove_file(layout.kek()).unwrap();
    host.put(&layout.kek(), &kek);
    fs::set_permissions(layout.key(), fs::Permissions::from_mode(0o640)).unwrap();
    let failure = host.init(&wish()).unwrap_err();
    assert!(failure.problems[0].message.contains("other users can read"), "{:?}", failure.problems);
    fs::set_permissions(layout.key(), fs::Permissions::from_mode(0o400)).unwrap();
    // The same host under another name or address is another coordinator.
    for other in
        [Wish { name: "tfo2.example.org".parse().unwrap(), ..wish() }, Wish { addresses: Vec::new(), ..wish() }]
    {
        let failure = host.init(&other).unwrap_err();
        assert_eq!(failure.problems[0].file, Some(layout.certificate()), "{:?}", failure.problems);
    }
}

#[test]
fn an_authority_that_lies_there_is_used_within_its_limits() {
    let host = Host::new();
    fs::create_dir_all(&host.layout.etc).unwrap();
    let domain = ["example.org".parse().unwrap()];
    drop(Directory::create(&host.layout.authority(), 1_000, &domain, now()).unwrap());
    let failure = host.init(&wish()).unwrap_err();
    assert_eq!(failure.problems[0].kind, "outside_domain", "root as an operator has no domain");
    fs::remove_dir_all(host.layout.authority()).unwrap();
    drop(Directory::create(&host.layout.authority(), 1_000, &[], now()).unwrap());
    let own = fs::read(host.layout.authority().join("ca.crt")).unwrap();
    assert_eq!(host.init(&wish()).unwrap().len(), 9);
    host.check();
    assert_eq!(fs::read(host.layout.ca()).unwrap(), own);
}

#[test]
fn the_unchanged_examples_of_the_packages_are_replaced() {
    let host = Host::new();
    host.put(&host.layout.config(), texts::EXAMPLE.as_bytes());
    host.put(&host.layout.ctl(), texts::CTL_EXAMPLE.as_bytes());
    assert_eq!(host.init(&wish()).unwrap().len(), 10);
    host.check();
}

#[test]
fn names_that_cannot_be_are_refused_before_anything_is_looked_at() {
    let host = Host::new();
    let kind = |wish: &Wish| host.init(wish).unwrap_err().problems[0].kind;
    assert_eq!(kind(&Wish { name: "192.0.2.1".parse().unwrap(), ..wish() }), "bad_name");
    assert_eq!(kind(&Wish { nodes: vec!["*".parse().unwrap()], ..wish() }), "names_overlap");
    assert!(!host.layout.etc.exists());
    for (name, operator, nodes) in [
        ("tfo1.example.org", "root-tfo1", Some("*.example.org")),
        ("tfo1", "root-tfo1", None),
        (&format!("{}-x.org", "a".repeat(57)), &format!("root-{}", "a".repeat(57)), Some("*.org")),
    ] {
        let name: NodeId = name.parse().unwrap();
        assert_eq!(operator_of(&name).as_str(), operator);
        assert_eq!(default_nodes(&name).map(|pattern| pattern.to_string()), nodes.map(str::to_owned));
    }
    // A pool whose name is not a bare key of TOML.
    let dotted = Wish { pool: "edge.eu".parse().unwrap(), ..wish() };
    host.init(&dotted).unwrap();
    let settings = CoordinatorSettings::load(&host.layout.config()).unwrap();
    assert!(settings.pools.contains_key(&dotted.pool));
}
