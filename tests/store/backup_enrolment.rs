//! `export` and `import` of tokens, certificates and revocations: none comes back to life.

use tfo_coordinator::backup::{self, Existing, export};
use tfo_model::ids::NodeId;
use tfo_model::serial::SerialNumber;
use tfo_model::time::UnixTime;
use tfo_store::enrolment::{Certificate, Claim, CutOff, Digest, Token, TokenEnd};
use tfo_store::{Enrolments, MemoryStore, ReadEnrolments, ReadStore, SqliteReader, SqliteStore};

use tfo_testbed::etcd::{Etcd, Plan, need_etcd};
use tfo_testbed::skip_unless;

use super::backup::{FullStore, fill, import};
use super::walk::pool_name;
use super::{kek, open};

/// A token with uses left, a certificate of each of two nodes, one of them revoked, and one whose revocation is planned.
fn enrol(store: &dyn Enrolments) {
    let now = UnixTime::from_secs(1_790_000_000);
    let names = ["a", "b", "c"].map(|name| format!("{name}.cache.example.org").parse::<NodeId>().unwrap());
    let token = Token {
        id: "0123456789ab".parse().unwrap(),
        hash: Digest([0xd7; 32]),
        pool: pool_name("edge"),
        nodes: vec!["*".parse().unwrap()],
        uses: 9,
        used: 0,
        expires_at: now.plus(1_000_000_000),
        replace: false,
        made_by: "ops1.example.org".parse().unwrap(),
        made_at: now,
        revoked: None,
        last_use: None,
        expiry_logged: false,
    };
    store.add_token(&token, now).unwrap();
    for (number, name) in (1..).zip(&names) {
        let certificate = Certificate {
            serial: SerialNumber::of_random([number; 16]),
            node: name.clone(),
            key: Digest([number; 32]),
            issued_at: now,
            not_after: now.plus(1_000_000_000),
            token: Some(token.id.clone()),
            revoked_at: None,
        };
        let claim = Claim::Token { id: &token.id, hash: &token.hash, known: false };
        store.record(&certificate, claim, None).unwrap();
    }
    let plan = |id, name: &NodeId| CutOff {
        id,
        by: "coordinator".parse().unwrap(),
        life: None,
        pool: pool_name("edge"),
        nodes: [name.clone()].into(),
        operator: "ops1.example.org".parse().unwrap(),
        order: "forget".to_owned(),
        at: now,
    };
    let done = plan(1, &names[0]);
    store.plan_cut_off(&done).unwrap();
    store.finish_cut_off(&done, &done.nodes, now).unwrap();
    store.plan_cut_off(&plan(2, &names[1])).unwrap();
}

#[test]
fn tokens_certificates_and_revocations_go_round_and_no_use_comes_back() {
    let (first, second, files) = (tfo_testbed::scratch(), tfo_testbed::scratch(), tfo_testbed::scratch());
    let source = open(first.path());
    fill(&source);
    enrol(&source);
    let file = files.path().join("one");
    // As the unit does it: beside a coordinator that serves.
    let reader = SqliteReader::open(&first.path().join("state.db"), kek(1)).unwrap();
    let made = export(&reader, &kek(1), &file, Existing::Keep).unwrap();
    let counts = made.enrolment;
    assert_eq!((counts.tokens, counts.certificates, counts.revoked, counts.log_entries), (1, 3, 1, 5));
    let bytes = std::fs::read(&file).unwrap();
    for secret in [&[0xd7; 8][..], b"0123456789ab", b"ops1"] {
        assert!(!bytes.windows(secret.len()).any(|part| part == secret), "{secret:?}");
    }
    let target = SqliteStore::open(&second.path().join("state.db"), kek(2)).unwrap();
    // Cut off after the first part: the pools are still missing, and a second run makes them.
    let problem = backup::import(&FullStore { inner: &MemoryStore::new(), room: 0.into() }, &target, &kek(1), &file);
    let problem = problem.err().unwrap();
    assert!(problem.message.contains("imported: tokens and certificates"), "{problem}");
    assert!(target.pools().unwrap().is_empty());
    let imported = import(&target, &kek(1), &file).unwrap();
    assert_eq!((imported.made.len(), imported.enrolment), (2, counts));
    drop(target);
    let target = SqliteStore::open(&second.path().join("state.db"), kek(2)).unwrap();
    let (before, after) = (source.image().unwrap(), target.image().unwrap());
    assert_eq!((&after.certificates, &after.cut_offs), (&before.certificates, &before.cut_offs));
    assert_eq!((after.revoked(), &after.log[..5], after.log.len()), (1, &before.log[..], 6));
    assert!(matches!(after.tokens[0].revoked, Some(TokenEnd { by: None, .. })), "{:?}", after.tokens);
    assert_eq!(after.tokens[0].used, 3);
}

#[test]
fn they_go_to_etcd_and_back() {
    skip_unless!(need_etcd());
    let (first, back, files) = (tfo_testbed::scratch(), tfo_testbed::scratch(), tfo_testbed::scratch());
    let source = open(first.path());
    fill(&source);
    enrol(&source);
    let [file, again] = ["one", "two"].map(|name| files.path().join(name));
    export(&source, &kek(1), &file, Existing::Keep).unwrap();
    let etcd = Etcd::new(&Plan::of(1));
    let cluster = super::etcd::open(&etcd);
    import(&cluster, &kek(1), &file).unwrap();
    export(&cluster, &kek(1), &again, Existing::Keep).unwrap();
    let target = open(back.path());
    import(&target, &kek(1), &again).unwrap();
    let (before, after) = (source.image().unwrap(), target.image().unwrap());
    assert_eq!((&after.certificates, &after.cut_offs), (&before.certificates, &before.cut_offs));
    // Each restore has its entry.
    assert_eq!((&after.log[..5], after.log.len()), (&before.log[..], 7));
    assert!(matches!(after.tokens[0].revoked, Some(TokenEnd { by: None, .. })), "{:?}", after.tokens);
}
