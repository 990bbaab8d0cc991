//! What `tfo-agent check` and `tfoctl status` show of a host: one report, of one look ([`tfo_host::examine`]), as text and
//! as JSON.  Each adds a section of its own.  Must not know: what is wrong with it.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::report::Report;
use tfo_host::examine::{FileState, HostFacts, NamespaceFacts};
use tfo_host::kernel::boot_order::Setter;
use tfo_host::kernel::procfs;
use tfo_host::kernel::release;
use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::problem::{Problem, first_error};
use tfo_model::state::BackupSlot;
use tfo_model::time::UnixTime;

/// Wire v1: `check --format json` and `status --format json`.
#[derive(Debug, Serialize)]
pub struct HostReport<S> {
    /// Whether no problem is an error.
    pub ok: bool,
    /// When the host was looked at.
    pub at: UnixTime,
    /// What one program alone says.
    #[serde(flatten)]
    pub section: S,
    /// The host; its fields are missing if it was not looked at.
    #[serde(flatten)]
    pub host: Option<HostView>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// What one program alone says of a host.
pub trait Section: Serialize {
    /// Writes it as text; `at` is when the host was looked at.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    fn write_text(&self, at: UnixTime, out: &mut dyn Write) -> io::Result<()>;
}

/// What was seen of a host.  Wire v1.
#[derive(Debug, Serialize)]
pub struct HostView {
    /// Its name.
    host: String,
    sysctl_file: FileView,
    /// Files that set the key at boot.
    boot: BootView,
    clock_synchronised: Option<bool>,
    kernel: KernelView,
    namespaces: Vec<NamespaceView>,
}

#[derive(Debug, Serialize)]
struct FileView {
    path: String,
    /// `ours`, `absent`, `foreign`, `unreadable`.
    state: &'static str,
}

#[derive(Debug, Serialize)]
struct BootView {
    systemd: Option<SetterView>,
    procps: Option<SetterView>,
}

#[derive(Debug, PartialEq, Serialize)]
struct SetterView {
    file: String,
    line: usize,
}

#[derive(Debug, Serialize)]
struct KernelView {
    release: String,
    /// The release of kernel.org that it was made from; null: unknown.
    version: Option<String>,
    /// Null: unknown.
    backup_slot: Option<bool>,
    /// Function that makes cookies; null: unknown.
    cookies: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct NamespaceView {
    name: String,
    /// Whether it was found in a place of `install.namespaces`, and comes and goes.
    found: bool,
    /// Whether the kernel's keys could be read.
    readable: bool,
    primary: Option<KeyFingerprint>,
    backup: Option<KeyFingerprint>,
    /// Whether these are the keys that the agent has installed; null: one of the two is unknown.
    as_installed: Option<bool>,
    tcp_fastopen: Option<i32>,
    bits: Vec<&'static str>,
}

impl<S: Section> HostReport<S> {
    /// The report of a look at a host.
    #[must_use]
    pub fn new(at: UnixTime, section: S, host: Option<HostView>, problems: Vec<Problem>) -> Self {
        Self { ok: first_error(&problems).is_none(), at, section, host, problems }
    }

    /// Writes all but the problems as text.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub fn write_facts(&self, out: &mut dyn Write) -> io::Result<()> {
        self.host.iter().try_for_each(|host| host.write_kernel(out))?;
        self.section.write_text(self.at, out)?;
        self.host.iter().try_for_each(|host| host.write_rest(out))
    }
}

impl<S: Section> Report for HostReport<S> {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.write_facts(out)?;
        if !self.problems.is_empty() {
            writeln!(out)?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(out, "{problem}"))
    }
}

