//! Whether this host's clock is believed: asks the kernel, and keeps the time since which an unsynchronised one is doubted.
//!
//! The rule itself is `engine::reconcile`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::source::{self, Offer};
use tfo_config::agent::{AgentSettings, SourceSettings};
use tfo_engine::reconcile::{ClockSeen, ClockUse, KeepReason, KeyChoice, LastInstall, choose_keys};
use tfo_host::kernel::sysctl_d::Record;
use tfo_host::runtime::{clock, sys};
use tfo_model::key::KeyFingerprint;
use tfo_model::time::UnixTime;

/// From when on the wait for a synchronised clock counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClockTrust {
    /// A single run remembers nothing: since the boot.
    SinceBoot,
    /// A daemon: since it began to doubt the clock, by the time since the boot.
    SinceDoubt(Option<Duration>),
}

/// What is remembered of earlier passes.
pub(super) struct Memory<'a> {
    /// The header of the sysctl.d file.
    pub(super) record: Option<&'a Record>,
    /// What the keys that were followed were made from.
    pub(super) generators: &'a BTreeMap<String, KeyFingerprint>,
}

impl ClockTrust {
    /// Whether to follow the offer or to keep what is installed.
    pub(super) fn choose(
        &mut self,
        settings: &AgentSettings,
        now: UnixTime,
        offer: &Offer,
        memory: Memory<'_>,
    ) -> KeyChoice {
        let uptime = clock::uptime();
        let waited = match *self {
            Self::SinceBoot => uptime,
            Self::SinceDoubt(since) => since.map_or(Duration::ZERO, |since| uptime.saturating_sub(since)),
        };
        // Only where it matters: asking is a system call.
        let synchronised = if offer.clock == ClockUse::None { None } else { sys::clock_synchronised() };
        let seen = ClockSeen { now, synchronised, waited };
        let last = memory.record.map(|record| last_install(settings, record));
        let choice = choose_keys(&seen, offer.clock, last, &offer.generators, memory.generators);
        if let Self::SinceDoubt(since) = self {
            let doubted = matches!(choice, KeyChoice::Keep(KeepReason::ClockAhead { .. }));
            *since = if doubted { Some(since.unwrap_or(uptime)) } else { None };
        }
        choice
    }
}

fn last_install(settings: &AgentSettings, record: &Record) -> LastInstall {
    let next_interval_end = match &settings.source {
        // Keys of another source say nothing about this schedule.
        SourceSettings::Derive(derive) if record.source == source::kind(&settings.source) => {
            derive.schedule.next_interval_end(record.installed_at)
        }
        _ => None,
    };
    LastInstall { at: record.installed_at, next_interval_end }
}
