//! Rows of `tests/run --full`: a rolling upgrade across a schema, and the others in a random order for a long time.

use std::time::Duration;

use rustix::process::Signal;
use tfo_crypto::seal::KeyEncryptionKey;
use tfo_host::runtime::clock;
use tfo_store::{ETCD_SCHEMA, EtcdSettings, EtcdStore, Patience};
use tfo_testbed::cluster::stand_in::StandIn;
use tfo_testbed::cluster::{COORDINATORS, Layout, PREFIX};
use tfo_testbed::config::kek;
use tfo_testbed::levers::beside;
use tfo_testbed::random::Dice;
use tfo_testbed::soaked::{Soaked, soaked};
use tfo_testbed::{PATIENCE, now, poll_until, skip_unless};

use super::bed::{self, Bed, HELD, Row, Runs};
use super::{coordinators, members, stand_in};

const ROWS: &[Row] = &[
    Row { number: 19, name: "a later schema, and back before it", runs: Runs::Full, act: upgrade },
    Row { number: 23, name: "a random soak", runs: Runs::Full, act: soak },
];

/// A coordinator of the release after this one: the whole program, but for what the schemas differ in.
const LATER: StandIn = StandIn { test: "full::full", role: stand_in::LATER };

#[test]
fn full() {
    if stand_in::serves() {
        return;
    }
    skip_unless!(bed::can_run());
    beside(|| bed::run(ROWS, Layout::default()));
}

/// The store of a coordinator of that release, with a clock that is ahead.
fn newer(bed: &Bed, secs_later: u64) -> EtcdStore {
    let etcd = &bed.center.etcd;
    let urls = etcd.urls().iter().map(|url| url.parse().expect("a URL")).collect();
    let settings = EtcdSettings {
        urls,
        prefix: PREFIX.to_owned(),
        tls: etcd.tls(),
        user: None,
        newest_schema: ETCD_SCHEMA + 1,
        patience: Patience::Command,
    };
    let key = KeyEncryptionKey::from_bytes(&kek()).expect("32 bytes");
    let store = EtcdStore::open(settings, key).expect("it opens");
    let lock = etcd.path("newer.lock");
    store.take_name(&"tfo9".parse().expect("a name"), &lock, clock::now().plus(secs_later)).expect("the name is free");
    store
}

/// What is stored of the schema.
fn schema(bed: &Bed) -> String {
    bed.center.etcd.ctl(&["get", "--print-value-only", &format!("{PREFIX}meta")]).trim_end().to_owned()
}

fn is_raised(schema: &str) -> bool {
    schema.contains(&format!("\"schema\":{}", ETCD_SCHEMA + 1))
}

/// The coordinators are replaced by the next release one after another under traffic, in the middle of a rotation, and one of them
/// goes back: the schema stays.  The last one raises it, and all continue under it; this release is refused from then on, be it one
/// that starts or one that stood still.
fn upgrade(bed: &mut Bed) {
    let before = schema(bed);
    replaced(bed, &before);
    // There is no such release yet that could continue.
    (0..COORDINATORS).for_each(|number| bed.center.stop(number));
    bed.center.stand_ins.clear();
    bed.center.etcd.ctl(&["put", &format!("{PREFIX}meta"), &before]);
    (0..COORDINATORS).for_each(|number| bed.center.spawn(number));
    (0..COORDINATORS).for_each(|number| bed.center.serves(number));
    refused(bed, &before);
}

