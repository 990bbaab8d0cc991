//! API v1 pinned: every type as it goes over the network.  A change here is a change of the contract.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tfo_model::caveat::Caveat;
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::fleet::{
    Action, BlockedBy, ExclusionReason, HoldReason, NodeState, NoticeKind, NoticeState, Severity, VerdictKind,
};
use tfo_model::ids::{NodeId, PoolId, PoolName};
use tfo_model::key::{KeyFingerprint, TfoKey};
use tfo_model::node::{Expected, KeySource};
use tfo_model::state::{Phase, SlotPrint};
use tfo_model::time::UnixTime;
use tfo_wire::error::{ErrorBody, ErrorKind, MovedTo};
use tfo_wire::v1::coordinators::{CoordinatorStatus, Coordinators, ForgetCoordinatorRequest};
use tfo_wire::v1::enrol::{Certified, EnrolRequest, RenewRequest, TokenText};
use tfo_wire::v1::fleet::{
    AdvanceRequest, Audit, AuditLine, CalendarSpan, Command, Done, FingerprintCount, ImportRequest, NodeStatus, Nodes,
    PoolStatus, Pools, RecoverRequest, RotationMode, RotationRequest, SlotPairShown, Verdict, Waves,
};
use tfo_wire::v1::notify::{Ending, Event, Rotation, VERSION};
use tfo_wire::v1::orders::{Closed, ExpectRequest, NodeAction, NodesRequest, Waiver};
use tfo_wire::v1::secret::SecretText;
use tfo_wire::v1::sync::{ClockReport, InstalledKeys, KeyMaterial, SelfAnswer, SyncAnswer, SyncRequest};

fn node(name: &str) -> NodeId {
    format!("{name}.cache.example.org").parse().unwrap()
}

fn pool() -> PoolName {
    "edge".parse().unwrap()
}

fn pool_id() -> PoolId {
    "0123456789abcdef0123456789abcdef".parse().unwrap()
}

fn print(number: u8) -> KeyFingerprint {
    KeyFingerprint::from_bytes([number; 8])
}

fn slot(number: u8) -> SlotPrint {
    SlotPrint { epoch: Epoch::new(u64::from(number)), fingerprint: print(number) }
}

fn at() -> UnixTime {
    "2026-12-01T00:00:00Z".parse().unwrap()
}

fn taught(number: u8) -> KeyMaterial {
    let key = TfoKey::take(&mut [number; 16]);
    KeyMaterial {
        epoch: Epoch::new(u64::from(number)).unwrap(),
        fingerprint: print(number),
        key: SecretText::of_key(&key),
    }
}

fn value(of: &impl serde::Serialize) -> Value {
    serde_json::to_value(of).unwrap()
}

/// What a node or an operator sends must also be read back from what it looks like.
fn reads_back<T: serde::Serialize + serde::de::DeserializeOwned>(sent: &T) -> Value {
    let value = value(sent);
    let back: T = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(self::value(&back), value);
    let mut more = value.clone();
    more["unknown"] = json!(1);
    assert!(serde_json::from_value::<T>(more).is_err(), "unknown fields of a request are refused: {value}");
    value
}

