//! What an event does to a world: which part of it does the rest.  Every decision is the engine's own.

use tfo_engine::rollout::input::Input;
use tfo_model::time::UnixTime;

use super::event::Event;
use super::world::{Op, Serving, World};

pub(super) const BEFORE: UnixTime = UnixTime::from_secs(0);
pub(crate) const AFTER: UnixTime = UnixTime::from_secs(1_000_000_000);

impl World {
    /// The world after an event; none if it changes nothing.
    pub(crate) fn after(&self, event: Event) -> Option<World> {
        let mut next = self.clone();
        let happened = match event {
            Event::Sync { node, exclusion_ended } => next.sync(usize::from(node), clock(exclusion_ended)),
            Event::Send(n) => {
                next.budget.late -= 1;
                next.send(usize::from(n))
            }
            Event::Deliver { request, exclusion_ended } => {
                let request = next.requests.remove(usize::from(request));
                next.deliver(&request, clock(exclusion_ended))
            }
            Event::Take(index) => next.take(usize::from(index)) && next.write_file() && next.write_kernel(),
            Event::TakeAndCrash(index) => {
                next.budget.restarts -= 1;
                next.take(usize::from(index)) && next.write_file() && next.crash_in_install()
            }
            Event::FileFails(index) => next.take(usize::from(index)) && next.file_fails(),
            Event::TakeInVain(index) => {
                next.budget.failures -= 1;
                next.take_in_vain(usize::from(index))
            }
            Event::TryAgain(n) => next.try_again(usize::from(n)),
            Event::Ready(n) => {
                let node = &mut next.nodes[usize::from(n)];
                node.serving = if node.joined_empty { Serving::SinceEmpty } else { Serving::Keyless };
                true
            }
            Event::Hesitate(c) => {
                next.budget.slow_commits -= 1;
                next.coordinators[usize::from(c)].hesitates = true;
                true
            }
            Event::Lie(lie) => next.liar.is_some_and(|n| next.lie(n, lie)),
            Event::RestartAgent(n) => {
                next.budget.restarts -= 1;
                next.restart(usize::from(n))
            }
            Event::Reboot(n) => {
                next.budget.reboots -= 1;
                next.reboot(usize::from(n))
            }
            Event::Reimage(n) => {
                next.budget.images -= 1;
                next.reimage(usize::from(n))
            }
            Event::MoveToOther(n) => {
                next.budget.moves -= 1;
                next.move_to_other(usize::from(n))
            }
            Event::Tick(c) => next.decide(usize::from(c), &Input::Tick, None, 0),
            Event::Absent { coordinator, node } => {
                next.budget.absences -= 1;
                next.decide(usize::from(coordinator), &Input::Tick, Some(usize::from(node)), 0)
            }
            Event::Slow(c) => {
                next.budget.absences -= 1;
                next.decide(usize::from(c), &Input::Tick, None, 1_000_000)
            }
            Event::Order(c, op) => {
                if op != Op::Recover {
                    next.budget.orders -= 1;
                }
                next.order(usize::from(c), op)
            }
            Event::Commit(c) => next.commit(usize::from(c)),
            Event::RestartCoordinator(c) => {
                next.budget.coordinator_restarts -= 1;
                next.restart_coordinator(usize::from(c));
                true
            }
            Event::TakeBackup => {
                next.backup = Some(next.store.clone());
                true
            }
            Event::Restore => next.restore(),
            Event::RestoreLive => next.restore_live(),
            Event::Look(c) => next.look(usize::from(c)),
            Event::Stall(c) => {
                next.budget.lags -= 1;
                next.coordinators[usize::from(c)].copy = Some(self.owned(usize::from(c)));
                true
            }
            Event::Mark(c) => {
                next.coordinators[usize::from(c)].next = Some(self.owned(usize::from(c)));
                true
            }
            Event::CatchUp(c) => {
                let coordinator = &mut next.coordinators[usize::from(c)];
                coordinator.copy = coordinator.next.take();
                next.look_at_copy(usize::from(c));
                true
            }
            Event::LoseAnswer(c) => {
                next.budget.open_outcomes -= 1;
                let coordinator = &mut next.coordinators[usize::from(c)];
                coordinator.open = coordinator.pending.take();
                coordinator.hesitates = false;
                true
            }
            Event::Land(c) => next.land(usize::from(c)),
            Event::Settle(c) => next.settle(usize::from(c)),
            Event::WriteLate(index) => next.write_late(usize::from(index)),
            Event::Watch(c) => next.watch(usize::from(c)),
            Event::Beat(c) => next.beat(usize::from(c)),
            Event::Flush(c) => next.flush(usize::from(c)),
            Event::RestoreUnder(c) => next.restore_under(usize::from(c)),
            Event::TakeOver => next.take_over(),
            Event::Remember(c) => {
                next.coordinators[usize::from(c)].cache = Some(self.store.clone());
                true
            }
            Event::EndExclusion(n) => next.end_exclusion(usize::from(n)),
        };
        next.look_where_beating();
        happened.then_some(next)
    }
}

pub(super) fn clock(exclusion_ended: bool) -> UnixTime {
    if exclusion_ended { AFTER } else { BEFORE }
}
