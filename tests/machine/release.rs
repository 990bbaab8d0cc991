//! The release folder (config/release): what it refuses, that it is the same bytes from any folder, and that its sources
//! build without the network.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use tfo_testbed::output::{code, said, stderr, stdout};
use tfo_testbed::{need_tool, repository, skip_unless};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A checkout with one commit, of the files of this one as they are.
struct Checkout {
    dir: TempDir,
}

impl Checkout {
    fn new() -> Self {
        let dir = tfo_testbed::scratch();
        let copy = "git ls-files -z | tar --create --null --files-from - | tar --extract --directory \"$0\"";
        let mut command = Command::new("sh");
        let copied = command.args(["-c", copy]).arg(dir.path()).current_dir(repository(".")).output();
        code(&copied.expect("sh starts"), 0);
        let checkout = Self { dir };
        checkout.git(&["init", "--quiet"]);
        // Closed, as for a release: a section with text, and nothing that is not in it.
        checkout.write("CHANGELOG.md", &format!("# Changelog\n\n## Unreleased\n\n## {VERSION} - 2026-11-30\n\n- New.\n\n## 0.0.1 - 2026-01-01\n\n- Old.\n"));
        checkout.commit();
        checkout
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("the scratch directory is ours");
    }

    fn git(&self, arguments: &[&str]) {
        let identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"];
        let output = Command::new("git").args(identity).args(arguments).current_dir(self.dir.path()).output();
        code(&output.expect("git starts"), 0);
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", "A commit"]);
    }

    /// A script of config/release.
    fn script(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path(&format!("config/release/{name}")));
        command.args(arguments);
        command
    }
}