#[test]
fn sync() {
    let request = SyncRequest {
        wait_secs: 30,
        next_contact_secs: 60,
        session: "1790000000000-00000000000000ab".parse().unwrap(),
        seen: Generation::new(6),
        installed: Some(InstalledKeys {
            pool_id: Some(pool_id()),
            generation: Some(Generation::new(6)),
            primary: slot(2),
            backup: Some(slot(1)),
        }),
        kernel: "6.1.0-42-amd64".to_owned(),
        agent: "0.1.0".to_owned(),
        tcp_fastopen: Some(3),
        clock: ClockReport { unix_ms: 1_790_000_000_123, synchronised: Some(true) },
        counters: serde_json::from_value(json!({"passive": 9, "passive_alt_key": 1, "passive_fail": 0})).unwrap(),
        error: None,
        note: None,
        backup_slot: None,
        source: KeySource::Coordinator,
        caveats: vec![Caveat::TfoOff.into()],
        namespaces: Some(51),
    };
    let answer = SyncAnswer {
        pool: pool(),
        pool_id: pool_id(),
        generation: Generation::new(7),
        phase: Phase::Staged,
        primary: taught(2),
        backup: Some(taught(3)),
        absent_after_secs: 600,
    };
    let itself = SelfAnswer {
        pool: pool(),
        pool_id: pool_id(),
        node: node("a"),
        phase: Phase::Empty,
        frozen: false,
        denied: false,
        moved_to: Some("dns".parse().unwrap()),
    };
    let least = json!({
        "wait_secs": 0, "next_contact_secs": 60, "session": "1-0000000000000001", "seen": 0, "installed": null,
        "kernel": "", "agent": "", "tcp_fastopen": null, "clock": {"unix_ms": 0, "synchronised": null},
        "counters": null, "error": null,
    });
    let least: SyncRequest = serde_json::from_value(least).unwrap();
    insta::assert_json_snapshot!(json!({
        "request": reads_back(&request), "least_request": value(&least), "answer": value(&answer), "self": value(&itself),
    }));
}

fn status() -> PoolStatus {
    PoolStatus {
        cookie_lifetime_secs: 172_800,
        pool: pool(),
        pool_id: pool_id(),
        revision: Revision::new(12),
        generation: Generation::new(7),
        phase: Phase::Promoted,
        primary: Some(slot(3)),
        backup: Some(slot(2)),
        verdict: Verdict {
            severity: Severity::Ok.into(),
            kind: VerdictKind::Agree.into(),
            since: None,
            sentence: "every node accepts every other node's cookies".to_owned(),
            nodes: Vec::new(),
            more: 0,
            numbers: BTreeMap::new(),
            next: None,
            docs: None,
        },
        paused: None,
        hold: Some(HoldReason::Aborted.into()),
        expect: Some(Expected::Number(100)),
        required: 100,
        converged: 99,
        reporting: 2,
        waiting_for: vec![node("a")],
        next_at: Some(at()),
        blocked_by: Some(BlockedBy::Barrier.into()),
        since: at(),
        waves: Some(Waves { opened: 1, of: 3 }),
        revoking: vec![slot(2)],
        recoverable: vec![SlotPairShown { primary: slot(3), backup: None }],
        policy_differs: vec!["interval".to_owned()],
        policy_waits: true,
        expected_nodes: 100,
        expected_in_file: true,
        unseen: 1,
        next_exclusion_at: Some(at()),
        deaf_since: Some(at()),
        waiver: Some(Waiver {
            wave: 1,
            of: 3,
            rejected_ppm: 120_000,
            baseline_ppm: 1_000,
            nodes: 2,
            next: vec![node("b"), node("c")],
        }),
        rotate_refused: Some(Closed {
            message: "the pool is held (phase promoted)".to_owned(),
            remedy: "`tfoctl resume` first".to_owned(),
            until: None,
        }),
        calendar: Some(CalendarSpan { from: at(), until: at().plus(3_600), reason: "year end".to_owned() }),
    }
}

