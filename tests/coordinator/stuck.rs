//! A driver that is stuck in a call, as on a disk that does not answer: no node is told that there is nothing new, because another
//! coordinator may be about to exclude it (docs/protocol.md#rule-7).

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::with_first_key;
use tfo_testbed::{SOON, need_root, need_tool, poll_until, skip_unless};

/// The system calls of one thread take an hour, until this is dropped.
struct Stuck(Child);

impl Stuck {
    fn thread(pid: u32, name: &str) -> Self {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| thread.unwrap().path());
        let is_named = |path: &std::path::PathBuf| fs::read_to_string(path.join("comm")).unwrap().trim() == name;
        let thread = threads.into_iter().find(is_named).expect("it has this thread");
        let id = thread.file_name().unwrap().to_str().unwrap().to_owned();
        let strace = Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "-e", "inject=all:delay_enter=3600000000", "-p", &id])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let is_traced = || {
            let status = fs::read_to_string(thread.join("status")).unwrap();
            status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
        };
        assert!(poll_until(SOON, is_traced), "strace does not attach");
        Self(strace)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).map(drop).unwrap_or_default();
    }
}

#[test]
fn a_request_that_is_held_by_a_driver_that_is_stuck_is_refused_in_the_end_and_a_new_one_soon() {
    skip_unless!(need_root() && need_tool("strace"));
    // Blind after 5 s; the longest hold has 10 s.
    let (world, mut nodes) = with_first_key("absent_after = \"30s\"\n");
    let [mut held, mut new, ..] = <[_; 2]>::try_from(nodes.drain(..2).collect::<Vec<_>>()).ok().unwrap();
    held.client = world.client(&[&held.name]).waiting(Duration::from_secs(60));
    new.client = world.client(&[&new.name]).waiting(Duration::from_secs(60));
    let waits = thread::spawn(move || (held.sync(60), held));
    let is_held = || {
        let metrics = world.observed("/metrics");
        metrics.is_some_and(|(_, text)| text.contains("tfo_coordinator_pool_held{pool=\"edge\"} 1\n"))
    };
    assert!(poll_until(SOON, is_held), "{:?}", world.observed("/metrics"));
    let stuck = Stuck::thread(world.pid(), "pool-edge");
    let (status, body) = new.sync(0);
    assert_eq!((status, &body["kind"]), (503, &"unavailable".into()), "{body}");
    let ((status, body), mut held) = waits.join().unwrap();
    assert_eq!((status, &body["kind"]), (503, &"store_unavailable".into()), "{body}");
    // It is over, and both are served as before.
    drop(stuck);
    let is_served = || [&mut held, &mut new].into_iter().all(|node| node.sync(0).0 == 204);
    assert!(poll_until(SOON, is_served), "{}", world.log());
}
