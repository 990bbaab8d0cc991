//! Rows about the coordinators: any of them may die, hang, be cut off, have another file, another clock, or a double.

use std::cell::Cell;

use rustix::process::Signal;
use serde_json::json;
use tfo_testbed::cluster::wires::node_address;
use tfo_testbed::cluster::{BEAT, COORDINATORS, Cluster, Layout, directory};
use tfo_testbed::levers::beside;
use tfo_testbed::wall_clock::WallClock;
use tfo_testbed::{PATIENCE, by_size, now, poll_until, program, skip_unless};

use super::bed::{self, Bed, HELD, NODES, Row, Runs, Stand, actions, none_excluded, rotation};

/// Where it does not matter which.
const VICTIM: usize = COORDINATORS - 1;

pub(crate) const ROWS: &[Row] = &[
    Row { number: 10, name: "a coordinator killed or stopped", runs: Runs::Short, act: one_coordinator },
    Row { number: 11, name: "a coordinator cut off from etcd", runs: Runs::Long, act: cut_from_etcd },
    Row { number: 12, name: "a coordinator cut off from the agents", runs: Runs::Long, act: cut_from_agents },
    Row { number: 16, name: "files that differ", runs: Runs::Long, act: files_differ },
    Row { number: 17, name: "one name started twice", runs: Runs::Long, act: one_name_twice },
    Row { number: 20, name: "all coordinators restarted, and a timer node", runs: Runs::Long, act: rolling_restart },
    Row { number: 21, name: "a clock an hour ahead", runs: Runs::Long, act: clock_ahead },
    Row { number: 24, name: "an agent killed", runs: Runs::Long, act: one_agent },
];

#[test]
fn coordinators() {
    skip_unless!(bed::can_run());
    beside(|| bed::run(ROWS, Layout::default()));
}

/// The coordinator at which the agent is that holds the rotation up: it has to find another one.
fn victim(bed: &mut Bed) -> usize {
    let victim = bed.center.of_node(HELD);
    bed.center.ask_last(victim);
    victim
}

/// Killed and stopped, at both places of a rotation.
fn one_coordinator(bed: &mut Bed) {
    for kills in by_size(&[true][..], &[true, false], &[true, false]).iter().copied() {
        let harmed = Cell::new(0);
        let mut harm = |bed: &mut Bed, _: Stand| {
            harmed.set(victim(bed));
            if kills {
                bed.center.coordinator(harmed.get()).kill();
                return "kill -9 of a coordinator".to_owned();
            }
            bed.center.signal(harmed.get(), Signal::STOP);
            "SIGSTOP of a coordinator".to_owned()
        };
        let mut heal = |bed: &mut Bed, stand: Stand| {
            if kills {
                bed.center.spawn(harmed.get());
            } else {
                // Longer than its beats are good for: it wakes up with what it believed then.
                bed::pass(BEAT * if stand == Stand::Staged { 1 } else { 3 });
                bed.center.signal(harmed.get(), Signal::CONT);
            }
            bed.center.serves(harmed.get());
        };
        rotation(bed, &mut harm, &mut heal);
    }
    none_excluded(bed);
}

/// The agent that all wait for is killed, and started again as its service manager does.
fn one_agent(bed: &mut Bed) {
    let mut kill = |bed: &mut Bed, _: Stand| {
        bed.kill_agent(HELD);
        bed.start_agent(HELD);
        "kill -9 of the agent that all wait for, started again".to_owned()
    };
    rotation(bed, &mut kill, &mut |_, _| {});
    none_excluded(bed);
}