#[test]
fn pools_nodes_and_audit() {
    let status_of = |state: NodeState| NodeStatus {
        node: node("a"),
        state: state.into(),
        generation: Some(Generation::new(6)),
        primary: Some(slot(2)),
        backup: None,
        last_report_at: Some(at()),
        behind_since: Some(at()),
        source: KeySource::Coordinator.into(),
        error: Some("drift".to_owned()),
        note: Some("certificate_ends".to_owned()),
        kernel: Some("6.1.0".to_owned()),
        agent: Some("0.1.0".to_owned()),
        tcp_fastopen: Some(3),
        caveats: vec![Caveat::Synproxy.into()],
        namespaces: Some(51),
        excluded: Some(ExclusionReason::Absent.into()),
        excluded_until: Some(at()),
        moved_to: Some("dns".parse().unwrap()),
        connected: Some(false),
        connected_since: Some(at()),
        certificate_until: Some(at()),
    };
    let fingerprints = vec![FingerprintCount { primary: print(2), backup: Some(print(1)), nodes: 99 }];
    let line = AuditLine {
        at: at(),
        revision: Revision::new(12),
        generation: Generation::new(7),
        phase: Phase::Promoted,
        operator: Some("ops1.example.org".parse().unwrap()),
        action: Action::Promote.into(),
        nodes: BTreeSet::from([node("a")]),
        more: 29_999,
        reason: "because".to_owned(),
    };
    insta::assert_json_snapshot!(json!({
        "pools": value(&Pools { pools: vec![status()] }),
        "nodes": value(&Nodes { pool: pool(), nodes: vec![status_of(NodeState::Drifted)], fingerprints }),
        "audit": value(&Audit { pool: pool(), entries: vec![line], more: true, read_to: Revision::new(12) }),
    }));
}

#[test]
fn coordinators() {
    let all = ["tfo1", "tfo2"].map(|name| CoordinatorStatus {
        name: name.parse().unwrap(),
        answers: name == "tfo1",
        release: Some("0.1.0".to_owned()),
        life: Some(3),
        nodes: 7,
        beat_at: Some(at()),
        silent: false,
        clock_ahead_secs: Some(-2),
        policy_differs: vec!["interval".to_owned()],
    });
    let forget = ForgetCoordinatorRequest { forget: "tfo3".parse().unwrap(), reason: "its host is gone".to_owned() };
    insta::assert_json_snapshot!(json!({
        "coordinators": value(&Coordinators { pool: pool(), coordinators: all.into() }),
        "forget": reads_back(&forget),
    }));
}

#[test]
fn events() {
    let event = Event {
        version: VERSION,
        id: "00112233445566778899aabbccddeeff".to_owned(),
        kind: NoticeKind::RotationEnded.into(),
        state: NoticeState::Done.into(),
        at: at(),
        since: at(),
        coordinator: Some(node("tfo1")),
        pool: Some(pool()),
        pool_id: Some(pool_id()),
        verdict: Some(status().verdict),
        rotation: Some(Rotation { generation: Generation::new(7), primary: slot(3), backup: Some(slot(2)) }),
        certificates: vec![Ending { until: at(), of: "node".to_owned(), name: Some(node("a")) }],
    };
    let kinds = NoticeKind::ALL.map(NoticeKind::as_str);
    let states = NoticeState::ALL.map(NoticeState::as_str);
    assert_eq!(serde_json::from_value::<Event>(value(&event)).unwrap(), event);
    insta::assert_json_snapshot!(json!({"event": value(&event), "kinds": kinds, "states": states}));
    let page = include_str!("../../docs/reference/json.md");
    let (_, described) = page.split_once("\n## event\n").unwrap();
    let described = described.split("\n## ").next().unwrap();
    for name in kinds.iter().chain(&states) {
        assert!(described.contains(&format!("`{name}`")), "docs/reference/json.md#event lacks {name}");
    }
}

