//! Beats, what they vouch for, what is heard and not written, and the tallies of other coordinators (rules 10, 12).

use std::time::Duration;

use super::super::parts::{About, Beat, Later, Stamp};
use super::super::presence::Life;
use super::super::tally::Tally;
use super::presence::shown;
use super::*;
use tfo_model::fleet::BlockedBy;

const PERIOD_SECS: u64 = 30;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn own() -> CoordinatorName {
    "own.example.org".parse().unwrap()
}

fn beat(number: u64, vouches: bool) -> Beat {
    Beat {
        stamp: Stamp { life: 1, number },
        vouches,
        at: UnixTime::from_secs(number),
        tally: None,
        about: About::default(),
    }
}

/// Two nodes whose sessions are at [`by`], which has just beaten.
fn told(beat: Beat) -> Snapshot {
    Snapshot { beats: [(by(), beat)].into(), ..of(steady()) }
}

#[test]
fn a_beat_of_this_life_vouches_for_the_nodes_that_are_not_silent() {
    let mut life = Life::default();
    // What was there before says nothing of this life.
    life.observe(secs(0), &told(beat(7, true)));
    assert_eq!(shown(&life, &told(beat(7, true))).seen, [].into());
    for (at, now, seen) in
        [(10, beat(7, true), &[][..]), (20, beat(8, false), &[]), (30, beat(8, true), &[]), (40, beat(9, true), &["a"])]
    {
        let mut snapshot = told(now.clone());
        snapshot.nodes.get_mut(&node("b")).unwrap().silent = true;
        life.observe(secs(at), &snapshot);
        assert_eq!(shown(&life, &snapshot).seen, nodes(seen), "{now:?}");
    }
    // Vouched for every 10 s it is never absent; the silent one is.
    for number in 10..100 {
        let mut snapshot = told(beat(number, true));
        snapshot.nodes.get_mut(&node("b")).unwrap().silent = true;
        life.observe(secs(number * 10 - 50), &snapshot);
        assert_eq!(shown(&life, &snapshot).absent.contains(&node("b")), number >= 88, "{number}: after 820 s");
        assert!(!shown(&life, &snapshot).absent.contains(&node("a")));
    }
    // Without beats, and with another node that is heard, so is the first one.
    for at in (1_000..2_000).step_by(10) {
        let mut snapshot = told(beat(99, true));
        snapshot.nodes.insert(node("c"), NodeRecord { syncs: at, ..acked(&snapshot.document, "c") });
        life.observe(secs(at), &snapshot);
    }
    assert_eq!(shown(&life, &told(beat(99, true))).absent, nodes(&["a", "b"]));
}

#[test]
fn a_beat_vouches_for_sessions_of_its_writer_alone() {
    let elsewhere = |number| {
        let mut snapshot = told(beat(number, true));
        snapshot.nodes.get_mut(&node("b")).unwrap().coordinator = Some(own());
        snapshot
    };
    let mut life = Life::default();
    [1, 2].into_iter().for_each(|number| life.observe(secs(number * 10), &elsewhere(number)));
    assert_eq!(shown(&life, &elsewhere(2)).seen, nodes(&["a"]));
}

#[test]
fn a_beat_that_is_lost_ends_the_life() {
    for (name, lost) in [("older", told(beat(4, true))), ("gone", of(steady()))] {
        let mut life = Life::default();
        [4, 5].into_iter().for_each(|number| life.observe(secs(number), &told(beat(number, true))));
        assert_eq!(shown(&life, &told(beat(5, true))).seen.len(), 2);
        life.observe(secs(6), &lost);
        assert_eq!(shown(&life, &lost).seen, [].into(), "{name}");
    }
}

#[test]
fn a_mark_of_silence_is_no_sync() {
    let mut life = Life::default();
    life.observe(secs(0), &of(steady()));
    let mut marked = of(steady());
    let record = marked.nodes.get_mut(&node("a")).unwrap();
    (record.syncs, record.silent) = (4, true);
    life.observe(secs(2), &marked);
    assert_eq!(shown(&life, &marked).seen, [].into());
    // Nor has the store gone back when the next one is written.
    marked.nodes.get_mut(&node("a")).unwrap().syncs = 5;
    marked.nodes.get_mut(&node("a")).unwrap().silent = false;
    life.observe(secs(3), &marked);
    assert_eq!(shown(&life, &marked).seen, nodes(&["a"]));
}

