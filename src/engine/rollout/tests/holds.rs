//! Requests that are held: whom a coordinator hears by them, and whose counters it asks for (rules 11, 12).

use super::super::changes::Changes;
use super::super::observed::{has_observed, to_ask};
use super::super::parts::{About, Beat, Stamp};
use super::super::presence::Life;
use super::super::tally::Tally;
use super::presence::{listen, pool, secs};
use super::*;
use tfo_model::fleet::BlockedBy;

/// A look at what has changed, which comes to what a look at all comes to.
fn look(life: &mut Life, at: u64, snapshot: &Snapshot, changed: &[&str]) {
    let mut changes = Changes::default();
    changed.iter().for_each(|name| changes.note(&node(name)));
    let mut looked = life.clone();
    life.follow(secs(at), snapshot, &changes);
    looked.observe(secs(at), snapshot);
    assert_eq!(*life, looked, "at {at}");
}

/// Node a has synced at 10 s and is held since; b, of whose period of 30 s the same holds, is not.
fn holding() -> (Life, Snapshot) {
    let mut life = Life::default();
    life.observe(secs(0), &pool(5, &[("a", 7, 30), ("b", 9, 30)]));
    let snapshot = pool(5, &[("a", 8, 30), ("b", 10, 30)]);
    look(&mut life, 10, &snapshot, &["a", "b"]);
    life.hold(&node("a"));
    (life, snapshot)
}

#[test]
fn a_node_is_heard_for_as_long_as_its_request_is_held() {
    let (mut life, snapshot) = holding();
    for at in (20..=160).step_by(10) {
        look(&mut life, at, &snapshot, &[]);
        let presence = life.presence();
        let overdue = if at > 40 { vec![node("b")] } else { Vec::new() };
        assert_eq!(presence.overdue.keys().cloned().collect::<Vec<_>>(), overdue, "at {at}");
        assert_eq!((presence.deaf_secs, presence.absent.len()), (None, 0), "at {at}: it hears a");
    }
    // Its beats vouch for a, and mark b.
    assert_eq!(life.silent(&snapshot, &by()), Some(vec![node("b")]));
    // The connection has ended: a is overdue a period later, and absent when that is so since its sync.
    life.release(secs(165), &node("a"));
    for at in (165..=200).step_by(5) {
        let mut heard = snapshot.clone();
        heard.nodes.extend(pool(0, &[("talks", at, 30)]).nodes);
        look(&mut life, at, &heard, &["talks"]);
        let presence = life.presence();
        assert_eq!(presence.absent.contains(&node("a")), at > 190, "at {at}: 120 + 40 + 20 s since 10 s");
        assert_eq!(presence.overdue.get(&node("a")), None, "at {at}: it was heard until 165 s");
    }
}

#[test]
fn a_node_of_a_short_hold_is_absent_by_its_sync_and_overdue_by_the_end_of_its_hold() {
    let (mut life, snapshot) = holding();
    let mut became = BTreeMap::new();
    for at in 11..=250 {
        if at == 48 {
            life.release(secs(48), &node("a"));
        }
        let mut heard = snapshot.clone();
        heard.nodes.extend(pool(0, &[("talks", at, 30)]).nodes);
        look(&mut life, at, &heard, &["talks"]);
        let presence = life.presence();
        for (what, is) in
            [("overdue", presence.overdue.contains_key(&node("a"))), ("absent", presence.absent.contains(&node("a")))]
        {
            if is {
                became.entry(what).or_insert(at);
            }
        }
    }
    assert_eq!(became, [("overdue", 79), ("absent", 191)].into());
}

#[test]
fn a_hold_of_another_session_or_of_a_former_life_says_nothing() {
    // The node is elsewhere by now.
    let (mut life, mut snapshot) = holding();
    let record = snapshot.nodes.get_mut(&node("a")).unwrap();
    (record.session, record.syncs) = (Some(Session { ordinal: 2, nonce: 1 }), 1);
    look(&mut life, 20, &snapshot, &["a"]);
    let before = life.clone();
    life.release(secs(30), &node("a"));
    assert_eq!(life, before);
    (30..=60).step_by(10).for_each(|at| look(&mut life, at, &snapshot, &[]));
    assert_eq!(life.presence().overdue.len(), 2);
    // The store went back.
    let (mut life, _) = holding();
    let lives = life.ordinal();
    look(&mut life, 20, &pool(4, &[("a", 1, 30), ("b", 1, 30)]), &[]);
    assert_eq!(life.ordinal(), lives + 1);
    life.release(secs(30), &node("a"));
    assert_eq!(life.presence().seen, [].into());
}

/// A pool at rest takes no decision before something changes: what a hold changes has to say so.
#[test]
fn a_hold_is_news_if_its_node_was_late_or_is_absent_after_it() {
    let (mut life, snapshot) = holding();
    let (a, b) = (node("a"), node("b"));
    assert!(!life.hold(&a) && !life.hold(&node("unknown")), "it is held already, and none is there");
    assert!(!life.release(secs(15), &b), "it is not held");
    assert!(!life.release(secs(15), &a) && !life.hold(&a), "it stays present");
    (20..=60).step_by(10).for_each(|at| look(&mut life, at, &snapshot, &[]));
    assert!(life.presence().overdue.contains_key(&b));
    assert!(life.hold(&b) && life.presence().overdue.is_empty(), "b was late");
    // Of both the limit passes while they are held: 180 s since 10 s.
    (70..=200).step_by(10).for_each(|at| look(&mut life, at, &snapshot, &[]));
    assert_eq!(life.presence().absent, [].into());
    assert!(life.release(secs(200), &b) && life.presence().absent.contains(&b));
}

