//! What every kind of store does with tokens and certificates: each function is a test of the suite.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use tfo_model::fleet::EnrolAction;
use tfo_model::ids::{NodeId, TokenId};
use tfo_model::serial::SerialNumber;
use tfo_model::time::UnixTime;
use tfo_store::enrolment::{
    Certificate, Claim, CutOff, Digest, EnrolError, EnrolRefused, Image, LogEntry, LogPart, Logged, Shown, TOKENS_MAX,
    Token, TokenEnd, TokenError, TokenFault, Wish,
};
use tfo_store::{Enrolments, MemoryStore, ReadEnrolments, SqliteStore};
use tfo_testbed::etcd::{Etcd, Plan, need_etcd};
use tfo_testbed::skip_unless;

use super::enrolment_log::verify;
use super::etcd;
use tfo_testbed::proxy::{Mode, Proxy};

/// Where requests come from.
const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(super) const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);
const DAY: u64 = 86_400;
const SECRET: Digest = Digest([7; 32]);

fn node(name: &str) -> NodeId {
    format!("{name}.cache.example.org").parse().unwrap()
}

fn operator() -> NodeId {
    "ops1.example.org".parse().unwrap()
}

/// What the log of an image says.
fn said(image: &Image) -> Vec<LogEntry> {
    image.log.iter().map(|written| written.entry().clone()).collect()
}

/// The id of a token by its number.
fn id(number: usize) -> TokenId {
    format!("{number:012x}").parse().unwrap()
}

pub(super) fn token(number: usize, uses: u32) -> Token {
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
        expiry_logged: false,
    }
}

