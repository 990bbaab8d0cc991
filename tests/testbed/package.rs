//! The packages, packed from the programs that `cargo test` has built, and machines that they are installed on: Debian's,
//! unless a name says otherwise.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::machine::{Image, Machine};
use crate::output::stderr;

/// Puts what a package installs on the image's disk, without its maintainer scripts: quick, for tests of what is in it.
/// Tests of installations use [`install`].
pub fn unpacked(packages: &Packages, image: Image, package: &str) -> Image {
    let to = image.root_of_files();
    let status = Command::new("dpkg-deb").arg("--extract").arg(packages.file(package)).arg(to).status();
    assert!(status.expect("dpkg-deb starts").success(), "{package} does not unpack");
    image
}

/// Where the packages lie inside a machine.
const INSIDE: &str = "/var/cache/tfo-test";

/// The packages of this build of one form, which all tests of one run share.
pub struct Packages {
    dir: PathBuf,
    /// What is between a package's name and its version.
    separator: char,
}

/// Packs the packages, once for all processes of a run.  None, and the test is skipped, where cargo-deb is missing.
#[track_caller]
pub fn need_packages() -> Option<&'static Packages> {
    static PACKED: OnceLock<Packages> = OnceLock::new();
    if !crate::need_tool("cargo-deb") || !crate::need_tool("dpkg") {
        return None;
    }
    Some(PACKED.get_or_init(|| Packages::pack("debian", '_')))
}

/// The same for .rpm.
#[track_caller]
pub fn need_rpms() -> Option<&'static Packages> {
    static PACKED: OnceLock<Packages> = OnceLock::new();
    if !crate::need_tool("cargo-generate-rpm") || !crate::need_tool("rpm") {
        return None;
    }
    Some(PACKED.get_or_init(|| Packages::pack("rpm", '-')))
}

/// The same for images of containers.
#[track_caller]
pub fn need_images() -> Option<&'static Packages> {
    static PACKED: OnceLock<Packages> = OnceLock::new();
    if !crate::need_root() || !crate::need_tool("buildah") {
        return None;
    }
    Some(PACKED.get_or_init(|| Packages::pack("oci", '-')))
}

impl Packages {
    /// Packs them with config/FORM/pack into a directory below target/tmp, unless another process of this run has.
    fn pack(form: &str, separator: char) -> Self {
        // One lock for all: each makes target/package.
        let lock = File::create(crate::shared("packages.lock")).expect("target/tmp takes it");
        lock.lock().expect("a lock can be waited for");
        let (dir, made_by) =
            (crate::shared(&format!("packages-{form}")), crate::shared(&format!("packages-{form}.run")));
        let packed = Self { dir: dir.clone(), separator };
        if std::fs::read_to_string(&made_by).is_ok_and(|run| run == this_run()) {
            return packed;
        }
        std::fs::remove_file(&made_by).ok();
        std::fs::remove_dir_all(&dir).ok();
        std::fs::create_dir_all(&dir).expect("target/tmp takes it");
        let script = format!("config/{form}/pack");
        let mut command = Command::new(crate::repository(&script));
        let output = command.arg("dev").arg(&dir).output().expect("the script starts");
        let told = stderr(&output);
        assert!(output.status.success(), "{script}: {told}");
        std::fs::write(made_by, this_run()).expect("target/tmp takes it");
        packed
    }

    /// The file of a package.
    pub fn file(&self, package: &str) -> PathBuf {
        let start = format!("{package}{}", self.separator);
        let entries = std::fs::read_dir(&self.dir).expect("they were packed").flatten();
        let mut found = entries.map(|entry| entry.path());
        let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start));
        found.find(named).unwrap_or_else(|| panic!("there is no package {package}"))
    }

    /// Puts a package into root's home on the image's disk, under the name that it was built with; gives that name.
    pub fn deliver(&self, image: Image, package: &str) -> (Image, String) {
        let file = self.file(package);
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        (image.copy(&file, &format!("/root/{name}"), 0o644), name)
    }

    /// Puts a package on the image's disk, not installed.
    pub fn bring(&self, image: Image, package: &str) -> Image {
        image.copy(&self.file(package), &inside(package), 0o644)
    }
}

/// What all test processes of one run have in common: the program that started them, and when it was started itself.
fn this_run() -> String {
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    let stat = std::fs::read_to_string(format!("/proc/{parent}/stat")).unwrap_or_default();
    // proc_pid_stat(5): the 22nd field; the 2nd, in parentheses, may have spaces.
    let since = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19));
    format!("{parent} since {}", since.unwrap_or_default())
}

/// The file of a package inside a machine.
pub fn inside(package: &str) -> String {
    format!("{INSIDE}/{package}.deb")
}

/// Installs a package that was brought, with the machine's own dpkg and all maintainer scripts; gives what was said.
#[track_caller]
pub fn install(machine: &Machine, package: &str) -> String {
    machine.run(&["dpkg", "--force-unsafe-io", "--install", &inside(package)])
}