impl HostView {
    /// What was seen of a host whose key `sysctl_file` sets, and whose agent has installed `held`.
    #[must_use]
    pub fn of(facts: &HostFacts, sysctl_file: &Path, held: Option<PairPrint>) -> Self {
        let setter = |setter: &Option<Setter>| {
            setter.as_ref().map(|setter| SetterView { file: setter.file.display().to_string(), line: setter.line })
        };
        let backup_slot = facts.kernel.map(|kernel| kernel.backup_slot() == BackupSlot::Present);
        let state = match &facts.file {
            FileState::Ours(_) => "ours",
            FileState::Absent => "absent",
            FileState::Foreign => "foreign",
            FileState::Unreadable(_) => "unreadable",
        };
        Self {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            sysctl_file: FileView { path: sysctl_file.display().to_string(), state },
            boot: BootView { systemd: setter(&facts.boot.systemd), procps: setter(&facts.boot.procps) },
            clock_synchronised: facts.clock_synchronised,
            kernel: KernelView {
                release: release::running_text(),
                version: facts.kernel.map(|kernel| kernel.to_string()),
                backup_slot,
                // Both came with Linux 5.3: see `tfo_model::kernel`.
                cookies: backup_slot.map(|new| if new { "siphash" } else { "aes" }),
            },
            namespaces: facts.namespaces.iter().map(|seen| NamespaceView::of(seen, held)).collect(),
        }
    }

    fn write_kernel(&self, out: &mut dyn Write) -> io::Result<()> {
        let KernelView { release, backup_slot, .. } = &self.kernel;
        let supports = match backup_slot {
            Some(true) => "backup slot, SipHash cookies",
            Some(false) => "no backup slot, AES cookies",
            None => "abilities unknown",
        };
        writeln!(out, "host         {}, Linux {release}: {supports}", self.host)
    }

    fn write_rest(&self, out: &mut dyn Write) -> io::Result<()> {
        let synchronised = match self.clock_synchronised {
            Some(true) => "synchronised",
            Some(false) => "not synchronised",
            None => "unknown whether it is synchronised",
        };
        writeln!(out, "clock        {synchronised}")?;
        writeln!(out, "at boot      {}", self.boot.text())?;
        let found = self.namespaces.iter().filter(|namespace| namespace.found).count();
        if found > 0 {
            writeln!(out, "namespaces   {}, of which {found} come and go", self.namespaces.len())?;
        }
        self.namespaces.iter().try_for_each(|namespace| namespace.write_text(out))
    }
}

impl BootView {
    fn text(&self) -> String {
        let Self { systemd, procps } = self;
        let name = |setter: &Option<SetterView>| {
            setter.as_ref().map_or_else(|| "nothing".to_owned(), |setter| format!("{}:{}", setter.file, setter.line))
        };
        if systemd == procps {
            format!("{} sets the key", name(systemd))
        } else {
            format!("systemd-sysctl: {} sets the key; sysctl --system: {}", name(systemd), name(procps))
        }
    }
}

impl NamespaceView {
    fn of(seen: &NamespaceFacts, held: Option<PairPrint>) -> Self {
        let print = seen.kernel.as_ref().ok().copied().flatten().map(|keys| keys.print);
        let readable = seen.kernel.is_ok();
        Self {
            name: seen.namespace.name().to_owned(),
            found: seen.namespace.is_found(),
            readable,
            primary: print.map(|print| print.primary),
            backup: print.and_then(|print| print.backup),
            as_installed: held.filter(|_| readable).map(|held| print == Some(held)),
            tcp_fastopen: seen.bits,
            bits: seen.bits.map_or_else(Vec::new, procfs::bit_names),
        }
    }

    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let slot = |print: Option<KeyFingerprint>| print.map_or_else(|| "none".to_owned(), |print| print.to_string());
        let keys = match (self.readable, self.primary) {
            (false, _) => "keys not seen".to_owned(),
            (true, None) => "no key set".to_owned(),
            (true, primary) => format!("primary {}, backup {}", slot(primary), slot(self.backup)),
        };
        let judged = match self.as_installed {
            Some(true) => ", as installed",
            Some(false) => ", NOT as installed",
            None => "",
        };
        writeln!(out, "\nnamespace {}", self.name)?;
        writeln!(out, "  kernel       {keys}{judged}")?;
        let bits = self.tcp_fastopen.map_or_else(
            || "not seen".to_owned(),
            |bits| {
                let names = if self.bits.is_empty() { "off".to_owned() } else { self.bits.join(", ") };
                format!("{bits:#x}: {names}")
            },
        );
        writeln!(out, "  tcp_fastopen {bits}")
    }
}
