//! Commands about named nodes: all or nothing, and how many nodes are expected.

use super::super::record::Exclusion;
use super::super::sync::Recording;
use super::*;

/// A pool of four nodes: a and b are required, c is denied, d is excluded by an operator, e was left behind.
fn mixed() -> Snapshot {
    let mut snapshot = pool(document(steady()), &["a", "b", "c", "d", "e"], &[]);
    let mut set = |name: &str, exclusion| {
        take_out(&mut snapshot, name, exclusion);
    };
    set("c", Exclusion::Denied);
    set("d", Exclusion::Operator { until: NOW.plus(3_600) });
    set("e", Exclusion::LeftBehind);
    snapshot
}

fn include(names: &[&str]) -> Command {
    Command::Include { nodes: nodes(names) }
}

fn allow(names: &[&str]) -> Command {
    Command::Allow { nodes: nodes(names) }
}

#[test]
fn many_nodes_are_one_commit_and_one_audit_entry() {
    let snapshot = mixed();
    let cases = [
        (exclude(&["a", "b", "e"], NOW.plus(60)), Action::Exclude, &["a", "b", "e"][..]),
        (include(&["d"]), Action::Include, &["d"]),
        (deny(&["a", "c", "new"]), Action::Deny, &["a", "c", "new"]),
        (allow(&["c"]), Action::Allow, &["c"]),
        (forget(&["a", "c", "d", "e"]), Action::Forget, &["a", "c", "d", "e"]),
    ];
    for (command, action, names) in cases {
        let proposal = committed(order(&snapshot, command).unwrap());
        assert_eq!((proposal.audit.action, &proposal.audit.nodes), (action, &nodes(names)));
        assert_eq!(proposal.exclusions.len(), names.len());
        assert_eq!((rise(&snapshot, &proposal), proposal.document.stage), (0, steady()), "no node gets other slots");
    }
}

#[test]
fn one_wrong_name_refuses_them_all_and_every_wrong_one_is_named() {
    let snapshot = mixed();
    let until = NOW.plus(60);
    for command in
        [exclude(&["a", "x", "y"], until), include(&["d", "x", "y"]), allow(&["c", "x", "y"]), forget(&["a", "x", "y"])]
    {
        assert_eq!(refused(order(&snapshot, command)), Reason::UnknownNodes(vec![node("x"), node("y")]));
    }
    let wrong = |command| match refused(order(&snapshot, command)) {
        Reason::WrongNodes { nodes, .. } => nodes,
        other => panic!("{other:?}"),
    };
    assert_eq!(wrong(exclude(&["a", "c"], until)), [node("c")]);
    assert_eq!(wrong(include(&["a", "c", "d", "e"])), [node("a"), node("c"), node("e")]);
    assert_eq!(wrong(allow(&["a", "c", "d"])), [node("a"), node("d")]);
}

#[test]
fn before_all_were_seen_and_while_frozen_no_exclusion_and_no_deny_ends() {
    let snapshot = mixed();
    for command in [include(&["d"]), allow(&["c"]), Command::Expect { number: 2 }] {
        let reason = refused(order_with(&snapshot, &blind_to(&["a"]), command));
        assert_eq!(reason, Reason::NotHeard(vec![node("a")]));
    }
    let mut frozen = mixed();
    frozen.nodes.get_mut(&node("a")).unwrap().report.as_mut().unwrap().seen = Generation::new(6);
    for command in [include(&["d"]), allow(&["c"]), Command::Expect { number: 2 }] {
        assert!(matches!(refused(order(&frozen, command)), Reason::Frozen { .. }));
    }
}

/// A node's record after the command, and after its next sync in a later session.
fn after(snapshot: &Snapshot, command: Command, name: &str) -> (Option<NodeRecord>, Recording) {
    let proposal = committed(order(snapshot, command).unwrap());
    let record = after_commit(snapshot, &proposal).nodes.remove(&node(name));
    let next = sync(2, report(None));
    let recorded =
        super::super::sync::record(&proposal.document, record.as_ref(), &node(name), &next, (&by(), NOW)).unwrap();
    (record, recorded)
}

