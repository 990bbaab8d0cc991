//! Commands of operators: first key, import, rotate, pause, resume, recover, advance, policy.

use super::super::document::Hold;
use super::super::operator::RECOVER_JUMP;
use super::super::policy::BadPolicy;
use super::*;
use tfo_model::fleet::BlockedBy;
use tfo_model::key::PairPrint;

const ROTATE: Command = Command::Rotate { force: false };
const INSIST: Command = Command::Rotate { force: true };

fn first_key(force: bool) -> Command {
    Command::FirstKey { expect: expect_number(2), force }
}

fn import() -> Command {
    let keys = PairPrint { primary: fingerprint(70), backup: Some(fingerprint(71)) };
    Command::Import { keys, expect: Expected::Names(nodes(&["a", "b"])) }
}

#[test]
fn an_empty_pool_gets_a_first_key_or_an_import_and_holds() {
    let snapshot = of(Stage::Empty);
    let first = committed(order(&snapshot, first_key(false)).unwrap());
    let epoch_1 = PoolKey { epoch: Epoch::FIRST, fingerprint: fingerprint(4) };
    assert_eq!(first.document.stage, Stage::Steady { current: epoch_1, backup: None });
    assert_eq!((rise(&snapshot, &first), first.document.next_epoch.get()), (1, 2));

    let imported = committed(order(&snapshot, import()).unwrap());
    let Stage::Steady { current, backup: Some(backup) } = imported.document.stage else { panic!("not steady") };
    assert_eq!((current.fingerprint, backup.fingerprint), (fingerprint(70), fingerprint(71)));
    assert!(backup.epoch < current.epoch && current.epoch < imported.document.next_epoch);
    assert!(matches!(imported.document.hold, Some(Hold::FirstKey { .. })));
}

#[test]
fn a_running_pool_takes_neither() {
    for stage in [steady(), staged(), promoted(0, &[])] {
        for command in [first_key(true), import()] {
            assert!(matches!(refused(order(&of(stage.clone()), command)), Reason::WrongPhase(_)));
        }
    }
}

#[test]
fn a_first_key_is_refused_where_nodes_share_a_key_already() {
    let mut snapshot = of(Stage::Empty);
    for record in snapshot.nodes.values_mut() {
        record.report.as_mut().unwrap().foreign = Some(fingerprint(70));
    }
    let reason = refused(order(&snapshot, first_key(false)));
    assert_eq!(reason, Reason::ForeignKey { fingerprint: fingerprint(70), nodes: 2 });
    assert!(order(&snapshot, first_key(true)).is_ok());
    // Shared by two or more, and by most of those that have a key from elsewhere: (holders of each key, whether refused).
    let names = ["a", "b", "c", "d", "e", "f"];
    for (holders, of_shared) in [
        (&[1][..], None),
        (&[1, 1], None),
        (&[2], Some(2)),
        (&[2, 1], Some(2)),
        (&[2, 2], None),
        (&[2, 1, 1], None),
        (&[3, 2], Some(3)),
        (&[3, 2, 1], None),
        (&[1, 4], Some(4)),
    ] {
        let mut snapshot = pool(document(Stage::Empty), &names, &[]);
        let keys = holders.iter().zip(70..).flat_map(|(nodes, number)| vec![number; *nodes]);
        for (record, number) in snapshot.nodes.values_mut().zip(keys) {
            record.report.as_mut().unwrap().foreign = Some(fingerprint(number));
        }
        let found = order(&snapshot, first_key(false)).err().map(|refused| match refused.reason {
            Reason::ForeignKey { nodes, .. } => nodes,
            other => panic!("{other:?}"),
        });
        assert_eq!(found, of_shared, "{holders:?}");
    }
}

#[test]
fn an_import_of_one_key_twice_is_refused() {
    let keys = PairPrint { primary: fingerprint(70), backup: Some(fingerprint(70)) };
    let command = Command::Import { keys, expect: expect_number(1) };
    assert_eq!(refused(order(&of(Stage::Empty), command)), Reason::KeyReused(fingerprint(70)));
}