/// A folder for PATH: programs of this host, and others that do nothing.
fn programs(real: &[&str], made_up: &[&str]) -> TempDir {
    let dir = tfo_testbed::scratch();
    for name in real {
        let path = std::env::var_os("PATH").expect("PATH is set");
        let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
        symlink(found.unwrap_or_else(|| panic!("{name} is not in PATH")), dir.path().join(name)).expect("it is ours");
    }
    for name in made_up {
        let path = dir.path().join(name);
        fs::write(&path, "#!/bin/sh\nexit 1\n").expect("it is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    dir
}

/// What the scripts take from the system before they compile.
const SYSTEM: [&str; 23] = [
    "awk",
    "bash",
    "cat",
    "date",
    "dirname",
    "dpkg-query",
    "env",
    "git",
    "grep",
    "gzip",
    "head",
    "ls",
    "mkdir",
    "mktemp",
    "paste",
    "readlink",
    "realpath",
    "rm",
    "sed",
    "sha256sum",
    "tar",
    "tr",
    "xz",
];
/// What the parts of a release take.
const TOOLS: [&str; 6] =
    ["buildah", "cargo-auditable", "cargo-cyclonedx", "cargo-deb", "cargo-generate-rpm", "dpkg-deb"];

#[test]
fn a_release_is_refused_with_its_reason_and_remedy_before_anything_is_made() {
    let checkout = Checkout::new();
    let refused = |path: &TempDir, arguments: &[&str], reason: &str, remedy: &str| {
        let output = checkout.script("build", arguments).env("PATH", path.path()).output().expect("the script starts");
        code(&output, 1);
        let told = stderr(&output);
        assert!(told.starts_with("build: ") && told.contains(reason), "{reason}: {told}");
        assert!(told.contains(&format!("; remedy: {remedy}")), "{remedy}: {told}");
        assert!(!checkout.path("target").exists(), "{reason}: something was made");
    };
    let all = programs(&SYSTEM, &TOOLS);
    for (tool, remedy) in TOOLS.iter().zip([
        "apt-get install buildah",
        "cargo install --locked cargo-auditable@",
        "cargo install --locked cargo-cyclonedx@",
        "cargo install --locked cargo-deb@",
        "cargo install --locked cargo-generate-rpm@",
        "apt-get install dpkg",
    ]) {
        let others: Vec<&str> = TOOLS.iter().copied().filter(|other| other != tool).collect();
        refused(&programs(&SYSTEM, &others), &[], &format!("{tool} is not installed"), remedy);
    }
    // A part needs the tools of that part alone, and so comes as far as the tree.
    checkout.write("new.txt", "");
    let few = programs(&SYSTEM, &["cargo-auditable", "cargo-deb", "dpkg-deb"]);
    refused(&few, &["deb"], "the tree has changes that are in no commit (?? new.txt)", "git commit");
    fs::remove_file(checkout.path("new.txt")).expect("it is there");
    let readme = fs::read_to_string(checkout.path("README.md")).expect("it is there");
    checkout.write("README.md", &format!("{readme}\nA change.\n"));
    refused(&all, &[], "( M README.md)", "git commit");
    checkout.write("README.md", &readme);

    let whole = fs::read_to_string(checkout.path("CHANGELOG.md")).expect("it is there");
    let heading = format!("## {VERSION} - 2026-11-30");
    for (text, reason, remedy) in [
        (whole.replace(&heading, "## 0.0.2 - 2026-11-30"), "has no entry", "close the section Unreleased"),
        (whole.replace(&heading, &format!("## {VERSION}")), "has no entry", "close the section Unreleased"),
        (whole.replace("- New.\n", ""), "is empty", "say in it what has changed"),
        (whole.replace("## Unreleased\n", "## Unreleased\n\n- Later.\n"), "under Unreleased", "move them under"),
    ] {
        checkout.write("CHANGELOG.md", &text);
        checkout.commit();
        refused(&all, &[], reason, remedy);
    }
    checkout.write("CHANGELOG.md", &whole);
    let debian = fs::read_to_string(checkout.path("config/debian/changelog")).expect("it is there");
    checkout.write("config/debian/changelog", &debian.replacen(&format!("({VERSION}-1)"), "(0.0.9-1)", 1));
    checkout.commit();
    refused(&all, &[], "the newest entry of config/debian/changelog is 0.0.9-1", &format!("add an entry {VERSION}-1"));
    checkout.write("config/debian/changelog", &debian);
    checkout.commit();
    let taken = checkout.path("docs");
    refused(&all, &["--to", taken.to_str().expect("an ASCII path")], "docs is not empty", "rm -r");

    for wrong in [&["everything"][..], &["--to"], &["--built", "dev", "deb"]] {
        code(&checkout.script("build", wrong).env("PATH", all.path()).output().expect("the script starts"), 2);
    }
}

/// The files of a folder with their sums.
fn sums(dir: &Path) -> BTreeMap<String, String> {
    let output = Command::new("sh").args(["-c", "sha256sum -- *"]).current_dir(dir).output().expect("sh starts");
    code(&output, 0);
    listed(&stdout(&output))
}

/// Where cargo built the programs under test.
fn target() -> PathBuf {
    tfo_testbed::agent_path().ancestors().nth(2).expect("target/PROFILE/PROGRAM").to_owned()
}

/// Name and sum of each line of SHA256SUMS.
fn listed(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(|line| line.split_once("  ")).map(|(sum, name)| (name.to_owned(), sum.to_owned())).collect()
}

/// A script as this user runs it.
fn here(script: &Path) -> Command {
    Command::new(script)
}

/// The same for another user: home, language, time zone and umask differ.
fn elsewhere(script: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(script);
    let home = PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
    for (name, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        command.env(name, std::env::var_os(name).unwrap_or_else(|| home.join(folder).into()));
    }
    command.envs([("HOME", "/nonexistent"), ("USER", "another"), ("LANG", "de_DE.UTF-8"), ("TZ", "Asia/Tokyo")]);
    command
}

/// Packed from the programs of this build; under `tests/run --full` compiled twice from the source package, as a release is.
#[test]
fn a_release_is_the_same_bytes_from_two_folders() {
    skip_unless!(tfo_testbed::need_root() && TOOLS.iter().all(|tool| need_tool(tool)));
    let packed = ["--built", "dev", "deb", "rpm", "oci", "sbom"];
    let parts = if tfo_testbed::full() { &packed[..0] } else { &packed[..] };
    let made = [here as fn(&Path) -> Command, elsewhere].map(|command| {
        let checkout = Checkout::new();
        let to = checkout.path("target/release");
        let mut build = command(&checkout.path("config/release/build"));
        let output = build
            .arg("--to")
            .arg(&to)
            .args(parts)
            .env("CARGO_TARGET_DIR", target())
            .output()
            .expect("the script starts");
        code(&output, 0);
        let told = |name: &str| fs::read_to_string(to.join(name)).expect("it was made");
        assert_eq!(told("NOTES.md").trim(), "- New.");
        assert!(told("MADE_WITH").contains("rustc 1."), "{}", told("MADE_WITH"));
        let (listed, mut there) = (listed(&told("SHA256SUMS")), sums(&to));
        there.remove("SHA256SUMS");
        assert_eq!(listed, there);
        there
    });
    let names: Vec<&String> = made[0].keys().collect();
    let source = usize::from(tfo_testbed::full());
    assert_eq!(names.len(), source + 3 + 3 + 2 + 1 + 2, "{names:?}");
    assert_eq!(made[0], made[1]);
}

#[test]
fn the_licences_of_all_crates_in_the_programs_are_listed_with_their_texts() {
    let dir = tfo_testbed::scratch();
    let to = dir.path().join("THIRD_PARTY");
    let mut notices = Command::new(repository("config/release/notices"));
    code(&notices.arg(&to).output().expect("the script starts"), 0);
    let told = fs::read_to_string(&to).expect("it was made");
    assert!(
        told.starts_with(&format!("The programs of tfo-fleet {VERSION} contain")),
        "{}",
        told.lines().next().unwrap_or_default()
    );
    let (crates, texts) = told.split_once("\n==== 1 ====\n").expect("a list, then texts");
    let crates: Vec<(&str, &str)> = crates.lines().filter_map(|line| line.split_once(": ")).collect();
    // Name and version as they are locked; neither our own nor those of tests and of the compiler.
    let locked = fs::read_to_string(repository("Cargo.lock")).expect("it is there");
    for (named, _) in &crates {
        let (name, version) = named.split_once(' ').expect("name and version");
        assert!(locked.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "{named}");
    }
    let has = |name: &str| crates.iter().any(|(named, _)| named.starts_with(&format!("{name} ")));
    for name in ["libsqlite3-sys", "ring", "rustls", "tokio"] {
        assert!(has(name), "{name}: {crates:?}");
    }
    for name in ["tfo-model", "proptest", "serde_derive"] {
        assert!(!has(name), "{name}: {crates:?}");
    }
    // Each number that is cited has a text, and nearly each crate has one.
    let cited = crates.iter().filter_map(|(_, rest)| rest.split_once("; ")).map(|(_, numbers)| numbers);
    let (without, cited): (Vec<&str>, Vec<&str>) = cited.partition(|numbers| *numbers == "without a text");
    assert!(without.len() * 20 < crates.len(), "{without:?} of {}", crates.len());
    for number in cited.iter().flat_map(|numbers| numbers.split(' ')) {
        assert!(number == "1" || texts.contains(&format!("\n==== {number} ====\n")), "{number}");
    }
    assert!(
        texts.contains("fiat-crypto") && texts.contains("Permission is hereby granted"),
        "texts of ring, and of MIT"
    );
}

/// Compiles a small part of an unpacked source package as a release is compiled, in a home of its own without a registry.
fn compile(sources: &Path) -> Output {
    let mut command = Command::new(sources.join("config/release/compile"));
    let home = sources.join("home");
    fs::create_dir(&home).expect("the scratch directory is ours");
    command.env("CARGO_HOME", home).env("CARGO_NET_OFFLINE", "true").env("CARGO_TARGET_DIR", sources.join("made"));
    command.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").args([
        "--release",
        "--package",
        "tfo-model",
    ]);
    command.output().expect("the script starts")
}

