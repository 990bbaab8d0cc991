//! A host for one test: a network namespace with its own kernel keys, and a directory with its own configuration,
//! secrets, sysctl.d and runtime directory.  Gone when the value is dropped.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::NetNs;

/// The kernel's key file, in the network namespace of the process that opens it.
pub const KEY_FILE: &str = "/proc/sys/net/ipv4/tcp_fastopen_key";

/// The kernel's text of an unset key.
pub const UNSET: &str = "00000000-00000000-00000000-00000000";

/// The kernel's key text in the namespace of the calling thread, without the newline.
///
/// Uses a single read: the kernel formats the text for each read, so two reads could see two states.
pub fn read_keys() -> String {
    let mut text = [0; 256];
    let length = std::fs::File::open(KEY_FILE).and_then(|mut file| std::io::Read::read(&mut file, &mut text));
    String::from_utf8_lossy(&text[..length.expect("root reads the key")]).trim().to_owned()
}

/// Replaces a file by one of this mode.
pub fn replace(path: &Path, content: &[u8], mode: u32) {
    let new = PathBuf::from(format!("{}.new", path.display()));
    std::fs::remove_file(&new).ok();
    std::fs::write(&new, content).expect("the scratch directory takes it");
    std::fs::set_permissions(&new, PermissionsExt::from_mode(mode)).expect("the file is ours");
    std::fs::rename(new, path).expect("a rename in one directory");
}

/// A host that nothing but this test uses.
pub struct Host {
    netns: NetNs,
    dir: tempfile::TempDir,
    lock_file: PathBuf,
}

impl Host {
    /// A host without keys and without configuration.  Needs `need_netns()`.
    pub fn new() -> Self {
        let dir = crate::scratch();
        // Tests that run the agent as the user `nobody` must be able to reach it.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("the directory is ours");
        for name in ["etc", "sysctl.d"] {
            std::fs::create_dir(dir.path().join(name)).expect("the scratch directory takes it");
        }
        let netns = NetNs::new();
        let inode = std::fs::metadata(netns.path()).expect("the namespace is there").ino();
        let lock_file = PathBuf::from(format!("/run/tfo-agent/net-{inode}.lock"));
        // The lock is named after the namespace's inode, which may be reused: a killed test may have left one.
        if std::fs::File::open(&lock_file).is_ok_and(|left| left.try_lock().is_ok()) {
            std::fs::remove_file(&lock_file).ok();
        }
        Self { netns, dir, lock_file }
    }

    /// Its network namespace.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// A path below the host's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same, as text for a configuration or a script.
    pub fn text_path(&self, name: &str) -> String {
        self.path(name).to_str().expect("scratch paths are ASCII").to_owned()
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.path("etc/agent.toml")
    }

    /// The sysctl.d file that [`Host::configure`] names.
    pub fn sysctl_file(&self) -> PathBuf {
        self.path("sysctl.d/50-tcp_fastopen_key.conf")
    }

    /// The lock of the host's namespace.
    pub fn lock_file(&self) -> &Path {
        &self.lock_file
    }

    /// Writes a file of this mode below the host's directory.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.path(name);
        replace(&path, content.as_ref(), mode);
        path
    }

    /// Writes the configuration: the host's own places, and `rest`, in which `@/` stands for the host's directory.
    ///
    /// `rest` starts with the end of the `[install]` section, so that a test can add to it.
    pub fn configure(&self, rest: &str) {
        let here = self.text_path("");
        let text = format!(
            "[agent]\nruntime_dir = \"@/run\"\n[install]\nsysctl_file = \"@/sysctl.d/50-tcp_fastopen_key.conf\"\n{rest}"
        );
        self.write("etc/agent.toml", text.replace("@/", &here), 0o644);
    }

    /// Uses the `file` source with this key text.
    pub fn use_keys(&self, text: &str) {
        self.write("etc/keys", text, 0o400);
        self.configure("[source]\nkind = \"file\"\npath = \"@/etc/keys\"\n");
    }

    /// A command inside the host, without input.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.netns.command(program)
    }

    /// The agent with a subcommand and the host's configuration.
    pub fn agent(&self, command: &str) -> Command {
        let mut agent = self.command(crate::agent_path());
        agent.arg(command).arg("--config").arg(self.config_file());
        agent
    }

    /// Runs the agent inside the host.
    pub fn run(&self, command: &str, more: &[&str]) -> Output {
        self.agent(command).args(more).output().expect("the agent starts")
    }

    /// What the kernel holds, without the newline.
    pub fn kernel(&self) -> String {
        self.netns.run(read_keys)
    }

    /// Sets what the kernel holds.
    pub fn set_kernel(&self, text: &str) {
        self.netns.run(|| std::fs::write(KEY_FILE, text)).expect("root writes the key");
    }

    /// The sysctl.d file; none if there is none.
    pub fn persisted(&self) -> Option<String> {
        std::fs::read_to_string(self.sysctl_file()).ok()
    }

    /// The key text in the sysctl.d file.
    pub fn persisted_keys(&self) -> Option<String> {
        let text = self.persisted()?;
        text.lines().find_map(|line| line.strip_prefix("net.ipv4.tcp_fastopen_key = ")).map(str::to_owned)
    }

    /// Names in the directory of the sysctl.d file.
    pub fn sysctl_d(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("sysctl.d")).expect("it is there");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        std::fs::remove_file(&self.lock_file).ok();
    }
}

/// Wraps a shell script into a private mount namespace: `sh -c script sh ARGS`.  What it mounts is gone with it.
pub fn in_own_mounts(command: &mut Command, script: &str) {
    command.args(["--mount", "--propagation=private", "sh", "-ec", script, "sh"]);
}
