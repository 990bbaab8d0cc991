//! The output of `status`.

use std::io::{self, Write};

use serde::Serialize;

use super::gather::Facts;
use tfo_cli::report::Report;
use tfo_host::examine::{FileState, NamespaceFacts};
use tfo_host::kernel::boot_order::Setter;
use tfo_host::kernel::procfs;
use tfo_model::count::{Epoch, Generation};
use tfo_model::ids::PoolName;
use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::named::Named;
use tfo_model::node::KeySource;
use tfo_model::problem::{Problem, first_error};
use tfo_model::state::{BackupSlot, Phase, SlotPrint};
use tfo_model::time::{UnixTime, duration_text};
use tfo_wire::status::{Standing, State};

/// Wire v1: `status --format json`.
#[derive(Debug, Serialize)]
pub(super) struct StatusReport {
    ok: bool,
    at: UnixTime,
    host: String,
    /// The agent's own report; null without one.
    agent: Option<AgentView>,
    sysctl_file: FileView,
    /// Files that set the key at boot.
    boot: BootView,
    clock_synchronised: Option<bool>,
    kernel: KernelView,
    namespaces: Vec<NamespaceView>,
    problems: Vec<Problem>,
}

/// The agent's state, from status.json or, without that, from the header of the sysctl.d file.
#[derive(Debug, Serialize)]
struct AgentView {
    /// Null: the data comes from the sysctl.d file, so from an earlier boot or run.
    state: Option<State>,
    source: Named<KeySource>,
    pool: Option<PoolName>,
    generation: Option<Generation>,
    phase: Phase,
    primary: Option<KeyView>,
    backup: Option<KeyView>,
    installed_at: Option<UnixTime>,
    /// When the agent last saw these keys in the kernel of its own namespace.
    verified_at: Option<UnixTime>,
    next_change_at: Option<UnixTime>,
    drift_repairs: Option<u64>,
    last_contact_at: Option<UnixTime>,
    /// State of the contact with the coordinators; null if the source has none.
    contact: Option<Named<Standing>>,
}

