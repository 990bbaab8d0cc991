//! Nodes that an operator leads over to another pool: out of this one in the same commit, and told so until forgotten.

use super::super::barrier::{Barrier, node_state};
use super::super::input::Target;
use super::super::record::Exclusion;
use super::super::sync::{Recording, order_for, record};
use super::*;
use crate::fence::MoveOrder;
use tfo_model::fleet::NodeState;

fn other_pool() -> PoolId {
    "ffffffffffffffffffffffffffffffff".parse().unwrap()
}

fn target(pool_id: PoolId) -> Target {
    Target { pool_id, name: "dns".parse().unwrap() }
}

fn move_to(names: &[&str], pool_id: PoolId) -> Command {
    Command::Move { nodes: nodes(names), to: target(pool_id), expected: Expectation::Keep }
}

fn after(snapshot: &Snapshot, command: Command) -> Snapshot {
    after_commit(snapshot, &committed(order(snapshot, command).unwrap()))
}

#[test]
fn a_move_is_one_commit_and_takes_the_nodes_out_of_the_barriers() {
    // b and c are behind, and the pool would wait for them.
    let snapshot = pool(document(staged()), &["a"], &["b", "c"]);
    let proposal = committed(order(&snapshot, move_to(&["b", "c"], other_pool())).unwrap());
    assert_eq!((proposal.audit.action, &proposal.audit.nodes), (Action::Move, &nodes(&["b", "c"])));
    assert_eq!(proposal.audit.reason, "because; to dns");
    assert_eq!((rise(&snapshot, &proposal), &proposal.document.stage), (0, &staged()), "no node gets other slots");
    let moved = after(&snapshot, move_to(&["b", "c"], other_pool()));
    assert_eq!(Barrier::of_all(&snapshot).waiting_for, [node("b"), node("c")]);
    let barrier = Barrier::of_all(&moved);
    assert_eq!((barrier.waiting_for, barrier.required), (Vec::new(), 1));
    let left = &moved.nodes[&node("b")];
    assert!(!left.counts_as_member() && left.is_known(), "the pool shrinks, and the order is shown");
    assert_eq!((left.moved_to(), &left.report), (Some(other_pool()), &None));
    assert_eq!(node_state(&moved.document, &node("b"), left, &presence()), NodeState::Moved);
    assert_eq!(order_for(&moved, &node("b")), Some(MoveOrder { from: pool_id(), to: other_pool() }));
    assert_eq!((order_for(&moved, &node("a")), order_for(&moved, &node("x"))), (None, None));
    // A second time to the same pool, because the first answer was lost.
    let again = after(&moved, move_to(&["b"], other_pool()));
    assert_eq!(again.nodes[&node("b")].moved_to(), Some(other_pool()));
}

#[test]
fn a_moved_node_is_told_so_whatever_it_reports_and_is_not_stored() {
    let snapshot = of(steady());
    let moved = after(&snapshot, move_to(&["b"], other_pool()));
    let before = moved.nodes.get(&node("b"));
    let own = before.unwrap().session.unwrap().ordinal;
    let there =
        Fence { pool_id: other_pool(), generation: Generation::new(3), slots: Slots { primary: key(9), backup: None } };
    let here = snapshot.nodes[&node("b")].report.clone().unwrap();
    let told = Err(SyncRefused::Moved { to: other_pool() });
    for (ordinal, report) in
        [(own, here.clone()), (own + 1, here), (own + 2, report(None).into()), (own + 3, report(Some(there)).into())]
    {
        let request = sync(ordinal, report);
        assert_eq!(record(&moved.document, before, &node("b"), &request, (&by(), NOW)).err(), told.clone().err());
        // One that was held when the order came.
        assert_eq!(answer(&moved, &presence(), &node("b"), &request), told);
    }
    // Until it is forgotten: then it is a new node, and not by a request of its old session.
    let forgotten = after(&moved, forget(&["b"]));
    let before = forgotten.nodes.get(&node("b"));
    let late = record(&forgotten.document, before, &node("b"), &sync(own, report(None)), (&by(), NOW));
    assert_eq!(late, Err(SyncRefused::SessionClosed { ordinal: own }));
    let next = record(&forgotten.document, before, &node("b"), &sync(own + 1, report(None)), (&by(), NOW)).unwrap();
    assert!(matches!(next, Recording::First(_)), "{next:?}");
    assert_eq!(after_sync(&forgotten, "b", next).nodes[&node("b")].membership, Membership::Admitted);
}

#[test]
fn what_cannot_be_moved_is_refused_by_name_and_all_of_it() {
    let mut snapshot = pool(document(steady()), &["a", "b", "c", "d", "e"], &[]);
    take_out(&mut snapshot, "c", Exclusion::Denied);
    take_out(&mut snapshot, "d", Exclusion::Moved { to: "e".repeat(32).parse().unwrap() });
    snapshot.nodes.get_mut(&node("e")).unwrap().report.as_mut().unwrap().source = KeySource::Derive;
    let reason = |command| refused(order(&snapshot, command));
    assert_eq!(reason(move_to(&["a", "x"], other_pool())), Reason::UnknownNodes(vec![node("x")]));
    assert_eq!(reason(move_to(&["a"], pool_id())), Reason::SamePool);
    for name in ["c", "d", "e"] {
        let found = reason(move_to(&["a", name], other_pool()));
        let Reason::WrongNodes { nodes, .. } = found else { panic!("{name}: {found:?}") };
        assert_eq!(nodes, [node(name)]);
    }
    // An exclusion would end by admitting it here again.
    let found = reason(super::exclude(&["a", "d"], NOW.plus(60)));
    assert!(matches!(found, Reason::WrongNodes { .. }), "{found:?}");
    // Not an emergency: it waits for a coordinator that knows its fleet.
    let command = move_to(&["a"], other_pool());
    let unheard = order_with(&snapshot, &blind_to(&["b"]), command.clone());
    assert_eq!(refused(unheard), Reason::NotHeard(vec![node("b")]));
    snapshot.nodes.get_mut(&node("a")).unwrap().report.as_mut().unwrap().seen = Generation::new(6);
    assert!(matches!(refused(order(&snapshot, command)), Reason::Frozen { .. }));
}

#[test]
fn a_move_can_lower_the_expected_number() {
    let mut snapshot = pool(document(steady()), &["a", "b", "c"], &[]);
    snapshot.document.expected = 3;
    let lowering = Command::Move { nodes: nodes(&["c"]), to: target(other_pool()), expected: Expectation::Lower };
    let proposal = committed(order(&snapshot, lowering).unwrap());
    assert_eq!((proposal.document.expected, proposal.audit.reason.as_str()), (2, "because; to dns; expects 2"));
    let kept = committed(order(&snapshot, move_to(&["c"], other_pool())).unwrap());
    assert_eq!(kept.document.expected, 3);
}