#[test]
fn after_an_import_nothing_moves_until_all_expected_nodes_are_here() {
    let mut document = document(steady());
    document.hold = Some(Hold::FirstKey { expect: Expected::Names(nodes(&["a", "b", "c"])) });
    let snapshot = pool(document.clone(), &["a"], &["b"]);
    assert_eq!(waits(tick(&snapshot)).blocked_by, BlockedBy::Held);
    assert_eq!(refused(order(&snapshot, INSIST)), Reason::Held);
    let Reason::Expected(missing) = refused(order(&snapshot, Command::Resume { force: false })) else {
        panic!("not refused")
    };
    assert_eq!(missing, ["b", "c"]);
    document.hold = Some(Hold::FirstKey { expect: expect_number(3) });
    let Reason::Expected(missing) =
        refused(order(&pool(document.clone(), &["a"], &[]), Command::Resume { force: false }))
    else {
        panic!("not refused")
    };
    assert_eq!(missing, ["2 of 3 nodes"]);
    // By force without nodes that never came, and never past one that is here and behind.
    let by_force = Command::Resume { force: true };
    let resumed = committed(order(&pool(document.clone(), &["a"], &[]), by_force.clone()).unwrap());
    assert_eq!(resumed.document.hold, None);
    let Reason::Expected(missing) = refused(order(&pool(document.clone(), &["a"], &["b"]), by_force)) else {
        panic!("not refused")
    };
    assert_eq!(missing, ["b"]);
    let resumed = committed(order(&pool(document, &["a", "b", "c"], &[]), Command::Resume { force: false }).unwrap());
    assert_eq!((resumed.document.hold, resumed.audit.action), (None, Action::Resume));
}

#[test]
fn a_rotation_on_demand_passes_the_schedule_but_no_barrier() {
    let mut snapshot = of(steady());
    snapshot.document.rotated_at = NOW;
    assert_eq!(waits(tick(&snapshot)).blocked_by, BlockedBy::Schedule);
    assert_eq!(committed(order(&snapshot, ROTATE).unwrap()).audit.action, Action::Rotate);

    let mut few = snapshot.clone();
    few.document.policy.expected_nodes = Some(3);
    assert_eq!(refused(order(&few, ROTATE)), Reason::ExpectedNodes { required: 2, expected: 3 });
    assert!(order(&few, INSIST).is_ok());
    few.document.policy.expected_nodes = Some(2);
    assert!(order(&few, ROTATE).is_ok(), "all that are expected");

    let mut not_drained = snapshot.clone();
    not_drained.document.since = NOW;
    let until = Some(NOW.plus(6 * 3_600));
    let unknown = Reason::NotDrained { accepted: 0, by_backup: 0, samples_min: 100, until };
    assert_eq!(refused(order(&not_drained, ROTATE)), unknown);
    assert!(order(&not_drained, INSIST).is_ok());

    assert_eq!(refused(order(&with_behind(steady()), INSIST)), Reason::Barrier(vec![node("b")]));
    let mut paused = snapshot;
    paused.document.paused = Some(pause());
    assert_eq!(refused(order(&paused, INSIST)), Reason::Paused);
    for stage in [Stage::Empty, staged(), promoted(0, &[])] {
        assert!(matches!(refused(order(&of(stage), INSIST)), Reason::WrongPhase(_)));
    }
}

#[test]
fn pause_and_resume_raise_no_generation() {
    for stage in [steady(), staged(), promoted(0, &["a"])] {
        let snapshot = with_behind(stage);
        let paused = committed(order(&snapshot, Command::Pause).unwrap());
        assert_eq!((paused.document.paused.as_ref(), rise(&snapshot, &paused)), (Some(&pause()), 0));
        let snapshot = Snapshot { document: paused.document, ..snapshot };
        assert!(matches!(refused(order(&snapshot, Command::Pause)), Reason::WrongPhase(_)));
        let resumed = committed(order(&snapshot, Command::Resume { force: false }).unwrap());
        assert_eq!((resumed.document.paused.as_ref(), rise(&snapshot, &resumed)), (None, 0));
        let snapshot = Snapshot { document: resumed.document, ..snapshot };
        assert!(matches!(refused(order(&snapshot, Command::Resume { force: false })), Reason::WrongPhase(_)));
    }
}

#[test]
fn commands_on_keys_wait_until_all_nodes_were_seen() {
    let unseen = blind_to(&["b"]);
    let snapshot = of(staged());
    let commands = [
        ROTATE,
        Command::Resume { force: false },
        Command::Abort { force: true },
        Command::Revoke { keys: super::super::input::RevokeKeys::AllInstructed, deny: BTreeSet::new() },
        Command::Advance { generation: Generation::new(5), leave: nodes(&["b"]) },
        Command::SetPolicy { policy: Box::new(policy()) },
    ];
    for command in commands {
        assert_eq!(refused(order_with(&snapshot, &unseen, command)), Reason::NotHeard(vec![node("b")]));
    }
    assert!(order_with(&snapshot, &unseen, Command::Pause).is_ok());
}

