//! Policies of files, and commands that take several commits.

use super::*;

#[test]
fn a_changed_file_is_applied_beside_a_node_that_never_returns() {
    let mut world = World::new();
    let mut changed = policy();
    changed.interval_secs += 60;
    world.start_again(changed.clone());
    world.hear(&["a", "c"]);
    let waits = world.driver.wait.clone().unwrap();
    assert_eq!((waits.waiting_for, world.actions()), (vec!["b".parse().unwrap()], vec![]));
    world.pass_long(&["a", "c"]);
    let nodes = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    assert_eq!(world.actions(), [(Action::Exclude, nodes(&["b"])), (Action::SetPolicy, nodes(&[]))]);
    assert_eq!(world.standing("b"), Membership::Excluded(Exclusion::Absent));
    assert_eq!(world.driver.replica.document().policy, changed);
}

/// A second coordinator over the same store, whose file has this interval.
fn second(world: &World, interval_secs: u64) -> Driver {
    driver(&world.store, "other", Policy { interval_secs, ..policy() })
}

/// These nodes sync with the first coordinator, which vouches for them to the other one.
fn heard_by(world: &mut World, other: &mut Driver, nodes: &[&str]) {
    other.tick();
    for _ in 0..3 {
        world.pass(STEP);
        world.hear(nodes);
    }
    other.tick();
}

fn reload(driver: &mut Driver, interval_secs: u64) {
    let policy = Policy { interval_secs, ..policy() };
    assert!(driver.serve(vec![Message::Policy(Box::new(policy))]).is_continue());
}

#[test]
fn two_coordinators_with_different_files_commit_once_for_each_reload() {
    const NODES: [&str; 3] = ["a", "b", "c"];
    let mut world = World::new();
    let sets = |world: &World| world.actions().iter().filter(|(action, _)| *action == Action::SetPolicy).count();
    let interval =
        |world: &World| world.store.inner.load().document(&pool_name()).unwrap().unwrap().0.policy.interval_secs;
    let own = policy().interval_secs;
    // The file of the second one is new: its start proposes it, once.
    let mut other = second(&world, 7_200);
    heard_by(&mut world, &mut other, &NODES);
    for _ in 0..5 {
        world.driver.tick();
        other.tick();
    }
    assert_eq!((sets(&world), interval(&world)), (1, 7_200));
    assert_eq!((world.driver.differs(), other.differs()), (vec!["interval"], vec![]));
    let status = world.driver.status();
    assert_eq!((status.policy_differs, status.policy_waits), (vec!["interval".to_owned()], false));
    // The first one starts again with its old file, which takes nothing back, and drives by the pool's policy.
    world.start_again(policy());
    world.hear(&NODES);
    world.driver.tick();
    assert_eq!((sets(&world), interval(&world)), (1, 7_200));
    assert!(matches!(world.rotate(), Ok(Action::Rotate)));
    // In the middle of a rotation a reload waits for its end, whichever that is.
    reload(&mut world.driver, own);
    world.driver.tick();
    let status = world.driver.status();
    assert_eq!((status.policy_differs, status.policy_waits), (vec!["interval".to_owned()], true));
    assert_eq!((sets(&world), interval(&world)), (1, 7_200));
    assert!(world.order(Command::Abort { force: false }).is_ok());
    world.driver.tick();
    assert_eq!((sets(&world), interval(&world)), (2, own));
    // Each reload once, from either side, also with files that were there before.
    heard_by(&mut world, &mut other, &[]);
    for (expected, (of_other, interval_secs)) in (3..).zip([(true, 7_200), (false, own), (true, 9_000)]) {
        reload(if of_other { &mut other } else { &mut world.driver }, interval_secs);
        for _ in 0..5 {
            world.driver.tick();
            other.tick();
        }
        assert_eq!((sets(&world), interval(&world)), (expected, interval_secs));
    }
    let entries = world.store.inner.load().audit(&pool_name(), Revision::new(10)).unwrap();
    let set = entries.iter().rfind(|entry| entry.action == Action::SetPolicy).unwrap();
    assert_eq!(set.actor, Actor::Operator("coordinator-config".parse().unwrap()));
    assert_eq!(set.reason, "changed in the configuration file: interval");
}

/// A site of more nodes than one commit takes out is left behind by one command.
#[test]
fn an_advance_without_a_lost_site_is_one_command_in_several_commits() {
    let mut world = World::new();
    assert!(matches!(world.rotate(), Ok(Action::Rotate)));
    let lost: BTreeSet<NodeId> = (0..CHANGED_MAX + 5).map(|n| format!("lost{n:05}").parse().unwrap()).collect();
    let record = world.driver.replica.snapshot().nodes[&"a".parse::<NodeId>().unwrap()].clone();
    let first = Ack { report: record.report.unwrap(), syncs: 1, window: None, baseline: None, at: clock::now() };
    let entry = Entry { session: record.session.unwrap(), answers: None, first };
    let nodes: Vec<&NodeId> = lost.iter().collect();
    for nodes in nodes.chunks(1_000) {
        let entries = nodes.iter().map(|node| ((*node).clone(), entry.clone().into())).collect();
        world.store.inner.load().write(&pool_name(), &world.writer(), &Queue { entries, ..Queue::default() }).unwrap();
    }
    let mut document = world.driver.replica.document().clone();
    document.policy.min_present = Share::from_ppm(1).unwrap();
    document.revision = document.revision.next().unwrap();
    let audit = AuditEntry {
        revision: document.revision,
        ..world.store.inner.load().audit(&pool_name(), Revision::new(10)).unwrap().pop().unwrap()
    };
    let proposal = Proposal {
        expected: world.driver.replica.document().revision,
        document,
        exclusions: BTreeMap::new(),
        dropped: BTreeSet::new(),
        audit,
    };
    assert_eq!(
        world.store.inner.load().commit(&pool_name(), &world.writer(), &proposal, &KeyRing::default()).unwrap(),
        Erasure::Done
    );
    world.driver.tick();
    let generation = world.generation();
    let leave = lost.iter().cloned().chain(["a", "b", "c"].map(|node| node.parse().unwrap())).collect();
    let before = world.actions().len();
    ["a", "b", "c"].iter().for_each(|node| drop(world.acknowledge(node)));
    let done = world.order(Command::Advance { generation, leave }).unwrap();
    assert_eq!((done.nodes.len(), done.nodes.len() + done.more), (5, CHANGED_MAX + 5));
    let actions: Vec<Action> = world.actions()[before..].iter().map(|(action, _)| *action).collect();
    assert_eq!(actions[..2], [Action::Exclude, Action::Advance]);
}
