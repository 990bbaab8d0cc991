//! Rows about the store as a whole: restored, behind, late, or refusing its coordinators.

use std::collections::BTreeMap;
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use serde_json::json;
use tfo_testbed::cluster::wires::own_address;
use tfo_testbed::cluster::{BEAT, COORDINATORS, Layout, MEMBERS, PREFIX, order};
use tfo_testbed::levers::beside;
use tfo_testbed::proxy::{Mode, Proxy};
use tfo_testbed::{PATIENCE, poll_until, skip_unless};

use super::bed::{self, Bed, NODES, Row, Runs, actions};

/// How long requests to the store are held back: longer than a commit and the beat that settles it wait.
const HELD_BACK: Duration = Duration::from_secs(7);

const ROWS: &[Row] = &[
    Row { number: 18, name: "a commit that is late", runs: Runs::Long, act: late_commit },
    Row { number: 8, name: "etcd restored", runs: Runs::Long, act: restored },
    Row { number: 9, name: "another etcd cluster, which is behind", runs: Runs::Long, act: another_cluster },
    Row { number: 22, name: "etcd refuses its coordinators", runs: Runs::Long, act: refused },
];

#[test]
fn stores() {
    skip_unless!(bed::can_run());
    beside(|| bed::run(ROWS, Layout::default()));
}

/// A proxy before one member holds back what an order asks of the store, or swallows the answers: of the commit alone, or of all
/// requests.  The operator is told that it was not done only when it was not, and never is.
fn late_commit(bed: &mut Bed) {
    let urls = bed.center.etcd.urls();
    let proxy = Proxy::on(own_address().into(), bed.center.etcd.address(0));
    let through = |bed: &mut Bed, urls: &[String]| {
        bed.center.configure(0, urls, "");
        bed.center.stop(0);
        bed.center.spawn(0);
        bed.center.serves(0);
    };
    through(bed, &[proxy.url()]);
    bed.center.ask = vec![1, 2];
    let paused = |bed: &Bed| actions(bed).iter().filter(|action| *action == "pause").count();
    let mut outcomes: BTreeMap<(String, bool), usize> = BTreeMap::new();
    for mode in [Mode::HoldLarge, Mode::SwallowLarge, Mode::HoldRequests, Mode::SwallowAnswers] {
        let before = paused(bed);
        let held = proxy.clone();
        // It lets go what it held back, after all have given up waiting for it.
        let release = std::thread::spawn(move || {
            held.set(mode);
            bed::pass(HELD_BACK);
            held.set(Mode::Pass);
        });
        let (status, answer) = bed.center.order_at(0, "/pause");
        release.join().expect("it does not panic");
        bed.center.serves(0);
        bed::pass(BEAT);
        let is_done = paused(bed) > before;
        let says_not = answer["message"].as_str().is_some_and(|message| message.contains("nothing was changed"));
        let told = if status == 200 {
            "done"
        } else if says_not {
            "not done"
        } else {
            "nothing for sure"
        };
        println!("  {mode:?}: told {told} ({status}), and it was {}", if is_done { "done" } else { "not done" });
        let is_true = match told {
            "done" => is_done,
            "not done" => !is_done,
            _ => true,
        };
        assert!(is_true, "{mode:?}: told {answer}, and it was done: {is_done}");
        *outcomes.entry((told.to_owned(), is_done)).or_default() += 1;
        if is_done {
            bed.command("/resume", &order());
        }
    }
    println!("  {outcomes:?}");
    assert!(outcomes.keys().any(|(told, _)| told != "not done"), "no commit was late");
    through(bed, &urls);
    bed.center.ask = (0..COORDINATORS).collect();
    bed.rotation();
}

/// Whether coordinators run while the store goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coordinators {
    Running,
    Stopped,
}

/// All members are put back to before a rotation, as a cluster with this token.
pub(super) fn go_back(bed: &mut Bed, coordinators: Coordinators, token: &str) {
    bed.center.etcd.save_at(0, "yesterday");
    bed.rotation();
    if coordinators == Coordinators::Stopped {
        (0..COORDINATORS).for_each(|number| bed.center.stop(number));
    }
    bed.center.recorder.collect(&bed.center.etcd);
    (0..MEMBERS).for_each(|member| bed.center.etcd.kill(member));
    bed.center.recorder.begin_again();
    bed.center.etcd.restore_all("yesterday", token);
    if coordinators == Coordinators::Stopped {
        start_all(bed);
    }
}

fn start_all(bed: &mut Bed) {
    (0..COORDINATORS).for_each(|number| bed.center.spawn(number));
    (0..COORDINATORS).for_each(|number| bed.center.serves(number));
}

