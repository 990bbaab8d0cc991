//! The shipped coordinator.toml: it parses, what it shows as default is one, and it shows every key that there is.

use std::collections::BTreeSet;
use std::path::Path;

use tfo_config::coordinator::{CoordinatorSettings, NotifyBy, NotifySettings, StoreKind};
use tfo_config::reader::ConfigFile;

const SHIPPED: &str = include_str!("../../config/coordinator.toml");

/// The file with the sections that are off as shipped, and what those need.
fn switched_on() -> String {
    let enrolment = ["[enrolment]", "ca_cert = ", "ca_key = "];
    let notify = ["[[notify]]", "name = ", "url = ", "secret = ", "command = "];
    let freeze = ["[[pools.edge.freeze]]", "from = ", "until = ", "reason = "];
    let on = [&enrolment[..], &notify, &freeze].concat();
    let lines = SHIPPED.lines().map(|line| {
        let is_on = |rest: &&str| on.iter().any(|one| rest.starts_with(one));
        line.strip_prefix('#').filter(is_on).unwrap_or(line).to_owned() + "\n"
    });
    lines.collect()
}

/// Keys of `[store]` that only a cluster has.
const OF_CLUSTER: [&str; 9] = ["urls", "ca", "prefix", "cert", "key", "user", "password", "name", "name_lock"];

/// The lines of `[store]` changed, or left out.
fn with_store(text: &str, change: impl Fn(&str) -> Option<String>) -> String {
    let mut section = "";
    let lines = text.lines().filter_map(|line| {
        if line.starts_with('[') {
            section = line;
        }
        if section == "[store]" { change(line) } else { Some(line.to_owned()) }
    });
    lines.map(|line| line + "\n").collect()
}

/// With a file, as shipped, and without the keys of a cluster; and with a cluster and all that is not a default.
fn kinds() -> [String; 2] {
    let text = switched_on();
    // Some of its lines are on.
    let shown = |line: &str| key(commented(line).unwrap_or(line)).map(str::to_owned);
    let file = with_store(&text, |line| {
        let is_other = shown(line).is_some_and(|key| OF_CLUSTER.contains(&key.as_str()));
        (!is_other).then(|| line.to_owned())
    });
    // It keeps no certificates.
    let (before, rest) = text.split_once("\n[enrolment]\n").expect("it is shown");
    let after = &rest[rest.find("\n[store]").expect("it comes later")..];
    let cluster = with_store(&format!("{before}{after}"), |line| match shown(line).as_deref() {
        Some("kind") => Some("kind = \"etcd\"".to_owned()),
        Some("path") => None,
        Some("prefix" | "name_lock") | None => Some(line.to_owned()),
        Some(_) => Some(commented(line).unwrap_or(line).to_owned()),
    });
    [file, cluster]
}

/// A commented-out setting: `#` without a space after it.  Text has one.
fn commented(line: &str) -> Option<&str> {
    line.strip_prefix('#').filter(|rest| rest.starts_with(|first: char| first.is_ascii_lowercase()))
}

fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_').then_some(key)
}

fn store(kind: &StoreKind) -> String {
    match kind {
        StoreKind::Sqlite { path } => format!("{:?}", path.value),
        StoreKind::Etcd(place) => format!("{:?} {:?}", place.prefix.value, place.name_lock.value),
    }
}

/// The settings without the places where they were written.
fn settings(text: &str) -> String {
    let parsed = CoordinatorSettings::parse(Path::new("x"), text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let api = &parsed.api;
    format!(
        "{} {:?} {:?} {:?} {:?} {} {:?} {:?} {:?} {:?} {:?} {:?}",
        api.listen.value,
        api.cert.value,
        api.key.value,
        api.client_ca.value,
        api.crl.as_ref().map(|crl| &crl.value),
        store(&parsed.store.kind),
        parsed.store.key_encryption_key.value,
        parsed.access,
        parsed.observe.map(|at| at.value),
        parsed.enrolment.map(|own| (own.listen.value, own.node_lifetime.value)),
        parsed.pools.iter().map(|(name, policy)| (name, &policy.value)).collect::<Vec<_>>(),
        parsed.notify.iter().map(|one| (&one.name.value, &one.events, authorities(one))).collect::<Vec<_>>(),
    )
}

fn authorities(one: &NotifySettings) -> Option<&Path> {
    match &one.by {
        NotifyBy::Webhook { ca, .. } => Some(&ca.value),
        NotifyBy::Command(_) => None,
    }
}

#[test]
fn each_commented_out_default_can_be_enabled_and_changes_nothing() {
    assert!(CoordinatorSettings::parse(Path::new("x"), SHIPPED).is_ok_and(|parsed| parsed.enrolment.is_none()));
    let mut counts = Vec::new();
    for shipped in kinds() {
        let as_shipped = settings(&shipped);
        let mut count = 0;
        for (index, line) in shipped.lines().enumerate() {
            let Some(enabled) = commented(line) else { continue };
            let text: String = shipped
                .lines()
                .enumerate()
                .map(|(at, line)| if at == index { enabled } else { line }.to_owned() + "\n")
                .collect();
            // Operators say how many nodes they expect, and names of a trust domain are off.
            if matches!(key(enabled), Some("expected_nodes" | "spiffe_trust_domain")) {
                assert_ne!(settings(&text), as_shipped);
            } else {
                assert_eq!(settings(&text), as_shipped, "{enabled} is no default");
            }
            count += 1;
        }
        counts.push(count);
    }
    assert_eq!(counts, [27, 24], "a new commented-out line: is it a default?");
}

#[test]
fn every_key_that_the_parser_knows_is_shown_and_no_other() {
    kinds().iter().for_each(|shipped| shows_every_key(shipped));
}

fn shows_every_key(shipped: &str) {
    let mut shown = BTreeSet::new();
    let mut section = "";
    for line in shipped.lines() {
        let line = commented(line).unwrap_or(line);
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
            if let (true, Some((above, name))) = (line.starts_with("[["), section.rsplit_once('.')) {
                shown.insert((above.to_owned(), name.to_owned()));
            }
        } else if let Some(key) = key(line) {
            shown.insert((section.to_owned(), key.to_owned()));
        }
    }
    let mut known = BTreeSet::new();
    let once =
        ["api", "enrolment", "store", "access", "observe", "pools.edge"].map(|name| (name, format!("\n[{name}]\n")));
    let often = ["notify", "pools.edge.freeze"].map(|name| (name, format!("\n[[{name}]]\n")));
    for (name, heading) in once.into_iter().chain(often).filter(|(_, heading)| shipped.contains(heading)) {
        let text = shipped.replacen(&heading, &format!("{heading}zzz = 1\n"), 1);
        let problems = CoordinatorSettings::parse(Path::new("x"), &text).expect_err("zzz is unknown");
        let [problem] = problems.as_slice() else { panic!("{problems:#?}") };
        let keys = problem.remedy.strip_prefix("known keys: ").unwrap_or_else(|| panic!("{problem:#?}"));
        known.extend(keys.split(", ").map(|key| (name.to_owned(), key.to_owned())));
    }
    assert_eq!(shown, known);
}
