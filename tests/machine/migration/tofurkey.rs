//! A fleet of tofurkey's, node by node, while its keys change: the nodes that are still tofurkey's are played by
//! tests/testbed/tofurkey.py, which has nothing of ours.

use tfo_host::runtime::clock;

use super::node::{blocks, in_repository, kernels, try_to_type, typed, with};
use super::{CHANGE, MANY, NODES, serving};
use tfo_testbed::daemon::PYTHON;
use tfo_testbed::levers::{Fleet, beside};
use tfo_testbed::poll_until;

/// Intervals that are tried, in seconds: the shortest of both programs, and what tofurkey takes beyond it.
const INTERVALS_SECS: [u64; 3] = [10, 12, 14];
/// Until the first nodes are ours.
const BEGINNING_SECS: u64 = 3;
/// Where `check` finds who writes the key beside the agent.
const UNIT: &str = "/etc/systemd/system/tofurkey.service:3: ";

fn of_tofurkey(interval: u64) -> String {
    let program = in_repository("tests/testbed/tofurkey.py");
    format!(
        "(umask 077; echo cXVpdGUgYSBzZWNyZXQsIG9mIHRoaXJ0eSB0d28gYnl0ZXMgYW5kIG1vcmU= > /etc/tofurkey.key)
         echo '[Service]
         Type=notify
         ExecStart={PYTHON} {program} -k /etc/tofurkey.key -i {interval}
         [Install]
         WantedBy=multi-user.target' | sed 's/^ *//' > /etc/systemd/system/tofurkey.service
         systemctl enable --now tofurkey"
    )
}

#[test]
fn a_fleet_of_tofurkeys_becomes_ours_while_its_keys_change() {
    beside(|| {
        // Two changes of keys are waited for: with the interval whose second one comes first.
        let ready = clock::now().secs() + BEGINNING_SECS;
        let interval = INTERVALS_SECS.into_iter().min_by_key(|interval| ready.next_multiple_of(*interval) + interval);
        let interval = interval.expect("there are some");
        let mut fleet = serving(&of_tofurkey(interval));
        let blocks = blocks("from-tofurkey.md");
        let [look, take_over] = blocks.as_slice() else { panic!("{blocks:?}") };
        let same = with(look, "86400s", &format!("{interval}s"));
        fleet.costs_nothing("from tofurkey", |fleet| {
            let became_ours = |fleet: &mut Fleet, node| {
                let mut said = String::new();
                let same = poll_until(CHANGE, || {
                    let (code, now_said) = try_to_type(fleet, node, &same);
                    said = now_said;
                    code == Some(0) && says_the_same(&said)
                });
                assert!(same, "node{node}: {said}");
                // Who may write the key beside the agent is told.
                assert!(said.contains(UNIT), "{said}");
                typed(fleet, node, take_over);
            };
            became_ours(fleet, 1);
            became_ours(fleet, 2);
            change(fleet);
            became_ours(fleet, 3);
            change(fleet);
            became_ours(fleet, 4);
        });
        let (_, said) = try_to_type(&mut fleet, 4, "tfo-agent check");
        assert!(!said.contains(UNIT), "nothing starts it any more: {said}");
        fleet.costs("another interval on one node", MANY..=u64::MAX, |fleet| {
            typed(fleet, 1, "systemctl disable --now tfo-agent");
            let said = typed(fleet, 1, &with(look, "86400s", "3600s"));
            assert!(!says_the_same(&said), "{said}");
            typed(fleet, 1, "systemctl enable --now tfo-agent");
        });
        fleet.end();
    });
}

fn says_the_same(said: &str) -> bool {
    said.contains("namespace own: unchanged")
}

/// Waits until all kernels have the same text: the slots of tofurkey's nodes and of ours, in the same order.
fn agree(fleet: &mut Fleet) -> String {
    let mut seen = Vec::new();
    let agreed = poll_until(CHANGE, || {
        seen = kernels(fleet, NODES);
        seen.iter().all(|keys| *keys == seen[0])
    });
    assert!(agreed, "{seen:?}");
    seen.remove(0)
}

/// Waits until all nodes have the next primary, and what was the primary as backup.
fn change(fleet: &mut Fleet) {
    let before = agree(fleet);
    let primary = before.split(',').next().expect("there is one");
    let mut seen = Vec::new();
    let changed = poll_until(CHANGE, || {
        seen = kernels(fleet, NODES);
        seen.iter().all(|keys| *keys == seen[0] && keys.ends_with(&format!(",{primary}")) && !keys.starts_with(primary))
    });
    assert!(changed, "{before}: {seen:?}");
    fleet.clients_come_round();
}
