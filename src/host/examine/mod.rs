//! What can be seen of one host: the sysctl.d file, each namespace's kernel, its release and clock.
//!
//! The agent and `tfoctl status` look through these functions and render what they find in their own ways.  Must not
//! know: settings, reports, programs.  Facts carry fingerprints, never keys.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::kernel::boot_order::{self, BootOrder};
use crate::kernel::namespace::{Namespace, NamespaceError};
use crate::kernel::procfs::{self, KernelError, KeyFile, ShownKeys, print_of};
use crate::kernel::sysctl_d::{self, Persisted, Record};
use crate::kernel::{release, synproxy};
use crate::runtime::sys;
use tfo_model::caveat::Caveat;
use tfo_model::kernel::KernelVersion;
use tfo_model::key::{PairPrint, TfoKey};
use tfo_model::node::KeySource;
use tfo_model::problem::Problem;

/// One look at a host.
#[derive(Debug)]
pub struct HostFacts {
    /// The sysctl.d file.
    pub file: FileState,
    /// Whether only its owner may read that file; false if there is none.
    pub file_is_private: bool,
    /// Which files set the key at boot, as they are now.
    pub boot: BootOrder,
    /// The release of kernel.org that its kernel was made from; none if that is unknown.
    pub kernel: Option<KernelVersion>,
    /// Whether the kernel's clock is synchronised; none if it may not be asked.
    pub clock_synchronised: Option<bool>,
    /// The namespaces, in the order in which they were named.
    pub namespaces: Vec<NamespaceFacts>,
}

/// What is in the place of the sysctl.d file.
#[derive(Debug)]
pub enum FileState {
    /// No file.
    Absent,
    /// A file that the agent did not write, or that was changed since.
    Foreign,
    /// It exists and cannot be read.
    Unreadable(io::Error),
    /// The agent's file.
    Ours(Box<Record>),
}

/// One network namespace.
#[derive(Debug)]
pub struct NamespaceFacts {
    /// The namespace.
    pub namespace: Namespace,
    /// `net.ipv4.tcp_fastopen`.
    pub bits: Option<i32>,
    /// Whether a SYNPROXY answers SYNs in it.
    pub synproxy: bool,
    /// The keys in its kernel; none if no key is set.
    pub kernel: Result<Option<KernelKeys>, Unseen>,
}

/// The keys in one kernel, by fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelKeys {
    /// Fingerprints of the slots.
    pub print: PairPrint,
    /// Whether a slot holds the all-zero key.
    pub has_zero: bool,
}

/// Why a namespace's keys were not seen.
#[derive(Debug)]
pub enum Unseen {
    /// The namespace cannot be entered.
    NotEntered(NamespaceError),
    /// Its key file cannot be read.
    NotRead(KernelError),
}

/// Looks at a host whose key `sysctl_file` sets at boot.
#[must_use]
pub fn examine(sysctl_file: &Path, namespaces: impl IntoIterator<Item = Namespace>) -> HostFacts {
    let file = match sysctl_d::read(sysctl_file) {
        Ok(Persisted::Absent) => FileState::Absent,
        Ok(Persisted::Foreign) => FileState::Foreign,
        Ok(Persisted::Ours { record, .. }) => FileState::Ours(Box::new(record)),
        Err(error) => FileState::Unreadable(error),
    };
    // The scan takes the file that it is given as written, so it gets the path only if that is true.
    let written = matches!(file, FileState::Ours(_) | FileState::Unreadable(_));
    let boot = boot_order::scan(Path::new("/"), if written { sysctl_file } else { Path::new("") });
    HostFacts {
        file,
        file_is_private: sysctl_d::is_private(sysctl_file),
        boot,
        kernel: release::running(),
        clock_synchronised: sys::clock_synchronised(),
        namespaces: namespaces.into_iter().map(NamespaceFacts::of).collect(),
    }
}

impl NamespaceFacts {
    fn of(namespace: Namespace) -> Self {
        let (bits, shown) = read_kernel(&namespace, &KeyFile::default());
        let keys = |shown: ShownKeys| {
            let has_zero = shown
                .as_ref()
                .is_some_and(|(primary, backup)| primary.is_zero() || backup.as_ref().is_some_and(TfoKey::is_zero));
            print_of(&shown).map(|print| KernelKeys { print, has_zero })
        };
        let synproxy = namespace.within(synproxy::has_answered).unwrap_or(false);
        Self { kernel: shown.map(keys), namespace, bits, synproxy }
    }

    /// What limits TFO in it, whatever its keys are.
    fn problems(&self) -> impl Iterator<Item = Problem> {
        let subject = format!("namespace {}:", self.namespace);
        of_namespace(self.bits, self.synproxy).map(move |caveat| caveat.problem(&subject))
    }
}

fn of_namespace(bits: Option<i32>, synproxy: bool) -> impl Iterator<Item = Caveat> {
    bits.into_iter().flat_map(Caveat::of_bits).chain(synproxy.then_some(Caveat::Synproxy))
}

/// What limits TFO on this host, by its kernel and by these namespaces with their `net.ipv4.tcp_fastopen`.
pub fn caveats<'a>(namespaces: impl IntoIterator<Item = (&'a Namespace, Option<i32>)>) -> BTreeSet<Caveat> {
    let inside = namespaces
        .into_iter()
        .flat_map(|(namespace, bits)| of_namespace(bits, namespace.within(synproxy::has_answered).unwrap_or(false)));
    release::running().into_iter().flat_map(KernelVersion::caveats).chain(inside).collect()
}

/// Reads `net.ipv4.tcp_fastopen` and the keys of one namespace.
pub fn read_kernel(namespace: &Namespace, key_file: &KeyFile) -> (Option<i32>, Result<ShownKeys, Unseen>) {
    match namespace.within(|| (procfs::tcp_fastopen_bits(), key_file.read())) {
        Ok((bits, shown)) => (bits, shown.map_err(Unseen::NotRead)),
        Err(error) => (None, Err(Unseen::NotEntered(error))),
    }
}

impl HostFacts {
    /// What is wrong with the host, whatever its keys are: its kernel, the switch in each namespace, and the clock if the
    /// keys of `source` depend on it.
    pub fn problems(&self, source: Option<KeySource>) -> impl Iterator<Item = Problem> {
        let unsynchronised = source.is_some_and(KeySource::uses_clock) && self.clock_synchronised == Some(false);
        let clock = unsynchronised.then(|| {
            let message = "the kernel's clock is not synchronised, and the keys depend on the time";
            Problem::warning("clock_unsynchronised", message, "run chrony, timesyncd or another NTP client")
        });
        let subject = format!("kernel {}", release::running_text());
        let kernel = self.kernel.into_iter().flat_map(KernelVersion::caveats);
        let kernel = kernel.map(move |caveat| caveat.problem(&subject));
        self.namespaces.iter().flat_map(NamespaceFacts::problems).chain(kernel).chain(clock)
    }
}
