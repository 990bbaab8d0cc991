//! The same with a barrier or a fence taken away: the clients must notice, or the other tests show nothing.

use serde_json::json;

use tfo_testbed::levers::{Fleet, UNDER_WAY, inside};

/// More rejections than clients, so not only one unlucky cookie each: 2p(1-p) of the connections with a stale share p of the nodes
/// (docs/kernel.md#a-fleet-under-rotation), 37 % with one node of four.
const MANY: u64 = 20;

#[test]
fn every_rule_that_is_broken_is_seen() {
    inside(|| {
        let mut fleet = Fleet::up(4);
        fleet.costs("a node that serves before its agent has asked", MANY..=u64::MAX, |fleet| {
            fleet.withdraw(2);
            fleet.wipe(2);
            fleet.serve(2);
            fleet.announce(2);
            fleet.clients_come_round();
        });
        healed(&mut fleet, |fleet| fleet.start_agent(2), 2);

        fleet.costs("a node that serves with an older file before its agent has asked", MANY..=u64::MAX, |fleet| {
            fleet.keep_file(3);
            fleet.rotation();
            fleet.withdraw(3);
            fleet.reboot_with_kept_file(3);
            fleet.serve(3);
            fleet.announce(3);
            fleet.clients_come_round();
        });
        healed(&mut fleet, |fleet| fleet.start_agent(3), 3);

        // The known limit: it serves on, is cut off, and the operator passes the barrier without it.  From the first promotion on it
        // does not know the primary of the others, nor they, after the second stage, its own: at most 2p(1-p) = 37.5 % are rejected.
        let cost = fleet.cost_of("a serving node that is cut off and left behind for two rotations", |fleet| {
            fleet.cut(4);
            fleet.begin_rotation();
            fleet.leave_behind(4);
            fleet.settled();
            fleet.force_rotation();
            fleet.settled();
        });
        assert!((MANY..=cost.connections * 2 / 5).contains(&cost.rejected), "{cost:?}");
        let apart = cost.rejected.abs_diff(cost.passive_fail);
        // A look before and one after; on a busy machine, clients connect while a look is taken.
        let at_looks = 2 * UNDER_WAY + cost.rejected / 100;
        assert!(apart <= at_looks && cost.failed == 0, "every rejection is counted on a node: {cost:?}");
        healed(&mut fleet, |fleet| fleet.reconnect(4), 4);

        // Two barriers passed without one node: the first before it was staged, the second before it was promoted.
        fleet.costs("a barrier passed without a frozen node that serves on", MANY..=u64::MAX, |fleet| {
            fleet.freeze_agent(1);
            fleet.begin_rotation();
            fleet.leave_behind(1);
            fleet.settled();
        });
        healed(&mut fleet, |fleet| fleet.thaw_agent(1), 1);
        fleet.end();
    });
}

/// Puts it right again; then the fleet is as good as before.
fn healed(fleet: &mut Fleet, heal: impl FnOnce(&mut Fleet), node: usize) {
    heal(fleet);
    fleet.has_keys(node);
    fleet.until("everybody is required again", |pool| pool["required"] == 4 && pool["converged"] == 4);
    // Every client loses its bad cookie with its next connection.
    fleet.clients_come_round();
    fleet.costs_nothing("healed", Fleet::rotation);
    assert_eq!(fleet.pool()["blocked_by"], json!("schedule"));
}
