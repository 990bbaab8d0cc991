//! Each rule is needed: with one switched off something breaks, and the trace is printed; but for three that are not about cookies.

use super::holds::{SHORT, STATES, show, told_apart};
use super::liar::driven_out;
use super::rules::Off;
use super::search::{Order, search};
use super::watched::watched;
use super::world::{Budget, Op, World};
use super::worlds::{
    beating, behind, empty, goes_back_live, import, members, one_coordinator, one_slot, ordering, small, stolen,
};

/// Each rule of docs/protocol.md#what-goes-wrong-without-a-rule that a model without time can lack, and the world in which it is missed.
pub(super) fn without(off: Off) -> World {
    let one = match off {
        Off::BarrierBeforePromote | Off::BarrierBeforeStage => small(Budget::default()),
        Off::AbortRests | Off::AbortHasNoStagedWayBack => {
            ordering(small(Budget { orders: 1, ..Budget::default() }), &[Op::Abort])
        }
        Off::AdmissionBeforeAnswer | Off::JoinerWaitsForKeys | Off::MembersFromOneSnapshot => {
            members(Budget::default())
        }
        Off::OwnAnswerOnly => members(Budget { absences: 1, ..Budget::default() }),
        Off::AckNeedsDurableFile => small(Budget { reboots: 1, ..Budget::default() }),
        Off::ReturnByAdmission | Off::ReturnerAdmittedFirst => small(Budget { absences: 1, ..Budget::default() }),
        Off::FrozenAfterRestore | Off::StoredAcksDoNotCount | Off::NobodyIsToldBeforeAllAreHeard => {
            small(Budget { restores: 1, images: 1, ..Budget::default() })
        }
        Off::CommandsWaitForNodes => {
            ordering(small(Budget { restores: 1, orders: 1, ..Budget::default() }), &[Op::Abort, Op::Rotate])
        }
        Off::BarrierBeforeDrop => {
            ordering(small(Budget { orders: 1, ..Budget::default() }), &[Op::RevokeHeld(0), Op::RevokeHeld(1)])
        }
        Off::ImportOnlyIntoEmpty => ordering(small(Budget { orders: 1, ..Budget::default() }), &[Op::Import]),
        Off::LifeEndsWithItsStore | Off::PresenceKnowsItsRevision => goes_back_live(1),
        Off::NoWordNeeded => stolen(Budget { lies: 1, coordinator_restarts: 1, ..Budget::default() }, &[]),
        Off::ExpectedNodesFirst => import(),
        Off::EmptyIsOfThisRun => empty(Budget { reboots: 1, ..Budget::default() }),
        Off::OneSlotIsNeverRequired => one_slot(),
        Off::FenceInFile => {
            return World { off: Some(off), ..small(Budget { moves: 1, restarts: 1, ..Budget::default() }) };
        }
        Off::AnswerFromStore => {
            let mut world = World::steady(1, 1, &[]);
            world.budget = Budget { stages: 2, ..Budget::default() };
            world.nodes[1].coordinator = 1;
            return World { off: Some(off), ..world };
        }
        Off::AnswerNotBeforeAdmission | Off::OwnWritesComeBackByWatch => {
            return World { off: Some(off), ..behind(1, 1, Budget::default()) };
        }
        Off::AdmissionSeesExclusion => {
            let world = behind(2, 0, Budget { orders: 1, restarts: 1, ..Budget::default() });
            return World { off: Some(off), ..ordering(world, &[Op::Deny(0)]) };
        }
        Off::CommitComparesDocument => {
            let world = behind(2, 0, Budget { orders: 1, ..Budget::default() });
            return World { off: Some(off), ..ordering(world, &[Op::Pause]) };
        }
        Off::SettleBeforeRead => {
            let world = behind(2, 0, Budget { orders: 1, slow_commits: 1, open_outcomes: 1, ..Budget::default() });
            return World { off: Some(off), ..ordering(world, &[Op::Pause]) };
        }
        Off::AckOfOpenSession | Off::LaterSessionWins => {
            return World { off: Some(off), ..behind(2, 0, Budget { moves: 1, late: 1, ..Budget::default() }) };
        }
        Off::AdmissionSeesAbsence => {
            return World { off: Some(off), ..behind(2, 0, Budget { moves: 1, absences: 1, ..Budget::default() }) };
        }
        Off::BeatComparesLife => {
            return World { off: Some(off), ..beating(Budget { stages: 2, survivals: 1, ..Budget::default() }) };
        }
        Off::PresenceCarriesReport => {
            let mut world = beating(Budget { stages: 2, restores: 1, orders: 1, ..Budget::default() });
            // Both at one coordinator, so that the other one knows of them what that says.
            world.nodes[1].coordinator = 0;
            return World { off: Some(off), ..ordering(world, &[Op::Abort, Op::Rotate]) };
        }
        Off::GateHearsCounters => return World { off: Some(off), ..watched(Budget::default()) },
        Off::SwapOnRevision => {
            let world = ordering(small(Budget { orders: 1, slow_commits: 1, ..Budget::default() }), &[Op::Pause]);
            return World { off: Some(off), ..world };
        }
    };
    World { off: Some(off), ..one_coordinator(one) }
}

#[test]
fn every_rule_is_needed() {
    let mut kept = Vec::new();
    // One alone: TFO_RULE=BeatComparesLife.
    let wanted = std::env::var("TFO_RULE").ok();
    let is_wanted = |off: &Off| match &wanted {
        Some(wanted) => format!("{off:?}") == *wanted,
        // Its trace takes as long as those of all others together.
        None => *off != Off::BeatComparesLife || tfo_testbed::by_size(false, true, true),
    };
    for off in Off::ALL.into_iter().filter(is_wanted) {
        let alike = told_apart(without(off).nodes.len());
        let found = search(without(off), &alike, 10 * STATES, Order::Breadth, |world| {
            world.liar.and_then(|_| driven_out(world).err())
        });
        show(&format!("without {off:?}"), &found);
        if found.broken.is_none() {
            kept.push(off);
        }
    }
    assert!(kept.is_empty(), "nothing breaks without {kept:?}");
}

/// Three rules keep the records true and the fleet alive; a fleet without them loses no cookie, as far as is searched.
#[test]
fn some_rules_are_not_about_cookies() {
    for off in Off::HARMLESS {
        let states_max = tfo_testbed::by_size(15_000, SHORT, STATES);
        let found = search(without(off), &told_apart(2), states_max, Order::Breadth, |_| None);
        show(&format!("without {off:?}"), &found);
        assert!(found.broken.is_none() && found.states >= states_max.min(15_000), "without {off:?}");
    }
}