/// It answers 503 once it is blind, and its agents find another one: the rotation goes on without it.
fn cut_from_etcd(bed: &mut Bed) {
    let members: Vec<_> = bed.center.member_places.iter().map(|place| place.address).collect();
    let mut blind = 0;
    let mut cut = |bed: &mut Bed, stand: Stand| {
        if stand == Stand::Promoted {
            return "still cut off".to_owned();
        }
        blind = bed.center.of_node(HELD);
        bed.center.ask_last(blind);
        bed.center.places[blind].cut_from(members.iter().copied());
        "a coordinator cut off from etcd".to_owned()
    };
    rotation(bed, &mut cut, &mut |_, _| {});
    assert!(poll_until(PATIENCE, || bed.center.is_blind(blind)), "it answers without its store");
    // From now on at once, whatever its driver waits for: to an operator as to a node.
    let start = now();
    assert!(bed.center.is_blind(blind));
    println!("  an operator's question is refused after {}", bed::secs(start));
    bed.center.heal();
    bed.center.serves(blind);
    none_excluded(bed);
}

/// Its agents find another one; it hears of them by the beats of the others, and excludes none.
fn cut_from_agents(bed: &mut Bed) {
    let cut_off = Cell::new(0);
    let mut cut = |bed: &mut Bed, stand: Stand| {
        if stand == Stand::Promoted {
            return "still cut off".to_owned();
        }
        cut_off.set(victim(bed));
        bed.center.places[cut_off.get()].cut_from((1..=NODES).map(node_address));
        "a coordinator cut off from the agents".to_owned()
    };
    rotation(bed, &mut cut, &mut |_, _| {});
    let shown = bed.center.pool_at(cut_off.get()).expect("the operator reaches it");
    assert_eq!(shown["required"], bed::all(bed), "{shown:#}");
    none_excluded(bed);
    bed.center.heal();
}

/// In the middle of a rotation one coordinator reloads another file, and one restarts with the old one: the file of the reload
/// becomes the policy once, after the rotation, and nothing takes it back.
fn files_differ(bed: &mut Bed) {
    let urls = bed.center.etcd.urls();
    let count = |bed: &Bed| actions(bed).iter().filter(|action| *action == "set_policy").count();
    let before = count(bed);
    let mut differ = |bed: &mut Bed, stand: Stand| {
        let other = if stand == Stand::Staged { 0 } else { 1 };
        if stand == Stand::Staged {
            bed.center.configure(other, &urls, "drain_min_samples = 123\n");
            bed.center.signal(other, Signal::HUP);
            return "a reload with another file".to_owned();
        }
        bed.center.coordinator(other).kill();
        bed.center.spawn(other);
        "a restart with the old file".to_owned()
    };
    rotation(bed, &mut differ, &mut |bed, stand| {
        if stand == Stand::Promoted {
            bed.center.serves(1);
        }
    });
    assert!(poll_until(PATIENCE, || count(bed) == before + 1), "{:?}", actions(bed));
    // All of them drive by it, two have another file, and there is time for many ticks.
    bed::pass(BEAT * 3);
    bed.rotation();
    assert_eq!(count(bed), before + 1, "{:?}", actions(bed));
    bed.center.configure(0, &urls, "");
    bed.center.signal(0, Signal::HUP);
    assert!(poll_until(PATIENCE, || count(bed) == before + 2), "{:?}", actions(bed));
}

/// A second process under the name of one that beats is refused; one that has stopped to beat loses its name, and ends when
/// it wakes up.
fn one_name_twice(bed: &mut Bed) {
    let place = bed.center.places[VICTIM].clone();
    let dir = directory(&place);
    let text = std::fs::read_to_string(dir.join("coordinator.toml")).expect("it runs with it");
    let text = text.replace("name.lock", "double.lock").replace(":9443", ":9543").replace(":9441", ":9541");
    std::fs::write(dir.join("double.toml"), text).expect("it is the test's");
    let double = || {
        let mut command = place.command(program("tfo-coordinator"));
        command.args(["serve", "--config"]).arg(dir.join("double.toml"));
        command
    };
    let refused = double().output().expect("it starts");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && said.contains("store_in_use"), "{refused:?}");
    let mut second = None;
    let mut stop = |bed: &mut Bed, stand: Stand| {
        if stand == Stand::Promoted {
            bed.center.signal(VICTIM, Signal::CONT);
            return "the first process continued".to_owned();
        }
        bed.center.signal(VICTIM, Signal::STOP);
        second = Some(double().stderr(std::process::Stdio::null()).spawn().expect("it starts"));
        "the first process stopped, a second one started under its name".to_owned()
    };
    rotation(bed, &mut stop, &mut |_, stand| {
        if stand == Stand::Staged {
            bed::pass(BEAT * 5);
        }
    });
    let ended = bed.center.coordinator(VICTIM).ended();
    assert!(!ended.success(), "it has lost its name: {ended}");
    assert!(bed.center.coordinator(VICTIM).log().contains("under this coordinator's name"));
    let mut second = second.expect("it was started");
    assert_eq!(second.try_wait().expect("it is ours"), None, "the second one has the name");
    second.kill().and_then(|()| second.wait()).expect("it is ours");
    bed.center.spawn(VICTIM);
    bed.center.serves(VICTIM);
}