#[test]
fn a_coordinator_marks_its_own_nodes_that_it_does_not_hear() {
    let snapshot = of(steady());
    let mut life = Life::default();
    life.observe(secs(0), &snapshot);
    life.observe(secs(10), &snapshot);
    life.observe(secs(20), &snapshot);
    assert_eq!(life.silent(&snapshot, &by()), None, "they may still be on their way after a start");
    let heard = |syncs| {
        let mut heard = snapshot.clone();
        heard.nodes.get_mut(&node("a")).unwrap().syncs = syncs;
        heard
    };
    life.observe(secs(30), &heard(4));
    assert_eq!(life.silent(&heard(4), &by()), Some(vec![node("b")]));
    assert_eq!(life.silent(&heard(4), &own()), Some(vec![]), "not those of others");
    let mut marked = heard(4);
    marked.nodes.get_mut(&node("b")).unwrap().silent = true;
    let mut deaf = life.clone();
    // a missed one contact, and then another one.
    for at in (40..=40 + 2 * PERIOD_SECS).step_by(10) {
        let hears_c = |by| {
            let mut marked = marked.clone();
            let c = NodeRecord { syncs: at, coordinator: Some(by), ..acked(&marked.document, "c") };
            marked.nodes.insert(node("c"), c);
            marked
        };
        let own_is_heard = hears_c(by());
        life.observe(secs(at), &own_is_heard);
        let silent = if at > 30 + 2 * PERIOD_SECS { vec![node("a")] } else { vec![] };
        assert_eq!(life.silent(&own_is_heard, &by()), Some(silent), "{at}");
        // One that hears of nodes by others alone vouches for none of its own, once it would be deaf without them.
        let others_are_heard = hears_c(own());
        deaf.observe(secs(at), &others_are_heard);
        let is_deaf = at >= 30 + 60;
        assert_eq!(deaf.silent(&others_are_heard, &by()).is_none(), is_deaf, "{at}");
        assert_eq!(shown(&deaf, &others_are_heard).deaf_secs, None);
    }
}

#[test]
fn what_is_heard_keeps_a_node_present_and_cannot_introduce_it() {
    let mut snapshot = of(steady());
    let mut life = Life::default();
    life.observe(secs(0), &snapshot);
    // Not seen in this life: what it reports has to be stored first.
    assert!(!life.hear(secs(1), &node("a")));
    assert_eq!(shown(&life, &snapshot).seen, [].into());
    snapshot.nodes.values_mut().for_each(|record| record.syncs += 1);
    life.observe(secs(2), &snapshot);
    for at in (10..1_000).step_by(10) {
        life.observe(secs(at), &snapshot);
        life.hear(secs(at), &node("a"));
        life.hear(secs(at), &node("unknown"));
        let presence = life.presence();
        assert!(!presence.absent.contains(&node("a")) && !presence.overdue.contains_key(&node("a")));
    }
    assert_eq!((&life.presence().absent, life.presence().seen.len()), (&nodes(&["b"]), 2));
}

fn counted(passive: u64) -> Option<Counters> {
    Some(Counters { passive, passive_alt_key: 0, passive_fail: 0 })
}

/// The sync of node a that follows what is stored.
fn next(content: &PoolContent, passive: u64, change: impl FnOnce(&mut Report)) -> (Later, NodeRecord) {
    let before = content.snapshot().nodes[&node("a")].clone();
    let mut report = Report { counters: counted(passive), ..Report::clone(before.report.as_ref().unwrap()) };
    change(&mut report);
    let sync = Sync { session: before.session.unwrap(), seen: report.seen, report: report.into() };
    let recording =
        super::super::sync::record(&content.snapshot().document, Some(&before), &node("a"), &sync, (&by(), NOW));
    let Ok(Recording::Later(later)) = recording else { panic!("{recording:?}") };
    (later, before)
}

/// The content of a store in which node a has begun its window at 100 cookies.
fn counting() -> PoolContent {
    let mut content = content(&of(steady())).owned_by(by());
    let (later, before) = next(&content, 100, |_| {});
    assert!(later.is_news(&before) && later.may_wait(&before), "its window begins");
    content.write(&by(), &Writes { acks: [(node("a"), later.into())].into(), ..Writes::default() });
    content
}