pub(super) fn certificate(number: u8, name: &str, at: UnixTime) -> Certificate {
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
pub(super) fn record(store: &dyn Enrolments, number: usize, certificate: &Certificate) -> Result<bool, EnrolError> {
    store.record(certificate, Claim::Token { id: &id(number), hash: &SECRET, known: false }, Some(FROM))
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
    let end = |secs| TokenEnd { by: Some(operator()), at: NOW.plus(secs) };
    assert_eq!(store.revoke_token(&id(1), &end(1)).unwrap(), None);
    store.add_token(&token(1, 9), NOW).unwrap();
    store.revoke_token(&id(1), &end(1)).unwrap();
    assert_eq!(store.revoke_token(&id(1), &end(2)).unwrap().unwrap().revoked, Some(end(1)));
    let late = refused(record(store, 1, &certificate(1, "a", NOW.plus(3))));
    assert_eq!(late, EnrolRefused::Token(TokenFault::Revoked));
    let unknown = refused(record(store, 7, &certificate(1, "a", NOW.plus(3))));
    assert_eq!(unknown, EnrolRefused::Token(TokenFault::Unknown));
}

/// A renewal that was asked for at this time.
fn renew(store: &dyn Enrolments, certificate: &Certificate, asked_at: UnixTime) -> Result<bool, EnrolError> {
    let pool = "edge".parse().unwrap();
    store.record(
        &Certificate { token: None, ..certificate.clone() },
        Claim::Renewal { pool: Some(&pool), asked_at },
        Some(FROM),
    )
}

fn plan(id: u64, names: &[&str], at: UnixTime) -> CutOff {
    CutOff {
        id,
        by: "coordinator".parse().unwrap(),
        life: None,
        pool: "edge".parse().unwrap(),
        nodes: names.iter().map(|name| node(name)).collect(),
        operator: operator(),
        order: "forget".to_owned(),
        at,
    }
}

fn a_plan_keeps_its_nodes_from_certificates_until_it_is_carried_out(store: &dyn Enrolments) {
    store.add_token(&Token { replace: true, ..token(1, 9) }, NOW).unwrap();
    for (number, name) in [(1, "a"), (2, "a"), (3, "b"), (4, "c")] {
        renew(store, &certificate(number, name, NOW), NOW).unwrap();
    }
    let (first, second) = (plan(7, &["a", "b", "nowhere"], NOW), plan(8, &["c"], NOW));
    for plan in [&second, &first, &first] {
        store.plan_cut_off(plan).unwrap();
    }
    assert_eq!(store.cut_offs().unwrap(), [first.clone(), second.clone()]);
    assert_eq!(store.revoked().unwrap(), [], "the order may still be refused");
    for name in ["a", "b", "c"] {
        assert_eq!(refused(record(store, 1, &certificate(9, name, NOW.plus(1)))), EnrolRefused::CutOff, "{name}");
        assert_eq!(refused(renew(store, &certificate(9, name, NOW.plus(1)), NOW)), EnrolRefused::CutOff, "{name}");
    }
    // The order took effect for two of them; the other plan is dropped.
    assert_eq!(store.finish_cut_off(&first, &["a", "b"].map(node).into(), NOW.plus(5)).unwrap(), 3);
    assert_eq!(store.finish_cut_off(&second, &[].into(), NOW.plus(5)).unwrap(), 0);
    assert_eq!(store.cut_offs().unwrap(), []);
    assert_eq!(store.finish_cut_off(&first, &first.nodes, NOW.plus(6)).unwrap(), 0, "it was carried out");
    let mut times: Vec<_> = store.revoked().unwrap().into_iter().map(|one| one.revoked_at).collect();
    times.dedup();
    assert_eq!(times, [Some(NOW.plus(5))]);
    assert!(store.certificates(&node("c")).unwrap()[0].is_live(NOW));
    // A renewal that was on its way meanwhile comes too late; the node that was left alone, and one that joins again, do not.
    assert_eq!(refused(renew(store, &certificate(10, "a", NOW.plus(6)), NOW.plus(5))), EnrolRefused::CutOff);
    renew(store, &certificate(11, "c", NOW.plus(6)), NOW.plus(5)).unwrap();
    record(store, 1, &certificate(12, "a", NOW.plus(6))).unwrap();
}

fn every_change_has_its_entry_and_an_attempt_that_fails_has_none(store: &dyn Enrolments) {
    use EnrolAction::{
        CertificatesRevoked, Enrolled, Refused, Renewed, TokenExpired, TokenMade, TokenRevoked, TokenUsedUp,
    };
    store.add_token(&token(1, 2), NOW).unwrap();
    store.add_token(&Token { replace: true, ..token(2, 9) }, NOW).unwrap();
    store.add_token(&token(3, 1), NOW).unwrap();
    record(store, 1, &certificate(1, "a", NOW.plus(1))).unwrap();
    record(store, 1, &certificate(2, "a", NOW.plus(1))).unwrap_err();
    record(store, 1, &certificate(2, "b", NOW.plus(2))).unwrap();
    record(store, 2, &certificate(3, "a", NOW.plus(3))).unwrap();
    renew(store, &certificate(4, "a", NOW.plus(4)), NOW.plus(4)).unwrap();
    let end = TokenEnd { by: Some(operator()), at: NOW.plus(5) };
    store.revoke_token(&id(2), &end).unwrap();
    store.revoke_token(&id(2), &end).unwrap();
    store.log_expired(NOW.plus(DAY - 1)).unwrap();
    store.log_expired(NOW.plus(DAY)).unwrap();
    store.log_expired(NOW.plus(2 * DAY)).unwrap();
    let order = plan(7, &["a", "b"], NOW.plus(6));
    store.plan_cut_off(&order).unwrap();
    store.finish_cut_off(&order, &order.nodes, NOW.plus(7)).unwrap();
    store.finish_cut_off(&order, &order.nodes, NOW.plus(7)).unwrap();
    let seen = LogEntry { count: 99, reason: "wrong secret".to_owned(), ..LogEntry::new(Refused, NOW.plus(8)) };
    store.add_to_log(std::slice::from_ref(&seen)).unwrap();
    let log = store.log(LogPart::After(0)).unwrap();
    let line = |logged: &Logged| {
        let LogEntry { action, token, nodes, operator, address, count, .. } = &logged.entry;
        let number = token.as_ref().map_or(0, |token| u64::from_str_radix(token.as_str(), 16).unwrap());
        let names: Vec<&str> = nodes.iter().map(|node| &node.as_str()[..1]).collect();
        (*action, number, names.concat(), operator.is_some(), address.is_some(), *count)
    };
    let expected = [
        (TokenMade, 1, "", true, false, 1),
        (TokenMade, 2, "", true, false, 1),
        (TokenMade, 3, "", true, false, 1),
        (Enrolled, 1, "a", false, true, 1),
        (Enrolled, 1, "b", false, true, 1),
        (TokenUsedUp, 1, "", false, false, 1),
        (Enrolled, 2, "a", false, true, 1),
        (CertificatesRevoked, 2, "a", false, true, 1),
        (Renewed, 0, "a", false, true, 1),
        (TokenRevoked, 2, "", true, false, 1),
        (TokenExpired, 3, "", false, false, 1),
        (CertificatesRevoked, 0, "ab", true, false, 3),
        (Refused, 0, "", false, false, 99),
    ];
    let found: Vec<_> = log.iter().map(line).collect();
    let expected: Vec<_> = expected.map(|(a, t, n, o, d, c)| (a, t, n.to_owned(), o, d, c)).into();
    assert_eq!(found, expected);
    assert!(log.iter().all(|logged| logged.entry.pool.is_some() || logged.entry == seen));
    // By parts, from both ends.
    let numbers: Vec<u64> = log.iter().map(|logged| logged.number).collect();
    assert!(numbers.is_sorted() && numbers[0] > 0);
    assert_eq!(store.log(LogPart::After(numbers[10])).unwrap(), log[11..]);
    assert_eq!(store.log(LogPart::Before(numbers[2])).unwrap(), log[..2]);
    assert_eq!(store.log(LogPart::After(u64::MAX)).unwrap(), []);
    assert_eq!(store.log(LogPart::Before(u64::MAX)).unwrap(), log);
    // It is a chain, of which each entry leads to the next.
    let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
    let verified = verify(store).unwrap();
    assert_eq!((verified.entries, verified.first, verified.last), (numbers.len() as u64, first, last));
    store.add_to_log(std::slice::from_ref(&seen)).unwrap();
    let later = verify(store).unwrap();
    assert!(later.entries == verified.entries + 1 && later.chain != verified.chain, "{later:?}");
    assert_eq!(store.log_chain(last).unwrap().rows.len(), 1);
    // No hash of a secret is in it, whatever its form.
    let text = format!("{log:?}");
    assert!(!text.contains(&"07".repeat(4)) && !text.contains("7, 7, 7"), "{text}");
}

fn a_restore_takes_no_revocation_back_and_gives_no_use_back(store: &dyn Enrolments) {
    let saved = MemoryStore::new();
    saved.add_token(&token(1, 9), NOW).unwrap();
    saved.add_token(&token(2, 1), NOW).unwrap();
    for (number, token, name) in [(1, 1, "a"), (2, 1, "b"), (3, 2, "c")] {
        record(&saved, token, &certificate(number, name, NOW.plus(1))).unwrap();
    }
    let order = plan(7, &["a"], NOW.plus(2));
    saved.finish_cut_off(&order, &order.nodes, NOW.plus(2)).unwrap();
    let left = plan(8, &["b"], NOW.plus(2));
    saved.plan_cut_off(&left).unwrap();
    let image = saved.image().unwrap();
    assert_eq!((image.tokens.len(), image.certificates.len(), image.revoked(), image.log.len()), (2, 3, 1, 7));

    store.restore(&image, NOW.plus(9)).unwrap();
    assert_eq!(store.revoked().unwrap(), saved.revoked().unwrap());
    assert_eq!(store.cut_offs().unwrap(), [left]);
    // Eight uses were left; the backup does not know how many have been taken since.
    let tokens = store.tokens().unwrap();
    assert_eq!((tokens[0].used, tokens[0].revoked.clone()), (2, Some(TokenEnd { by: None, at: NOW.plus(9) })));
    assert_eq!((tokens[1].used, tokens[1].revoked.clone()), (1, None), "it had ended by itself");
    let late = refused(record(store, 1, &certificate(9, "d", NOW.plus(9))));
    assert_eq!(late, EnrolRefused::Token(TokenFault::Revoked));
    // A key is certified once, also across a restore.
    let again = Certificate { key: Digest([3; 32]), ..certificate(9, "d", NOW.plus(9)) };
    assert_eq!(refused(renew(store, &again, NOW.plus(9))), EnrolRefused::KeyUsed);
    let log = store.log(LogPart::After(0)).unwrap();
    let entries: Vec<_> = log.iter().map(|logged| logged.entry.clone()).collect();
    assert_eq!((&entries[..7], entries[7].action, entries.len()), (&said(&image)[..], EnrolAction::Restored, 8));
    // Taken over word for word, so that the chain goes through.
    let before = store.image().unwrap();
    assert_eq!((&before.log[..7], verify(store).map(|verified| verified.entries)), (&image.log[..], Ok(8)));
    // Once more: nothing changes.  Beside what has happened since: what is revoked on either side stays so.
    store.restore(&image, NOW.plus(10)).unwrap();
    assert_eq!(store.image().unwrap(), before);
    let order = plan(9, &["c"], NOW.plus(11));
    store.finish_cut_off(&order, &order.nodes, NOW.plus(11)).unwrap();
    let mut image = image;
    image
        .certificates
        .iter_mut()
        .filter(|one| one.node == node("b"))
        .for_each(|one| one.revoked_at = Some(NOW.plus(12)));
    store.restore(&image, NOW.plus(13)).unwrap();
    let mut times: Vec<_> = store.revoked().unwrap().into_iter().map(|one| (one.node, one.revoked_at)).collect();
    times.sort();
    let at = |secs| Some(NOW.plus(secs));
    assert_eq!(times, [(node("a"), at(2)), (node("b"), at(12)), (node("c"), at(11))]);
}

fn a_certificate_that_is_not_recorded_is_recorded_when_it_is_shown(store: &dyn Enrolments) {
    let (a, at) = (node("a"), NOW.plus(1));
    let serial = SerialNumber::of_random([1; 16]);
    let shown = Shown { serial, node: &a, not_after: NOW.plus(DAY), at, from: Some(FROM) };
    assert!(store.meet(&shown).unwrap());
    assert!(!store.meet(&Shown { at: NOW.plus(2), ..shown }).unwrap(), "once");
    let recorded = store.certificates(&a).unwrap();
    assert_eq!(recorded.len(), 1);
    assert_eq!((recorded[0].serial, recorded[0].not_after, recorded[0].issued_at), (serial, NOW.plus(DAY), at));
    // Its name is not free, and it goes with its node.
    store.add_token(&token(1, 9), NOW).unwrap();
    assert_eq!(refused(record(store, 1, &certificate(2, "a", NOW.plus(2)))), EnrolRefused::Taken);
    let order = plan(7, &["a"], NOW.plus(3));
    assert_eq!(store.finish_cut_off(&order, &order.nodes, NOW.plus(3)).unwrap(), 1);
    assert!(!store.meet(&shown).unwrap(), "a revoked one stays so");
    assert_eq!(store.revoked().unwrap().len(), 1);
    let actions: Vec<_> = store.log(LogPart::After(0)).unwrap().into_iter().map(|one| one.entry.action).collect();
    assert_eq!(actions, [EnrolAction::Met, EnrolAction::TokenMade, EnrolAction::CertificatesRevoked]);
}

fn the_newest_certificate_of_a_name_stays_recorded(store: &dyn Enrolments) {
    store.add_token(&Token { expires_at: NOW.plus(999 * DAY), ..token(1, 9) }, NOW).unwrap();
    renew(store, &certificate(1, "a", NOW), NOW).unwrap();
    renew(store, &certificate(2, "a", NOW.plus(20 * DAY)), NOW).unwrap();
    let later = NOW.plus(100 * DAY);
    assert_eq!(store.certificates(&node("a")).unwrap().len(), 2, "nothing goes by itself");
    // A node that was off for long comes back: known, and its last certificate has ended.
    let known = Claim::Token { id: &id(1), hash: &SECRET, known: true };
    store.record(&certificate(3, "a", later), known, None).unwrap();
    let left: Vec<_> = store.certificates(&node("a")).unwrap().into_iter().map(|one| one.serial).collect();
    assert_eq!(left, [SerialNumber::of_random([3; 16])]);
}

fn tokens_are_bounded_and_ended_ones_make_room(store: &dyn Enrolments) {
    for number in 0..TOKENS_MAX {
        store.add_token(&token(number, 1), NOW).unwrap();
    }
    assert!(matches!(store.add_token(&token(5_000, 1), NOW), Err(TokenError::TooMany)));
    store.revoke_token(&id(7), &TokenEnd { by: Some(operator()), at: NOW }).unwrap();
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
        #[test]
        fn etcd_conforms() {
            skip_unless!(need_etcd());
            let etcd = Etcd::new(&Plan::of(1));
            $(
                eprintln!(stringify!($test));
                $test(&etcd::open_at(&etcd, concat!("/", stringify!($test), "/")));
            )*
        }
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
    a_plan_keeps_its_nodes_from_certificates_until_it_is_carried_out,
    every_change_has_its_entry_and_an_attempt_that_fails_has_none,
    a_restore_takes_no_revocation_back_and_gives_no_use_back,
    a_certificate_that_is_not_recorded_is_recorded_when_it_is_shown,
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
        let order = plan(7, &["a"], NOW.plus(2));
        store.finish_cut_off(&order, &order.nodes, NOW.plus(2)).unwrap();
        store.plan_cut_off(&plan(8, &["b"], NOW)).unwrap();
    }
    let store = crate::open(dir.path());
    assert_eq!(store.tokens().unwrap()[0].used, 1);
    assert_eq!(store.revoked().unwrap(), [Certificate { revoked_at: Some(NOW.plus(2)), ..recorded }]);
    assert_eq!(store.cut_offs().unwrap(), [plan(8, &["b"], NOW)]);
    assert_eq!(store.log(LogPart::After(0)).unwrap().len(), 3);
}