/// Nothing is committed until an operator takes over what the nodes hold.
fn recovered(bed: &mut Bed) {
    let restored = bed.center.revision();
    let frozen = bed.until("it is frozen", |pool| pool["blocked_by"] == "frozen");
    assert_eq!(bed.center.revision(), restored, "something was committed: {frozen:#}");
    bed.until("all nodes show what they hold", |pool| pool["recoverable"].as_array().is_some_and(|all| all.len() == 1));
    // The store lacks the key of the rotation that it has lost: the operator copies it from a node's file.
    bed.command("/recover", &json!({"reason": "test", "keys": bed.keys_of(1)}));
    bed.converged();
    bed.command("/resume", &order());
    bed.clients_come_round();
    bed.rotation();
}

/// The same cluster, put back: for etcd's clients nothing tells it from the one before but its revisions.
fn restored(bed: &mut Bed) {
    for coordinators in [Coordinators::Running, Coordinators::Stopped] {
        go_back(bed, coordinators, "etcd-cluster");
        (0..COORDINATORS).for_each(|number| bed.center.serves(number));
        recovered(bed);
        println!("  coordinators {coordinators:?}: recovered");
    }
}

/// Another cluster answers, which is behind, as after a switch to a mirror: those that run refuse it, and a restart finds a store
/// that went back.
fn another_cluster(bed: &mut Bed) {
    go_back(bed, Coordinators::Running, "another");
    for number in 0..COORDINATORS {
        let says = poll_until(PATIENCE, || {
            bed.center.coordinator(number).log().contains("a member belongs to another cluster")
        });
        assert!(says, "{}", bed.center.coordinator(number).log());
        assert!(bed.center.is_blind(number));
    }
    (0..COORDINATORS).for_each(|number| bed.center.coordinator(number).kill());
    start_all(bed);
    recovered(bed);
}

/// Users are turned on under running coordinators, a password is changed, a member restarts and has lost its tokens: coordinators
/// say what is wrong, nodes keep their keys, and all continues without a restart once etcd takes them again.
fn refused(bed: &mut Bed) {
    bed.center.user = Some(("tfo".to_owned(), "secret".to_owned()));
    bed.center.etcd.enable_users("tfo", "secret", PREFIX);
    bed.center.etcd.be_root();
    let says = |bed: &mut Bed, number: usize, what: &str| {
        let said = poll_until(PATIENCE, || bed.center.coordinator(number).log().contains(what));
        assert!(said, "coordinator {number} does not say {what}: {}", bed.center.coordinator(number).log());
    };
    // They have no user yet.
    says(bed, 0, "store_rejects");
    let urls = bed.center.etcd.urls();
    (0..COORDINATORS).for_each(|number| bed.center.configure(number, &urls, ""));
    bed.center.stop(0);
    // etcd's gateway takes no client whose certificate has a common name, once there are users; nor a server's certificate.
    for (usages, said) in [(None, "CommonName"), (Some(ExtendedKeyUsagePurpose::ServerAuth), "store_")] {
        if let Some(usage) = usages {
            bed.center.etcd.replace_client(vec![usage]);
        }
        bed.center.spawn(0);
        let ended = bed.center.coordinator(0).ended();
        assert_eq!(ended.code(), Some(2), "{}", bed.center.coordinator(0).log());
        says(bed, 0, said);
    }
    bed.center.etcd.replace_client(vec![ExtendedKeyUsagePurpose::ClientAuth]);
    bed.center.spawn(0);
    for number in 1..COORDINATORS {
        bed.center.stop(number);
        bed.center.spawn(number);
    }
    (0..COORDINATORS).for_each(|number| bed.center.serves(number));
    bed.rotation();
    // A member that restarts has lost its tokens; a change of users makes all of them stale.
    bed.center.etcd.kill(1);
    bed.center.etcd.start(1);
    let by_root = |bed: &Bed, arguments: &[&str]| bed.center.etcd.ctl_surely(arguments);
    by_root(bed, &["user", "add", "other:x"]);
    bed.rotation();
    by_root(bed, &["role", "revoke-permission", "--prefix", "fleet", PREFIX]);
    let blind = poll_until(PATIENCE, || (0..COORDINATORS).all(|number| bed.center.is_blind(number)));
    assert!(blind, "a coordinator answers without its rights");
    by_root(bed, &["role", "grant-permission", "--prefix", "fleet", "readwrite", PREFIX]);
    (0..COORDINATORS).for_each(|number| bed.center.serves(number));
    bed.rotation();
    assert_eq!(bed.pool()["required"], NODES);
}