fn replaced(bed: &mut Bed, before: &str) {
    bed.freeze_agent(HELD);
    bed.begin_rotation();
    bed.waits_for("staged", HELD);
    bed.center.replace(0, Some(LATER));
    bed.center.replace(1, Some(LATER));
    bed.thaw_agent(HELD);
    bed.settled();
    bed.center.replace(0, None);
    bed.rotation();
    assert_eq!(schema(bed), before, "two programs cannot write a later schema");
    bed.center.replace(0, Some(LATER));
    assert_eq!(schema(bed), before, "one program cannot write a later schema");
    bed.center.replace(2, Some(LATER));
    let raised = schema(bed);
    assert!(is_raised(&raised), "{raised}");
    bed.rotation();
    bed.center.stop(0);
    bed.center.stand_ins.remove(&0);
    let holder = |bed: &Bed| bed.center.etcd.ctl(&["get", "-w", "json", &format!("{PREFIX}c/tfo1")]);
    let held: serde_json::Value = serde_json::from_str(&holder(bed)).expect("JSON");
    bed.center.spawn(0);
    let ended = bed.center.coordinator(0).ended();
    assert!(ended.code() == Some(2) && bed.center.coordinator(0).log().contains("store_newer"), "{ended}");
    let now: serde_json::Value = serde_json::from_str(&holder(bed)).expect("JSON");
    assert_eq!((&now["kvs"], schema(bed)), (&held["kvs"], raised), "a refused program has written");
    bed.center.stand_ins.insert(0, LATER);
    bed.center.spawn(0);
    bed.center.serves(0);
    bed.rotation();
}

/// When none of this release has beaten for an hour the schema is raised: one that stood still until then is refused, and so is one
/// that starts; both change nothing.
fn refused(bed: &mut Bed, before: &str) {
    bed.center.signal(0, Signal::STOP);
    (1..COORDINATORS).for_each(|number| bed.center.stop(number));
    drop(newer(bed, 7_200));
    let raised = schema(bed);
    assert!(is_raised(&raised), "{raised}");
    let revision = bed.center.etcd.revision();
    bed.center.signal(0, Signal::CONT);
    let refused = poll_until(PATIENCE, || bed.center.coordinator(0).log().contains("store_newer"));
    assert!(refused, "{}", bed.center.coordinator(0).log());
    bed.center.spawn(1);
    let ended = bed.center.coordinator(1).ended();
    assert!(ended.code() == Some(2) && bed.center.coordinator(1).log().contains("store_newer"), "{ended}");
    bed::pass(tfo_testbed::cluster::BEAT * 3);
    assert_eq!(bed.center.etcd.revision(), revision, "a coordinator has written into a later schema");
    let (status, answer) = bed.center.order_at(0, "/pause");
    assert!(status != 200, "an order was taken: {answer}");
    // What it would show could be misread.
    assert!(poll_until(PATIENCE, || bed.center.is_blind(0)), "{:#?}", bed.center.pool_at(0));
    assert_eq!(bed.center.etcd.revision(), revision);
    bed.center.etcd.ctl(&["put", &format!("{PREFIX}meta"), before]);
    (1..COORDINATORS).for_each(|number| bed.center.spawn(number));
    (0..COORDINATORS).for_each(|number| bed.center.serves(number));
    bed.rotation();
}

/// Agents without kernels beside the eight of the bed.
const SIMULATED: usize = 200;

/// Rows about members and coordinators, in an order of dice, with two hundred agents more.
fn soak(bed: &mut Bed) {
    let read = |name: &str, or: u64| std::env::var(name).map_or(or, |text| text.parse().expect("a number"));
    let (secs, seed) = (read("TFO_SOAK_SECS", 1_200), read("TFO_SOAK_SEED", clock::now_ms()));
    println!("  TFO_SOAK_SEED={seed}");
    bed.center.simulate(SIMULATED);
    bed::steady(bed);
    let (mut dice, start) = (Dice::new(seed), now());
    let rows: Vec<&Row> = members::AWAY.iter().chain(members::TROUBLED).chain(coordinators::ROWS).collect();
    while start.elapsed() < Duration::from_secs(secs) {
        let row = rows[dice.index(rows.len())];
        println!("  row {} ({})", row.number, row.name);
        (row.act)(bed);
        bed::steady(bed);
        assert_eq!(bed.center.violations(), [""; 0], "simulated agents have found a rule broken");
    }
    soaked(Soaked::Real, start.elapsed());
}