/// A pool at generation 5 whose node b received generation 9.
fn restored() -> Snapshot {
    let mut snapshot = of(steady());
    let slots = Slots { primary: key(8), backup: Some(key(7)) };
    let fence = Fence { pool_id: pool_id(), generation: Generation::new(9), slots };
    snapshot.nodes.insert(node("b"), admitted(Some(fence)));
    snapshot
}

#[test]
fn a_report_from_the_future_freezes_the_pool() {
    let snapshot = restored();
    assert_eq!(waits(tick(&snapshot)).blocked_by, BlockedBy::Frozen);
    for command in [INSIST, Command::Resume { force: false }, Command::Abort { force: true }] {
        let reason = refused(order(&snapshot, command));
        assert_eq!(reason, Reason::Frozen { node: node("b"), generation: Generation::new(9) });
    }
    // The same generation with other keys is as bad.
    let mut snapshot = restored();
    let report = snapshot.nodes.get_mut(&node("b")).unwrap().report.as_mut().unwrap();
    report.fence.as_mut().unwrap().generation = Generation::new(5);
    assert_eq!(waits(tick(&snapshot)).blocked_by, BlockedBy::Frozen);
    // A lower one is an ordinary straggler, and so is a kernel that had one slot.
    let report = snapshot.nodes.get_mut(&node("b")).unwrap().report.as_mut().unwrap();
    report.fence = Some(Fence {
        pool_id: pool_id(),
        generation: Generation::new(5),
        slots: Slots { primary: key(2), backup: None },
    });
    assert_eq!(waits(tick(&snapshot)).blocked_by, BlockedBy::Barrier);
}

#[test]
fn recover_takes_what_is_reported_under_the_highest_generation() {
    let snapshot = restored();
    let slots = Slots { primary: key(8), backup: Some(key(7)) };
    let proposal = committed(order(&snapshot, Command::Recover { slots }).unwrap());
    assert_eq!(proposal.document.stage, Stage::Steady { current: key(8), backup: Some(key(7)) });
    assert_eq!(proposal.document.generation.get(), 9 + RECOVER_JUMP);
    assert_eq!(proposal.document.next_epoch.get(), 9);
    assert_eq!(proposal.document.hold, Some(Hold::Recovered));

    let other = Slots { primary: key(7), backup: Some(key(8)) };
    assert_eq!(refused(order(&snapshot, Command::Recover { slots: other })), Reason::NotReported);
    assert!(matches!(refused(order(&of(steady()), Command::Recover { slots })), Reason::WrongPhase(_)));
    // A node that was not seen is waited for, or is absent and excluded with it.
    let unseen = blind_to(&["a"]);
    let reason = refused(order_with(&snapshot, &unseen, Command::Recover { slots }));
    assert_eq!(reason, Reason::NotHeard(vec![node("a")]));
    let gone = Presence { absent: nodes(&["a"]), ..blind_to(&["a"]) };
    let proposal = committed(order_with(&snapshot, &gone, Command::Recover { slots }).unwrap());
    assert_eq!(proposal.audit.nodes, nodes(&["a"]));
}

#[test]
fn recover_may_take_the_documents_own_slots_if_no_node_received_more() {
    // Found by the model check: restored, driven on to a promotion, and then a node comes that holds the lost way's
    // keys under a generation that is out again.  No node has reported the promotion yet; one may have it all the
    // same.
    let mut snapshot = pool(document(promoted(0, &[])), &[], &["a", "b"]);
    let lost = Slots { primary: key(2), backup: Some(key(9)) };
    snapshot
        .nodes
        .insert(node("b"), admitted(Some(Fence { pool_id: pool_id(), generation: Generation::new(4), slots: lost })));
    let own = Slots { primary: key(3), backup: Some(key(2)) };
    for slots in [own, lost] {
        let proposal = committed(order(&snapshot, Command::Recover { slots }).unwrap());
        assert_eq!(proposal.document.generation.get(), 5 + RECOVER_JUMP, "above what the document instructs");
        assert_eq!(proposal.document.next_epoch.get(), 10);
    }
    // A node received more, installed or not, or has one slot: the document is behind and does not count.
    let mut one = admitted(Some(Fence { pool_id: pool_id(), generation: Generation::new(6), slots: lost }));
    one.report.as_mut().unwrap().slot_count = SlotCount::One;
    let mut told_more = snapshot.clone();
    told_more.nodes.insert(node("one"), one);
    assert_eq!(refused(order(&told_more, Command::Recover { slots: own })), Reason::NotReported);
    snapshot.nodes.get_mut(&node("a")).unwrap().report.as_mut().unwrap().seen = Generation::new(6);
    assert_eq!(refused(order(&snapshot, Command::Recover { slots: own })), Reason::NotReported);
}

