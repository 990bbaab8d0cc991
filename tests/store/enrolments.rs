//! What every kind of store does with tokens and certificates: each function is a test of the suite.

use std::collections::BTreeSet;

use tfo_model::ids::{NodeId, TokenId};
use tfo_model::serial::SerialNumber;
use tfo_model::time::UnixTime;
use tfo_store::enrolment::{
    Certificate, Claim, Digest, EnrolError, EnrolRefused, TOKENS_MAX, Token, TokenEnd, TokenError, TokenFault, Wish,
};
use tfo_store::{Enrolments, SqliteStore};

const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);
const DAY: u64 = 86_400;
const SECRET: Digest = Digest([7; 32]);

fn node(name: &str) -> NodeId {
    format!("{name}.cache.example.org").parse().unwrap()
}

fn operator() -> NodeId {
    "ops1.example.org".parse().unwrap()
}

/// The id of a token by its number.
fn id(number: usize) -> TokenId {
    format!("{number:012x}").parse().unwrap()
}

fn token(number: usize, uses: u32) -> Token {
    Token {
        id: id(number),
        hash: SECRET,
        pool: "edge".parse().unwrap(),
        nodes: vec!["*.cache.example.org".parse().unwrap()],
        uses,
        used: 0,
        expires_at: NOW.plus(DAY),
        replace: false,
        made_by: operator(),
        made_at: NOW,
        revoked: None,
        last_use: None,
    }
}

fn certificate(number: u8, name: &str, at: UnixTime) -> Certificate {
    Certificate {
        serial: SerialNumber::of_random([number; 16]),
        node: node(name),
        key: Digest([number; 32]),
        issued_at: at,
        not_after: at.plus(30 * DAY),
        token: Some(id(1)),
        revoked_at: None,
    }
}

/// Records a certificate by the token of this number.
fn record(store: &dyn Enrolments, number: usize, certificate: &Certificate) -> Result<bool, EnrolError> {
    store.record(certificate, Claim::Token { id: &id(number), hash: &SECRET, known: false })
}

