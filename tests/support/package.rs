//! The Debian packages, packed from the programs that `cargo test` has built, and machines that they are installed on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::machine::{Image, Machine};

/// Puts what a package installs on the image's disk, without its maintainer scripts: quick, for tests of what is in it.
/// Tests of installations use [`install`].
pub(crate) fn unpacked(packages: &Packages, image: Image, package: &str) -> Image {
    let to = image.root_of_files();
    let status = Command::new("dpkg-deb").arg("--extract").arg(packages.file(package)).arg(to).status();
    assert!(status.expect("dpkg-deb starts").success(), "{package} does not unpack");
    image
}

/// Where the packages lie inside a machine.
const INSIDE: &str = "/var/cache/tfo-test";

/// The packages of this build.
pub(crate) struct Packages {
    dir: TempDir,
}

/// Packs the packages, once for a test program.  None, and the test is skipped, where cargo-deb is missing.
#[track_caller]
pub(crate) fn need_packages() -> Option<&'static Packages> {
    static PACKED: OnceLock<Packages> = OnceLock::new();
    if !super::need_tool("cargo-deb") || !super::need_tool("dpkg") {
        return None;
    }
    Some(PACKED.get_or_init(Packages::pack))
}

impl Packages {
    fn pack() -> Self {
        let dir = tempfile::Builder::new().prefix("tfo-packages-").tempdir().expect("a scratch directory can be made");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(root.join("config/debian/build"));
        let output = command.arg("--built").arg("dev").arg(dir.path()).output().expect("the script starts");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "config/debian/build: {told}");
        Self { dir }
    }

    /// The .deb of a package.
    pub(crate) fn file(&self, package: &str) -> PathBuf {
        let entries = std::fs::read_dir(self.dir.path()).expect("the scratch directory is ours").flatten();
        let found = entries.map(|entry| entry.path()).find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{package}_")))
        });
        found.unwrap_or_else(|| panic!("there is no package {package}"))
    }

    /// Puts a package into root's home on the image's disk, under the name that it was built with; gives that name.
    pub(crate) fn deliver(&self, image: Image, package: &str) -> (Image, String) {
        let file = self.file(package);
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        (image.copy(&file, &format!("/root/{name}"), 0o644), name)
    }

    /// Puts a package on the image's disk, not installed.
    pub(crate) fn bring(&self, image: Image, package: &str) -> Image {
        image.copy(&self.file(package), &inside(package), 0o644)
    }
}

/// The file of a package inside a machine.
pub(crate) fn inside(package: &str) -> String {
    format!("{INSIDE}/{package}.deb")
}

/// Installs a package that was brought, with the machine's own dpkg and all maintainer scripts; gives what was said.
#[track_caller]
pub(crate) fn install(machine: &Machine, package: &str) -> String {
    machine.run(&["dpkg", "--force-unsafe-io", "--install", &inside(package)])
}