/// One after another, with a node that a timer runs once an hour and that each step waits for: as long as one coordinator has heard
/// it in its life, or another one vouches for it, none waits for its next run.
fn rolling_restart(bed: &mut Bed) {
    const TIMER: usize = 3;
    bed.end_agent(TIMER);
    bed.timer(TIMER, Some(3_600));
    assert_eq!(bed.once(TIMER), Some(0));
    bed::steady(bed);
    bed.begin_rotation();
    for (which, phase) in [(0, "staged"), (1, "promoted")] {
        bed.waits_for(phase, TIMER);
        let before = bed.center.revision().expect("a coordinator answers");
        bed.center.stop(which);
        bed.center.spawn(which);
        bed.center.serves(which);
        let start = now();
        assert_eq!(bed.once(TIMER), Some(0));
        let after = bed.center.next_commit(before, start);
        println!("  {phase}: coordinator {} restarted: next commit after {:.2} s", which + 1, after.as_secs_f64());
    }
    bed.settled();
    bed.center.stop(2);
    bed.center.spawn(2);
    bed.center.serves(2);
    let start = now();
    bed::steady(bed);
    println!("  all three restarted: all nodes are heard after {}", bed::secs(start));
    bed.timer(TIMER, None);
    bed.start_agent(TIMER);
    bed::steady(bed);
    none_excluded(bed);
}

/// It takes no step that a clock opens, and says so; the others share a clock, and go on.
fn clock_ahead(bed: &mut Bed) {
    let urls = bed.center.etcd.urls();
    // A rotation is due in half an hour: by the clock that is ahead it is overdue.
    let reload = |bed: &mut Bed, more: &str| {
        let before = bed.center.revision();
        (0..COORDINATORS).for_each(|number| bed.center.configure(number, &urls, more));
        bed.center.signal(0, Signal::HUP);
        assert!(poll_until(PATIENCE, || bed.center.revision() > before), "{:?}", actions(bed));
    };
    reload(bed, "drain_min_samples = 124\n");
    let clock = WallClock::new(&directory(&bed.center.places[VICTIM]));
    bed.center.stop(VICTIM);
    let ahead = clock.ahead_secs(3_600);
    let ahead: Vec<(&str, &str)> = ahead.iter().map(|(name, value)| (*name, value.as_str())).collect();
    bed.center.spawn_with(VICTIM, &ahead);
    bed.center.serves(VICTIM);
    reload(bed, "interval = \"30m\"\n");
    let says_clock = |center: &Cluster| center.pool_at(VICTIM).is_some_and(|pool| pool["blocked_by"] == json!("clock"));
    assert!(poll_until(PATIENCE, || says_clock(&bed.center)), "{:#?}", bed.center.pool_at(VICTIM));
    bed::pass(BEAT * 3);
    bed.until("it is not due", |pool| pool["phase"] == "steady" && pool["blocked_by"] == "schedule");
    bed.rotation();
    bed.center.stop(VICTIM);
    bed.center.spawn(VICTIM);
    bed.center.serves(VICTIM);
    reload(bed, "");
}