#[test]
fn the_source_package_builds_without_the_network_and_the_same_in_two_folders() {
    skip_unless!(need_tool("cargo-auditable") && need_tool("xz"));
    let checkout = Checkout::new();
    let made = ["one", "an/other"].map(|folder| {
        let to = checkout.path(folder);
        fs::create_dir_all(&to).expect("the scratch directory is ours");
        code(&checkout.script("source", &[to.to_str().expect("an ASCII path"), "-0"]).output().expect("it starts"), 0);
        let archive = to.join(format!("tfo-fleet-{VERSION}.tar.xz"));
        let unpacked =
            Command::new("tar").arg("--extract").arg("--file").arg(&archive).arg("--directory").arg(&to).output();
        code(&unpacked.expect("tar starts"), 0);
        let sources = to.join(format!("tfo-fleet-{VERSION}"));
        let output = compile(&sources);
        assert!(output.status.success(), "{}", said(&output));
        (
            fs::read(archive).expect("it was made"),
            fs::read(sources.join("made/release/libtfo_model.rlib")).expect("it was made"),
            sources,
        )
    });
    let [(first, first_lib, sources), (second, second_lib, _)] = made;
    assert!(first == second, "two source packages of one commit differ");
    assert!(first_lib == second_lib, "the same crate differs in two folders");
    // Nothing of this host is in it.
    let sources = sources.to_str().expect("an ASCII path").as_bytes();
    assert!(!first_lib.windows(sources.len()).any(|part| part == sources), "the folder's name is in the crate");
}