#[test]
fn a_sync_is_news_if_others_may_decide_by_it() {
    let content = counting();
    // And whether it may wait for a moment.
    let news = |change: &dyn Fn(&mut Report)| {
        let (later, before) = next(&content, 150, change);
        (later.is_news(&before), later.may_wait(&before))
    };
    assert!(!news(&|_| {}).0, "it is alive, and has counted");
    let fence =
        Fence { pool_id: pool_id(), generation: Generation::new(6), slots: Slots { primary: key(2), backup: None } };
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Report));
    let changes: [Change<'_>; 7] = [
        ("fence", &|report| report.fence = Some(fence.clone())),
        ("installed", &|report| report.installed = Installed::Drifted),
        ("foreign", &|report| report.foreign = Some(fingerprint(9))),
        ("period", &|report| report.next_sync_secs += 1),
        ("seen", &|report| report.seen = Generation::new(9)),
        ("holds", &|report| report.holds = report.fence.as_ref().map(|fence| fence.slots.prints().into())),
        ("counters that were reset", &|report| report.counters = counted(3)),
    ];
    for (name, change) in changes {
        assert_eq!(news(change), (true, ["period", "counters that were reset"].contains(&name)), "{name}");
    }
    let (later, before) = next(&content, 150, |_| {});
    let silent = NodeRecord { silent: true, ..before.clone() };
    assert!(later.is_news(&silent) && !later.may_wait(&silent), "it is not silent any more");
    let other = NodeRecord { session: None, ..before.clone() };
    assert!(later.is_news(&other) && !later.may_wait(&other), "another session");
    assert!(later.is_news(&NodeRecord { baseline: before.window, ..before.clone() }), "another window is over");
    // While a rotation is under way, gates look at windows.
    let of = |phase| before.window.map(|window| Window { phase, ..window });
    let in_phase = |phase| Later { ack: Ack { window: of(phase), ..later.ack.clone() }, ..later.clone() };
    assert_eq!(
        [Phase::Steady, Phase::Staged, Phase::Promoted].map(|phase| in_phase(phase).may_wait(&before)),
        [true, false, false]
    );
}

#[test]
fn what_is_heard_counts_here_until_something_newer_is_stored() {
    let mut content = counting();
    let stored = content.snapshot().nodes[&node("a")].clone();
    let passive = |content: &PoolContent| content.snapshot().nodes[&node("a")].window.unwrap().last.passive;
    let (later, before) = next(&content, 150, |_| {});
    assert!(!later.is_news(&before));
    content.hear(&node("a"), later.into());
    let now = content.snapshot().nodes[&node("a")].clone();
    assert_eq!((passive(&content), now.syncs, now.last_report_at), (150, stored.syncs, Some(NOW)));
    assert_eq!(content.heard().keys().collect::<Vec<_>>(), [&node("a")]);
    assert_eq!(content.parts().record(&node("a")), Some(stored), "it is not stored");
    // A commit, and a copy that is read again, lose nothing of it.
    let proposal = committed(tick(content.snapshot()));
    content.commit(&proposal);
    content.read_again(PoolContent::new(proposal.document, content.parts().clone()));
    assert_eq!(passive(&content), 150);
    let paused = committed(order(content.snapshot(), Command::Pause).unwrap()).document;
    content.read_again(PoolContent::new(paused.clone(), content.parts().clone()));
    assert_eq!((passive(&content), &content.snapshot().document), (150, &paused));
    // What marks it as silent brings it along.
    let marks = content.marked_silent([&node("a"), &node("unknown")]);
    assert_eq!(marks.keys().collect::<Vec<_>>(), [&node("a")]);
    content.write(&by(), &Writes { acks: marks, ..Writes::default() });
    let now = content.snapshot().nodes[&node("a")].clone();
    assert!(now.silent && content.heard().is_empty());
    assert_eq!(passive(&content), 150);
    // A session at another coordinator ends it.
    let (later, _) = next(&content, 160, |_| {});
    content.hear(&node("a"), later.into());
    let mut first = ack_of(Recording::Later(next(&content, 170, |_| {}).0));
    first.window = None;
    let entry = Entry { session: Session { ordinal: 9, nonce: 1 }, answers: None, first };
    content.write(&own(), &Writes { entries: [(node("a"), entry.into())].into(), ..Writes::default() });
    assert_eq!((content.snapshot().nodes[&node("a")].window, content.heard().len()), (None, 0));
}

