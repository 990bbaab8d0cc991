//! The canonical encoding of a world, of which a search keeps a hash (hash compaction, 128 bits).
//!
//! Canonical: generations, epochs and sessions are counted from the lowest in sight, fingerprints are numbered in order
//! of appearance, and nodes that the rules treat alike are put in every order, of which the least counts.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use siphasher::sip128::{Hasher128, SipHasher13};
use tfo_engine::fence::Readiness;
use tfo_engine::rollout::document::{Snapshot, Stage};
use tfo_engine::rollout::parts::Stamp;
use tfo_engine::rollout::record::Report;
use tfo_engine::rollout::slots::{Fence, Instruction, PoolKey, Slots};
use tfo_model::count::{Generation, Revision};

use super::bases::{bases, copies};
use super::stored::Stored;
use super::world::{Coordinator, Reply, World, coordinator_name, number};

pub(super) struct Encoder<'a> {
    hasher: SipHasher13,
    world: &'a World,
    order: &'a [usize],
    generation_base: u64,
    epoch_base: u64,
    names: Vec<u64>,
}

impl Encoder<'_> {
    fn put(&mut self, value: u64) {
        self.hasher.write_u64(value);
    }

    fn generation(&mut self, generation: Generation) {
        let value = generation.get();
        self.put(if value == 0 { 0 } else { value - self.generation_base + 1 });
    }

    fn name(&mut self, fingerprint: u64) {
        let name = self.names.iter().position(|known| *known == fingerprint).unwrap_or_else(|| {
            self.names.push(fingerprint);
            self.names.len() - 1
        });
        self.put(name as u64);
    }

    fn key(&mut self, key: PoolKey) {
        self.put(key.epoch.get() - self.epoch_base);
        self.name(number(key.fingerprint));
    }

    fn maybe_key(&mut self, key: Option<PoolKey>) {
        match key {
            None => self.put(u64::MAX),
            Some(key) => self.key(key),
        }
    }

    fn slots(&mut self, slots: &Slots) {
        self.key(slots.primary);
        self.maybe_key(slots.backup);
    }

    fn fence(&mut self, fence: Option<&Fence>) {
        match fence {
            None => self.put(u64::MAX),
            Some(fence) => {
                self.generation(fence.generation);
                self.slots(&fence.slots);
            }
        }
    }

    fn told(&mut self, told: &Instruction) {
        self.generation(told.generation);
        self.slots(&told.slots);
    }

    fn report(&mut self, report: &Report) {
        self.fence(report.fence.as_ref());
        report.installed.hash(&mut self.hasher);
        report.slot_count.hash(&mut self.hasher);
        self.put(u64::from(report.foreign.is_some()));
        self.generation(report.seen);
    }

    /// Ranks of a node's sessions: only their order counts.
    fn session(&mut self, n: usize, ordinal: u64) {
        let world = self.world;
        let id = &world.ids[n];
        let stored = |snapshot: &Snapshot| {
            snapshot.nodes.get(id).and_then(|record| record.session).map_or(0, |session| session.ordinal)
        };
        let mut lower: Vec<u64> = Vec::with_capacity(8);
        let mut see = |other: u64| {
            if other < ordinal && !lower.contains(&other) {
                lower.push(other);
            }
        };
        see(world.nodes[n].link.session().ordinal);
        see(stored(&world.store));
        world.backup.iter().for_each(|backup| see(stored(backup)));
        world.coordinators.iter().filter_map(|c| c.looked.as_ref()).for_each(|looked| see(stored(looked)));
        if world.has_beats {
            world.coordinators.iter().filter_map(|c| c.copy.as_ref()).for_each(|copy| see(stored(copy)));
            let unwritten = world.coordinators.iter().flat_map(|c| &c.unwritten).filter(|(node, _)| *node == n);
            unwritten.for_each(|(_, later)| see(later.session.ordinal));
        }
        if world.is_lagging {
            for copy in copies(world) {
                let entries = copy.content.parts().rosters.values().filter_map(|roster| roster.entries.get(id));
                entries.for_each(|entry| see(entry.session.ordinal));
                let closes = copy.content.parts().exclusions.get(id).and_then(|excluded| excluded.closes);
                closes.iter().for_each(|closed| see(closed.ordinal));
            }
        }
        world.requests.iter().filter(|r| r.node == n).for_each(|r| see(r.sync.session.ordinal));
        world.late_writes.iter().filter(|w| w.0 == n).for_each(|w| see(w.1.session.ordinal));
        for answer in world.answers.iter().filter(|answer| answer.node == n) {
            if let Reply::SessionClosed(open) = answer.reply {
                see(open);
            }
        }
        self.put(lower.len() as u64);
    }

    /// Where a store counts: of each count only the order among all in sight.
    fn counts(&mut self, snapshot: &Snapshot) {
        let (world, order) = (self.world, self.order);
        let looked = world.coordinators.iter().filter_map(|coordinator| coordinator.looked.as_ref());
        let copies = world.coordinators.iter().flat_map(|coordinator| [&coordinator.copy, &coordinator.next]).flatten();
        let all: Vec<&Snapshot> = [&world.store]
            .into_iter()
            .chain(&world.backup)
            .chain(looked)
            .chain(copies)
            .map(|stored| &***stored)
            .collect();
        let mut rank = |count: &dyn Fn(&Snapshot) -> u64| {
            let mut lower: Vec<u64> = all.iter().map(|other| count(other)).filter(|n| *n < count(snapshot)).collect();
            lower.sort_unstable();
            lower.dedup();
            self.put(lower.len() as u64);
        };
        rank(&|snapshot| snapshot.document.revision.get());
        for n in order {
            rank(&|snapshot| snapshot.nodes.get(&world.ids[*n]).map_or(0, |record| record.syncs));
        }
        for n in order {
            let session = snapshot.nodes.get(&world.ids[*n]).and_then(|record| record.session);
            self.session(*n, session.map_or(0, |session| session.ordinal));
        }
    }

    /// Where coordinators beat: the order of each name's stamps, who has its name by one, and copies of lost histories.
    fn beats(&mut self) {
        let world = self.world;
        let held = |c: &'_ Coordinator| [c.looked.clone(), c.copy.clone(), c.next.clone()].into_iter().flatten();
        let mut all = vec![world.store.clone()];
        all.extend(world.backup.clone());
        all.extend(world.coordinators.iter().flat_map(held));
        for name in 0..2 {
            let own = (0..world.coordinators.len()).filter(|c| world.name(*c) == coordinator_name(name));
            let lasts: Vec<Option<Stamp>> = own.map(|c| world.coordinators[c].last).collect();
            let mut stamps: Vec<Option<Stamp>> = all.iter().map(|stored| world.stamp_in(stored, name)).collect();
            stamps.extend(&lasts);
            let mut ranks = stamps.clone();
            ranks.sort_unstable();
            ranks.dedup();
            for stamp in &stamps {
                self.put(ranks.binary_search(stamp).unwrap_or_default() as u64);
            }
            for stored in &all {
                let roster = stored.content.parts().rosters.get(&coordinator_name(name));
                let vouches = roster.and_then(|roster| roster.beat.as_ref()).is_some_and(|beat| beat.vouches);
                self.put(u64::from(vouches));
            }
        }
        for coordinator in &world.coordinators {
            self.put(u64::from(coordinator.holds_name) + 2 * u64::from(coordinator.looked.is_some()));
            for copy in [&coordinator.copy, &coordinator.next] {
                match copy {
                    None => self.put(u64::MAX),
                    Some(copy) => {
                        self.snapshot(copy);
                        self.counts(copy);
                    }
                }
            }
            let expected = coordinator.pending.as_ref().map(|pending| pending.expected);
            self.put(u64::from(expected == Some(world.store.document.revision)));
            for (n, later) in &coordinator.unwritten {
                self.put(*n as u64);
                self.session(*n, later.session.ordinal);
                self.report(&later.ack.report);
            }
        }
    }

    /// Where copies lag: every coordinator's copies, all rosters, and the order of all revisions.
    fn copies(&mut self) {
        let world = self.world;
        let undecided = |coordinator: &'_ Coordinator| {
            [&coordinator.pending, &coordinator.open]
                .map(|proposal| proposal.as_ref().map(|proposal| proposal.expected))
        };
        let mut revisions: Vec<Revision> = world.coordinators.iter().flat_map(undecided).flatten().collect();
        for stored in copies(world) {
            let parts = stored.content.parts();
            revisions.push(stored.document.revision);
            revisions.extend(parts.exclusions.values().map(|excluded| excluded.revision));
            let entries = parts.rosters.values().flat_map(|roster| roster.entries.values());
            revisions.extend(entries.filter_map(|entry| entry.answers));
        }
        revisions.sort_unstable();
        revisions.dedup();
        let rank = |revision: Revision| revisions.binary_search(&revision).unwrap_or_default() as u64;
        self.parts(&world.store, &rank);
        for coordinator in &world.coordinators {
            for copy in [&coordinator.copy, &coordinator.next] {
                match copy {
                    None => self.put(u64::MAX),
                    Some(copy) => {
                        self.snapshot(copy);
                        self.parts(copy, &rank);
                    }
                }
            }
            for expected in undecided(coordinator) {
                self.put(expected.map_or(u64::MAX, rank));
            }
            if let Some(open) = &coordinator.open {
                open.audit.action.hash(&mut self.hasher);
                let mut after = world.store.content.clone();
                after.commit(open);
                self.snapshot(after.snapshot());
            }
            self.put(u64::from(coordinator.was_told_undone));
        }
    }

    /// Where waves are watched: whom each coordinator holds, and of whom it lacks counters.
    fn watched(&mut self) {
        let world = self.world;
        for (c, coordinator) in world.coordinators.iter().enumerate() {
            self.put(u64::from(world.has_watched(c)));
            for n in self.order {
                let is = |bits: u8| u64::from(bits & (1 << n) != 0);
                let is_unobserved = coordinator.life.presence().unobserved.contains(&world.ids[*n]);
                self.put(is(coordinator.holding) + 2 * is(coordinator.uncounted) + 4 * u64::from(is_unobserved));
            }
        }
    }

    fn parts(&mut self, stored: &Stored, rank: &impl Fn(Revision) -> u64) {
        let world = self.world;
        self.put(rank(stored.document.revision));
        let parts = stored.content.parts();
        for n in self.order {
            let id = &world.ids[*n];
            for c in 0..world.coordinators.len() {
                match parts.rosters.get(&coordinator_name(c)).and_then(|roster| roster.entries.get(id)) {
                    None => self.put(u64::MAX),
                    Some(entry) => {
                        self.put(entry.session.nonce);
                        self.session(*n, entry.session.ordinal);
                        self.put(entry.answers.map_or(u64::MAX, rank));
                        self.report(&entry.first.report);
                        let marked = parts.rosters.get(&coordinator_name(c)).and_then(|roster| roster.acks.get(id));
                        self.put(u64::from(marked.is_some_and(|later| later.silent)));
                    }
                }
            }
            match parts.exclusions.get(id) {
                None => self.put(u64::MAX),
                Some(excluded) => {
                    excluded.cause.hash(&mut self.hasher);
                    self.put(rank(excluded.revision));
                    self.session(*n, excluded.closes.map_or(0, |closed| closed.ordinal));
                }
            }
        }
    }

    fn snapshot(&mut self, snapshot: &Snapshot) {
        let document = &snapshot.document;
        self.put(document.policy.promote_waves.len() as u64);
        self.generation(document.generation);
        self.put(document.next_epoch.get() - self.epoch_base);
        document.stage.phase().as_str().hash(&mut self.hasher);
        match &document.stage {
            Stage::Empty => {}
            Stage::Steady { current, backup } => {
                self.key(*current);
                self.maybe_key(*backup);
            }
            Stage::Staged { current, next, prior_backup } => {
                self.key(*current);
                self.key(*next);
                self.maybe_key(*prior_backup);
            }
            Stage::Promoted { current, next, staged_generation, wave } => {
                self.key(*current);
                self.key(*next);
                self.generation(*staged_generation);
                self.put((wave.opened + 10 * wave.rules.len()) as u64);
                for n in self.order {
                    self.put(u64::from(wave.taken_in.contains(&self.world.ids[*n])));
                }
            }
        }
        document.paused.is_some().hash(&mut self.hasher);
        document.hold.as_ref().map(std::mem::discriminant).hash(&mut self.hasher);
        let revoked: Vec<PoolKey> = document.keys_held().into_iter().collect();
        for key in revoked {
            self.put(u64::from(document.is_revoked(key)));
            self.put(u64::from(document.revoke.as_ref().is_some_and(|revoke| revoke.keys.contains(&key))));
        }
        for n in self.order {
            match snapshot.nodes.get(&self.world.ids[*n]) {
                None => self.put(u64::MAX),
                Some(record) => {
                    record.membership.hash(&mut self.hasher);
                    record.coordinator.hash(&mut self.hasher);
                    record.silent.hash(&mut self.hasher);
                    self.put(record.session.map_or(0, |session| session.nonce));
                    self.session(*n, record.session.map_or(0, |session| session.ordinal));
                    if let Some(report) = &record.report {
                        self.report(report);
                    }
                }
            }
        }
    }

    fn world(mut self) -> u128 {
        let world = self.world;
        self.snapshot(&world.store);
        for n in self.order {
            let node = &world.nodes[*n];
            node.slot_count.hash(&mut self.hasher);
            self.fence(node.file.as_deref());
            self.fence(node.link.fence());
            match node.link.pending() {
                None => self.put(u64::MAX),
                Some(told) => self.told(told),
            }
            match &node.kernel {
                None => self.put(u64::MAX),
                Some(slots) => self.slots(slots),
            }
            self.session(*n, node.link.session().ordinal);
            self.put(node.coordinator as u64 * 2 + u64::from(node.is_covered));
            self.generation(node.link.seen());
            self.put(node.image * 4 + u64::from(node.is_expected) * 2 + u64::from(node.joined_empty));
            node.serving.hash(&mut self.hasher);
            let is_empty = node.link.readiness(Duration::ZERO, Duration::ZERO) == Readiness::EmptyPool;
            self.put(u64::from(node.was_told_empty) * 2 + u64::from(is_empty));
            for request in world.requests.iter().filter(|request| request.node == *n) {
                self.put(1_000 + request.to as u64 * 2 + u64::from(world.is_outstanding(*n, &request.ask)));
                self.session(*n, request.sync.session.ordinal);
                self.put(request.sync.session.nonce);
                self.generation(request.sync.seen);
                self.report(&request.sync.report);
            }
            for answer in world.answers.iter().filter(|answer| answer.node == *n) {
                let is_current = world.is_outstanding(*n, &answer.ask);
                self.put(2_000 + u64::from(is_current) * 2 + u64::from(answer.is_of_lost_store));
                match &answer.reply {
                    Reply::Tell(told) => self.told(told),
                    Reply::Nothing => self.put(4_000),
                    Reply::SessionClosed(open) => self.session(*n, *open),
                }
            }
            for (_, sync) in world.late_writes.iter().filter(|write| write.0 == *n) {
                self.put(3_000);
                self.session(*n, sync.session.ordinal);
                self.report(&sync.report);
            }
        }
        if world.is_counted {
            self.counts(&world.store);
            world.backup.iter().for_each(|backup| self.counts(backup));
        }
        if world.is_lagging {
            self.copies();
        }
        if world.has_beats {
            self.beats();
        }
        if world.is_watched {
            self.watched();
        }
        for coordinator in &world.coordinators {
            for n in self.order {
                self.put(u64::from(coordinator.heard & (1 << n) != 0));
            }
            if let Some(looked) = &coordinator.looked {
                self.counts(looked);
                let heard = coordinator.life.presence().seen.clone();
                for n in self.order {
                    self.put(u64::from(heard.contains(&world.ids[*n])));
                    self.put(u64::from(looked.nodes.contains_key(&world.ids[*n])));
                }
            }
            self.put(u64::from(coordinator.hesitates));
            match &coordinator.pending {
                None => self.put(u64::MAX),
                Some(proposal) => {
                    let mut after = world.store.content.clone();
                    after.commit(proposal);
                    proposal.audit.action.hash(&mut self.hasher);
                    self.snapshot(after.snapshot());
                }
            }
            match &coordinator.cache {
                None => self.put(u64::MAX),
                Some(cache) => self.snapshot(cache),
            }
        }
        match &world.backup {
            None => self.put(u64::MAX),
            Some(backup) => self.snapshot(backup),
        }
        world.budget.hash(&mut self.hasher);
        for key in &world.promised {
            self.name(*key);
        }
        self.maybe_key(world.dropped_backup);
        (world.is_paused, world.is_aborted, world.is_restored, world.is_undone_done).hash(&mut self.hasher);
        for n in self.order {
            self.put(u64::from(world.ordered_on & (1 << n) != 0) + 2 * u64::from(world.denied & (1 << n) != 0));
        }
        self.hasher.finish128().as_u128()
    }
}

pub(super) fn code(world: &World, orders: &[Vec<usize>]) -> u128 {
    let (generation_base, epoch_base) = bases(world);
    let encode = |order: &Vec<usize>| {
        Encoder { hasher: SipHasher13::new(), world, order, generation_base, epoch_base, names: Vec::with_capacity(8) }
            .world()
    };
    orders.iter().map(encode).min().unwrap_or_default()
}
