//! Infers the keys behind an address from its cookies.  Pure.
//!
//! A cookie depends only on the key and the two addresses, so two cookies for one (source, address) pair mean two keys.  Cookies of
//! different sources can only be compared if the keys that made them are known.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::host::key_ring::{KeyName, Slot};
use crate::host::tcp_option::WireCookie;
use tfo_cli::report::Report;
use tfo_model::key::KeyFingerprint;
use tfo_model::named_enum;

/// Probability that a share of `min_share` was missed.
const MISS_PROBABILITY: f64 = 0.05;

named_enum! {
    /// The conclusion about an address.
    pub(super) enum Verdict {
        /// All answers are consistent with one key.
        Agree = "agree",
        /// There are several keys, or only some nodes do TFO.
        Split = "split",
        /// Answers, never with a cookie.
        TfoOff = "tfo-off",
        /// No answer.
        Unreachable = "unreachable",
    }
}

/// What the reader knows of the keys that should be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// Nothing.
    Unknown,
    /// The files have some, by which cookies are named.
    Known,
    /// The files have all: a cookie of another key is wrong.
    Expected,
}

/// The equal answers to one source.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Group {
    /// None: answers without a cookie.
    cookie: Option<String>,
    samples: u32,
    /// Fingerprint of the key that made the cookie, if it is known.
    fingerprint: Option<KeyFingerprint>,
    slot: Option<Slot>,
    source: IpAddr,
}

impl Group {
    pub(super) fn new(source: IpAddr, cookie: Option<WireCookie>, samples: u32, key: Option<KeyName>) -> Self {
        Self {
            cookie: cookie.map(|cookie| cookie.to_string()),
            samples,
            fingerprint: key.map(|key| key.fingerprint),
            slot: key.map(|key| key.slot),
            source,
        }
    }
}

/// One address.  Wire v1: `results[]` of `verify --format json` (docs/reference/json.md).
#[derive(Debug, Serialize)]
pub(super) struct AddressResult {
    address: IpAddr,
    port: u16,
    pub(super) verdict: Verdict,
    /// Number of answers.
    samples: u32,
    /// Smallest share of nodes with another key that would have been found with 95 % probability, if the balancer hashes ports.
    min_share: Option<f64>,
    groups: Vec<Group>,
    /// Number of requests without an answer, or answered with RST.
    unanswered: u32,
    /// Lower bound of the number of keys.
    keys: usize,
    /// Whether every answer had a cookie of an expected key, and there was one; null without `--expect`.
    pub(super) expected: Option<bool>,
    #[serde(skip)]
    keys_known: bool,
}

impl AddressResult {
    pub(super) fn new(address: SocketAddr, mut groups: Vec<Group>, unanswered: u32, judged: Keys) -> Self {
        groups.sort_by_key(|group| (group.source, std::cmp::Reverse(group.samples)));
        let samples = groups.iter().map(|group| group.samples).sum();
        let keys = key_count(&groups);
        let without_cookie = groups.iter().any(|group| group.cookie.is_none());
        let verdict = match (samples, keys) {
            (0, _) => Verdict::Unreachable,
            (_, 0) => Verdict::TfoOff,
            (_, 1) if !without_cookie => Verdict::Agree,
            _ => Verdict::Split,
        };
        // Several keys are right during a wave, and in a staged pool the backup's cookies are those of clients alone.
        let all_known = samples > 0 && groups.iter().all(|group| group.fingerprint.is_some());
        let expected = (judged == Keys::Expected).then_some(all_known);
        let keys_known = judged != Keys::Unknown;
        let min_share = min_share(samples);
        let (address, port) = (address.ip(), address.port());
        Self { address, port, verdict, samples, min_share, groups, unanswered, keys, expected, keys_known }
    }

    fn sources(&self) -> BTreeSet<IpAddr> {
        self.groups.iter().map(|group| group.source).collect()
    }

    fn headline(&self) -> String {
        let on_off = if self.groups.iter().any(|group| group.cookie.is_none()) {
            ", and some nodes do not support TFO"
        } else {
            ""
        };
        let unexpected = self.groups.iter().any(|group| group.cookie.is_some() && group.fingerprint.is_none());
        match (self.verdict, self.keys) {
            (Verdict::Split, keys) if self.expected == Some(true) => {
                format!("as expected: {keys} keys, all from the files")
            }
            (Verdict::Agree | Verdict::Split, _) if self.expected == Some(true) => {
                "as expected: one key, from the files".to_owned()
            }
            (Verdict::Agree | Verdict::Split, _) if self.expected.is_some() && unexpected => {
                format!("NOT as expected: cookies of a key that no file has{on_off}")
            }
            (Verdict::Agree, _) => "agree: one key".to_owned(),
            (Verdict::Split, 1) => format!("split: one key{on_off}"),
            (Verdict::Split, keys) => format!("split: {keys} keys{on_off}"),
            (Verdict::TfoOff, _) => "tfo-off: it answers without a cookie".to_owned(),
            (Verdict::Unreachable, _) => "unreachable: no answer".to_owned(),
        }
    }
}