#[derive(Debug, Serialize)]
struct KeyView {
    epoch: Option<Epoch>,
    fingerprint: KeyFingerprint,
    /// When it became, or will become, primary; null if the epoch is not a time.
    born_at: Option<UnixTime>,
    /// Seconds since `born_at`; null before that time.
    age_secs: Option<u64>,
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
    /// Null: unknown.
    backup_slot: Option<bool>,
    /// Function that makes cookies; null: unknown.
    cookies: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct NamespaceView {
    name: String,
    /// Whether the kernel's keys could be read.
    readable: bool,
    primary: Option<KeyFingerprint>,
    backup: Option<KeyFingerprint>,
    /// Whether these are the keys that the agent has installed; null: one of the two is unknown.
    as_installed: Option<bool>,
    tcp_fastopen: Option<i32>,
    bits: Vec<&'static str>,
}

impl StatusReport {
    pub(super) fn of(facts: Facts, problems: Vec<Problem>) -> Self {
        let setter = |setter: &Option<Setter>| {
            setter.as_ref().map(|setter| SetterView { file: setter.file.display().to_string(), line: setter.line })
        };
        let backup_slot = facts.host.backup_slot.map(|slot| slot == BackupSlot::Present);
        let state = match &facts.host.file {
            FileState::Ours(_) => "ours",
            FileState::Absent => "absent",
            FileState::Foreign => "foreign",
            FileState::Unreadable(_) => "unreadable",
        };
        let held = facts.held().map(|held| held.pair());
        Self {
            ok: first_error(&problems).is_none(),
            at: facts.now,
            agent: AgentView::of(&facts),
            sysctl_file: FileView { path: facts.file_path.display().to_string(), state },
            boot: BootView { systemd: setter(&facts.host.boot.systemd), procps: setter(&facts.host.boot.procps) },
            clock_synchronised: facts.host.clock_synchronised,
            kernel: KernelView {
                release: facts.release,
                backup_slot,
                // Both came with Linux 5.3: see `kernel::release`.
                cookies: backup_slot.map(|new| if new { "siphash" } else { "aes" }),
            },
            namespaces: facts.host.namespaces.iter().map(|seen| NamespaceView::of(seen, held)).collect(),
            host: facts.name,
            problems,
        }
    }
}

impl AgentView {
    fn of(facts: &Facts) -> Option<Self> {
        let key = |source: &Named<KeySource>, SlotPrint { epoch, fingerprint }: SlotPrint| {
            // The epoch is the unix second at which the key becomes primary, so it is its birth too.
            let dated = source.known().is_some_and(KeySource::uses_clock);
            let born_at = epoch.filter(|_| dated).map(|epoch| UnixTime::from_secs(epoch.get()));
            let age_secs = born_at.filter(|born| *born <= facts.now).map(|born| facts.now.secs_since(born));
            KeyView { epoch, fingerprint, born_at, age_secs }
        };
        if let Some(reported) = facts.reported() {
            return Some(Self {
                state: Some(reported.state),
                source: reported.source.clone(),
                pool: reported.pool.clone(),
                generation: reported.generation,
                phase: reported.phase,
                primary: reported.primary.map(|slot| key(&reported.source, slot)),
                backup: reported.backup.map(|slot| key(&reported.source, slot)),
                installed_at: reported.installed_at,
                verified_at: reported.namespaces.first().and_then(|own| own.verified_at),
                next_change_at: reported.next_change_at,
                drift_repairs: Some(reported.drift_repairs),
                last_contact_at: reported.last_contact_at,
                contact: reported.contact.clone(),
            });
        }
        facts.record().map(|record| Self {
            state: None,
            source: record.source.clone(),
            pool: None,
            generation: record.generation,
            phase: record.phase,
            primary: Some(key(&record.source, record.prints.primary)),
            backup: record.prints.backup.map(|slot| key(&record.source, slot)),
            installed_at: Some(record.installed_at),
            verified_at: None,
            next_change_at: None,
            drift_repairs: None,
            last_contact_at: None,
            contact: None,
        })
    }
}

impl NamespaceView {
    fn of(seen: &NamespaceFacts, held: Option<PairPrint>) -> Self {
        let print = seen.kernel.as_ref().ok().copied().flatten().map(|keys| keys.print);
        let readable = seen.kernel.is_ok();
        Self {
            name: seen.namespace.name().to_owned(),
            readable,
            primary: print.map(|print| print.primary),
            backup: print.and_then(|print| print.backup),
            as_installed: held.filter(|_| readable).map(|held| print == Some(held)),
            tcp_fastopen: seen.bits,
            bits: seen.bits.map_or_else(Vec::new, procfs::bit_names),
        }
    }
}

/// `3h 20m ago`, `in 5m`: the two largest units.
fn relative(at: UnixTime, now: UnixTime) -> String {
    let (earlier, later) = (now.secs_since(at), at.secs_since(now));
    let short = |secs| duration_text(secs).split(' ').take(2).collect::<Vec<_>>().join(" ");
    if later > 0 { format!("in {}", short(later)) } else { format!("{} ago", short(earlier)) }
}

impl StatusReport {
    fn when(&self, at: Option<UnixTime>, none: &str) -> String {
        at.map_or_else(|| none.to_owned(), |at| format!("{at} ({})", relative(at, self.at)))
    }

    fn slot_line(&self, key: Option<&KeyView>) -> String {
        let Some(key) = key else { return "none".to_owned() };
        let epoch = key.epoch.map_or_else(|| "no epoch".to_owned(), |epoch| format!("epoch {epoch}"));
        let age = match (key.born_at, key.age_secs) {
            (Some(born), Some(_)) => format!("primary since {born} ({})", relative(born, self.at)),
            (Some(born), None) => format!("primary from {born} ({})", relative(born, self.at)),
            (None, _) => "age unknown".to_owned(),
        };
        format!("{}  {epoch}, {age}", key.fingerprint)
    }

