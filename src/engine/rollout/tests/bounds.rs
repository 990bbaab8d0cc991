//! However many nodes a commit is about, it stays small (docs/protocol.md#rule-2): a lost site goes in several commits,
//! and names are counted from the hundredth on.

use super::super::document::{CHANGED_MAX, DOCUMENT_BYTES_KEPT, DOCUMENT_BYTES_MAX, Hold, Revoke};
use super::super::input::RevokeKeys;
use super::super::policy::{BadPolicy, POLICY_NAMES_BYTES_MAX};
use super::super::record::Exclusion;
use super::super::refusal::EXPECTED_NAMES_MAX;
use super::*;

/// A lost site whose nodes are exactly what two commits take.
const TWO_COMMITS: usize = 2 * CHANGED_MAX;
/// Most bytes of a transaction: what replicated stores take.
const TRANSACTION_BYTES_MAX: usize = 1 << 20;

fn numbered(range: std::ops::Range<usize>) -> BTreeSet<NodeId> {
    range.map(|number| node(&format!("cp{number:05}.site{}.cdn.example.org", number % 7))).collect()
}

/// A pool of which a site has not acknowledged and is silent; the nodes that are left are enough for it.
fn site_lost(stage: Stage, lost: usize, left: usize) -> (Snapshot, Presence) {
    let all: Vec<NodeId> = numbered(0..lost + left).into_iter().collect();
    let (lost, here) = all.split_at(lost);
    let [here_names, lost_names] = [here, lost].map(|nodes| nodes.iter().map(NodeId::as_str).collect::<Vec<_>>());
    let mut snapshot = pool(document(stage), &here_names, &lost_names);
    snapshot.document.policy.min_present = Share::of(here.len() as u64, all.len() as u64);
    let presence = Presence {
        seen: here.iter().cloned().collect(),
        absent: lost.iter().cloned().collect(),
        phase_secs: 1_000,
        wave_secs: 1_000,
        ..Presence::default()
    };
    (snapshot, presence)
}

/// Bytes of a commit as JSON: the document, the audit entry, and what becomes of the nodes.
fn bytes(proposal: &Proposal) -> usize {
    let becomes = proposal.exclusions.values().next().map(|excluded| excluded.cause);
    // Sessions here are shorter than real ones.
    let closes = Session { ordinal: 1_790_000_000_000, nonce: u64::MAX };
    let closed: Vec<_> = proposal.exclusions.keys().map(|node| (node, closes)).collect();
    serde_json::to_vec(&(&proposal.document, &proposal.audit, becomes, closed, &proposal.dropped)).unwrap().len()
}

/// Checks the bounds of a commit that takes nodes out, and how many they are.
fn taken_out(proposal: &Proposal) -> usize {
    let size = bytes(proposal);
    assert!(size <= TRANSACTION_BYTES_MAX, "{size} bytes");
    let nodes = proposal.exclusions.len();
    assert_eq!((proposal.audit.nodes.len(), proposal.audit.more), (nodes.min(100), nodes.saturating_sub(100)));
    nodes
}

#[test]
fn a_lost_site_is_excluded_in_bounded_commits_and_the_pool_moves_on() {
    let (snapshot, presence) = site_lost(staged(), 30_000, 30_000);
    let (mut pool, mut commits) = (content(&snapshot), Vec::new());
    loop {
        let proposal = committed(tick_with(pool.snapshot(), &presence));
        if proposal.audit.action != Action::Exclude {
            assert_eq!(proposal.audit.action, Action::Promote, "nothing else was in its way");
            break;
        }
        commits.push(taken_out(&proposal));
        pool.commit(&proposal);
    }
    assert_eq!(commits, [CHANGED_MAX; 3]);
}

#[test]
fn a_revoke_leaves_a_lost_site_behind_in_bounded_commits() {
    let (mut snapshot, presence) = site_lost(staged(), TWO_COMMITS, 50);
    let presence = Presence { absent: BTreeSet::new(), seen: numbered(0..TWO_COMMITS + 50), ..presence };
    snapshot.document.revoked = vec![key(2)];
    snapshot.document.revoke = Some(Revoke::of([key(2)].into(), NOW));
    let mut pool = content(&snapshot);
    for commit in 1..=2 {
        let proposal = committed(tick_with(pool.snapshot(), &presence));
        assert_eq!(taken_out(&proposal), CHANGED_MAX);
        pool.commit(&proposal);
        let revoke = pool.snapshot().document.revoke.as_ref().unwrap();
        assert_eq!((revoke.left_behind.len(), revoke.left_behind_more), (100, commit * CHANGED_MAX - 100));
    }
    assert_eq!(committed(tick_with(pool.snapshot(), &presence)).audit.action, Action::Promote);
}

