//! One pass: ask the source, observe the host, decide (`engine::reconcile`), write, and report what is there now.
//!
//! No failure of a pass makes it drop or forget installed keys.

mod clock_trust;
mod following;
mod held;
mod problems;

use std::collections::{BTreeMap, BTreeSet};

use self::clock_trust::{ClockTrust, Memory};
use self::following::Following;
use self::held::{Held, Seen};
use super::observation::{self, ManagedNamespace, Observation};
use super::passing::Passing;
use super::placement::{self, Intended, Placement};
use super::report::{NamespaceReport, PassReport};
use super::source::{self, Installed, Offer};
use tfo_config::agent::{AgentSettings, InstallMode, SourceSettings};
use tfo_engine::reconcile::{KeyChoice, ObservedFile, Plan};
use tfo_host::kernel::netstat::TfoCounters;
use tfo_host::kernel::procfs::KeyFile;
use tfo_host::kernel::sysctl_d::{self, Persisted, Record};
use tfo_host::runtime::files;
use tfo_model::key::KeyFingerprint;
use tfo_model::problem::Problem;
use tfo_model::time::UnixTime;

/// Whether a pass may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassMode {
    /// Write what differs.
    Apply,
    /// Write nothing, report what would be written.
    DryRun,
}

/// Holds the keys, and remembers what later passes need.
pub struct Reconciler {
    settings: AgentSettings,
    key_file: KeyFile,
    namespaces: Vec<ManagedNamespace>,
    following: Following,
    passing: Passing,
    held: Option<Held>,
    /// What the keys that were followed were made from.
    known: BTreeMap<String, KeyFingerprint>,
    file_was_current: bool,
    /// The last write of the file may not survive a power cut, so it is repeated.
    file_may_be_lost: bool,
    /// Or this process has made sure that it will.
    rename_is_durable: bool,
    joints_checked: bool,
    drift_repairs: u64,
    trust: ClockTrust,
}

/// The keys to hold.
enum Chosen {
    /// Those of the source.
    Offered(Held),
    /// Those that are installed, or none; a problem has the reason.
    Kept(Option<Held>),
}

impl Reconciler {
    /// Reads nothing before the first pass.
    #[must_use]
    pub fn new(settings: AgentSettings) -> Self {
        let namespaces = observation::namespaces(&settings);
        Self {
            settings,
            key_file: KeyFile::default(),
            namespaces,
            following: Following::default(),
            passing: Passing::default(),
            held: None,
            known: BTreeMap::new(),
            file_was_current: false,
            file_may_be_lost: false,
            rename_is_durable: false,
            joints_checked: false,
            drift_repairs: 0,
            trust: ClockTrust::SinceBoot,
        }
    }

    /// For a process that makes many passes: it waits for a synchronised clock from when it first doubts it.
    #[must_use]
    pub fn of_daemon(settings: AgentSettings) -> Self {
        Self { trust: ClockTrust::SinceDoubt(None), ..Self::new(settings) }
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &AgentSettings {
        &self.settings
    }

    /// Header of the keys that this process holds; none before its first pass, and after a reload that starts over.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.held.as_ref().map(|held| &held.record)
    }

    /// Number of repairs of keys that another program had changed, since the process started.
    #[must_use]
    pub fn drift_repairs(&self) -> u64 {
        self.drift_repairs
    }

    /// Gives the locks of namespaces back that come and go: the next one takes those that it finds.
    pub fn let_go(&mut self) {
        self.namespaces.retain(|managed| !managed.namespace.is_found());
    }

    /// Takes over the state of `before`, whose settings were replaced in this process.
    #[must_use]
    pub fn succeeding(mut self, before: &Self) -> Self {
        self.drift_repairs = before.drift_repairs;
        self.trust = before.trust;
        self.known.clone_from(&before.known);
        self.passing.clone_from(&before.passing);
        // Keys of a pool are kept even if their file is gone: nothing here could make them again.
        if let (SourceSettings::Coordinator(_), SourceSettings::Coordinator(_)) =
            (&self.settings.source, &before.settings.source)
        {
            self.held = before.held.as_ref().map(Held::duplicate);
        }
        self
    }

