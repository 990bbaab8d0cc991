//! One pass: ask the source, look at the host, decide (`engine::reconcile`), write, and say what is there now.
//!
//! Nothing that goes wrong in a pass makes it drop or forget installed keys.

use std::path::{Path, PathBuf};

use super::host::{self, Look, Site};
use super::source::{self, Installed, Offer, WithoutFile};
use crate::config::agent::{AgentSettings, InstallMode, SourceSettings};
use crate::engine::reconcile::{ClockUse, KeepReason, Memory, ObservedFile, Plan, Verdict, judge};
use crate::kernel::boot_order;
use crate::kernel::namespace::Namespace;
use crate::kernel::procfs::KeyFile;
use crate::kernel::sysctl_d::{Persisted, Record};
use crate::model::key::{KeyPair, PairPrint};
use crate::model::problem::{Problem, Severity};
use crate::model::state::{BackupSlot, DesiredState, Phase, SlotPrints};
use crate::model::time::UnixTime;

/// Whether a pass may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassMode {
    /// Write what differs.
    Apply,
    /// Write nothing, say what would be written.
    DryRun,
}

/// What one namespace holds after a pass.
#[derive(Debug, Clone)]
pub struct NamespaceReport {
    /// The namespace.
    pub namespace: Namespace,
    /// What its kernel shows; none if no key is set or it cannot be read.
    pub shown: Option<PairPrint>,
    /// Whether that is what it should show.
    pub verified: bool,
    /// Whether this pass wrote it, or would have.
    pub changed: bool,
    /// `net.ipv4.tcp_fastopen`.
    pub bits: Option<i32>,
    /// Whether its kernel keeps a backup.
    pub backup_slot: BackupSlot,
}

/// What a pass did, and what is there now.
#[derive(Debug, Clone)]
pub struct PassReport {
    /// Kind of the source.
    pub source: &'static str,
    /// What is held; none if there are no keys at all.
    pub held: Option<HeldReport>,
    /// The sysctl.d file.
    pub file: PathBuf,
    /// Whether it was written, or would have been.
    pub file_changed: bool,
    /// Whether it says what is held.
    pub file_current: bool,
    /// The namespaces, the own one first.
    pub namespaces: Vec<NamespaceReport>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Whether the agent writes at all.
    pub mode: InstallMode,
}

/// The public side of what is held.
#[derive(Debug, Clone, Copy)]
pub struct HeldReport {
    /// Epochs and fingerprints.
    pub prints: SlotPrints,
    /// Where the rotation stands.
    pub phase: Phase,
    /// When these keys were first installed here.
    pub installed_at: UnixTime,
    /// When they change next.
    pub next_change_at: Option<UnixTime>,
}

impl PassReport {
    /// Whether anything was written, or would have been.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.file_changed || self.namespaces.iter().any(|namespace| namespace.changed)
    }

    /// Whether the keys are in the file and, read back, in every kernel.
    #[must_use]
    pub fn verified(&self) -> bool {
        self.held.is_some() && self.file_current && self.namespaces.iter().all(|namespace| namespace.verified)
    }

    /// Whether an error was found.
    #[must_use]
    pub fn has_error(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }
}

/// What this process holds and remembers between passes.
pub struct Worker {
    settings: AgentSettings,
    key_file: KeyFile,
    sites: Vec<Site>,
    held: Option<Held>,
    told: Option<SlotPrints>,
    /// What each namespace showed after our last write; drift is a difference from it.
    verified: Vec<Option<PairPrint>>,
    file_was_current: bool,
    joints_checked: bool,
    drift_repairs: u64,
}

struct Held {
    desired: DesiredState,
    record: Record,
}