#[test]
fn recover_does_not_believe_a_one_slot_nodes_file() {
    // Found by the simulation: [x] of a one-slot node under the highest generation, [c,x] everywhere else.
    let mut snapshot = restored();
    let alone = Slots { primary: key(8), backup: None };
    let mut one = admitted(Some(Fence { pool_id: pool_id(), generation: Generation::new(12), slots: alone }));
    one.report.as_mut().unwrap().slot_count = SlotCount::One;
    snapshot.nodes.insert(node("one"), one);
    assert_eq!(refused(order(&snapshot, Command::Recover { slots: alone })), Reason::NotReported);
    let slots = Slots { primary: key(8), backup: Some(key(7)) };
    let proposal = committed(order(&snapshot, Command::Recover { slots }).unwrap());
    assert_eq!(proposal.document.generation.get(), 12 + RECOVER_JUMP, "above what any node received");
}

#[test]
fn recover_drives_out_again_what_was_revoked() {
    let mut snapshot = restored();
    snapshot.document.revoked = vec![key(7)];
    let slots = Slots { primary: key(8), backup: Some(key(7)) };
    let proposal = committed(order(&snapshot, Command::Recover { slots }).unwrap());
    assert_eq!(proposal.document.revoke.unwrap().keys, [key(7)].into());
}

#[test]
fn advance_leaves_exactly_those_behind_that_the_operator_saw() {
    let snapshot = pool(document(staged()), &["a", "b", "c"], &["d"]);
    let advance =
        |generation, names: &[&str]| Command::Advance { generation: Generation::new(generation), leave: nodes(names) };
    let proposal = committed(order(&snapshot, advance(5, &["d"])).unwrap());
    assert_eq!((proposal.audit.nodes.clone(), rise(&snapshot, &proposal)), (nodes(&["d"]), 0));
    // Two operators press it: the second one finds the generation moved, or no node behind.
    assert_eq!(refused(order(&snapshot, advance(4, &["d"]))), Reason::GenerationMoved(Generation::new(5)));
    let more = pool(document(staged()), &["a", "b", "e"], &["c", "d"]);
    assert_eq!(refused(order(&more, advance(5, &["d"]))), Reason::MoreBehind(vec![node("c")]));
    let none = pool(document(staged()), &["a", "b"], &[]);
    assert!(matches!(refused(order(&none, advance(5, &["d"]))), Reason::WrongPhase(_)));
    let few = pool(document(staged()), &["a", "b"], &["c", "d", "e"]);
    assert_eq!(refused(order(&few, advance(5, &["c", "d", "e"]))), Reason::TooFew { left: 2, needed: 3 });
}

#[test]
fn a_command_names_the_revision_that_it_was_meant_for() {
    let snapshot = of(staged());
    let presence = presence();
    let now = Now { wall: NOW, presence: &presence };
    let order = |seen| {
        Input::Request(OperatorRequest {
            operator: node("ops"),
            reason: String::new(),
            if_revision: Some(Revision::new(seen)),
            command: Command::Pause,
        })
    };
    assert!(handle(&snapshot, now, &order(10), None).is_ok());
    assert_eq!(refused(handle(&snapshot, now, &order(9), None)), Reason::RevisionMoved(Revision::new(10)));
}

#[test]
fn a_policy_changes_only_between_rotations() {
    let set = |policy| Command::SetPolicy { policy: Box::new(policy) };
    let mut other = policy();
    other.expected_nodes = Some(7);
    for stage in [Stage::Empty, steady()] {
        let snapshot = of(stage);
        let proposal = committed(order(&snapshot, set(other.clone())).unwrap());
        assert_eq!((&proposal.document.policy, rise(&snapshot, &proposal)), (&other, 0));
    }
    for stage in [staged(), promoted(0, &[])] {
        assert!(matches!(refused(order(&of(stage), set(other.clone()))), Reason::WrongPhase(_)));
    }
    other.promote_waves.pop();
    assert_eq!(refused(order(&of(steady()), set(other))), Reason::Policy(BadPolicy::LastWave));
}