    /// One pass at `now`; `instructed` are the keys of a coordinator that are not in the file yet.
    pub fn pass(&mut self, now: UnixTime, mode: PassMode, instructed: Option<Offer>) -> PassReport {
        let mut problems = Vec::new();
        self.following.update(&self.settings.install, &mut self.namespaces, mode, &mut problems);
        let persisted = observation::read_file(&self.settings, &mut problems);
        let file_is_read = persisted.is_some();
        let persisted = persisted.unwrap_or(Persisted::Foreign);
        if mode == PassMode::Apply && persisted.record().is_some() {
            self.make_rename_durable();
        }
        let seen = Seen { persisted, file_is_read, kernels: self.observe() };
        problems.extend(seen.kernels.iter().filter_map(|seen| seen.kernel.as_ref().err().cloned()));
        self.check_joints(now, &seen.persisted, &mut problems);
        self.notice_drift(&seen, &mut problems);
        if seen.persisted.record().is_some() && !self.file_is_private() {
            problems.push(problems::exposed(&self.settings.install.sysctl_file.value, self.settings.install.mode));
        }
        let before = self.placement(Some(&seen.persisted), &seen.kernels);
        let (held, intended) = match self.choose(now, instructed, &seen, &mut problems) {
            Chosen::Offered(held) => {
                let new = held.pair();
                (Some(held), Intended::New(new))
            }
            Chosen::Kept(kept) => {
                let old = kept.as_ref().map(Held::pair);
                (kept, Intended::Old(old))
            }
        };
        let mut report = match held {
            Some(held) => self.converge(held, mode, seen, problems),
            None => self.report(&seen.kernels, None, problems),
        };
        self.passing.look(report.namespaces.iter().map(|seen| &seen.namespace));
        report.passing = self.passing.total();
        if mode == PassMode::Apply && self.settings.install.mode == InstallMode::Install && report.has_error() {
            let persisted = sysctl_d::read(&self.settings.install.sysctl_file.value).ok();
            let kernels = self.observe();
            let after = self.placement(persisted.as_ref(), &kernels);
            placement::describe(&mut report.problems, &before, &after, intended);
        }
        report
    }

    /// Reads all kernels; a namespace that is gone is forgotten.
    fn observe(&mut self) -> Vec<Observation> {
        let (mut kernels, key_file) = (Vec::new(), &self.key_file);
        self.namespaces.retain(|managed| {
            let seen = observation::observe(managed, key_file);
            let stays = !seen.gone;
            kernels.extend(stays.then_some(seen));
            stays
        });
        kernels
    }

    fn placement(&self, persisted: Option<&Persisted>, kernels: &[Observation]) -> Placement {
        Placement::of(persisted, self.namespaces.iter().map(|managed| managed.namespace.name()).zip(kernels))
    }

    /// Makes file and kernels hold `held`, or reports what would be written.
    fn converge(&mut self, held: Held, mode: PassMode, seen: Seen, problems: Vec<Problem>) -> PassReport {
        let file = self.file_state(&seen.persisted, &held.record);
        let plan = Plan::of(held.pair(), file, &seen.observed());
        let installs = self.settings.install.mode == InstallMode::Install;
        if mode == PassMode::Apply && installs {
            return self.apply(held, &plan, seen, problems);
        }
        let mut report = self.report(&seen.kernels, Some((&held, file)), problems);
        report.file_changed = installs && plan.write_file;
        // None is gone between the look and here: nothing was entered since.
        for index in plan.write_kernels {
            report.namespaces[index].changed = installs;
        }
        self.held = Some(held);
        report
    }