impl Worker {
    /// A worker that has not looked at anything yet.
    #[must_use]
    pub fn new(settings: AgentSettings) -> Self {
        let sites = host::sites(&settings);
        let verified = sites.iter().map(|_| None).collect();
        Self {
            settings,
            key_file: KeyFile::default(),
            sites,
            held: None,
            told: None,
            verified,
            file_was_current: false,
            joints_checked: false,
            drift_repairs: 0,
        }
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &AgentSettings {
        &self.settings
    }

    /// Repairs of keys that somebody else had changed, since the process started.
    #[must_use]
    pub fn drift_repairs(&self) -> u64 {
        self.drift_repairs
    }

    /// Takes over what `before` counted: the settings changed, the process is the same.
    #[must_use]
    pub fn succeeding(mut self, before: &Self) -> Self {
        self.drift_repairs = before.drift_repairs;
        self
    }

    /// One pass at `now`.
    pub fn pass(&mut self, now: UnixTime, mode: PassMode) -> PassReport {
        let mut problems = Vec::new();
        let persisted = host::look_at_file(&self.settings, &mut problems);
        let mut looks: Vec<Look> = self.sites.iter().map(|site| host::look(site, &self.key_file)).collect();
        problems.extend(looks.iter().filter_map(|look| look.kernel.as_ref().err().cloned()));
        self.check_joints(now, &persisted, &mut problems);
        self.notice_drift(&persisted, &looks, &mut problems);
        let Some(held) = self.choose(now, &persisted, &looks, &mut problems) else {
            return self.report(&looks, None, problems);
        };
        let file = match persisted.record() {
            Some(record) if record.same_but_for_time(&held.record) => ObservedFile::Current,
            _ => ObservedFile::Other,
        };
        let kernels: Vec<_> = looks.iter().map(|look| look.kernel.as_ref().ok().copied()).collect();
        let plan = Plan::of(held.desired.prints.pair(), file, &kernels);
        let installs = self.settings.install.mode == InstallMode::Install;
        if mode == PassMode::Apply && installs {
            return self.apply(held, &plan, (&persisted, &mut looks), problems);
        }
        let mut report = self.report(&looks, Some((&held, file)), problems);
        report.file_changed = installs && plan.write_file;
        for index in plan.write_kernels {
            report.namespaces[index].changed = installs;
        }
        self.held = Some(held);
        report
    }

    /// Writes what the plan says: the file, then each kernel, each read back.
    fn apply(
        &mut self,
        held: Held,
        plan: &Plan,
        (persisted, looks): (&Persisted, &mut [Look]),
        mut problems: Vec<Problem>,
    ) -> PassReport {
        let failed = plan.write_file.then(|| host::write_file(&self.settings, &held.record, &held.desired.keys));
        let failed = failed.and_then(Result::err);
        let goes_on = failed.is_none() || source::without_file(&self.settings.source) == WithoutFile::GoOn;
        let mut written = Vec::new();
        for &index in plan.write_kernels.iter().filter(|_| goes_on) {
            match host::write_kernel(&mut self.sites[index], &self.key_file, &held.desired) {
                Ok(kernel) => {
                    looks[index].kernel = Ok(kernel);
                    written.push(index);
                }
                Err(problem) => {
                    looks[index] = host::look(&self.sites[index], &self.key_file);
                    problems.push(problem);
                }
            }
        }
        let file = if failed.is_none() { ObservedFile::Current } else { ObservedFile::Other };
        problems.extend(failed.map(|problem| say_which(problem, persisted, goes_on)));
        if !goes_on {
            // The keys that are still installed are the ones to report, and to go on from.
            return match self.kept(persisted) {
                Some(kept) => {
                    let report = self.report(looks, Some((&kept, ObservedFile::Current)), problems);
                    self.held = Some(kept);
                    report
                }
                None => self.report(looks, None, problems),
            };
        }
        let mut report = self.report(looks, Some((&held, file)), problems);
        report.file_changed = plan.write_file && file == ObservedFile::Current;
        for index in written {
            report.namespaces[index].changed = true;
        }
        let shown = report.namespaces.iter().map(|namespace| namespace.shown.filter(|_| namespace.verified));
        self.verified = shown.collect();
        self.file_was_current = file == ObservedFile::Current;
        self.held = Some(held);
        report
    }

    /// Which keys to hold now: the source's, or those that are installed.  None: there are none at all.
    fn choose(
        &mut self,
        now: UnixTime,
        persisted: &Persisted,
        looks: &[Look],
        problems: &mut Vec<Problem>,
    ) -> Option<Held> {
        let kept = self.kept(persisted);
        let installed = match (&kept, &looks[0].keys) {
            (Some(kept), _) => Some(kept.installed()),
            (None, Some(keys)) => Some(Installed::by_kernel(keys)),
            (None, None) => None,
        };
        let offer = match source::offer(&self.settings, now, installed.as_ref()) {
            Ok(offer) => offer,
            Err(problem) => {
                problems.push(problem);
                return kept;
            }
        };
        let memory =
            kept.as_ref().map(|kept| Memory { prints: kept.record.prints, installed_at: kept.record.installed_at });
        match judge(now, offer.clock, &offer.desired.prints, memory.as_ref(), self.told.as_ref()) {
            Verdict::Follow => {
                self.told = Some(offer.desired.prints);
                Some(self.follow(now, offer, kept.as_ref()))
            }
            Verdict::Keep(reason) => {
                problems.push(self.keep_problem(now, offer.clock, reason));
                // What was told before is only known where something was held, so there is always something to keep.
                kept
            }
        }
    }

    /// What is installed, as this process or else the file remembers it.
    fn kept(&self, persisted: &Persisted) -> Option<Held> {
        match (&self.held, persisted) {
            (Some(held), _) => Some(held.duplicate()),
            (None, Persisted::Ours { record, keys }) => Some(Held::from_file(record, keys)),
            (None, Persisted::Absent | Persisted::Foreign) => None,
        }
    }

    fn follow(&self, now: UnixTime, offer: Offer, kept: Option<&Held>) -> Held {
        let desired = offer.desired;
        let installed_before = kept.filter(|kept| kept.record.prints == desired.prints);
        let record = Record {
            source: source::name(&self.settings.source).to_owned(),
            pool_id: desired.pool_id.clone(),
            generation: desired.generation,
            phase: desired.phase,
            prints: desired.prints,
            joints: offer.joints,
            installed_at: installed_before.map_or(now, |kept| kept.record.installed_at),
        };
        Held { desired, record }
    }

    fn keep_problem(&self, now: UnixTime, clock: ClockUse, reason: KeepReason) -> Problem {
        let file = self.settings.install.sysctl_file.value.display();
        match reason {
            KeepReason::ClockBehind { installed_at } => {
                let tolerance = match clock {
                    ClockUse::Within(secs) => secs,
                    ClockUse::None => 0,
                };
                let message = format!(
                    "the clock says {now}, but the keys were installed at {installed_at} (tolerance {tolerance} s): \
                     the installed keys stay"
                );
                let remedy =
                    format!("set the clock (chrony, timesyncd); if it is right and was wrong then, remove {file}");
                Problem::error("clock_behind", message, remedy)
            }
            KeepReason::OtherKeySameEpoch { epoch } => {
                let message = format!(
                    "the key of epoch {epoch} is another one than before: its secret was replaced in place; the installed keys stay"
                );
                let remedy = "put the old secret back and add a [[source.schedule]] entry with the new one and a not_before; \
                              a restart takes the new secret at once and makes clients lose their cookies";
                Problem::error("secret_changed", message, remedy)
            }
        }
    }

    /// Reports, once, a schedule entry that this host sees too late.
    fn check_joints(&mut self, now: UnixTime, persisted: &Persisted, problems: &mut Vec<Problem>) {
        if std::mem::replace(&mut self.joints_checked, true) {
            return;
        }
        if let (SourceSettings::Derive(derive), Some(record)) = (&self.settings.source, persisted.record())
            && record.source == source::name(&self.settings.source)
        {
            problems.extend(source::late_joints(derive, &self.settings.file, now, &record.joints));
        }
    }

    /// Counts and reports what somebody else has changed since the last pass.
    fn notice_drift(&mut self, persisted: &Persisted, looks: &[Look], problems: &mut Vec<Problem>) {
        let Some(held) = &self.held else { return };
        let mut drifted = Vec::new();
        for ((site, look), verified) in self.sites.iter().zip(looks).zip(&self.verified) {
            if let (Ok(kernel), Some(verified)) = (&look.kernel, verified)
                && kernel.shown != Some(*verified)
            {
                drifted.push(format!("namespace {}", site.namespace));
            }
        }
        if self.file_was_current && !persisted.record().is_some_and(|record| record.same_but_for_time(&held.record)) {
            drifted.push(self.settings.install.sysctl_file.value.display().to_string());
        }
        if drifted.is_empty() {
            return;
        }
        self.drift_repairs += drifted.len() as u64;
        let order = boot_order::scan(Path::new("/"));
        let winner = order.winners_over(&self.settings.install.sysctl_file.value).next();
        let (who, remedy) = match winner {
            Some(setter) => (
                format!("; {}:{} sets the key too", setter.file.display(), setter.line),
                format!("remove that line from {}", setter.file.display()),
            ),
            None => {
                (String::new(), "find the program that writes the key (timers, cron, `sysctl --system`)".to_owned())
            }
        };
        let message = format!("the keys were changed by somebody else: {}{who}; repaired", drifted.join(", "));
        problems.push(Problem::warning("drift", message, remedy));
    }

    fn report(&self, looks: &[Look], held: Option<(&Held, ObservedFile)>, problems: Vec<Problem>) -> PassReport {
        let pair = held.map(|(held, _)| held.desired.prints.pair());
        let namespaces = self.sites.iter().zip(looks).map(|(site, look)| NamespaceReport {
            namespace: site.namespace.clone(),
            shown: look.kernel.as_ref().ok().and_then(|kernel| kernel.shown),
            verified: pair.is_some_and(|pair| look.kernel.as_ref().is_ok_and(|kernel| kernel.holds(pair))),
            changed: false,
            bits: look.bits,
            backup_slot: site.backup_slot,
        });
        let mut report = PassReport {
            source: source::name(&self.settings.source),
            held: held.map(|(held, _)| held.report()),
            file: self.settings.install.sysctl_file.value.clone(),
            file_changed: false,
            file_current: held.is_some_and(|(_, file)| file == ObservedFile::Current),
            namespaces: namespaces.collect(),
            problems,
            mode: self.settings.install.mode,
        };
        let one_slot = report.namespaces.iter().filter(|namespace| namespace.backup_slot == BackupSlot::Absent);
        let one_slot: Vec<&str> = one_slot.map(|namespace| namespace.namespace.name()).collect();
        if !one_slot.is_empty() && pair.is_some_and(|pair| pair.backup.is_some()) {
            let message =
                format!("this kernel has no backup slot: namespace {} holds the primary alone", one_slot.join(", "));
            let remedy = "use Linux 5.3 or later; until then this node rejects cookies around every rotation";
            report.problems.push(Problem::warning("one_slot", message, remedy));
        }
        report
    }
}

impl Held {
    fn from_file(record: &Record, keys: &KeyPair) -> Self {
        let desired = DesiredState {
            keys: keys.duplicate(),
            prints: record.prints,
            phase: record.phase,
            pool_id: record.pool_id.clone(),
            generation: record.generation,
            next_change_at: None,
        };
        Self { desired, record: record.clone() }
    }

    fn duplicate(&self) -> Self {
        let next_change_at = self.desired.next_change_at;
        let mut copy = Self::from_file(&self.record, &self.desired.keys);
        copy.desired.next_change_at = next_change_at;
        copy
    }

    fn installed(&self) -> Installed<'_> {
        Installed { source: &self.record.source, keys: &self.desired.keys, prints: self.record.prints }
    }

    fn report(&self) -> HeldReport {
        HeldReport {
            prints: self.record.prints,
            phase: self.desired.phase,
            installed_at: self.record.installed_at,
            next_change_at: self.desired.next_change_at,
        }
    }
}

/// Says which keys are where after the file could not be written.
fn say_which(mut problem: Problem, persisted: &Persisted, kernel_written: bool) -> Problem {
    let disk = match persisted {
        Persisted::Ours { record, .. } => {
            format!("the file still sets the old keys (primary {})", record.prints.primary.fingerprint)
        }
        Persisted::Foreign => "the file is still another program's".to_owned(),
        Persisted::Absent => "there is still no file".to_owned(),
    };
    let kernel = if kernel_written { "the kernel holds the new keys" } else { "the kernel keeps the old keys" };
    problem.message = format!("{}; {disk}, {kernel}", problem.message);
    problem
}