#[test]
fn a_copy_has_the_beats_of_the_others() {
    let mut content = content(&of(steady())).owned_by(own());
    let writes = Writes { beat: Some(beat(1, true)), ..Writes::default() };
    content.write(&own(), &writes);
    content.write(&by(), &writes);
    let beats = |content: &PoolContent| content.snapshot().beats.keys().cloned().collect::<Vec<_>>();
    assert_eq!(beats(&content), [by()]);
    assert_eq!(content.parts().stamp(&own()), Some(Stamp { life: 1, number: 1 }));
    let stored = PoolContent::new(content.snapshot().document.clone(), content.parts().clone());
    assert_eq!(beats(&stored), [by(), own()]);
    content.read_again(stored);
    assert_eq!(beats(&content), [by()]);
}

/// (accepted, by the backup key) of node a, whose record says the first and whose coordinator's beat the second.
fn drains(of_record: (u64, u64), of_tally: Option<(u64, u64)>, epoch: u64) -> bool {
    let mut snapshot = of(steady());
    snapshot.document.since = NOW;
    let counters = |(passive, passive_alt_key)| Counters { passive, passive_alt_key, passive_fail: 0 };
    let (phase, epoch, first) = (Phase::Steady, Epoch::new(epoch).unwrap(), Counters::default());
    let window = Window { phase, epoch: Epoch::new(2).unwrap(), first, last: counters(of_record) };
    snapshot.nodes.get_mut(&node("a")).unwrap().window = Some(window);
    let tally = of_tally.map(|counted| {
        let (since, before) = (counters(counted), Counters::default());
        Tally { phase, epoch, since, before, worst: BTreeMap::new(), observed: None }
    });
    snapshot.beats.insert(by(), Beat { tally, ..beat(1, true) });
    match tick(&snapshot) {
        Step::Commit(_) => true,
        step => waits(step).blocked_by != BlockedBy::Drain,
    }
}

#[test]
fn the_drain_gate_takes_the_tallies_of_others_in_place_of_their_records() {
    assert!(drains((1_000, 0), None, 2) && !drains((0, 0), None, 2));
    assert!(drains((0, 0), Some((1_000, 0)), 2), "what is stored of its nodes is old");
    assert!(!drains((1_000, 0), Some((1_000, 900)), 2));
    assert!(!drains((0, 0), Some((1_000, 0)), 1), "of another key");
    assert!(drains((1_000, 0), Some((1_000, 900)), 1), "of another key: its nodes' records count");
}

#[test]
fn the_health_gate_takes_tallies_and_names_their_nodes() {
    let window = |phase, last| Window { phase, epoch: Epoch::new(3).unwrap(), first: Counters::default(), last };
    let counters = |passive, passive_fail| Counters { passive, passive_alt_key: 0, passive_fail };
    let mut there = of(promoted(0, &["a"]));
    let record = there.nodes.get_mut(&node("a")).unwrap();
    record.baseline = Some(window(Phase::Staged, counters(1_000, 0)));
    record.window = Some(window(Phase::Promoted, counters(500, 500)));
    let tally = Tally::of(&there, &by(), &presence()).unwrap();
    assert_eq!((tally.since, tally.before), (counters(500, 500), counters(1_000, 0)));
    assert_eq!(tally.worst, [(node("a"), 500)].into());
    assert_eq!(Tally::of(&there, &own(), &presence()).unwrap().since, Counters::default(), "not its nodes");
    // Another coordinator knows of it by the beat alone.
    let told =
        Snapshot { beats: [(by(), Beat { tally: Some(tally), ..beat(1, true) })].into(), ..of(promoted(0, &["a"])) };
    let stopped = committed(tick(&told));
    assert_eq!((stopped.audit.action, stopped.audit.nodes), (Action::Unhealthy, nodes(&["a"])));
    assert_eq!(committed(tick(&of(promoted(0, &["a"])))).audit.action, Action::OpenWave);
    for phase in [staged(), Stage::Empty] {
        assert_eq!(Tally::of(&pool(document(phase), &[], &[]), &by(), &presence()), None);
    }
}

#[test]
fn a_clock_that_is_off_opens_no_gate_that_a_clock_opens() {
    let off = Presence { clock_off_secs: Some(3_600), ..presence() };
    assert_eq!(committed(tick(&of(steady()))).audit.action, Action::Rotate);
    let wait = waits(tick_with(&of(steady()), &off));
    assert_eq!((wait.blocked_by, wait.next_at), (BlockedBy::Clock, None));
    // A barrier opens the next step all the same, and an operator's order is not the clock's.
    assert_eq!(committed(tick_with(&of(staged()), &off)).audit.action, Action::Promote);
    let forced = order_with(&of(steady()), &off, Command::Rotate { force: true }).unwrap();
    assert_eq!(committed(forced).audit.action, Action::Rotate);
}
