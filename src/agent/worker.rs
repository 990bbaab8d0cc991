//! One pass: ask the source, look at the host, decide (`engine::reconcile`), write, and say what is there now.
//!
//! Nothing that goes wrong in a pass makes it drop or forget installed keys.

use std::collections::BTreeMap;
use std::path::Path;

use super::host::{self, Look, Site};
use super::report::{HeldReport, NamespaceReport, PassReport};
use super::source::{self, Installed, Offer, Told, WithoutFile};
use super::which::{self, Meant, Places};
use tfo_config::agent::{AgentSettings, InstallMode, SourceSettings};
use tfo_engine::reconcile::{ClockUse, KeepReason, KeyChoice, ObservedFile, ObservedKernel, Plan, choose_keys};
use tfo_host::kernel::boot_order;
use tfo_host::kernel::key_writers;
use tfo_host::kernel::procfs::KeyFile;
use tfo_host::kernel::sysctl_d::{self, Persisted, Record};
use tfo_model::key::{KeyFingerprint, KeyPair, PairPrint};
use tfo_model::problem::Problem;
use tfo_model::state::{BackupSlot, DesiredState};
use tfo_model::time::UnixTime;

/// Whether a pass may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassMode {
    /// Write what differs.
    Apply,
    /// Write nothing, say what would be written.
    DryRun,
}

/// What this process holds and remembers between passes.
pub struct Worker {
    settings: AgentSettings,
    key_file: KeyFile,
    sites: Vec<Site>,
    held: Option<Held>,
    /// What the keys that were followed were made from.
    known: BTreeMap<String, KeyFingerprint>,
    /// What each namespace showed after our last write; drift is a difference from it.
    verified: Vec<Option<PairPrint>>,
    file_was_current: bool,
    /// The last write reached the file's place, but may not survive a power cut: it is written again.
    file_may_be_lost: bool,
    joints_checked: bool,
    drift_repairs: u64,
}

struct Held {
    desired: DesiredState,
    record: Record,
}