#[test]
fn coordinators_that_enrol_at_once_take_no_use_twice() {
    const USES: u32 = 7;
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan::of(1));
    let stores = [etcd::open(&etcd), etcd::open(&etcd)];
    stores[0].add_token(&token(1, USES), NOW).unwrap();
    let (store, wanted) = (&stores[1], 24_u8);
    let results: Vec<_> = std::thread::scope(|scope| {
        let ask = |number: u8| {
            let store = &stores[usize::from(number) % stores.len()];
            scope.spawn(move || record(store, 1, &certificate(number, &format!("n{number}"), NOW.plus(1))))
        };
        let asked: Vec<_> = (0..wanted).map(ask).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let done = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(done, USES as usize, "{results:?}");
    for late in results.into_iter().filter(Result::is_err) {
        assert_eq!(refused(late), EnrolRefused::Token(TokenFault::UsedUp));
    }
    let image = store.image().unwrap();
    assert_eq!((image.tokens[0].used, image.certificates.len()), (USES, USES as usize));
    // Made, each use, and used up: an entry each, in an order that all see.
    let actions: Vec<_> = said(&image).iter().map(|entry| entry.action).collect();
    let enrolled = actions.iter().filter(|action| **action == EnrolAction::Enrolled).count();
    assert_eq!((enrolled, actions.len()), (USES as usize, USES as usize + 2), "{actions:?}");
    assert_eq!(actions.last(), Some(&EnrolAction::TokenUsedUp));
}

#[test]
fn a_certificate_whose_record_was_open_is_recorded_once() {
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan::of(1));
    let direct = etcd::open(&etcd);
    direct.add_token(&token(1, 9), NOW).unwrap();
    let proxy = Proxy::before(etcd.address(0));
    let slow = etcd::open_through(&etcd, &proxy);
    // The transaction is the large request: done, or late, and its client hears nothing of it for a while.
    for (number, mode) in [(1, Mode::SwallowLarge), (2, Mode::HoldLarge)] {
        // A long name, without which it would not be large.
        let one = certificate(number, &format!("n{number}{}", format!(".{}", "x".repeat(60)).repeat(3)), NOW.plus(1));
        proxy.set(mode);
        let recorded = std::thread::scope(|scope| {
            let asked = scope.spawn(|| record(&slow, 1, &one));
            // Longer than a write is waited for, and shorter than it is settled.
            std::thread::sleep(std::time::Duration::from_secs(2));
            assert!(!asked.is_finished(), "{mode:?}: its client waits");
            std::thread::sleep(std::time::Duration::from_secs(2));
            proxy.set(Mode::Pass);
            asked.join().unwrap()
        });
        recorded.unwrap();
        assert_eq!(direct.certificates(&one.node).unwrap(), [one], "{mode:?}");
    }
    let image = direct.image().unwrap();
    assert_eq!((image.tokens[0].used, image.certificates.len(), image.log.len()), (2, 2, 3), "{image:?}");
}

#[test]
fn an_order_about_thousands_of_names_is_carried_out_in_steps() {
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan::of(1));
    let store = etcd::open(&etcd);
    store.add_token(&token(1, 200), NOW).unwrap();
    for number in 0..70 {
        record(&store, 1, &certificate(number, &format!("n{number:04}"), NOW)).unwrap();
    }
    let names: Vec<String> = (0..4_500).map(|number| format!("n{number:04}")).collect();
    let order = plan(7, &names.iter().map(String::as_str).collect::<Vec<_>>(), NOW);
    store.plan_cut_off(&order).unwrap();
    assert_eq!(store.cut_offs().unwrap(), std::slice::from_ref(&order));
    assert_eq!(refused(record(&store, 1, &certificate(99, "n4499", NOW))), EnrolRefused::CutOff);
    assert_eq!(store.finish_cut_off(&order, &order.nodes, NOW.plus(1)).unwrap(), 70);
    assert_eq!((store.revoked().unwrap().len(), store.cut_offs().unwrap()), (70, vec![]));
    let told: u64 =
        said(&store.image().unwrap()).iter().filter(|entry| entry.reason == "forget").map(|one| one.count).sum();
    assert_eq!(told, 70);
}
