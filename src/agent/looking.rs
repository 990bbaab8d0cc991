//! When the daemon looks again for namespaces that come and go: at once after a change in a directory or of a mount, and otherwise
//! twice a second, because processes enter a namespace without a sign.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::contact::News;
use tfo_config::agent::AgentSettings;
use tfo_host::kernel::namespace_found::{self, Found, Watch};
use tfo_host::runtime::sys;
use tfo_model::namespace_place::NamespacePlace;

/// Longest pause between two looks.  A pass follows within milliseconds, so keys are installed within a second.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Shortest pause: a busy host mounts and unmounts all the time.
const PAUSE_MIN: Duration = Duration::from_millis(25);

/// The places, and what was found there last.
#[derive(Debug)]
pub struct Looking {
    places: Vec<NamespacePlace>,
    watch: Option<Watched>,
    looked: Option<Instant>,
    next: Instant,
    found: Found,
}

/// What tells of changes.
#[derive(Debug)]
struct Watched {
    watch: Watch,
    files: AsyncFd<OwnedFd>,
    /// Where the kernel shows mounts: a namespace is bound over a file some time after that was made, and inotify is silent then.
    mounts: Option<AsyncFd<OwnedFd>>,
}

impl Looking {
    /// Looks at the first step.
    ///
    /// # Errors
    /// Fails if there is no descriptor left.
    pub fn new(settings: &AgentSettings, now: Instant) -> io::Result<Self> {
        let places: Vec<NamespacePlace> = settings.install.places.iter().map(|place| place.value.clone()).collect();
        // Without inotify a change is found by looking again.
        let watch = Watch::new(&places).ok().filter(|_| !places.is_empty());
        Ok(Self {
            places,
            watch: watch.map(Watched::new).transpose()?,
            looked: None,
            next: now,
            found: Found::default(),
        })
    }

    /// Waits until it is time to look, and looks; never returns without places.
    ///
    /// Nothing is lost if it is dropped in between.
    ///
    /// # Errors
    /// Fails if the event loop is gone.
    pub async fn step(&mut self) -> io::Result<News> {
        if self.places.is_empty() {
            return std::future::pending().await;
        }
        tokio::select! {
            changed = changed(self.watch.as_ref()) => {
                changed?;
                // The look follows in the next step, with what changes until then.
                self.next = self.looked.map_or(self.next, |looked| self.next.min(looked + PAUSE_MIN));
                return Ok(News::None);
            }
            () = tokio::time::sleep_until(self.next) => {}
        }
        // Before the look: what is made after it is told.
        if let Some(watched) = &self.watch {
            watched.watch.refresh();
        }
        let now = Instant::now();
        (self.looked, self.next) = (Some(now), now + PAUSE_MAX);
        let found = namespace_found::find(&self.places, &std::collections::BTreeSet::new());
        let is_new = found != self.found;
        self.found = found;
        Ok(if is_new { News::Pass } else { News::None })
    }
}

impl Watched {
    fn new(watch: Watch) -> io::Result<Self> {
        let files = sys::watch(watch.descriptor()?)?;
        let mounts = watch.mounts().map(sys::watch).transpose()?;
        Ok(Self { watch, files, mounts })
    }
}

/// Waits for a change of a directory or of a mount.
async fn changed(watched: Option<&Watched>) -> io::Result<()> {
    let Some(Watched { watch, files, mounts }) = watched else { return std::future::pending().await };
    tokio::select! {
        files = files.readable() => {
            let mut guard = files?;
            watch.drain();
            guard.clear_ready();
        }
        mounts = readable(mounts.as_ref()) => mounts?,
    }
    Ok(())
}

async fn readable(mounts: Option<&AsyncFd<OwnedFd>>) -> io::Result<()> {
    let Some(mounts) = mounts else { return std::future::pending().await };
    // The file is always readable, and an event loop that waits for edges hears each change of a mount once (proc_pid_mountinfo(5)).
    mounts.readable().await?.clear_ready();
    Ok(())
}
