//! Names of everything that tests make on the host: `tfo-test-PID-...`, with the pid of the test's process.
//!
//! Everything is removed when the value that stands for it is dropped, also when the test panics.  The next test that makes something
//! removes what a killed test has left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use crate::output::stdout;
use crate::poll_until;

/// Where `ip netns` keeps its names.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// A file system in memory.
pub(crate) const MEMORY_DIR: &str = "/dev/shm";

const PREFIX: &str = "tfo-test-";

/// A name for something of this process; `rest` tells its things apart.
pub fn name(rest: &str) -> String {
    static REAP: Once = Once::new();
    REAP.call_once(reap);
    format!("{PREFIX}{}-{rest}", std::process::id())
}

/// Removes what ended processes have left.
fn reap() {
    let dirs = [cgroup_root(), Some(std::env::temp_dir()), Some(NETNS_DIR.into()), Some(MEMORY_DIR.into())];
    for entry in dirs.iter().flatten().flat_map(fs::read_dir).flatten().flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        match pid {
            Some(pid) if !Path::new(&format!("/proc/{pid}")).exists() => {}
            _ => continue,
        }
        if path.starts_with(NETNS_DIR) {
            remove_netns(&name);
        } else if path.join("cgroup.procs").exists() {
            remove_cgroup(&path);
        } else {
            fs::remove_dir_all(path).ok();
        }
    }
}

/// Kills every process in a test namespace and removes its name.  Errors show in the next test's `ip netns list`.
pub(crate) fn remove_netns(name: &str) {
    if let Ok(pids) = Command::new("ip").args(["netns", "pids", name]).stdin(Stdio::null()).output() {
        for pid in stdout(&pids).lines() {
            let pid = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid.filter(|pid| *pid != rustix::process::getpid()) {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
    }
    Command::new("ip").args(["netns", "del", name]).stdin(Stdio::null()).output().ok();
}

/// Where the cgroup2 tree is mounted.
pub fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    mount.split(' ').nth(1).map(PathBuf::from)
}

/// Kills every process in a test cgroup and removes it with those below it.  False: some processes are still there.
pub fn remove_cgroup(cgroup: &Path) -> bool {
    poll_until(Duration::from_secs(10), || {
        fs::write(cgroup.join("cgroup.kill"), "1").ok();
        remove_below(cgroup);
        !cgroup.exists()
    })
}

/// Removes a cgroup after those below it.  One that still has processes stays.
fn remove_below(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
        }
    }
    fs::remove_dir(cgroup).ok();
}
