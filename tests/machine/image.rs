//! The images for containers: what is in them, and that the programs run on it, with nothing of the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use tfo_testbed::NetNs;
use tfo_testbed::config::client_files;
use tfo_testbed::host::{KEY_FILE, UNSET};
use tfo_testbed::output::{said, stdout};
use tfo_testbed::package::{Packages, need_images};
use tfo_testbed::pki::Ca;

/// An image as its archive has it.
struct Unpacked {
    dir: TempDir,
    config: Value,
}

impl Unpacked {
    fn of(packages: &Packages, program: &str) -> Self {
        let dir = tfo_testbed::scratch();
        for name in ["layout", "root"] {
            fs::create_dir(dir.path().join(name)).expect("the scratch directory is ours");
        }
        untar(&packages.file(program), &dir.path().join("layout"));
        let read = |path: &Path| -> Value {
            let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            serde_json::from_slice(&text).expect("JSON")
        };
        let blob = |digest: &Value| {
            let digest = digest["digest"].as_str().and_then(|text| text.strip_prefix("sha256:")).expect("a digest");
            dir.path().join("layout/blobs/sha256").join(digest)
        };
        let index = read(&dir.path().join("layout/index.json"));
        let manifest = read(&blob(&index["manifests"][0]));
        for layer in manifest["layers"].as_array().expect("layers") {
            untar(&blob(layer), &dir.path().join("root"));
        }
        let config = read(&blob(&manifest["config"]));
        Self { dir, config }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// All files, as paths from the image's top.
    fn files(&self) -> Vec<String> {
        let listed = Command::new("find").arg(self.root()).args(["-type", "f", "-printf", "/%P\n"]).output();
        let mut files: Vec<String> = stdout(&listed.expect("find starts")).lines().map(str::to_owned).collect();
        files.sort_unstable();
        files
    }
}

fn untar(archive: &Path, to: &Path) {
    let output = Command::new("tar").arg("--extract").arg("--directory").arg(to).arg("--file").arg(archive).output();
    let output = output.expect("tar starts");
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn an_image_has_its_program_with_its_libraries_and_nothing_else() {
    let Some(packages) = need_images() else { return };
    for (program, command, user) in [("tfo-agent", "run", ""), ("tfo-coordinator", "serve", "65532:65532")] {
        let image = Unpacked::of(packages, program);
        let config = &image.config["config"];
        assert_eq!(config["Entrypoint"], json!([format!("/usr/bin/{program}")]));
        assert_eq!(config["Cmd"], json!([command]));
        assert_eq!(config["User"].as_str().unwrap_or_default(), user);
        assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
        let mut files = image.files();
        let libraries = files.iter().filter(|file| file.contains("/lib") && file.contains(".so")).count();
        assert!(libraries >= 2, "{files:?}");
        files.retain(|file| !(file.contains("/lib") && file.contains(".so")));
        let program = format!("/usr/bin/{program}");
        // Of the libraries, of the crates in the program, and our own.
        let licenses =
            ["libc6/copyright", "tfo-fleet/LICENSE-APACHE", "tfo-fleet/LICENSE-MIT", "tfo-fleet/THIRD_PARTY"]
                .map(|name| format!("/usr/share/licenses/{name}"));
        let own = ["/etc/group", "/etc/nsswitch.conf", "/etc/passwd", &program].map(str::to_owned);
        assert_eq!(files, [own, licenses].concat());
        let told = Command::new("chroot").arg(image.root()).args([&program, "--version"]).output().expect("it starts");
        assert!(told.status.success(), "{}", said(&told));
        assert!(stdout(&told).contains(env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn the_agent_installs_keys_and_resolves_names_inside_its_image() {
    let (true, Some(packages)) = (tfo_testbed::need_netns(), need_images()) else { return };
    let image = Unpacked::of(packages, "tfo-agent");
    let (root, host) = (image.root(), NetNs::new());
    let write = |name: &str, text: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a file has a directory")).expect("the scratch directory is ours");
        fs::write(path, text).expect("the scratch directory is ours");
    };
    let write_secret = |name: &str, text: &str| {
        write(name, text);
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o400)).expect("it is ours");
    };
    let inside = |command: &str| {
        // The container's own /proc, as every runtime mounts it.
        let script = "mount -t proc proc \"$0/proc\" && exec chroot \"$0\" /usr/bin/tfo-agent \"$@\"";
        let mut agent = host.command("unshare");
        agent.args(["--mount", "--pid", "--fork", "sh", "-c", script]).arg(&root).arg(command);
        agent.output().expect("unshare starts")
    };
    let schedule = "[[source.schedule]]\nsecret = \"/etc/tfo-fleet/fleet.secret\"\ninterval = \"24h\"\n";
    write("etc/tfo-fleet/agent.toml", &format!("[source]\nkind = \"derive\"\n{schedule}"));
    write_secret("etc/tfo-fleet/fleet.secret", "Dz6q0vXk1rT9sYb4Lw8nGmHcJ2eUaPfK\n");
    fs::create_dir_all(root.join("etc/sysctl.d")).expect("the scratch directory is ours");
    let once = inside("once");
    assert!(once.status.success(), "{}", said(&once));
    let key = stdout(&host.command("cat").arg(KEY_FILE).output().expect("cat starts"));
    assert_ne!(key.trim(), UNSET);

    // A name of /etc/hosts: glibc finds it without a library that only the host has, and nothing listens there.
    write("etc/hosts", "127.0.0.1 coordinator.example.org\n");
    let ca = Ca::new("Fleet");
    let node = ca.client(&["cp1.example.org"]);
    write("etc/tfo-fleet/ca.crt", &ca.pem);
    write_secret("etc/tfo-fleet/node.pem", &format!("{}{}", node.cert_pem, node.key_pem));
    let pair = Path::new("/etc/tfo-fleet/node.pem");
    let source = "[source]\nkind = \"coordinator\"\nurls = [\"https://coordinator.example.org\"]\npool = \"edge\"\n";
    write(
        "etc/tfo-fleet/agent.toml",
        &format!("{source}{}", client_files(Path::new("/etc/tfo-fleet/ca.crt"), pair, pair)),
    );
    let told = said(&inside("check"));
    assert!(told.contains("Connection refused"), "{told}");
}