    fn write_agent(&self, out: &mut dyn Write, agent: &AgentView) -> io::Result<()> {
        let state = agent.state.map_or("not started since boot; below is what it recorded before", State::as_str);
        writeln!(out, "agent        {state}; source {}", agent.source)?;
        if agent.pool.is_some() || agent.generation.is_some() {
            let pool = agent.pool.as_ref().map_or("unknown", PoolName::as_str);
            let generation = agent.generation.map_or_else(|| "none".to_owned(), |generation| generation.to_string());
            writeln!(out, "pool         {pool}, generation {generation}")?;
        }
        writeln!(
            out,
            "phase        {}, next change {}",
            agent.phase.as_str(),
            self.when(agent.next_change_at, "not planned")
        )?;
        writeln!(out, "primary      {}", self.slot_line(agent.primary.as_ref()))?;
        writeln!(out, "backup       {}", self.slot_line(agent.backup.as_ref()))?;
        writeln!(out, "installed    {}", self.when(agent.installed_at, "never"))?;
        if agent.state.is_some() {
            let repairs = agent.drift_repairs.map_or_else(|| "unknown".to_owned(), |repairs| repairs.to_string());
            writeln!(out, "verified     {}; drift repairs {repairs}", self.when(agent.verified_at, "not now"))?;
            match &agent.contact {
                None => writeln!(out, "contact      none: this source asks no coordinator")?,
                Some(contact) => {
                    let last = self.when(agent.last_contact_at, "never in this run");
                    writeln!(out, "contact      {}, last answer {last}", contact.as_str())?;
                }
            }
        }
        Ok(())
    }

    fn boot_line(&self) -> String {
        let BootView { systemd, procps } = &self.boot;
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

impl Report for StatusReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let KernelView { release, backup_slot, .. } = &self.kernel;
        let supports = match backup_slot {
            Some(true) => "backup slot, SipHash cookies",
            Some(false) => "no backup slot, AES cookies",
            None => "abilities unknown",
        };
        writeln!(out, "host         {}, Linux {release}: {supports}", self.host)?;
        match &self.agent {
            Some(agent) => self.write_agent(out, agent)?,
            None => writeln!(out, "agent        none found")?,
        }
        let synchronised = match self.clock_synchronised {
            Some(true) => "synchronised",
            Some(false) => "not synchronised",
            None => "unknown whether it is synchronised",
        };
        writeln!(out, "clock        {synchronised}")?;
        writeln!(out, "at boot      {}", self.boot_line())?;
        for namespace in &self.namespaces {
            let slot =
                |print: Option<KeyFingerprint>| print.map_or_else(|| "none".to_owned(), |print| print.to_string());
            let keys = match (namespace.readable, namespace.primary) {
                (false, _) => "keys not seen".to_owned(),
                (true, None) => "no key set".to_owned(),
                (true, primary) => format!("primary {}, backup {}", slot(primary), slot(namespace.backup)),
            };
            let judged = match namespace.as_installed {
                Some(true) => ", as installed",
                Some(false) => ", NOT as installed",
                None => "",
            };
            writeln!(out, "\nnamespace {}", namespace.name)?;
            writeln!(out, "  kernel       {keys}{judged}")?;
            let bits = namespace.tcp_fastopen.map_or_else(
                || "not seen".to_owned(),
                |bits| {
                    let names = if namespace.bits.is_empty() { "off".to_owned() } else { namespace.bits.join(", ") };
                    format!("{bits:#x}: {names}")
                },
            );
            writeln!(out, "  tcp_fastopen {bits}")?;
        }
        if !self.problems.is_empty() {
            writeln!(out)?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(out, "{problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_relative_to_now() {
        let at = UnixTime::from_secs;
        assert_eq!(relative(at(0), at(90_061)), "1d 1h ago");
        assert_eq!(relative(at(65), at(0)), "in 1m 5s");
        assert_eq!(relative(at(5), at(5)), "0s ago");
    }
}
