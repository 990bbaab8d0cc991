//! What goes wrong, with nodes, with coordinators and files, with the store and its backup: a coordinator may be cut off from
//! its store while the others are not, be reached by no node, or stand still and do everything at once later.

use std::collections::BTreeSet;

use tfo_engine::rollout::presence::{Life, Presence};
use tfo_engine::rollout::record::Membership;
use tfo_model::count::Revision;

use super::copies::LAG_SECS_MAX;
use super::fake::Trouble;
use super::fleet::{COORDINATORS, Event, FAULTS_UNTIL, Fleet};
use super::held::Held;
use super::rules::RuleOff;
use super::shelf::{Copy, PutOff};

/// Youngest backup that is restored.
const BACKUP_SECS_MIN: u64 = 60;
/// How long a coordinator stands still that others take for dead.
const ZOMBIE_SECS: u64 = 40;

/// What keeps one coordinator from the store or from the nodes, each until a time.
#[derive(Default)]
pub(super) struct Troubles {
    /// Its calls to the store fail, those of the others do not.
    pub(super) cut_until: u64,
    /// No node's request arrives, and the store works.
    pub(super) deaf_until: u64,
    /// It does nothing (SIGSTOP), and then everything at once.
    pub(super) paused_until: u64,
}

impl Fleet {
    pub(super) fn fault(&mut self) {
        if !self.has_faults() {
            self.end_faults();
            return;
        }
        let delay = 5 + self.random.below(20);
        self.at(delay, Event::Fault);
        let n = usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap();
        let c = usize::try_from(self.random.below(COORDINATORS as u64)).unwrap();
        self.coordinators[c].compared.next();
        // Of nodes alone, or also of stores and coordinators.
        let kinds = if self.is_about_ears() { 6 } else { 21 };
        match self.random.below(kinds) {
            0 => self.restart(n),
            1 => self.reboot(n),
            2 => self.reimage(n),
            3 => self.nodes[n].away_until = self.now + self.random.below(600),
            4 | 15 => self.mute(n),
            5 => {
                let other = (self.nodes[n].coordinator + 1) % COORDINATORS;
                self.nodes[n].coordinator = other;
                let nonce = self.random.roll();
                self.nodes[n].link.open_session(1_000 + self.now, nonce);
            }
            6 => self.stop_coordinator(c),
            7 => self.start_coordinator(c),
            16 => self.cut_off(c),
            17 => self.deafen(c),
            18 => self.pause(c),
            20 => {
                let lag_secs = self.some_lag();
                self.lag(c, lag_secs);
            }
            8 => self.shelf.store.set(if self.shelf.store.is_down() { Trouble::None } else { Trouble::Down }),
            9 => self.coordinators[c].wall_error = i64::try_from(self.random.below(4_000)).unwrap() - 2_000,
            10 => self.shelf.store.set(Trouble::None),
            11 => self.shelf.store.set(Trouble::LostAnswer),
            12 => self.shelf.store.set(Trouble::LostCall),
            13 => self.broken_until = self.now + self.random.below(300),
            _ => self.backup_or_restore(),
        }
    }

    pub(super) fn stop_coordinator(&mut self, c: usize) {
        self.summary.count("coordinator stops", 1);
        // Their connections break.
        for n in 0..self.nodes.len() {
            if let Some(Held { to, request, .. }) = self.nodes[n].held.clone().filter(|held| held.to == c) {
                self.at(1, Event::Release { to, node: n, request });
            }
        }
        // With the process goes what it had not written.
        for node in &mut self.nodes {
            node.accepted = node.accepted.filter(|(by, ..)| *by != c);
        }
        let coordinator = &mut self.coordinators[c];
        coordinator.copied.restart();
        coordinator.life = Life::default();
        coordinator.seen = Revision::ZERO;
        coordinator.put_off = PutOff::default();
        (coordinator.last, coordinator.holds_name, coordinator.vouched) = (None, false, false);
        coordinator.writes_fail = false;
        (coordinator.beat_at, coordinator.beat_due) = (None, self.now);
        (coordinator.presence, coordinator.view, coordinator.rest) = (Presence::default(), None, None);
        coordinator.lives += 1;
        coordinator.holding.clear();
        coordinator.is_up = false;
        if self.random.once_in(2) {
            self.start_coordinator(c);
        }
    }