#[test]
fn who_holds_no_request_becomes_deaf() {
    let (mut life, snapshot) = holding();
    life.release(secs(20), &node("a"));
    assert_eq!(listen(&mut life, 30, 79, &snapshot).deaf_secs, None);
    assert!(listen(&mut life, 80, 90, &snapshot).deaf_secs.is_some());
}

/// Promoted, with a in the opened wave, which is watched for 60 s.
fn opened() -> Snapshot {
    let mut snapshot = of(promoted(0, &["a"]));
    for record in snapshot.nodes.values_mut() {
        record.report.as_mut().unwrap().next_sync_secs = 60;
    }
    snapshot
}

/// The nodes that are asked, second by second, if the coordinator holds both from 1 s on; a answers at those seconds.
fn asked(snapshot: &Snapshot, answers: &[u64]) -> (Life, Vec<u64>) {
    let (mut life, mut now, mut asked) = (Life::default(), snapshot.clone(), Vec::new());
    for at in 0..=70 {
        let mut changed = Vec::new();
        if at == 1 || answers.contains(&at) {
            now.nodes.get_mut(&node("a")).unwrap().syncs += 1;
            changed.push("a");
        }
        look(&mut life, at, &now, &changed);
        if at == 1 {
            life.hold(&node("a"));
            life.hold(&node("b"));
        }
        let nodes = to_ask(&now, life.presence());
        assert!(nodes.is_empty() || nodes == [node("a")], "b is in no opened wave");
        asked.extend((!nodes.is_empty()).then_some(at));
    }
    (life, asked)
}

#[test]
fn the_nodes_of_a_wave_are_asked_four_times_until_they_answer() {
    let (life, at) = asked(&opened(), &[16, 30, 47, 61]);
    assert_eq!(at, [15, 45, 46, 60], "at 30 s it came by itself");
    assert_eq!(has_observed(&opened(), life.presence()), Some(0));
    let (life, at) = asked(&opened(), &[]);
    assert_eq!(at, (15..=70).collect::<Vec<_>>());
    assert_eq!(has_observed(&opened(), life.presence()), None);
    // No node is asked while nothing is watched: in the last wave, and in any other phase.
    for stage in [promoted(0, &[]), staged(), steady()] {
        assert_eq!(asked(&of(stage), &[]).1, [0; 0]);
    }
}

#[test]
fn the_health_gate_does_not_open_on_counters_that_are_old() {
    let snapshot = opened();
    let ask = |names: &[&str]| Presence { wave_secs: 60, unobserved: nodes(names), ..presence() };
    let gate = |presence: &Presence| match tick_with(&snapshot, presence) {
        Step::Commit(proposal) => Err(proposal.audit.action),
        step => Ok((waits_in(&step).blocked_by, waits_in(&step).waiting_for.clone())),
    };
    assert_eq!(gate(&ask(&["a"])), Ok((BlockedBy::Health, vec![node("a")])));
    assert_eq!(gate(&ask(&["b"])), Err(Action::OpenWave), "b is not in the wave");
    // One that does not come back is not waited for by this gate.
    let overdue = Presence { overdue: [(node("a"), secs(900))].into(), ..ask(&["a"]) };
    assert_eq!(gate(&overdue), Err(Action::OpenWave));
    let absent = Presence { absent: nodes(&["a"]), ..ask(&["a"]) };
    assert_eq!(gate(&absent), Err(Action::OpenWave));
}

#[test]
fn the_health_gate_waits_for_the_tally_of_a_coordinator_that_still_watches() {
    let there = opened();
    let watched = |presence: &Presence| {
        let tally = Tally::of(&there, &by(), presence);
        let (stamp, about) = (Stamp { life: 1, number: 1 }, About::default());
        let beat = Beat { stamp, vouches: true, at: UnixTime::from_secs(0), tally, about };
        Snapshot { beats: [(by(), beat)].into(), ..there.clone() }
    };
    let here = Presence { wave_secs: 60, ..presence() };
    for (told, opens) in [
        (Presence { wave_secs: 59, ..presence() }, false),
        (Presence { wave_secs: 60, unobserved: nodes(&["a"]), ..presence() }, false),
        (Presence { wave_secs: 60, ..presence() }, true),
    ] {
        let step = tick_with(&watched(&told), &here);
        let action = matches!(&step, Step::Commit(proposal) if proposal.audit.action == Action::OpenWave);
        assert_eq!(action, opens, "{told:?}: {step:?}");
    }
    // What it has observed of the wave before is not about this one.
    let mut later = watched(&here);
    let Stage::Promoted { wave, .. } = &mut later.document.stage else { panic!("not promoted") };
    (wave.rules, wave.opened) = (vec![wave.rules[0].clone(), wave.rules[0].clone(), wave.rules[1].clone()], 1);
    assert_eq!(waits(tick_with(&later, &here)).blocked_by, BlockedBy::Health);
}

fn waits_in(step: &Step) -> &super::super::input::Wait {
    match step {
        Step::Wait(wait) => wait,
        step => panic!("{step:?}"),
    }
}
