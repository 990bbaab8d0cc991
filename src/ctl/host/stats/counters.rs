//! The meaning of each counter, and what happened between two samples.  Pure.
//!
//! A counter that the kernel does not have makes every value computed from it unknown, never 0 (docs/kernel.md#counters).

use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use tfo_host::kernel::netstat::TfoCounters;

/// A counter and its explanation.
pub(super) struct Counter {
    /// The kernel's name, without `TcpExt`.
    pub(super) name: &'static str,
    /// Short name for the lines of a watch.
    pub(super) short: &'static str,
    /// Which events it counts.
    pub(super) meaning: &'static str,
    /// When its value is a reason to worry.
    pub(super) worry: &'static str,
    /// Whether any rise deserves attention.
    pub(super) alarming: bool,
}

/// All counters, server first (docs/kernel.md#counters).
pub(super) const COUNTERS: [Counter; 10] = [
    Counter {
        name: "TCPFastOpenPassive",
        short: "accepted",
        meaning: "server: a SYN's cookie was valid, so its data was accepted at once",
        worry: "if it does not rise while CookieReqd does: clients get cookies but do not use them",
        alarming: false,
    },
    Counter {
        name: "TCPFastOpenPassiveAltKey",
        short: "by_backup",
        meaning: "server: of these, those with a cookie of the backup key",
        worry: "if it rises long after a promotion: some node still makes cookies with that key",
        alarming: false,
    },
    Counter {
        name: "TCPFastOpenPassiveFail",
        short: "failed",
        meaning: "server: a SYN's cookie matched neither key",
        worry: "if it rises above its usual level (NAT causes some): a node has other keys, or a key was dropped too early",
        alarming: true,
    },
    Counter {
        name: "TCPFastOpenCookieReqd",
        short: "requests",
        meaning: "server: a SYN asked for a cookie; also counted with the server side off",
        worry: "if it rises and Passive does not",
        alarming: false,
    },
    Counter {
        name: "TCPFastOpenListenOverflow",
        short: "overflow",
        meaning: "server: a listener's TFO queue was full, so this SYN got no TFO",
        worry: "at any rise: the application accepts too slowly, or its queue (fastopen=, qlen) is too short",
        alarming: true,
    },
    Counter {
        name: "TCPFastOpenActive",
        short: "active",
        meaning: "client: data in the SYN was accepted",
        worry: "never: this is what TFO is for",
        alarming: false,
    },
    Counter {
        name: "TCPFastOpenActiveFail",
        short: "active_fail",
        meaning: "client: data in the SYN was not accepted, or the SYN had to be sent again",
        worry: "if it exceeds a few per cent of Active: keys differ, or a middlebox drops such SYNs",
        alarming: true,
    },
    Counter {
        name: "TCPFastOpenBlackhole",
        short: "blackhole",
        meaning: "client: TFO was switched off for a while, because packets vanished",
        worry: "at any rise: a middlebox drops SYNs with data",
        alarming: true,
    },
    Counter {
        name: "TCPSynRetrans",
        short: "syn_retrans",
        meaning: "SYNs (client) and SYN/ACKs (server) that were sent again, with and without TFO",
        worry: "if it rises together with ActiveFail: SYNs with TFO are being lost",
        alarming: false,
    },
    Counter {
        name: "TCPOrigDataSent",
        short: "data_sent",
        meaning: "data segments, each counted when first sent",
        worry: "never: it shows how busy this host is",
        alarming: false,
    },
];

/// One number for each counter, null if unknown; in JSON under the kernel's names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PerCounter<T>(pub(super) [Option<T>; COUNTERS.len()]);

impl<T: Serialize> Serialize for PerCounter<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(COUNTERS.len()))?;
        for (counter, value) in COUNTERS.iter().zip(&self.0) {
            map.serialize_entry(counter.name, value)?;
        }
        map.end()
    }
}

impl PerCounter<u64> {
    /// In the order of [`COUNTERS`].
    pub(super) fn of(counters: &TfoCounters) -> Self {
        Self(COUNTERS.map(|counter| counters.get(counter.name)))
    }

    fn get(&self, name: &str) -> Option<u64> {
        COUNTERS.iter().position(|counter| counter.name == name).and_then(|index| self.0[index])
    }
}

/// Shares of connections; null if a counter is missing, or nothing was counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Ratios {
    pub(super) server: ServerRatios,
    pub(super) client: ClientRatios,
}

/// Shares of the received SYNs with a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct ServerRatios {
    /// Passive / (Passive + PassiveFail).
    pub(super) accepted: Option<f64>,
    /// PassiveAltKey / (Passive + PassiveFail).
    pub(super) by_backup: Option<f64>,
    /// PassiveFail / (Passive + PassiveFail).
    pub(super) failed: Option<f64>,
}

/// Shares of the sent SYNs with data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct ClientRatios {
    /// Active / (Active + ActiveFail).
    pub(super) accepted: Option<f64>,
    /// ActiveFail / (Active + ActiveFail).
    pub(super) failed: Option<f64>,
}

impl Ratios {
    /// Computes ratios of counters, or of their increases.
    pub(super) fn of(counts: &PerCounter<u64>) -> Self {
        let [passive, alt_key, passive_fail, active, active_fail] = [
            "TCPFastOpenPassive",
            "TCPFastOpenPassiveAltKey",
            "TCPFastOpenPassiveFail",
            "TCPFastOpenActive",
            "TCPFastOpenActiveFail",
        ]
        .map(|name| counts.get(name));
        let (server, client) = (sum(passive, passive_fail), sum(active, active_fail));
        Self {
            server: ServerRatios {
                accepted: share(passive, server),
                by_backup: share(alt_key, server),
                failed: share(passive_fail, server),
            },
            client: ClientRatios { accepted: share(active, client), failed: share(active_fail, client) },
        }
    }
}

fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a?.checked_add(b?)
}

/// `part` / `whole`, rounded to 6 decimal places.
#[expect(clippy::cast_precision_loss, reason = "a share to show; exact up to 2^53 connections")]
fn share(part: Option<u64>, whole: Option<u64>) -> Option<f64> {
    let (part, whole) = (part?, whole.filter(|whole| *whole > 0)?);
    Some((part as f64 / whole as f64 * 1e6).round() / 1e6)
}

/// What happened between two samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Window {
    pub(super) elapsed_ms: u64,
    /// The counters restarted from 0 in between: the namespace was recreated, or a counter wrapped around.
    pub(super) reset: bool,
    pub(super) rises: PerCounter<u64>,
    pub(super) per_second: PerCounter<f64>,
    pub(super) ratios: Ratios,
}

/// Whether two samples come from the same namespace, or from two with the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lineage {
    Same,
    Recreated,
}

impl Window {
    /// The window from one sample to the next.  A counter below its earlier value has restarted from 0.
    pub(super) fn between(
        before: &PerCounter<u64>,
        after: &PerCounter<u64>,
        elapsed: Duration,
        lineage: Lineage,
    ) -> Self {
        let restarted = |index: usize| {
            lineage == Lineage::Recreated || matches!((before.0[index], after.0[index]), (Some(b), Some(a)) if a < b)
        };
        let rise = |index: usize| {
            let (before, after) = (before.0[index]?, after.0[index]?);
            Some(if restarted(index) { after } else { after - before })
        };
        let rises = PerCounter(std::array::from_fn(rise));
        #[expect(clippy::cast_precision_loss, reason = "a rate to show")]
        let rate = |rise: u64| (rise as f64 / elapsed.as_secs_f64().max(1e-3) * 1e3).round() / 1e3;
        Self {
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            reset: (0..COUNTERS.len()).any(restarted),
            per_second: PerCounter(rises.0.map(|rise| rise.map(rate))),
            ratios: Ratios::of(&rises),
            rises,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(text: &[(&str, u64)]) -> PerCounter<u64> {
        let names: Vec<&str> = text.iter().map(|(name, _)| *name).collect();
        let values: Vec<String> = text.iter().map(|(_, value)| value.to_string()).collect();
        let text = format!("TcpExt: {}\nTcpExt: {}\n", names.join(" "), values.join(" "));
        PerCounter::of(&TfoCounters::parse(&text))
    }

    fn server(passive: u64, alt_key: u64, fail: u64) -> PerCounter<u64> {
        let (p, a, f) = ("TCPFastOpenPassive", "TCPFastOpenPassiveAltKey", "TCPFastOpenPassiveFail");
        counters(&[(p, passive), (a, alt_key), (f, fail)])
    }

    #[test]
    fn every_counter_is_explained_once() {
        for (index, counter) in COUNTERS.iter().enumerate() {
            assert!(COUNTERS[index + 1..].iter().all(|other| other.name != counter.name), "{}", counter.name);
            assert_eq!(counters(&[(counter.name, 7)]).0[index], Some(7), "{} is not read", counter.name);
        }
    }

    #[test]
    fn ratios_are_of_the_syns_that_brought_a_cookie() {
        let ratios = Ratios::of(&server(90, 18, 10)).server;
        assert_eq!((ratios.accepted, ratios.by_backup, ratios.failed), (Some(0.9), Some(0.18), Some(0.1)));
        assert_eq!(Ratios::of(&server(0, 0, 0)).server.accepted, None, "of nothing there is no share");
        let old = Ratios::of(&counters(&[("TCPFastOpenPassive", 1), ("TCPFastOpenPassiveFail", 0)])).server;
        assert_eq!((old.accepted, old.by_backup), (Some(1.0), None), "a missing counter is not 0");
        assert_eq!(Ratios::of(&counters(&[("TCPFastOpenPassive", 1)])).server.accepted, None);
    }

    #[test]
    fn a_window_has_rises_and_rates() {
        let window = Window::between(&server(10, 1, 3), &server(25, 1, 8), Duration::from_millis(2_500), Lineage::Same);
        assert_eq!((window.elapsed_ms, window.reset), (2_500, false));
        assert_eq!(window.rises, server(15, 0, 5));
        assert_eq!(window.per_second.0[0], Some(6.0));
        assert_eq!(window.ratios.server.accepted, Some(0.75));
        assert_eq!(window.rises.0[9], None);
    }

    #[test]
    fn a_reset_counts_from_zero_and_is_reported() {
        let second = Duration::from_secs(1);
        let window = Window::between(&server(100, 0, 3), &server(4, 0, 3), second, Lineage::Same);
        assert_eq!((window.reset, window.rises), (true, server(4, 0, 0)));
        let recreated = Window::between(&server(1, 0, 0), &server(4, 2, 1), second, Lineage::Recreated);
        assert_eq!((recreated.reset, recreated.rises), (true, server(4, 2, 1)), "higher than before, and yet from 0");
    }

    #[test]
    fn a_counter_that_comes_or_goes_has_no_rise() {
        let window = Window::between(&counters(&[]), &server(4, 0, 3), Duration::from_secs(1), Lineage::Same);
        assert_eq!((window.reset, window.rises.0, window.per_second.0[0]), (false, [None; 10], None));
        let window = Window::between(&server(4, 0, 3), &counters(&[]), Duration::ZERO, Lineage::Same);
        assert_eq!((window.reset, window.rises.0), (false, [None; 10]));
    }
}
