//! A witness of all kernels: what any of them ever held, and whether any two that serve ever rejected each other.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tfo_testbed::daemon::DaemonHost;
use tfo_testbed::host::KEY_FILE;
use tfo_testbed::skip_unless;

/// Looks at the kernels of some hosts until it is asked what it saw.
pub(crate) struct Watch {
    ended: Arc<AtomicBool>,
    /// Looks so far, good or not.
    rounds: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Seen>>,
}

/// What it saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Looks at which no kernel changed, so that what it saw was there at one instant.
    pub(crate) looks: usize,
    /// Every text that a kernel had.
    pub(crate) texts: BTreeSet<String>,
    /// Instants at which a node makes cookies that another rejects.
    pub(crate) rifts: Vec<Vec<String>>,
}

impl Watch {
    /// Watches these hosts from now on.  An open sysctl file stays that of the namespace in which it was opened.
    pub(crate) fn over<'a>(hosts: impl IntoIterator<Item = &'a DaemonHost>) -> Self {
        let files: Vec<File> =
            hosts.into_iter().map(|host| host.netns().run(|| File::open(KEY_FILE).unwrap())).collect();
        let ended = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicUsize::new(0));
        let (until, round) = (Arc::clone(&ended), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !until.load(Ordering::SeqCst) {
                seen.look(&files);
                round.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        Self { ended, rounds, thread: Some(thread) }
    }

    /// What was seen; fails if two nodes ever rejected each other's cookies.
    #[track_caller]
    pub(crate) fn end(self) -> Seen {
        let seen = self.seen();
        assert!(seen.looks > 10, "{seen:?}");
        assert_eq!(seen.rifts.first(), None, "{} of {} looks", seen.rifts.len(), seen.looks);
        seen
    }
}

impl Watch {
    fn seen(mut self) -> Seen {
        self.ended.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Seen {
    fn look(&mut self, files: &[File]) {
        let read = || -> Vec<String> {
            let one = |file: &File| {
                let mut buffer = [0; 128];
                let length = file.read_at(&mut buffer, 0).unwrap();
                String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
            };
            files.iter().map(one).collect()
        };
        let now = read();
        self.texts.extend(now.iter().cloned());
        // Twice the same: all of it was there at the instant between the two.
        if read() != now {
            return;
        }
        self.looks += 1;
        let primary = |text: &str| text.split(',').next().unwrap_or_default().to_owned();
        let accepts = |text: &str, key: &str| text.split(',').any(|own| own == key);
        if !now.iter().all(|minter| now.iter().all(|other| accepts(other, &primary(minter)))) {
            self.rifts.push(now);
        }
    }
}

#[test]
fn the_watch_sees_a_rift_and_nothing_else() {
    skip_unless!(tfo_testbed::need_netns());
    let hosts = [DaemonHost::new(), DaemonHost::new()];
    let key = tfo_testbed::daemon::key_text;
    let set = |first: &str, second: &str| {
        hosts[0].set_kernel(first);
        hosts[1].set_kernel(second);
    };
    set(&key(1), &key(1));
    let watch = Watch::over(&hosts);
    // The first of these looks may have begun before the kernels were set.
    let looked = |watch: &Watch| {
        let before = watch.rounds.load(Ordering::SeqCst);
        let twice = || watch.rounds.load(Ordering::SeqCst) >= before + 4;
        assert!(tfo_testbed::poll_until(Duration::from_secs(20), twice), "the watch does not look");
    };
    // The thread that looks may start late.
    looked(&watch);
    for number in 1..4 {
        let (old, new) = (key(number), key(number + 1));
        set(&format!("{old},{new}"), &format!("{old},{new}"));
        looked(&watch);
        set(&format!("{new},{old}"), &format!("{new},{old}"));
        looked(&watch);
    }
    assert!(watch.end().texts.len() >= 7);
    let watch = Watch::over(&hosts);
    set(&key(7), &key(8));
    looked(&watch);
    assert!(!watch.seen().rifts.is_empty(), "two nodes without a key in common were not seen");
}