#[test]
fn the_next_sync_admits_and_not_the_command() {
    for (command, name) in [(include(&["d"]), "d"), (allow(&["c"]), "c")] {
        let snapshot = after_commit(&mixed(), &committed(order(&mixed(), command.clone()).unwrap()));
        let (record, recorded) = after(&mixed(), command, name);
        assert!(!record.unwrap().is_required(), "{name} is not required by the command");
        assert!(matches!(recorded, Recording::First(_)), "{name}: not durable before the answer: {recorded:?}");
        let admitted = after_sync(&snapshot, name, recorded);
        assert_eq!(admitted.nodes[&node(name)].membership, Membership::Admitted);
    }
}

#[test]
fn what_a_denied_node_reported_before_counts_for_nothing_once_it_is_allowed() {
    let mut snapshot = mixed();
    let slots = Slots { primary: key(8), backup: Some(key(7)) };
    let bogus = Fence { pool_id: pool_id(), generation: Generation::new(9), slots };
    snapshot.nodes.get_mut(&node("c")).unwrap().report = Some(report(Some(bogus)).into());
    let (record, _) = after(&snapshot, allow(&["c"]), "c");
    let record = record.unwrap();
    assert_eq!((record.is_known(), record.report.clone()), (false, None));
    // A request of the denied session, repeated late, admits nothing.
    let late =
        super::super::sync::record(&snapshot.document, Some(&record), &node("c"), &sync(1, report(None)), (&by(), NOW));
    assert_eq!(late, Err(SyncRefused::SessionClosed { ordinal: 1 }));
}

#[test]
fn forgetting_can_lower_the_expected_number_and_only_lower_it() {
    let lowering = |names: &[&str]| Command::Forget { nodes: nodes(names), expected: Expectation::Lower };
    let mut snapshot = pool(document(steady()), &["a", "b", "c"], &[]);
    // (expected before, after c was forgotten, the same lowered)
    for (before, lowered) in [(1, 1), (2, 2), (3, 2), (100, 2)] {
        snapshot.document.expected = before;
        let kept = committed(order(&snapshot, forget(&["c"])).unwrap());
        assert_eq!((kept.document.expected, kept.audit.reason.as_str()), (before, "because"));
        let proposal = committed(order(&snapshot, lowering(&["c"])).unwrap());
        assert_eq!(proposal.document.expected, lowered);
        let reason = if before > lowered { "because; expects 2" } else { "because" };
        assert_eq!(proposal.audit.reason, reason);
    }
    assert_eq!(committed(order(&snapshot, lowering(&["a", "b", "c"])).unwrap()).document.expected, 1);
    // The file decides where it says a number.
    snapshot.document.policy.expected_nodes = Some(3);
    assert_eq!(refused(order(&snapshot, lowering(&["c"]))), Reason::ExpectedInFile(3));
    snapshot.document.policy.expected_nodes = Some(2);
    assert!(order(&snapshot, lowering(&["c"])).is_ok(), "nothing to lower");
}

#[test]
fn operators_expect_a_number_unless_the_file_does() {
    let mut snapshot = of(steady());
    snapshot.document.rotated_at = NOW;
    let proposal = committed(order(&snapshot, Command::Expect { number: 3 }).unwrap());
    assert_eq!((proposal.audit.action, rise(&snapshot, &proposal)), (Action::Expect, 0));
    let expecting = Snapshot { document: proposal.document, ..snapshot.clone() };
    let reason = refused(order(&expecting, Command::Rotate { force: false }));
    assert_eq!(reason, Reason::ExpectedNodes { required: 2, expected: 3 });
    for number in [0, 1_000_001] {
        assert_eq!(refused(order(&snapshot, Command::Expect { number })), Reason::ExpectedOutOfRange);
    }
    snapshot.document.policy.expected_nodes = Some(2);
    assert_eq!(refused(order(&snapshot, Command::Expect { number: 3 })), Reason::ExpectedInFile(2));
    // What the first key expects is expected from then on.
    for (expect, number) in [(expect_number(7), 7), (Expected::Names(nodes(&["a", "b"])), 2), (expect_number(0), 1)] {
        let command = Command::FirstKey { expect, force: false };
        assert_eq!(committed(order(&of(Stage::Empty), command).unwrap()).document.expected, number);
    }
}
