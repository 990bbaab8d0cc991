//! A coordinator's configuration file as a proposal for the pool's policy (docs/protocol.md#rule-11).
//!
//! Every coordinator drives by the policy of the document.  A file only proposes another one: at a reload always, at a
//! start if the document has neither its policy nor remembers that it replaced it.  So the restart of a coordinator whose
//! file is old takes nothing back, and two coordinators with different files do not take turns.
//!
//! Invariants: a proposal that was the pool's policy since it was made, by any coordinator's commit, is not made again; this is
//! seen in the document alone, so a commit whose outcome is open is not repeated either.  Must not know: files, clocks.

use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

use super::calendar::Freeze;
use super::document::{Document, Stage};
use super::policy::{AbsentPolicy, NamePattern, Policy, WaveRule};
use tfo_model::count::Revision;

/// How many replaced policies a document remembers.
pub const REPLACED_MAX: usize = 16;

/// Key of the hash that names policies; not a secret.
const DIGEST_KEY: [u8; 16] = *b"tfo-fleet/v1/pol";

/// The short name of a policy.  Persisted.
///
/// It tells the policies of one pool's own files apart.  There is no reason to forge one: who can write a file decides anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyDigest(u64);

/// A policy that another one has replaced.  Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Replaced {
    /// Its name.
    pub digest: PolicyDigest,
    /// The revision that replaced it.
    pub at: Revision,
}

impl PolicyDigest {
    /// The name of this policy.  Coordinators of two releases must agree on it: a setting that a later release adds is
    /// written only where it differs from what documents without it are read with.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        // Without `..`: a field that is added does not compile until it is written.
        let Policy {
            nodes,
            expected_nodes,
            interval_secs,
            absent_after_secs,
            absent_policy,
            min_present,
            promote_waves,
            drain_below,
            drain_max_secs,
            drain_min_samples,
            health_window_secs,
            health_rise_max,
            health_min_connections,
            revoke_barrier_max_secs,
            period_max_secs,
            freeze,
        } = policy;
        let mut text = Text(SipHasher24::new_with_key(&DIGEST_KEY));
        text.list("nodes", nodes.iter().map(NamePattern::to_string));
        text.list("expected_nodes", expected_nodes.iter().map(usize::to_string));
        text.number("interval", *interval_secs);
        text.number("absent_after", *absent_after_secs);
        text.number("absent_policy", u64::from(*absent_policy == AbsentPolicy::Wait));
        text.number("min_present", u64::from(min_present.ppm()));
        text.list("promote_waves", promote_waves.iter().map(wave_text));
        text.number("drain_below", u64::from(drain_below.ppm()));
        text.number("drain_max", *drain_max_secs);
        text.number("drain_min_samples", *drain_min_samples);
        text.number("health_window", *health_window_secs);
        text.number("health_rise_max", u64::from(health_rise_max.ppm()));
        text.number("health_min_connections", *health_min_connections);
        text.number("revoke_barrier_max", *revoke_barrier_max_secs);
        text.number("period_max", *period_max_secs);
        if !freeze.is_empty() {
            text.list("freeze", freeze.iter().map(Freeze::to_string));
        }
        Self(text.0.finish())
    }
}

/// A pattern has no `%`, so neither spelling is the other's.
fn wave_text(rule: &WaveRule) -> String {
    match rule {
        WaveRule::Names(pattern) => pattern.to_string(),
        WaveRule::Share(share) => format!("{}%", share.ppm()),
    }
}

/// What is hashed: a line for each setting, and one for each member of a list.  No name or pattern has a line end.
struct Text(SipHasher24);

impl Text {
    fn number(&mut self, name: &str, value: u64) {
        self.0.write(format!("{name} {value}\n").as_bytes());
    }

    fn list(&mut self, name: &str, members: impl Iterator<Item = String>) {
        self.0.write(format!("{name}:\n").as_bytes());
        members.for_each(|member| self.0.write(format!("- {member}\n").as_bytes()));
    }
}

impl Document {
    /// Takes another policy, with the commit that makes revision `at`, and remembers the one before.
    pub(super) fn replace_policy(&mut self, policy: &Policy, at: Revision) {
        let before = PolicyDigest::of(&self.policy);
        let next = PolicyDigest::of(policy);
        self.replaced.retain(|replaced| replaced.digest != before && replaced.digest != next);
        if before != next {
            self.replaced.push(Replaced { digest: before, at });
        }
        let surplus = self.replaced.len().saturating_sub(REPLACED_MAX);
        self.replaced.drain(..surplus);
        self.policy = policy.clone();
    }
}

/// Whether a file's policy is still proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Not any more, until the next reload.
    Settled,
    /// Since a reload that no look at the document has followed.
    Reloaded,
    /// Since this revision; since a start: since ever.
    Since(Revision),
}

/// The policy in a coordinator's file, and whether it is still proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePolicy {
    policy: Policy,
    digest: PolicyDigest,
    standing: Standing,
}

impl FilePolicy {
    /// The policy of a file with which a coordinator starts.
    #[must_use]
    pub fn at_start(policy: Policy) -> Self {
        let digest = PolicyDigest::of(&policy);
        Self { policy, digest, standing: Standing::Since(Revision::ZERO) }
    }

    /// The file was read again at an operator's request.
    pub fn reload(&mut self, policy: Policy) {
        *self = Self { standing: Standing::Reloaded, ..Self::at_start(policy) };
    }

    /// The settings in which the file differs from the document's policy.
    #[must_use]
    pub fn differs(&self, document: &Document) -> Vec<&'static str> {
        self.policy.differs_from(&document.policy)
    }

    /// Whether the file's policy is still proposed, as far as [`Self::proposal`] has seen.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.standing != Standing::Settled
    }

    /// The policy to commit now: none if it was the pool's since it was proposed, and none while a rotation runs.
    ///
    /// `document` is one that the store has just confirmed.
    pub fn proposal(&mut self, document: &Document) -> Option<&Policy> {
        let since = match self.standing {
            Standing::Settled => return None,
            Standing::Reloaded => document.revision,
            // Later revisions are those of a store that went back.
            Standing::Since(since) => since.min(document.revision),
        };
        let was_used = |replaced: &Replaced| replaced.digest == self.digest && replaced.at > since;
        if self.policy == document.policy || document.replaced.iter().any(was_used) {
            self.standing = Standing::Settled;
            return None;
        }
        self.standing = Standing::Since(since);
        matches!(document.stage, Stage::Empty | Stage::Steady { .. }).then_some(&self.policy)
    }
}
