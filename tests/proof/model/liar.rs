//! A stolen node: it has the keys and a certificate, and says what it likes, or nothing.
//!
//! Nothing that it says moves an honest node wrongly (the properties of [`super::world`], which do not cover it), and
//! from every state an operator drives the keys that it has out of the honest nodes ([`driven_out`]).

use std::rc::Rc;

use tfo_engine::rollout::document::{PauseCause, Stage};
use tfo_engine::rollout::record::{Installed, NodeRecord, Report, SlotCount};
use tfo_engine::rollout::slots::{Fence, Slots};
use tfo_engine::rollout::sync::{Recording, Sync, record};
use tfo_engine::rollout::wave;
use tfo_model::count::Generation;
use tfo_model::node::{KeySource, Session};
use tfo_model::time::UnixTime;

use super::event::Event;
use super::settle::{apply, round_of_node};
use super::world::{Op, World, coordinator_name, number, pool_id, pool_key};

/// What a stolen node reports.  It always declares the longest period that the pool allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lie {
    /// It has installed what it is told.
    Obeys,
    /// It has nothing, as a new node.
    Nothing,
    /// It has received a later generation than any.
    Ahead,
    /// It has other keys under a later generation.
    OtherFuture,
    /// It has other keys under the present generation.
    OtherPresent,
}

impl Lie {
    pub(crate) const ALL: [Self; 5] = [Self::Obeys, Self::Nothing, Self::Ahead, Self::OtherFuture, Self::OtherPresent];
}

/// Rounds in which every honest node and the coordinator do everything once: a revoke of both keys takes two rotations.
const ROUNDS_MAX: usize = 60;

impl World {
    /// The stolen node opens a session with a lie; the answer does not matter, it has the keys anyway.
    pub(crate) fn lie(&mut self, n: usize, lie: Lie) -> bool {
        self.budget.lies -= 1;
        let id = self.ids[n].clone();
        let before = self.store.nodes.get(&id).cloned();
        let document = &self.store.document;
        let ordinal = before.as_ref().and_then(|record| record.session).map_or(1, |open| open.ordinal + 1);
        let other = Slots { primary: pool_key(1), backup: None };
        let fence =
            |generation: u64, slots| Some(Fence { pool_id: pool_id(), generation: Generation::new(generation), slots });
        let (present, later) = (document.generation.get(), document.generation.get() + 7);
        let (fence, seen) = match lie {
            Lie::Obeys => match wave::instruction_for(document, &id, SlotCount::Two) {
                Some(told) => (fence(told.generation.get(), told.slots), told.generation.get()),
                None => (None, 0),
            },
            Lie::Nothing => (None, 0),
            Lie::Ahead => (None, later),
            Lie::OtherFuture => (fence(later, other), 0),
            Lie::OtherPresent => (fence(present, other), 0),
        };
        let report = Report {
            fence,
            installed: Installed::ReadBack,
            foreign: None,
            slot_count: SlotCount::Two,
            next_sync_secs: document.policy.period_max_secs,
            counters: None,
            seen: Generation::ZERO,
            source: KeySource::Coordinator,
            holds: None,
        };
        let sync = Sync { session: Session { ordinal, nonce: 0 }, seen: Generation::new(seen), report: report.into() };
        match record(document, before.as_ref(), &id, &sync, (&coordinator_name(0), UnixTime::from_secs(0))) {
            Ok(recording @ (Recording::First(_) | Recording::Later(_))) => {
                self.store_sync(0, n, recording);
                self.coordinators.iter_mut().for_each(|c| c.heard |= 1 << n);
                true
            }
            Ok(Recording::Stale) | Err(_) => false,
        }
    }
}

fn is_denied(world: &World, n: usize) -> bool {
    world.store.nodes.get(&world.ids[n]).is_some_and(NodeRecord::is_denied)
}

fn must(world: &mut World, event: Event, what: &str) -> Result<(), String> {
    match world.after(event) {
        Some(next) => {
            *world = next;
            Ok(())
        }
        None => Err(format!("{what} is refused: {event:?}")),
    }
}

/// From a reached world, and with a stolen node that says nothing more, an operator drives every key that nodes hold out
/// of the honest ones: by `deny` before any of them is heard and a revoke afterwards, or by one command.
pub(crate) fn driven_out(reached: &World) -> Result<(), String> {
    [false, true].into_iter().try_for_each(|in_one| drive_out(reached, in_one))
}

fn drive_out(reached: &World, in_one: bool) -> Result<(), String> {
    let Some(liar) = reached.liar else { return Err("no node is stolen".to_owned()) };
    let mut world = reached.clone();
    (world.budget.stages, world.budget.orders) = (200, 100);
    (world.budget.late, world.budget.lies, world.budget.absences) = (0, 0, 0);
    world.requests.clear();
    world.answers.clear();
    for coordinator in &mut world.coordinators {
        coordinator.pending = None;
        coordinator.hesitates = false;
    }
    let stolen = u8::try_from(liar).unwrap();
    let honest: Vec<usize> = (0..world.nodes.len()).filter(|n| *n != liar).collect();
    if !in_one && !is_denied(&world, liar) {
        must(&mut world, Event::Order(0, Op::Deny(stolen)), "deny, before any node is heard,")?;
    }
    let round = |world: &mut World| honest.iter().for_each(|n| round_of_node(world, *n));
    round(&mut world);
    let is_paused = |world: &World| {
        let pause = world.store.document.paused.as_ref();
        pause.is_some_and(|pause| matches!(pause.cause, PauseCause::Operator { .. }))
    };
    if in_one && is_paused(&world) {
        // `resume` comes first, and it may have to wait for the stolen node: that is what `deny` is for.
        return Ok(());
    }
    if is_paused(&world) {
        must(&mut world, Event::Order(0, Op::Resume), "resume")?;
    }
    let held: Vec<u64> = world.store.document.keys_held().iter().map(|key| number(key.fingerprint)).collect();
    let leaked: Vec<u64> = wave::instructions(&world.store.document)
        .iter()
        .flat_map(|told| told.slots.keys())
        .map(|key| number(key.fingerprint))
        .filter(|key| held.contains(key))
        .collect();
    let revoke = if in_one { Op::RevokeAndDeny(stolen) } else { Op::RevokeAll };
    must(&mut world, Event::Order(0, revoke), "a revoke")?;
    for _ in 0..ROUNDS_MAX {
        round(&mut world);
        if let Some(broken) = world.broken() {
            return Err(format!("while a revoke runs: {broken}"));
        }
        apply(&mut world, Event::Tick(0));
        let holds = |n: &usize| {
            let slots = world.nodes[*n].kernel;
            slots.is_some_and(|slots| slots.keys().any(|key| leaked.contains(&number(key.fingerprint))))
        };
        let is_over =
            world.store.document.revoke.is_none() && matches!(world.store.document.stage, Stage::Steady { .. });
        if is_over && !honest.iter().any(holds) {
            return Ok(());
        }
    }
    Err(format!("the revoke does not end: {:?}", Rc::as_ref(&world.store)))
}