fn refused<T: std::fmt::Debug>(result: Result<T, EnrolError>) -> EnrolRefused {
    match result {
        Err(EnrolError::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

fn a_use_is_taken_with_the_certificate_and_with_nothing_else(store: &dyn Enrolments) {
    store.add_token(&token(1, 2), NOW).unwrap();
    assert!(matches!(store.add_token(&token(1, 9), NOW), Err(TokenError::Exists)));
    let first = certificate(1, "a", NOW.plus(1));
    let claim = Claim::Token { id: &id(1), hash: &SECRET, known: false };
    let wish = Wish { node: &first.node, key: Some(&first.key), claim };
    assert_eq!(store.judge(&wish, NOW).unwrap(), Some("edge".parse().unwrap()));
    assert_eq!(store.tokens().unwrap()[0].used, 0, "judging takes nothing");
    assert!(!record(store, 1, &first).unwrap());
    // The same request again; another key for the same name; the same key for another name.
    assert_eq!(refused(record(store, 1, &first)), EnrolRefused::Taken);
    assert_eq!(refused(record(store, 1, &certificate(2, "a", NOW.plus(2)))), EnrolRefused::Taken);
    let copied = Certificate { key: first.key, ..certificate(3, "b", NOW.plus(2)) };
    assert_eq!(refused(record(store, 1, &copied)), EnrolRefused::KeyUsed);
    let used = &store.tokens().unwrap()[0];
    assert_eq!((used.used, used.last_use.as_ref().map(|last| &last.node)), (1, Some(&node("a"))));
    record(store, 1, &certificate(4, "c", NOW.plus(3))).unwrap();
    let last = refused(record(store, 1, &certificate(5, "d", NOW.plus(4))));
    assert_eq!(last, EnrolRefused::Token(TokenFault::UsedUp));
    assert_eq!(store.certificates(&node("a")).unwrap(), [first]);
    assert_eq!(store.certificates(&node("d")).unwrap(), []);
}

fn a_token_that_may_replace_revokes_what_it_replaces(store: &dyn Enrolments) {
    store.add_token(&token(1, 9), NOW).unwrap();
    store.add_token(&Token { replace: true, ..token(2, 9) }, NOW).unwrap();
    record(store, 1, &certificate(1, "a", NOW.plus(1))).unwrap();
    assert!(record(store, 2, &certificate(2, "a", NOW.plus(2))).unwrap());
    let states: Vec<_> = store.certificates(&node("a")).unwrap().into_iter().map(|one| one.revoked_at).collect();
    assert_eq!(states, [Some(NOW.plus(2)), None]);
    let revoked: Vec<_> = store.revoked().unwrap().into_iter().map(|one| one.serial).collect();
    assert_eq!(revoked, [SerialNumber::of_random([1; 16])]);
}

fn a_revoked_token_is_of_no_use_and_the_first_revocation_counts(store: &dyn Enrolments) {
    let end = |secs| TokenEnd { by: operator(), at: NOW.plus(secs) };
    assert_eq!(store.revoke_token(&id(1), &end(1)).unwrap(), None);
    store.add_token(&token(1, 9), NOW).unwrap();
    store.revoke_token(&id(1), &end(1)).unwrap();
    assert_eq!(store.revoke_token(&id(1), &end(2)).unwrap().unwrap().revoked, Some(end(1)));
    let late = refused(record(store, 1, &certificate(1, "a", NOW.plus(3))));
    assert_eq!(late, EnrolRefused::Token(TokenFault::Revoked));
    let unknown = refused(record(store, 7, &certificate(1, "a", NOW.plus(3))));
    assert_eq!(unknown, EnrolRefused::Token(TokenFault::Unknown));
}

fn certificates_of_nodes_are_revoked_together_and_renewed_one_by_one(store: &dyn Enrolments) {
    for (number, name) in [(1, "a"), (2, "a"), (3, "b"), (4, "c")] {
        store.record(&Certificate { token: None, ..certificate(number, name, NOW) }, Claim::Renewal).unwrap();
    }
    let both: BTreeSet<NodeId> = ["a", "b", "nowhere"].map(node).into();
    assert_eq!(store.revoke(&both, NOW.plus(5)).unwrap(), 3);
    assert_eq!(store.revoke(&both, NOW.plus(6)).unwrap(), 0);
    let mut times: Vec<_> = store.revoked().unwrap().into_iter().map(|one| one.revoked_at).collect();
    times.dedup();
    assert_eq!(times, [Some(NOW.plus(5))]);
    assert!(store.certificates(&node("c")).unwrap()[0].is_live(NOW));
}

fn the_newest_certificate_of_a_name_stays_recorded(store: &dyn Enrolments) {
    store.add_token(&Token { expires_at: NOW.plus(999 * DAY), ..token(1, 9) }, NOW).unwrap();
    store.record(&certificate(1, "a", NOW), Claim::Renewal).unwrap();
    store.record(&certificate(2, "a", NOW.plus(20 * DAY)), Claim::Renewal).unwrap();
    let later = NOW.plus(100 * DAY);
    assert_eq!(store.certificates(&node("a")).unwrap().len(), 2, "nothing goes by itself");
    // A node that was off for long comes back: known, and its last certificate has ended.
    let known = Claim::Token { id: &id(1), hash: &SECRET, known: true };
    store.record(&certificate(3, "a", later), known).unwrap();
    let left: Vec<_> = store.certificates(&node("a")).unwrap().into_iter().map(|one| one.serial).collect();
    assert_eq!(left, [SerialNumber::of_random([3; 16])]);
}

fn tokens_are_bounded_and_ended_ones_make_room(store: &dyn Enrolments) {
    for number in 0..TOKENS_MAX {
        store.add_token(&token(number, 1), NOW).unwrap();
    }
    assert!(matches!(store.add_token(&token(5_000, 1), NOW), Err(TokenError::TooMany)));
    store.revoke_token(&id(7), &TokenEnd { by: operator(), at: NOW }).unwrap();
    store.add_token(&token(5_000, 1), NOW.plus(1)).unwrap();
    let ids: BTreeSet<TokenId> = store.tokens().unwrap().into_iter().map(|one| one.id).collect();
    assert!(ids.len() == TOKENS_MAX && ids.contains(&id(5_000)) && !ids.contains(&id(7)));
    // A week after all have expired.
    let late = NOW.plus(8 * DAY);
    store.add_token(&Token { made_at: late, expires_at: late.plus(1), ..token(6_000, 1) }, late).unwrap();
    assert_eq!(store.tokens().unwrap().len(), 1);
}

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $test() { super::$test(&tfo_store::MemoryStore::new()); })*
        }
        mod sqlite {
            $(#[test] fn $test() {
                let dir = tfo_testbed::scratch_in_memory();
                super::$test(&crate::open(dir.path()));
            })*
        }
    };
}

suite! {
    a_use_is_taken_with_the_certificate_and_with_nothing_else,
    a_token_that_may_replace_revokes_what_it_replaces,
    a_revoked_token_is_of_no_use_and_the_first_revocation_counts,
    certificates_of_nodes_are_revoked_together_and_renewed_one_by_one,
    the_newest_certificate_of_a_name_stays_recorded,
    tokens_are_bounded_and_ended_ones_make_room,
}

#[test]
fn a_restart_forgets_nothing() {
    let dir = tfo_testbed::scratch();
    let recorded = certificate(1, "a", NOW.plus(1));
    {
        let store: SqliteStore = crate::open(dir.path());
        store.add_token(&token(1, 2), NOW).unwrap();
        record(&store, 1, &recorded).unwrap();
        store.revoke(&[node("a")].into(), NOW.plus(2)).unwrap();
    }
    let store = crate::open(dir.path());
    assert_eq!(store.tokens().unwrap()[0].used, 1);
    assert_eq!(store.revoked().unwrap(), [Certificate { revoked_at: Some(NOW.plus(2)), ..recorded }]);
}