/// Commands that take out whom they do not name go on until they are done, each part as bounded as the rest.
#[test]
fn a_command_about_a_lost_site_is_done_in_parts() {
    let (staged, absent) = site_lost(staged(), TWO_COMMITS, 50);
    let generation = staged.document.generation;
    let leave = absent.absent.clone();
    let (mut steady, _) = site_lost(steady(), TWO_COMMITS, 50);
    steady.document.policy.absent_policy = super::super::policy::AbsentPolicy::Wait;
    let mut frozen = steady.clone();
    let slots = Slots { primary: key(8), backup: Some(key(7)) };
    let here = absent.seen.first().unwrap();
    let fence = Fence { pool_id: pool_id(), generation: Generation::new(9), slots };
    frozen.nodes.insert(here.clone(), admitted(Some(fence)));
    let revoke = |deny: BTreeSet<NodeId>| Command::Revoke { keys: RevokeKeys::AllInstructed, deny };
    let denied = absent.absent.iter().take(10).cloned().collect();
    let cases = [
        (&staged, Command::Advance { generation, leave }, Action::Advance, [CHANGED_MAX; 2]),
        (&frozen, Command::Recover { slots }, Action::Recover, [CHANGED_MAX; 2]),
        (&steady, revoke(BTreeSet::new()), Action::Revoke, [CHANGED_MAX; 2]),
        (&steady, revoke(denied), Action::Revoke, [CHANGED_MAX; 2]),
    ];
    for (snapshot, command, action, expected) in cases {
        let (mut pool, mut parts) = (content(snapshot), Vec::new());
        loop {
            match order_with(pool.snapshot(), &absent, command.clone()).unwrap() {
                Step::Part(proposal) => {
                    assert_eq!((proposal.audit.action, rise(pool.snapshot(), &proposal)), (Action::Exclude, 0));
                    parts.push(taken_out(&proposal));
                    pool.commit(&proposal);
                }
                step => {
                    let proposal = committed(step);
                    assert_eq!(proposal.audit.action, action);
                    parts.push(taken_out(&proposal));
                    pool.commit(&proposal);
                    break;
                }
            }
        }
        assert_eq!(parts, expected, "{action:?}");
        let out = pool.snapshot().nodes.values().filter(|record| matches!(record.membership, Membership::Excluded(_)));
        assert_eq!(out.count(), TWO_COMMITS);
        let left =
            pool.snapshot().document.revoke.as_ref().map(|revoke| revoke.left_behind.len() + revoke.left_behind_more);
        assert!(left.is_none_or(|left| left > 0));
    }
}

#[test]
fn a_command_names_no_more_nodes_than_one_commit_takes() {
    let many = numbered(0..CHANGED_MAX + 1);
    let mut snapshot = of(steady());
    for name in &many {
        snapshot.nodes.insert(name.clone(), admitted(None));
    }
    let presence = Presence { seen: many.iter().cloned().chain(nodes(&["a", "b"])).collect(), ..presence() };
    let until = NOW.plus(60);
    let commands = |nodes: &BTreeSet<NodeId>| {
        [
            Command::Exclude { nodes: nodes.clone(), until },
            Command::Deny { nodes: nodes.clone() },
            Command::Forget { nodes: nodes.clone(), expected: Expectation::Keep },
            Command::Revoke { keys: RevokeKeys::AllInstructed, deny: nodes.clone() },
        ]
    };
    for command in commands(&many) {
        assert_eq!(refused(order_with(&snapshot, &presence, command)), Reason::TooManyNodes(CHANGED_MAX + 1));
    }
    let fewer: BTreeSet<NodeId> = many.iter().skip(1).cloned().collect();
    for command in commands(&fewer) {
        assert_eq!(taken_out_or_forgotten(&committed(order_with(&snapshot, &presence, command).unwrap())), CHANGED_MAX);
    }
    // What is left of nodes that were forgotten long ago goes with a command as far as there is room.
    for record in snapshot.nodes.values_mut() {
        record.membership = Membership::Excluded(Exclusion::Forgotten);
        record.last_report_at = Some(UnixTime::from_secs(0));
        record.coordinator = None;
    }
    snapshot.nodes.insert(node("a"), admitted(None));
    let forgotten = committed(order_with(&snapshot, &presence, forget(&["a"])).unwrap());
    assert_eq!(taken_out_or_forgotten(&forgotten), CHANGED_MAX);
}

