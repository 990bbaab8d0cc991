//! A throw-away network namespace.  Gone when the value is dropped, also when the test panics.

use std::fs::File;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::leftovers::{NETNS_DIR, name, remove_netns};
use crate::output::stderr;

/// A named network namespace with its loopback up, in which nothing but this test lives.
pub struct NetNs {
    name: String,
}

impl NetNs {
    /// Makes `tfo-test-<pid>-<n>`.  Needs `need_netns()`.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = name(&COUNT.fetch_add(1, Ordering::Relaxed).to_string());
        ip(&format!("netns add {name}"));
        let netns = Self { name };
        netns.ip("link set lo up");
        netns
    }

    /// The name, as `[install] namespaces` and `ip netns` take it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(NETNS_DIR).join(&self.name)
    }

    /// Makes it the middle of a small network, 10.99.0.1/24: a bridge that others are plugged into.
    pub fn become_hub(&self) {
        self.ip("link add br0 type bridge");
        self.ip("addr add 10.99.0.1/24 dev br0");
        self.ip("link set br0 up");
    }

    /// A wire to the hub.  `number` from 0 tells those around one hub apart: 10.99.0.10 and up.
    pub fn plug_into(&self, hub: &Self, number: usize) {
        hub.ip(&format!("link add port{number} type veth peer name eth0 netns {}", self.name));
        hub.ip(&format!("link set port{number} master br0 up"));
        self.ip(&format!("addr add 10.99.0.{}/24 dev eth0", number + 10));
        self.ip("link set eth0 up");
    }

    /// `ip` inside.
    #[track_caller]
    pub fn ip(&self, words: &str) {
        ip(&format!("-n {} {words}", self.name));
    }

    /// Runs `step` inside, on a thread of its own (a network namespace belongs to a thread).  A panic continues in the caller.
    ///
    /// Inside, use `/proc/thread-self/net`, not `/proc/net` (docs/kernel.md#the-key-file); `/proc/sys/net` follows the thread.
    pub fn run<T: Send>(&self, step: impl FnOnce() -> T + Send) -> T {
        let here = std::thread::current();
        let inside = || {
            let file = File::open(self.path()).expect("the namespace is there");
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns works");
            step()
        };
        std::thread::scope(|scope| {
            // The same name: a skip inside is still counted under the test's name.
            let thread = std::thread::Builder::new().name(here.name().unwrap_or("netns").to_owned());
            thread
                .spawn_scoped(scope, inside)
                .expect("a thread starts")
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// A command that starts `program` inside, without input.  `nsenter` becomes the program: the child's pid is its pid.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program).stdin(Stdio::null());
        command
    }
}

impl Drop for NetNs {
    /// Kills what still runs inside (a test that panicked does not wait for its children), then removes the name.
    fn drop(&mut self) {
        remove_netns(&self.name);
    }
}

/// Runs `ip` with these words, which must succeed.
#[track_caller]
pub fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).stdin(Stdio::null()).output().expect("ip starts");
    assert!(output.status.success(), "ip {words}: {}", stderr(&output));
}