    pub(super) fn start_coordinator(&mut self, c: usize) {
        if std::mem::replace(&mut self.coordinators[c].is_up, true) {
            return;
        }
        if self.files.start(c) {
            self.summary.count("starts with an old file", 1);
        }
    }

    /// Files differ, and change, to the end of the faults; then each is read once more, and they still differ.
    pub(super) fn file(&mut self) {
        if !self.has_faults() {
            for c in 0..COORDINATORS {
                self.files.reload(c);
            }
            return;
        }
        let delay = 10 + self.files.dice().below(60);
        self.at(delay, Event::File);
        let c = self.files.dice().index(COORDINATORS);
        match self.files.dice().below(8) {
            0..4 => self.files.write(c),
            4 => self.stop_coordinator(c),
            _ if self.coordinators[c].is_up => self.files.reload(c),
            _ => {}
        }
    }

    /// Coordinators are stopped for a restore, as the manual asks; or they are not.
    pub(super) fn backup_or_restore(&mut self) {
        match self.backup.take() {
            None => {
                self.files.back_up();
                self.backup = Some(self.shelf.copy());
                self.backed_up_at = self.now;
            }
            // No backup is made, outrun and restored within a minute.
            Some(backup) if self.random.once_in(3) && self.now > self.backed_up_at + BACKUP_SECS_MIN => {
                self.restore(&backup);
            }
            Some(backup) => self.backup = Some(backup),
        }
    }

    pub(super) fn restore(&mut self, backup: &Copy) {
        self.shelf.put_back(backup);
        self.files.put_back();
        self.coordinators.iter_mut().for_each(|coordinator| coordinator.compared.next());
        self.watched = None;
        self.note_wave();
        let with_restart = self.random.once_in(2);
        self.note(|| format!("restored, with a restart: {with_restart}"));
        if with_restart {
            self.summary.count("restores with a restart", 1);
            (0..COORDINATORS).for_each(|c| self.stop_coordinator(c));
        } else {
            self.summary.count("restores under running coordinators", 1);
        }
        for node in &mut self.nodes {
            node.accepted = None;
            let record = self.shelf.now().nodes.get(&node.id);
            node.is_covered &= record.is_some_and(|record| record.membership == Membership::Admitted);
        }
        let covered = self.nodes.iter().filter(|node| node.is_covered);
        let minted: BTreeSet<_> = covered.filter_map(|node| Some(node.kernel?.primary.fingerprint)).collect();
        self.promises.put_back(&minted);
    }

    pub(super) fn end_faults(&mut self) {
        self.shelf.store.set(Trouble::None);
        self.broken_until = 0;
        for c in 0..COORDINATORS {
            self.start_coordinator(c);
            self.coordinators[c].wall_error = 0;
            self.coordinators[c].compared.next();
            self.coordinators[c].troubles = Troubles::default();
            let lag_secs = self.random.below(3);
            self.lag(c, lag_secs);
        }
        for node in &mut self.nodes {
            (node.away_until, node.mute_until) = (0, 0);
        }
    }

    /// By how much a copy is behind: often by nothing, now and then by so much that it is of no use.
    pub(super) fn some_lag(&mut self) -> u64 {
        match self.random.below(4) {
            0 | 1 => 0,
            2 => 1 + self.random.below(8),
            _ => self.random.below(LAG_SECS_MAX + 1),
        }
    }

    pub(super) fn cut_off(&mut self, c: usize) {
        self.summary.count("coordinators cut off from the store", 1);
        self.coordinators[c].troubles.cut_until = self.now + self.random.below(600);
    }