/// Lower bound of the number of keys: the known ones, and the most unknown ones that a single source has met.
fn key_count(groups: &[Group]) -> usize {
    let known: BTreeSet<_> = groups.iter().filter_map(|group| group.fingerprint).collect();
    let mut unknown: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for group in groups.iter().filter(|group| group.cookie.is_some() && group.fingerprint.is_none()) {
        *unknown.entry(group.source).or_default() += 1;
    }
    known.len() + unknown.into_values().max().unwrap_or(0)
}

/// The share of nodes that n samples may have missed, rounded up to a millionth.  They miss a share s with probability (1 - s)^n.
fn min_share(samples: u32) -> Option<f64> {
    let share = |samples: u32| 1.0 - MISS_PROBABILITY.powf(f64::from(samples).recip());
    (samples > 0).then(|| (share(samples) * 1e6).ceil() / 1e6)
}

/// All addresses.
#[derive(Debug, Serialize)]
pub(super) struct VerifyReport {
    pub(super) results: Vec<AddressResult>,
}

impl Report for VerifyReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.results.iter().try_for_each(|result| write_result(result, out))
    }
}

fn write_result(result: &AddressResult, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}  {}", SocketAddr::from((result.address, result.port)), result.headline())?;
    for group in &result.groups {
        let share = f64::from(group.samples) * 100.0 / f64::from(result.samples);
        let cookie = group.cookie.as_deref().unwrap_or("no cookie");
        write!(out, "  {cookie:16}  {:6}  {share:5.1} %  from {}", group.samples, group.source)?;
        match (&group.cookie, group.fingerprint, group.slot) {
            (Some(_), Some(fingerprint), Some(slot)) => writeln!(out, "  {} {fingerprint}", slot)?,
            (Some(_), ..) if result.keys_known => writeln!(out, "  unknown key")?,
            _ => writeln!(out)?,
        }
    }
    if result.unanswered > 0 {
        writeln!(out, "  {} requests got no answer, so those nodes are unknown", result.unanswered)?;
    }
    let Some(min_share) = result.min_share else { return Ok(()) };
    writeln!(
        out,
        "  {} samples: another key on less than {:.1} % of the nodes could have been missed (at 95 %)",
        result.samples,
        min_share * 100.0
    )?;
    let several = result.sources().len() > 1;
    match (several, result.keys_known) {
        (false, _) => writeln!(
            out,
            "  a balancer that hashes source addresses sends one source to one node: give several --source, with --key-file"
        ),
        (true, false) => {
            writeln!(
                out,
                "  without --key-file, cookies of different sources cannot be compared: each source was judged separately"
            )
        }
        (true, true) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tcp_option::FastOpen;

    fn cookie(byte: u8) -> WireCookie {
        FastOpen::among(&[34, 10, byte, byte, byte, byte, byte, byte, byte, byte]).unwrap().cookie.unwrap()
    }

    fn key(byte: u8, slot: Slot) -> KeyName {
        KeyName { slot, fingerprint: KeyFingerprint::from_bytes([byte; 8]) }
    }

    fn result(groups: &[(u8, Option<u8>, u32, Option<KeyName>)], unanswered: u32, judged: Keys) -> AddressResult {
        let source = |last: u8| IpAddr::from([192, 0, 2, last]);
        let group = |(last, byte, samples, key): &(u8, Option<u8>, u32, Option<KeyName>)| {
            Group::new(source(*last), byte.map(cookie), *samples, *key)
        };
        let address = "198.51.100.1:443".parse().unwrap();
        AddressResult::new(address, groups.iter().map(group).collect(), unanswered, judged)
    }

    #[test]
    fn one_cookie_for_a_pair_of_addresses_is_one_key() {
        let (p, b) = (key(1, Slot::Primary), key(2, Slot::Backup));
        let rows: [(&[_], Verdict, usize); 13] = [
            (&[], Verdict::Unreachable, 0),
            (&[(1, None, 5, None)], Verdict::TfoOff, 0),
            (&[(1, Some(1), 5, None)], Verdict::Agree, 1),
            (&[(1, Some(1), 5, None), (1, Some(2), 1, None)], Verdict::Split, 2),
            (&[(1, Some(1), 5, None), (1, None, 1, None)], Verdict::Split, 1),
            // Cookies of different sources differ even with the same key.
            (&[(1, Some(1), 5, None), (2, Some(2), 5, None)], Verdict::Agree, 1),
            (&[(1, Some(1), 5, None), (2, None, 5, None)], Verdict::Split, 1),
            // With known keys they can be compared.
            (&[(1, Some(1), 5, Some(p)), (2, Some(2), 5, Some(p))], Verdict::Agree, 1),
            (&[(1, Some(1), 5, Some(p)), (2, Some(2), 5, Some(b))], Verdict::Split, 2),
            (&[(1, Some(1), 5, Some(p)), (2, Some(2), 5, None)], Verdict::Split, 2),
            (&[(1, Some(1), 5, Some(p)), (1, Some(3), 5, Some(b)), (1, Some(2), 5, None)], Verdict::Split, 3),
            // One backup key everywhere is one key.
            (&[(1, Some(1), 5, Some(b))], Verdict::Agree, 1),
            (&[(1, Some(1), 5, None), (1, Some(2), 5, None), (2, Some(3), 5, None)], Verdict::Split, 2),
        ];
        for (groups, verdict, keys) in rows {
            let result = result(groups, 0, Keys::Known);
            assert_eq!((result.verdict, result.keys), (verdict, keys), "{groups:?}");
        }
    }

    #[test]
    fn expected_is_what_the_files_have_and_nothing_else() {
        let (p, b) = (key(1, Slot::Primary), key(2, Slot::Backup));
        let rows: [(&[_], bool, &str); 7] = [
            (&[(1, Some(1), 5, Some(p))], true, "as expected: one key"),
            (&[(1, Some(1), 5, Some(b)), (2, Some(2), 5, Some(b))], true, "as expected: one key"),
            (&[(1, Some(1), 5, Some(p)), (1, Some(2), 5, Some(b))], true, "as expected: 2 keys"),
            (&[(1, Some(1), 5, None)], false, "NOT as expected"),
            (&[(1, Some(1), 500, Some(p)), (1, Some(2), 1, None)], false, "NOT as expected"),
            (
                &[(1, Some(1), 5, Some(p)), (1, None, 1, None)],
                false,
                "split: one key, and some nodes do not support TFO",
            ),
            (&[], false, "unreachable"),
        ];
        for (groups, expected, headline) in rows {
            let result = result(groups, 0, Keys::Expected);
            assert_eq!(result.expected, Some(expected), "{groups:?}");
            assert!(result.headline().starts_with(headline), "{}", result.headline());
        }
        assert_eq!(result(&[(1, Some(1), 5, Some(p))], 0, Keys::Known).expected, None);
    }

    #[test]
    fn the_share_that_could_be_missed_shrinks_with_the_samples() {
        // 1 - 0.05^(1/n), by bc.
        for (samples, share) in
            [(0, None), (1, Some(0.95)), (10, Some(0.258_866)), (59, Some(0.049_508)), (300, Some(0.009_937))]
        {
            assert_eq!(min_share(samples), share, "{samples}");
        }
    }

    fn reports() -> VerifyReport {
        let (p, b) = (key(1, Slot::Primary), key(2, Slot::Backup));
        let results = vec![
            result(&[(1, Some(0xaa), 300, None)], 0, Keys::Unknown),
            result(
                &[(1, Some(0xbb), 30, None), (1, Some(0xaa), 250, Some(p)), (1, Some(0xcc), 20, Some(b))],
                0,
                Keys::Known,
            ),
            result(&[(1, Some(0xaa), 99, None), (2, Some(0xbb), 200, None), (2, None, 1, None)], 7, Keys::Unknown),
            result(&[(1, None, 300, None)], 0, Keys::Unknown),
            result(&[], 16, Keys::Unknown),
        ];
        VerifyReport { results }
    }

    #[test]
    fn the_json_is_pinned() {
        insta::assert_json_snapshot!(reports());
    }

    #[test]
    fn the_text_shows_what_was_seen_and_what_could_have_been_missed() {
        let mut text = Vec::new();
        reports().write_text(&mut text).unwrap();
        insta::assert_snapshot!(String::from_utf8(text).unwrap());
    }
}
