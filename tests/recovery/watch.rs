//! A witness of all kernels: what any of them ever held, and whether any two that serve ever rejected each other.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::daemon::DaemonHost;
use crate::support::host::KEY_FILE;

/// Looks at the kernels of some hosts until it is asked what it saw.
pub(crate) struct Watch {
    ended: Arc<AtomicBool>,
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
        let until = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !until.load(Ordering::SeqCst) {
                seen.look(&files);
                std::thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        Self { ended, thread: Some(thread) }
    }

    /// What was seen; fails if two nodes ever rejected each other's cookies.
    #[track_caller]
    pub(crate) fn end(mut self) -> Seen {
        self.ended.store(true, Ordering::SeqCst);
        let seen = self.thread.take().unwrap().join().unwrap();
        assert!(seen.looks > 10, "{seen:?}");
        assert_eq!(seen.rifts.first(), None, "{} of {} looks", seen.rifts.len(), seen.looks);
        seen
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