/// The keys to hold.
enum Chosen {
    /// Those that the source wants.
    Offered(Held),
    /// Those that are installed, or none at all; a problem says why.
    Kept(Option<Held>),
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
            known: BTreeMap::new(),
            verified,
            file_was_current: false,
            file_may_be_lost: false,
            joints_checked: false,
            drift_repairs: 0,
        }
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &AgentSettings {
        &self.settings
    }

    /// What is held by this process; none before its first pass, and after a reload that has it begun anew.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.held.as_ref().map(|held| &held.record)
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
        self.known.clone_from(&before.known);
        // Where the keys are only known from outside, what is held is not forgotten with a file that is gone.
        if let (SourceSettings::Coordinator(_), SourceSettings::Coordinator(_)) =
            (&self.settings.source, &before.settings.source)
        {
            self.held = before.held.as_ref().map(Held::duplicate);
            self.verified = self.sites.iter().map(|_| None).collect();
        }
        self
    }

    /// One pass at `now`; `told` is what a coordinator told and is not in the file yet.
    pub fn pass(&mut self, now: UnixTime, mode: PassMode, told: Option<&Told>) -> PassReport {
        let mut problems = Vec::new();
        let persisted = host::look_at_file(&self.settings, &mut problems);
        let mut looks: Vec<Look> = self.sites.iter().map(|site| host::look(site, &self.key_file)).collect();
        problems.extend(looks.iter().filter_map(|look| look.kernel.as_ref().err().cloned()));
        self.check_joints(now, &persisted, &mut problems);
        self.notice_drift(&persisted, &looks, &mut problems);
        let before = self.places(Some(&persisted), &looks);
        let chosen = self.choose((now, told), &persisted, &looks, &mut problems);
        let (held, meant) = match chosen {
            Chosen::Offered(held) => {
                let new = held.desired.prints.pair();
                (Some(held), Meant::New(new))
            }
            Chosen::Kept(kept) => {
                let old = kept.as_ref().map(|kept| kept.desired.prints.pair());
                (kept, Meant::Old(old))
            }
        };
        let mut report = match held {
            Some(held) => self.converge(held, mode, (&persisted, &mut looks), problems),
            None => self.report(&looks, None, problems),
        };
        if mode == PassMode::Apply && self.settings.install.mode == InstallMode::Install && report.has_error() {
            let persisted = sysctl_d::read(&self.settings.install.sysctl_file.value).ok();
            let looks: Vec<Look> = self.sites.iter().map(|site| host::look(site, &self.key_file)).collect();
            which::say(&mut report.problems, &before, &self.places(persisted.as_ref(), &looks), meant);
        }
        report
    }

    fn places(&self, persisted: Option<&Persisted>, looks: &[Look]) -> Places {
        Places::of(persisted, self.sites.iter().map(|site| site.namespace.name()).zip(looks))
    }

    /// Makes file and kernels hold `held`, or says what would be written.
    fn converge(
        &mut self,
        held: Held,
        mode: PassMode,
        (persisted, looks): (&Persisted, &mut [Look]),
        problems: Vec<Problem>,
    ) -> PassReport {
        let file = self.observe(persisted, &held.record);
        let plan = Plan::of(held.desired.prints.pair(), file, &kernels_of(looks));
        let installs = self.settings.install.mode == InstallMode::Install;
        if mode == PassMode::Apply && installs {
            return self.apply(held, &plan, (persisted, looks), problems);
        }
        let mut report = self.report(looks, Some((&held, file)), problems);
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
        // Renamed, but its directory could not be made durable: a power cut may bring the old file back.
        self.file_may_be_lost = failed.is_some() && self.file_says(&held.record);
        let file_changed = plan.write_file && (failed.is_none() || self.file_may_be_lost);
        let (held, file, behind) = if goes_on {
            let file = if failed.is_none() { ObservedFile::Current } else { ObservedFile::Other };
            (held, file, plan.write_kernels.clone())
        } else {
            // The keys that are still installed are the ones to look after, to report, and to go on from.
            let Some(kept) = self.kept(persisted) else {
                problems.extend(failed);
                let mut report = self.report(looks, None, problems);
                report.file_changed = file_changed;
                return report;
            };
            let file = self.observe(persisted, &kept.record);
            let behind = Plan::of(kept.desired.prints.pair(), file, &kernels_of(looks)).write_kernels;
            (kept, file, behind)
        };
        let written = self.write_kernels(&held.desired, &behind, looks, &mut problems);
        problems.extend(failed);
        let mut report = self.report(looks, Some((&held, file)), problems);
        report.file_changed = file_changed;
        for index in written {
            report.namespaces[index].changed = true;
        }
        let shown = report.namespaces.iter().map(|namespace| namespace.shown.filter(|_| namespace.verified));
        self.verified = shown.collect();
        self.file_was_current = file == ObservedFile::Current;
        self.held = Some(held);
        report
    }

    /// Writes the kernels of these namespaces; gives those that took the keys.
    fn write_kernels(
        &mut self,
        desired: &DesiredState,
        behind: &[usize],
        looks: &mut [Look],
        problems: &mut Vec<Problem>,
    ) -> Vec<usize> {
        let mut written = Vec::new();
        for &index in behind {
            match host::write_kernel(&mut self.sites[index], &self.key_file, desired) {
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
        written
    }

    /// Whether the file that stands there now has this record.
    fn file_says(&self, record: &Record) -> bool {
        let persisted = sysctl_d::read(&self.settings.install.sysctl_file.value);
        persisted.is_ok_and(|persisted| persisted.record().is_some_and(|found| found.same_but_for_time(record)))
    }

    /// Which keys to hold now.
    fn choose(
        &mut self,
        (now, told): (UnixTime, Option<&Told>),
        persisted: &Persisted,
        looks: &[Look],
        problems: &mut Vec<Problem>,
    ) -> Chosen {
        let kept = self.kept(persisted);
        let installed = match (&kept, &looks[0].keys) {
            (Some(kept), _) => Some(kept.installed()),
            (None, Some(keys)) => Some(Installed::by_kernel(keys)),
            (None, None) => None,
        };
        let offer = match source::offer(&self.settings, now, installed.as_ref(), told) {
            Ok(Some(offer)) => offer,
            Ok(None) => return Chosen::Kept(kept),
            Err(problem) => {
                problems.push(problem);
                return Chosen::Kept(kept);
            }
        };
        let installed_at = persisted.record().map(|record| record.installed_at);
        match choose_keys(now, offer.clock, installed_at, &offer.generators, &self.known) {
            KeyChoice::Follow => {
                self.known.extend(offer.generators.clone());
                Chosen::Offered(self.follow(now, offer, kept.as_ref()))
            }
            KeyChoice::Keep(reason) => {
                problems.push(self.keep_problem(now, offer.clock, reason));
                // What was told before is only known where something was held, so there is always something to keep.
                Chosen::Kept(kept)
            }
        }
    }

    /// Whether our file says what `record` says, durably, and to its owner alone.
    fn observe(&self, persisted: &Persisted, record: &Record) -> ObservedFile {
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
            source: source::kind(&self.settings.source).into(),
            pool_id: desired.pool_id,
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
            KeepReason::OtherSecret { generator } => {
                let message = format!("the secret of {generator} was replaced in place; the installed keys stay");
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
            && record.source == source::kind(&self.settings.source)
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
        if self.file_was_current && self.observe(persisted, &held.record) == ObservedFile::Other {
            drifted.push(self.settings.install.sysctl_file.value.display().to_string());
        }
        if drifted.is_empty() {
            return;
        }
        self.drift_repairs += drifted.len() as u64;
        let own = &self.settings.install.sysctl_file.value;
        let order = boot_order::scan(Path::new("/"), own);
        let winner = order.winners_over(own).next();
        let (who, remedy) = match (winner, key_writers::scan(Path::new("/")).first()) {
            (Some(setter), _) => (
                format!("; {}:{} sets the key too", setter.file.display(), setter.line),
                format!("remove that line from {}", setter.file.display()),
            ),
            (None, Some(writer)) => (
                format!("; {}:{} names the key", writer.file.display(), writer.line),
                format!("stop what runs {}", writer.file.display()),
            ),
            (None, None) => {
                (String::new(), "find the program that writes the key (timers, cron, `sysctl --system`)".to_owned())
            }
        };
        let message =
            format!("the keys were changed by somebody else: {}{who}; they are written again", drifted.join(", "));
        problems.push(Problem::warning("drift", message, remedy));
    }

    fn report(&self, looks: &[Look], held: Option<(&Held, ObservedFile)>, problems: Vec<Problem>) -> PassReport {
        let pair = held.map(|(held, _)| held.desired.prints.pair());
        let namespaces = self.sites.iter().zip(looks).map(|(site, look)| NamespaceReport {
            namespace: site.namespace.clone(),
            shown: look.kernel.as_ref().ok().and_then(|kernel| kernel.shown),
            readable: look.kernel.is_ok(),
            verified: pair.is_some_and(|pair| look.kernel.as_ref().is_ok_and(|kernel| kernel.holds(pair))),
            changed: false,
            bits: look.bits,
            backup_slot: site.backup_slot,
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
            pool_id: record.pool_id,
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
        Installed { source: self.record.source.as_str(), keys: &self.desired.keys, prints: self.record.prints }
    }

    fn report(&self) -> HeldReport {
        HeldReport {
            prints: self.record.prints,
            phase: self.desired.phase,
            generation: self.desired.generation,
            installed_at: self.record.installed_at,
            next_change_at: self.desired.next_change_at,
        }
    }
}

/// What each kernel was seen to hold; one that could not be read is none.
fn kernels_of(looks: &[Look]) -> Vec<Option<ObservedKernel>> {
    looks.iter().map(|look| look.kernel.as_ref().ok().copied()).collect()
}