    /// Writes what the plan lists: the file, then each kernel, each read back.
    fn apply(&mut self, held: Held, plan: &Plan, mut seen: Seen, mut problems: Vec<Problem>) -> PassReport {
        let failed = plan.write_file.then(|| observation::write_file(&self.settings, &held.record, &held.keys));
        let failed = failed.and_then(Result::err);
        // Renamed, but its directory could not be made durable: a power cut may bring the old file back.
        self.file_may_be_lost = failed.is_some() && self.file_has(&held.record);
        let file_changed = plan.write_file && (failed.is_none() || self.file_may_be_lost);
        let (held, file, behind) = if failed.is_none() || source::survives_without_file(&self.settings.source) {
            let file = if failed.is_none() { ObservedFile::Current } else { ObservedFile::Other };
            (held, file, plan.write_kernels.clone())
        } else {
            // Verify, report and continue from the keys that are still installed.
            let Some(kept) = self.kept(&seen.persisted) else {
                problems.extend(failed);
                let mut report = self.report(&seen.kernels, None, problems);
                report.file_changed = file_changed;
                return report;
            };
            let file = self.file_state(&seen.persisted, &kept.record);
            let behind = Plan::of(kept.pair(), file, &seen.observed()).write_kernels;
            (kept, file, behind)
        };
        let written = self.write_kernels(&held, &behind, &mut seen.kernels, &mut problems);
        let gone: BTreeSet<usize> = (0..seen.kernels.len()).filter(|index| seen.kernels[*index].gone).collect();
        problems.extend(failed);
        let mut report = self.report(&seen.kernels, Some((&held, file)), problems);
        report.file_changed = file_changed;
        let mut seen = report.namespaces.iter_mut();
        for (index, managed) in self.namespaces.iter_mut().enumerate().filter(|(index, _)| !gone.contains(index)) {
            let seen = seen.next().expect("one for each that is there");
            seen.changed = written.contains(&index);
            managed.verified = seen.shown.filter(|_| seen.verified);
        }
        self.file_was_current = file == ObservedFile::Current;
        self.held = Some(held);
        report
    }

    /// Writes the kernels of the namespaces at `behind`; returns those that took the keys.
    fn write_kernels(
        &mut self,
        held: &Held,
        behind: &[usize],
        kernels: &mut [Observation],
        problems: &mut Vec<Problem>,
    ) -> Vec<usize> {
        let mut written = Vec::new();
        for &index in behind {
            let managed = &mut self.namespaces[index];
            match observation::write_kernel(managed, &self.key_file, &held.keys, held.pair()) {
                Ok(Some(kernel)) => {
                    kernels[index].kernel = Ok(kernel);
                    written.push(index);
                }
                Ok(None) => kernels[index].gone = true,
                Err(problem) => {
                    kernels[index] = observation::observe(managed, &self.key_file);
                    problems.push(problem);
                }
            }
        }
        written
    }

    /// Whether the file has this record now.
    fn file_has(&self, record: &Record) -> bool {
        let persisted = sysctl_d::read(&self.settings.install.sysctl_file.value);
        persisted.is_ok_and(|persisted| persisted.record().is_some_and(|found| found.same_but_for_time(record)))
    }

    /// Which keys to hold now.
    fn choose(&mut self, now: UnixTime, instructed: Option<Offer>, seen: &Seen, problems: &mut Vec<Problem>) -> Chosen {
        let kept = self.kept(&seen.persisted);
        let installed = match (&kept, &seen.kernels[0].keys) {
            (Some(kept), _) => Some(kept.installed()),
            (None, Some(keys)) => Some(Installed::by_kernel(keys)),
            (None, None) => None,
        };
        let offered = match instructed {
            Some(offer) => Ok(Some(offer)),
            None => source::offer(&self.settings, now, installed.as_ref()),
        };
        let offer = match offered {
            Ok(Some(offer)) => offer,
            Ok(None) => return Chosen::Kept(kept),
            Err(problem) => {
                problems.push(problem);
                return Chosen::Kept(kept);
            }
        };
        let memory = Memory { record: seen.persisted.record(), generators: &self.known };
        match self.trust.choose(&self.settings, now, &offer, memory) {
            KeyChoice::Follow => {
                self.known.extend(offer.generators.clone());
                Chosen::Offered(self.follow(now, offer, kept.as_ref()))
            }
            KeyChoice::Keep(reason) => {
                problems.push(problems::kept(now, offer.clock, reason, &self.settings.install.sysctl_file.value));
                Chosen::Kept(kept)
            }
        }
    }

    /// A process before this one may have ended between the rename of the file and its sync.  What a coordinator is told of the
    /// file must outlive a power cut (docs/protocol.md#rule-8); once for each process.
    fn make_rename_durable(&mut self) {
        let is_told = self.settings.install.mode == InstallMode::Install
            && matches!(self.settings.source, SourceSettings::Coordinator(_));
        if is_told && !std::mem::replace(&mut self.rename_is_durable, true) {
            self.file_may_be_lost = files::sync_directory_of(&self.settings.install.sysctl_file.value).is_err();
        }
    }

    /// Whether the file has `record`, durably, and readable for its owner alone.
    fn file_state(&self, persisted: &Persisted, record: &Record) -> ObservedFile {
        match persisted.record() {
            Some(found) if !self.file_may_be_lost && found.same_but_for_time(record) && self.file_is_private() => {
                ObservedFile::Current
            }
            _ => ObservedFile::Other,
        }
    }