#[test]
fn commands() {
    let reason = || "because".to_owned();
    let keys = || SecretText::of_key(&TfoKey::take(&mut [1; 16]));
    let rotation = RotationRequest {
        reason: reason(),
        mode: RotationMode::Revoke,
        deny: BTreeSet::from([node("a")]),
        epochs: BTreeSet::from([Epoch::FIRST]),
        expect: None,
        force: true,
        if_revision: Some(Revision::new(12)),
    };
    let order_nodes = |action| NodesRequest { action, nodes: BTreeSet::from([node("a"), node("b")]), reason: reason() };
    let done = Done {
        pool: pool(),
        revision: Revision::new(13),
        generation: Generation::new(7),
        phase: Phase::Staged,
        action: Action::Rotate.into(),
        nodes: BTreeSet::new(),
        more: 0,
    };
    insta::assert_json_snapshot!(json!({
        "command": reads_back(&Command { reason: reason(), force: false, if_revision: Some(Revision::new(12)) }),
        "least_command": value(&Command::default()),
        "rotation": reads_back(&rotation),
        "first": reads_back(&RotationRequest {
            mode: RotationMode::First, expect: Some(Expected::Number(3)), ..RotationRequest::default()
        }),
        "expected_names": value(&Expected::Names(BTreeSet::from([node("a")]))),
        "advance": reads_back(&AdvanceRequest {
            reason: reason(), generation: Generation::new(7), leave: BTreeSet::from([node("a")]),
        }),
        "import": reads_back(&ImportRequest { reason: reason(), keys: keys(), expect: None }),
        "recover": reads_back(&RecoverRequest {
            reason: reason(),
            slots: Some(SlotPairShown { primary: slot(3), backup: Some(slot(2)) }),
            keys: Some(keys()),
        }),
        "exclude": reads_back(&order_nodes(NodeAction::Exclude { until: at() })),
        "include": reads_back(&order_nodes(NodeAction::Include)),
        "deny": reads_back(&order_nodes(NodeAction::Deny)),
        "allow": reads_back(&order_nodes(NodeAction::Allow)),
        "forget": reads_back(&order_nodes(NodeAction::Forget { lower_expected: true })),
        "move": reads_back(&order_nodes(NodeAction::Move { to: "dns".parse().unwrap(), lower_expected: true })),
        "expect": reads_back(&ExpectRequest { number: 900, reason: reason(), if_revision: Some(Revision::new(12)) }),
        "done": value(&done),
    }));
}

#[test]
fn enrol() {
    let csr = || "-----BEGIN CERTIFICATE REQUEST-----\n".to_owned();
    let request = EnrolRequest {
        token_id: "0123456789ab".parse().unwrap(),
        secret: TokenText::new("AAAAAAAAAAAAAAAAAAAAAA".to_owned().into()),
        name: node("a"),
        csr: csr(),
    };
    let answer = Certified {
        certificate: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        chain: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        pools: vec![pool()],
        urls: vec!["https://c1.example.org:9443".to_owned()],
    };
    insta::assert_json_snapshot!(json!({
        "request": reads_back(&request), "renewal": reads_back(&RenewRequest { csr: csr() }), "answer": value(&answer),
    }));
}

#[test]
fn errors() {
    let kinds = ErrorKind::ALL.into_iter().filter(|kind| *kind != ErrorKind::Unknown);
    let kinds: Vec<Value> = kinds.map(|kind| json!({"kind": kind, "status": kind.status()})).collect();
    let body = ErrorBody {
        kind: ErrorKind::SessionClosed,
        message: "a later session of this node is open".to_owned(),
        request_id: "0123456789abcdef".to_owned(),
        ordinal: Some(7),
        moved: None,
        until: None,
        remedy: None,
    };
    let refused = ErrorBody {
        kind: ErrorKind::Refused,
        until: Some(at()),
        remedy: Some("wait until then".to_owned()),
        ordinal: None,
        ..body.clone()
    };
    let order = MovedTo { from: pool_id(), pool: "dns".parse().unwrap(), pool_id: "d".repeat(32).parse().unwrap() };
    let moved = ErrorBody { kind: ErrorKind::NodeMoved, ordinal: None, moved: Some(order), ..body.clone() };
    let later: ErrorBody =
        serde_json::from_value(json!({"kind": "of_a_later_release", "message": "", "request_id": ""})).unwrap();
    assert_eq!(later.kind, ErrorKind::Unknown);
    insta::assert_json_snapshot!(
        json!({"kinds": kinds, "body": value(&body), "refused": value(&refused), "moved": value(&moved)})
    );
}