#[test]
fn a_dead_node_does_not_lock_the_operator_out_after_a_restart() {
    let mut snapshot = pool(document(staged()), &["a", "b", "d"], &["c"]);
    snapshot.document.policy.absent_policy = super::super::policy::AbsentPolicy::Wait;
    let until = NOW.plus(60);
    let remedies = |name: &str| [exclude(&[name], until), deny(&[name]), forget(&[name])];
    // b has acknowledged by its stored record, c has not: neither was seen in this life.
    let gone = Presence { absent: nodes(&["b", "c"]), ..blind_to(&["b", "c"]) };
    for name in ["b", "c"] {
        for command in remedies(name) {
            let proposal = committed(order_with(&snapshot, &gone, command).unwrap());
            assert_eq!((proposal.audit.nodes.clone(), rise(&snapshot, &proposal)), (nodes(&[name]), 0));
        }
    }
    let advance = |names: &[&str]| Command::Advance { generation: Generation::new(5), leave: nodes(names) };
    let proposal = committed(order_with(&snapshot, &gone, advance(&["b", "c"])).unwrap());
    assert_eq!(proposal.audit.nodes, nodes(&["b", "c"]), "a node that was not seen is behind, too");
    assert_eq!(refused(order_with(&snapshot, &gone, advance(&["c"]))), Reason::MoreBehind(vec![node("b")]));
    // A node that is not measured absent may still report.
    let silent = Presence { absent: nodes(&["b"]), ..blind_to(&["b", "c"]) };
    assert_eq!(refused(order_with(&snapshot, &silent, advance(&["b", "c"]))), Reason::NotHeard(vec![node("c")]));
    for command in [INSIST, Command::Resume { force: false }, Command::Abort { force: true }] {
        let reason = refused(order_with(&snapshot, &gone, command));
        assert_eq!(reason, Reason::NotHeard(vec![node("b"), node("c")]), "nothing further passes");
    }
}

#[test]
fn a_bogus_report_is_denied_or_forgotten_and_leaves_nothing() {
    let mut snapshot = restored();
    let slots = Slots { primary: key(8), backup: Some(key(7)) };
    let bogus = Fence { pool_id: pool_id(), generation: Generation::new(u64::MAX), slots };
    snapshot.nodes.insert(node("b"), admitted(Some(bogus)));
    assert!(order(&snapshot, Command::Pause).is_ok());
    assert!(order(&snapshot, forget(&["b"])).is_ok());
    let denied = committed(order(&snapshot, deny(&["b"])).unwrap());
    snapshot = Snapshot { document: snapshot.document.clone(), ..after_commit(&snapshot, &denied) };
    assert_eq!(committed(tick(&snapshot)).audit.action, Action::Rotate, "a denied node freezes nothing");
    // A restored store is recovered from the others.
    let real = Fence { pool_id: pool_id(), generation: Generation::new(9), slots };
    snapshot.nodes.insert(node("c"), admitted(Some(real)));
    let proposal = committed(order(&snapshot, Command::Recover { slots }).unwrap());
    assert_eq!(proposal.document.generation.get(), 9 + RECOVER_JUMP);
}

#[test]
fn a_rotation_on_demand_keeps_the_operators_reason() {
    assert_eq!(committed(order(&of(steady()), ROTATE).unwrap()).audit.reason, "because");
}

#[test]
fn a_pause_under_the_hold_of_a_first_key_is_lifted_alone() {
    let mut document = document(steady());
    document.hold = Some(Hold::FirstKey { expect: expect_number(3) });
    document.paused = Some(pause());
    let snapshot = pool(document, &["a"], &[]);
    let resumed = committed(order(&snapshot, Command::Resume { force: false }).unwrap()).document;
    assert_eq!((resumed.paused.is_none(), resumed.hold.is_some()), (true, true));
    let snapshot = Snapshot { document: resumed, ..snapshot };
    assert!(matches!(refused(order(&snapshot, Command::Resume { force: false })), Reason::Expected(_)));
}

#[test]
fn a_generation_that_was_told_and_not_installed_is_evidence_of_a_restore_too() {
    let mut snapshot = of(steady());
    let report = snapshot.nodes.get_mut(&node("b")).unwrap().report.as_mut().unwrap();
    report.seen = Generation::new(5);
    assert_eq!(committed(tick(&snapshot)).audit.action, Action::Rotate);
    let report = snapshot.nodes.get_mut(&node("b")).unwrap().report.as_mut().unwrap();
    report.seen = Generation::new(6);
    assert_eq!(waits(tick(&snapshot)).blocked_by, BlockedBy::Frozen);
    let slots = Slots { primary: key(2), backup: Some(key(1)) };
    let proposal = committed(order(&snapshot, Command::Recover { slots }).unwrap());
    assert_eq!(proposal.document.generation.get(), 6 + RECOVER_JUMP);
    assert!(order(&snapshot, forget(&["b"])).is_ok());
}