    pub(super) fn deafen(&mut self, c: usize) {
        self.summary.count("coordinators that no node reaches", 1);
        self.coordinators[c].troubles.deaf_until = self.now + self.random.below(600);
    }

    pub(super) fn pause(&mut self, c: usize) {
        self.summary.count("coordinators that stand still", 1);
        self.coordinators[c].troubles.paused_until = (self.now + self.random.below(600)).min(FAULTS_UNTIL);
    }

    pub(super) fn mute(&mut self, n: usize) {
        self.summary.count("nodes that receive and cannot send", 1);
        self.nodes[n].mute_until = self.now + self.random.below(600);
    }

    /// Puts the fleet to the test that a rule is for, again and again while it is off.
    pub(super) fn plan(&mut self) {
        if !self.has_faults() {
            return;
        }
        let again = match self.rule_off {
            None
            | Some(RuleOff::Barriers | RuleOff::Promise | RuleOff::FileProposes | RuleOff::PresenceCarriesReport) => {
                let secs = 400 + self.random.below(100);
                return self.black_out(secs);
            }
            // Each rotation is the test.
            Some(RuleOff::FreshCounters) => return,
            Some(RuleOff::AcksOfOpenSessions) => self.stop_with_acks(),
            Some(RuleOff::Deafness) => {
                self.black_out(500);
                550
            }
            Some(RuleOff::Blindness) => {
                let nodes_at = |c: &usize| self.nodes.iter().filter(|node| node.coordinator == *c).count();
                let busiest = (0..COORDINATORS).max_by_key(nodes_at).expect("there are some");
                self.coordinators[busiest].troubles.cut_until = self.now + 280;
                300
            }
            Some(RuleOff::DetachedFirst) => {
                let n = self.random.index(self.nodes.len());
                self.mute(n);
                30
            }
        };
        self.at(again, Event::Plan);
    }

    /// A coordinator stands still before it has written what its nodes reported; new images of them are made meanwhile, and come
    /// back elsewhere a little before it does what it was about to do.  Until when nothing else is to be planned.
    fn stop_with_acks(&mut self) -> u64 {
        let has_acks = |c: &usize| self.coordinators[*c].is_up && !self.coordinators[*c].put_off.queue.acks.is_empty();
        let Some(c) = (0..COORDINATORS).find(has_acks) else { return 1 };
        let others = (0..COORDINATORS).filter(|other| *other != c && self.coordinators[*other].is_up);
        let Some(next) = others.min_by_key(|other| self.coordinators[*other].copied.lag_secs) else { return 1 };
        let nodes: Vec<usize> = self.coordinators[c].put_off.queue.acks.keys().map(|id| self.index[id]).collect();
        self.coordinators[c].troubles.paused_until = self.now + ZOMBIE_SECS;
        for n in nodes {
            self.reimage(n);
            let away = ZOMBIE_SECS - 1 - self.random.below(3);
            let node = &mut self.nodes[n];
            (node.coordinator, node.away_until) = (next, self.now + away);
            self.wake(n, away);
        }
        60
    }

    /// No node reaches any coordinator.
    pub(super) fn black_out(&mut self, secs: u64) {
        self.summary.count("times in which no coordinator heard a node", 1);
        let until = self.now + secs;
        for coordinator in &mut self.coordinators {
            let until_now = coordinator.troubles.deaf_until;
            coordinator.troubles.deaf_until = until.max(until_now);
        }
    }

    /// When an event of a coordinator that stands still happens.
    pub(super) fn put_off_until(&self, event: &Event) -> Option<u64> {
        let c = match event {
            Event::Tick(c) | Event::Turn(c) | Event::Commit(c, ..) | Event::Flush(c) => *c,
            Event::Request { to, .. } | Event::Release { to, .. } => *to,
            Event::Ended { held, .. } => held.to,
            Event::Wake(..) | Event::Answer { .. } | Event::Fault | Event::File | Event::Plan => return None,
        };
        Some(self.coordinators[c].troubles.paused_until).filter(|until| *until > self.now)
    }
}