    fn file_is_private(&self) -> bool {
        sysctl_d::is_private(&self.settings.install.sysctl_file.value)
    }

    /// What is installed, as this process or otherwise the file remembers it.
    fn kept(&self, persisted: &Persisted) -> Option<Held> {
        match (&self.held, persisted) {
            (Some(held), _) => Some(held.duplicate()),
            (None, Persisted::Ours { record, keys }) => Some(Held::from_file(record, keys)),
            (None, Persisted::Absent | Persisted::Foreign) => None,
        }
    }

    fn follow(&self, now: UnixTime, offer: Offer, kept: Option<&Held>) -> Held {
        let Offer { desired, joints, .. } = offer;
        let installed_before = kept.filter(|kept| kept.record.prints == desired.prints);
        let record = Record {
            source: source::kind(&self.settings.source).into(),
            pool_id: desired.pool_id,
            generation: desired.generation,
            phase: desired.phase,
            prints: desired.prints,
            joints,
            // Never later than now: a time that a wrong clock wrote must not be kept with the same keys.
            installed_at: installed_before.map_or(now, |kept| kept.record.installed_at.min(now)),
        };
        Held { keys: desired.keys, record, next_change_at: desired.next_change_at }
    }

    /// Reports once a schedule entry that reached this host too late.
    fn check_joints(&mut self, now: UnixTime, persisted: &Persisted, problems: &mut Vec<Problem>) {
        if std::mem::replace(&mut self.joints_checked, true) {
            return;
        }
        if let (SourceSettings::Derive(derive), Some(record)) = (&self.settings.source, persisted.record())
            && record.source == source::kind(&self.settings.source)
        {
            problems.extend(source::late_joints(derive, &self.settings.file, now, &record.joints));
        }
    }

    /// Counts and reports what another program changed since the last pass.
    fn notice_drift(&mut self, seen: &Seen, problems: &mut Vec<Problem>) {
        let Some(held) = &self.held else { return };
        let mut drifted = Vec::new();
        for (managed, seen) in self.namespaces.iter().zip(&seen.kernels) {
            if let (Ok(kernel), Some(verified)) = (&seen.kernel, managed.verified)
                && kernel.shown != Some(verified)
            {
                drifted.push(format!("namespace {}", managed.namespace));
            }
        }
        let same = |found: &Record| !self.file_may_be_lost && found.same_but_for_time(&held.record);
        // One that others may read is a problem of its own, and no key in it has changed.
        let is_other = || !seen.persisted.record().is_some_and(same);
        if self.file_was_current && seen.file_is_read && is_other() {
            drifted.push(self.settings.install.sysctl_file.value.display().to_string());
        }
        if drifted.is_empty() {
            return;
        }
        self.drift_repairs += drifted.len() as u64;
        problems.push(problems::drift(&drifted, &self.settings.install.sysctl_file.value));
    }

    fn report(
        &self,
        kernels: &[Observation],
        held: Option<(&Held, ObservedFile)>,
        problems: Vec<Problem>,
    ) -> PassReport {
        let pair = held.map(|(held, _)| held.pair());
        let there = self.namespaces.iter().zip(kernels).filter(|(_, seen)| !seen.gone);
        let namespaces = there.map(|(managed, seen)| NamespaceReport {
            namespace: managed.namespace.clone(),
            shown: seen.kernel.as_ref().ok().and_then(|kernel| kernel.shown),
            readable: seen.kernel.is_ok(),
            verified: pair.is_some_and(|pair| seen.kernel.as_ref().is_ok_and(|kernel| kernel.holds(pair))),
            changed: false,
            bits: seen.bits,
            backup_slot: managed.backup_slot,
        });
        let mut report = PassReport {
            source: source::kind(&self.settings.source),
            held: held.map(|(held, _)| held.report()),
            file: self.settings.install.sysctl_file.value.clone(),
            file_changed: false,
            file_current: held.is_some_and(|(_, file)| file == ObservedFile::Current),
            namespaces: namespaces.collect(),
            problems,
            mode: self.settings.install.mode,
            awaits_first_key: false,
            passing: TfoCounters::default(),
        };
        if pair.is_some_and(|pair| pair.backup.is_some()) {
            report.problems.extend(problems::one_slot(&report.namespaces));
        }
        report
    }
}