fn taken_out_or_forgotten(proposal: &Proposal) -> usize {
    assert!(bytes(proposal) <= TRANSACTION_BYTES_MAX);
    assert_eq!(proposal.audit.nodes.len() + proposal.audit.more, proposal.exclusions.len());
    assert!(proposal.audit.nodes.len() <= 100);
    proposal.exclusions.len() + proposal.dropped.len()
}

#[test]
fn refusals_name_a_hundred_and_count_the_rest() {
    let (snapshot, presence) = site_lost(staged(), 1_000, 50);
    let presence = Presence { absent: BTreeSet::new(), ..presence };
    let not_heard = order_with(&snapshot, &presence, Command::Abort { force: false }).unwrap_err();
    let text = not_heard.to_string();
    assert!(
        text.starts_with("not seen since this coordinator started: cp00000.site0.cdn.example.org, cp00001"),
        "{text}"
    );
    assert!(text.ends_with("cp00099.site1.cdn.example.org and 900 more (phase staged)"), "{text}");
    let missing: Vec<String> = (0..101).map(|number| format!("n{number}")).collect();
    assert!(Reason::Expected(missing[..100].to_vec()).to_string().ends_with(", n99"));
    assert!(Reason::Expected(missing).to_string().ends_with(", n99 and 1 more"));
}

#[test]
fn a_document_has_a_greatest_length() {
    let long = |number: usize| format!("{number:05}{}", ".abcdefghi".repeat(24));
    let patterns = |count: usize| (0..count).map(|number| long(number).parse().unwrap()).collect::<Vec<NamePattern>>();
    let with = |count: usize| {
        let policy = Policy { nodes: patterns(count), ..policy() };
        order(&of(steady()), Command::SetPolicy { policy: Box::new(policy) })
    };
    // 245 bytes each, and three more for its place in the list.
    let most = POLICY_NAMES_BYTES_MAX / 248;
    assert!(with(most).is_ok());
    assert_eq!(refused(with(most + 1)), Reason::Policy(BadPolicy::TooLong));

    let names = |count: usize| Expected::Names((0..count).map(|number| node(&long(number))).collect());
    let first =
        |snapshot: &Snapshot, count: usize| order(snapshot, Command::FirstKey { expect: names(count), force: true });
    let mut empty = of(Stage::Empty);
    assert_eq!(refused(first(&empty, EXPECTED_NAMES_MAX + 1)), Reason::ExpectedNames(EXPECTED_NAMES_MAX + 1));
    assert!(first(&empty, EXPECTED_NAMES_MAX).is_ok());
    empty.document.policy.nodes = patterns(most);
    let refusal = first(&empty, EXPECTED_NAMES_MAX).unwrap_err();
    let bytes_max = DOCUMENT_BYTES_MAX - DOCUMENT_BYTES_KEPT;
    let Reason::DocumentTooLarge { bytes, bytes_max: told } = refusal.reason else { panic!("{refusal}") };
    assert!(bytes > bytes_max && told == bytes_max, "{bytes}");
    let text = refusal.to_string();
    assert_eq!(
        text,
        format!("the pool's document would have {bytes} bytes, and {bytes_max} is the most (phase empty)")
    );

    // Whatever a rotation adds by itself has room beside the longest lists; beyond the end nothing is committed.
    let mut document = document(staged());
    document.policy.nodes = patterns(most);
    // A little less than what fits, and then one by one.
    let mut expect = (bytes_max - serde_json::to_vec(&document).unwrap().len()) / 250;
    while serde_json::to_vec(&document).unwrap().len() < bytes_max {
        expect += 1;
        document.hold = Some(Hold::FirstKey { expect: names(expect) });
    }
    let waves = (0..31).map(|number| WaveRule::Names(long(number).parse().unwrap()));
    document.policy.promote_waves = waves.chain([WaveRule::Share(Share::ALL)]).collect();
    document.revoked = (1_000..1_256).map(key).collect();
    let mut revoke = Revoke::of([key(2)].into(), NOW);
    revoke.left_behind = (0..100).map(|number| node(&long(number))).collect();
    document.revoke = Some(revoke);
    let mut full = pool(document, &["a", "b"], &[]);
    assert_eq!(committed(tick(&full)).audit.action, Action::Promote);
    full.document.hold = Some(Hold::FirstKey { expect: names(2 * EXPECTED_NAMES_MAX) });
    let refused = refused(order(&full, Command::Pause));
    assert!(matches!(refused, Reason::DocumentTooLarge { bytes_max: DOCUMENT_BYTES_MAX, .. }), "{refused:?}");
}
