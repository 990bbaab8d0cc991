//! A pool and its nodes as operators and viewers see them: fingerprints, never keys.

use std::collections::{BTreeMap, BTreeSet};

use super::Driver;
use crate::connections::Contact;
use crate::pool::message::{Cookies, Described, Overview, PoolNames, Summary, Welcome};
use tfo_config::coordinator::CONFIG_OPERATOR;
use tfo_engine::rollout::ahead::{self, calendar, next_exclusion, next_rotation_at, waiver, wave_cookies};
use tfo_engine::rollout::barrier::{Barrier, node_state, recoverable};
use tfo_engine::rollout::calendar::Span;
use tfo_engine::rollout::document::{Hold, Pause, PauseCause, Snapshot, Stage};
use tfo_engine::rollout::handle;
use tfo_engine::rollout::input::{Command, Input, Now, OperatorRequest, Step};
use tfo_engine::rollout::record::{Exclusion, Membership, NodeRecord};
use tfo_engine::rollout::slots::{PoolKey, Slots};
use tfo_engine::rollout::wave::is_opened;
use tfo_host::runtime::clock;
use tfo_model::caveat::Caveat;
use tfo_model::fleet::{BlockedBy, NodeState, PausedBy};
use tfo_model::ids::{NodeId, merge_join};
use tfo_model::key::PairPrint;
use tfo_model::named::Named;
use tfo_model::node::{Expected, KeySource};
use tfo_model::time::UnixTime;
use tfo_wire::v1::fleet::{
    CalendarSpan, FingerprintCount, NodeStatus, Nodes, Paused, PoolStatus, SlotPairShown, Waves,
};
use tfo_wire::v1::orders::{Closed, WAIVER_NODES_MAX, Waiver};
use tfo_wire::v1::sync::SelfAnswer;

impl Driver {
    /// Computes what the next tick would wait for, so that the status includes the reports since the last one.
    pub(super) fn look_ahead(&mut self) {
        let now = Now { wall: clock::now(), presence: self.seen.presence() };
        if let Ok(Step::Wait(wait)) = handle(self.replica.snapshot(), now, &Input::Tick, None) {
            self.wait = Some(wait);
        }
        self.note_behind();
        self.judge();
    }

    /// Notes since when nodes have been behind, and forgets the descriptions of unknown nodes.
    pub(super) fn note_behind(&mut self) {
        let nodes = &self.replica.snapshot().nodes;
        if self.described.len() > nodes.len() {
            self.described.retain(|node| nodes.contains_key(node));
        }
        let waiting_for = Barrier::of_all(self.replica.snapshot()).waiting_for;
        if waiting_for.is_empty() {
            self.behind.clear();
            return;
        }
        let now = clock::now();
        let mut before = std::mem::take(&mut self.behind);
        self.behind = waiting_for
            .into_iter()
            .map(|node| {
                let since = before.remove(&node).unwrap_or(now);
                (node, since)
            })
            .collect();
    }

    /// What the pool knows of one node.
    pub(super) fn itself(&self, node: NodeId, names: &PoolNames) -> SelfAnswer {
        let snapshot = self.replica.snapshot();
        let known = snapshot.nodes.get(&node);
        SelfAnswer {
            pool: self.replica.pool().clone(),
            pool_id: snapshot.document.pool_id,
            phase: snapshot.document.stage.phase(),
            frozen: self.seen.view.is_frozen(),
            denied: known.is_some_and(NodeRecord::is_denied),
            moved_to: known.and_then(NodeRecord::moved_to).and_then(|to| names.get(&to).cloned()),
            node,
        }
    }

    /// What the pool is to nodes that are to be moved to it.
    pub(super) fn welcome(&self, nodes: &BTreeSet<NodeId>) -> Welcome {
        let snapshot = self.replica.snapshot();
        let are = |fits: fn(&NodeRecord) -> bool| {
            nodes.iter().filter(|node| snapshot.nodes.get(*node).is_some_and(fits)).cloned().collect()
        };
        Welcome {
            phase: snapshot.document.stage.phase(),
            known: are(NodeRecord::is_known),
            denied: are(NodeRecord::is_denied),
            moved_away: are(|record| record.moved_to().is_some()),
        }
    }

    fn now(&self) -> Now<'_> {
        Now { wall: clock::now(), presence: self.seen.presence() }
    }

    /// The state of the pool.
    pub(super) fn status(&self) -> PoolStatus {
        let snapshot = self.replica.snapshot();
        let document = &snapshot.document;
        let barrier = Barrier::of_all(snapshot);
        let slots = self.slots_of_most();
        let frozen = self.seen.view.is_frozen();
        let wait = self.wait.as_ref();
        let differs = self.differs();
        let now = self.now();
        let unseen = now.presence.unseen_required(snapshot);
        let behind: BTreeSet<&NodeId> = barrier.waiting_for.iter().chain(&unseen).collect();
        PoolStatus {
            pool: self.replica.pool().clone(),
            pool_id: document.pool_id,
            revision: document.revision,
            generation: document.generation,
            phase: document.stage.phase(),
            primary: slots.map(|slots| slots.primary.shown()),
            backup: slots.and_then(|slots| slots.backup).map(PoolKey::shown),
            verdict: self.verdict(),
            cookie_lifetime_secs: document.policy.cookie_lifetime_secs(),
            paused: document.paused.as_ref().map(paused),
            hold: document.hold.as_ref().map(|hold| hold.reason().into()),
            expect: document.hold.as_ref().and_then(expected),
            required: barrier.required,
            converged: barrier.required - behind.len(),
            reporting: snapshot.nodes.values().filter(|record| record.is_known() && record.only_reports()).count(),
            waiting_for: wait.map(|wait| wait.waiting_for.clone()).unwrap_or_default(),
            next_at: wait.and_then(|wait| wait.next_at),
            blocked_by: if frozen { Some(BlockedBy::Frozen) } else { wait.map(|wait| wait.blocked_by) }.map(Into::into),
            since: document.since,
            waves: match &document.stage {
                Stage::Promoted { wave, .. } => Some(Waves { opened: wave.opened + 1, of: wave.rules.len() }),
                Stage::Empty | Stage::Steady { .. } | Stage::Staged { .. } => None,
            },
            revoking: document.revoke.iter().flat_map(|revoke| &revoke.keys).map(|key| key.shown()).collect(),
            recoverable: if frozen { recoverable(snapshot).iter().map(shown).collect() } else { Vec::new() },
            policy_waits: !differs.is_empty() && self.file.is_pending(),
            policy_differs: differs.into_iter().map(str::to_owned).collect(),
            expected_nodes: document.expected_nodes(),
            expected_in_file: document.policy.expected_nodes.is_some(),
            unseen: unseen.len(),
            next_exclusion_at: if frozen { None } else { next_exclusion(snapshot, now) },
            deaf_since: self.deaf_since,
            waiver: waiver(snapshot, now).map(waived),
            rotate_refused: rotate_refused(snapshot, now),
            calendar: calendar(snapshot, now).map(|(freeze, Span { from, until })| CalendarSpan {
                from,
                until,
                reason: freeze.reason.clone(),
            }),
        }
    }

    /// The slots in the instruction of most required nodes.
    pub(super) fn slots_of_most(&self) -> Option<Slots> {
        let snapshot = self.replica.snapshot();
        match &snapshot.document.stage {
            Stage::Empty => None,
            Stage::Steady { current, backup } => Some(Slots { primary: *current, backup: *backup }),
            Stage::Staged { current, next, .. } => Some(Slots { primary: *current, backup: Some(*next) }),
            Stage::Promoted { current, next, wave, .. } => {
                let required = || snapshot.nodes.iter().filter(|(_, record)| record.is_required());
                let opened =
                    required().filter(|(node, _)| is_opened(&snapshot.document, next.epoch, wave, node)).count();
                if wave.is_last() || 2 * opened > required().count() {
                    Some(Slots { primary: *next, backup: Some(*current) })
                } else {
                    Some(Slots { primary: *current, backup: Some(*next) })
                }
            }
        }
    }

    /// The pool at a glance.
    pub(super) fn summary(&self) -> Summary {
        self.summary_of(self.seen_nodes().map(|seen| {
            let ends = seen.contact.map(|contact| contact.certificate_until);
            (self.state_of(&seen), ends, seen.caveats())
        }))
    }

    /// The pool at a glance, by the state of each node, the end of its certificate, and what is said of its kernel.
    fn summary_of<'a>(
        &self,
        nodes: impl Iterator<Item = (NodeState, Option<UnixTime>, &'a [Named<Caveat>])>,
    ) -> Summary {
        let mut states: BTreeMap<NodeState, usize> = NodeState::ALL.into_iter().map(|state| (state, 0)).collect();
        let mut caveats: BTreeMap<Caveat, usize> = Caveat::ALL.into_iter().map(|caveat| (caveat, 0)).collect();
        let mut certificate_until = None;
        for (state, ends, named) in nodes {
            certificate_until = certificate_until.into_iter().chain(ends).min();
            *states.entry(state).or_default() += 1;
            // A node that names one twice has it once.
            for caveat in named.iter().filter_map(Named::known).collect::<BTreeSet<_>>() {
                *caveats.entry(caveat).or_default() += 1;
            }
        }
        let document = self.replica.document();
        Summary {
            status: self.status(),
            states,
            caveats,
            held: self.waiting.len(),
            fingerprints: self.fingerprints(),
            expected_nodes: document.expected_nodes(),
            next_rotation_at: next_rotation_at(self.replica.snapshot(), self.now()),
            rotated_at: document.rotated_at,
            interval_secs: document.policy.interval_secs,
            certificate_until,
            coordinators: self.coordinators(),
        }
    }

    /// The state of its nodes.
    pub(super) fn nodes(&self, names: &PoolNames) -> Nodes {
        let nodes = self.seen_nodes().map(|seen| self.node(&seen, names)).collect();
        Nodes { pool: self.replica.pool().clone(), nodes, fingerprints: self.fingerprints() }
    }

    /// The pool and all its nodes.
    pub(super) fn overview(&self, names: &PoolNames) -> Overview {
        let nodes: Vec<NodeStatus> = self.seen_nodes().map(|seen| self.node(&seen, names)).collect();
        let known = nodes.iter().filter_map(|node| Some((node, node.state.known()?)));
        let summary = self.summary_of(known.map(|(node, state)| (state, node.certificate_until, &node.caveats[..])));
        Overview { summary, nodes }
    }

    /// What the nodes have counted that report to this coordinator; of the others it hears too seldom.  A denied one counts for
    /// nothing.
    pub(super) fn cookies(&self) -> Cookies {
        let by = self.replica.by();
        let own = self.known().filter(|(_, record)| record.coordinator.as_ref() == Some(by));
        let believed = own.filter(|(_, record)| !record.is_denied() && record.moved_to().is_none());
        let counters = believed.filter_map(|(node, record)| Some((node.clone(), record.report.as_ref()?.counters?)));
        Cookies { counters: counters.collect(), wave: wave_cookies(self.replica.snapshot()) }
    }

    pub(super) fn known(&self) -> impl Iterator<Item = (&NodeId, &NodeRecord)> {
        self.replica.snapshot().nodes.iter().filter(|(_, record)| record.is_known())
    }

    /// Each known node with all that is kept of it here.
    fn seen_nodes(&self) -> impl Iterator<Item = SeenNode<'_>> {
        let contacts = self.connections.of_each(self.known().map(|(node, _)| node));
        let described = merge_join(self.known(), self.described.iter());
        let described = described.map(|(node, record, described)| (node, (record, described)));
        let behind = merge_join(described, self.behind.iter());
        behind.zip(contacts).map(|((node, (record, described), behind_since), contact)| SeenNode {
            node,
            record,
            described: described.filter(|_| record.moved_to().is_none()),
            behind_since: behind_since.copied(),
            contact,
        })
    }

    fn fingerprints(&self) -> Vec<FingerprintCount> {
        let mut counts: BTreeMap<PairPrint, usize> = BTreeMap::new();
        for holds in self.known().filter_map(|(_, record)| record.holds()) {
            *counts.entry(holds.pair()).or_default() += 1;
        }
        let mut fingerprints: Vec<FingerprintCount> = counts
            .into_iter()
            .map(|(pair, nodes)| FingerprintCount { primary: pair.primary, backup: pair.backup, nodes })
            .collect();
        fingerprints.sort_by_key(|count| std::cmp::Reverse(count.nodes));
        fingerprints
    }

    fn node(&self, seen: &SeenNode<'_>, names: &PoolNames) -> NodeStatus {
        let SeenNode { node, record, described, behind_since, contact } = *seen;
        let report = record.report.as_ref();
        let holds = record.holds();
        let connected = seen.is_connected();
        NodeStatus {
            node: node.clone(),
            state: self.state_of(seen).into(),
            generation: report.and_then(|report| report.fence.as_ref()).map(|fence| fence.generation),
            primary: holds.map(|holds| holds.primary),
            backup: holds.and_then(|holds| holds.backup),
            last_report_at: record.last_report_at,
            behind_since,
            source: report.map_or(KeySource::Coordinator, |report| report.source).into(),
            error: described.and_then(|described| described.error.clone()),
            note: described.and_then(|described| described.note.clone()),
            kernel: described.map(|described| described.kernel.clone()),
            agent: described.map(|described| described.agent.clone()),
            tcp_fastopen: described.and_then(|described| described.tcp_fastopen),
            caveats: seen.caveats().to_vec(),
            namespaces: described.and_then(|described| described.namespaces),
            excluded: match record.membership {
                Membership::Excluded(exclusion) => exclusion.reason().map(Into::into),
                Membership::Admitted => None,
            },
            excluded_until: match record.membership {
                Membership::Excluded(Exclusion::Operator { until }) => Some(until),
                Membership::Excluded(_) | Membership::Admitted => None,
            },
            moved_to: record.moved_to().and_then(|to| names.get(&to).cloned()),
            connected,
            connected_since: contact.filter(|_| connected.is_some()).map(|contact| contact.since),
            certificate_until: contact.map(|contact| contact.certificate_until),
        }
    }

    fn state_of(&self, seen: &SeenNode<'_>) -> NodeState {
        match node_state(self.replica.document(), seen.node, seen.record, self.seen.presence()) {
            NodeState::Converged if seen.is_connected() == Some(false) => NodeState::Disconnected,
            state => state,
        }
    }
}

/// A node of the pool, and what this coordinator has of it beside the store.
struct SeenNode<'a> {
    node: &'a NodeId,
    record: &'a NodeRecord,
    /// What it says of itself; none of a node that belongs to another pool, for that is not about this one.
    described: Option<&'a Described>,
    /// Since when it has been behind its instruction.
    behind_since: Option<UnixTime>,
    contact: Option<Contact>,
}

impl<'a> SeenNode<'a> {
    /// What it says of its kernel.
    fn caveats(&self) -> &'a [Named<Caveat>] {
        self.described.map_or(&[], |described| &described.caveats)
    }

    /// Whether it has a connection; none if it has none and would not keep one: a node with a timer, and before its first
    /// sync with this coordinator.
    fn is_connected(&self) -> Option<bool> {
        let is_open = self.contact.is_some_and(|contact| contact.open > 0);
        (is_open || self.described?.waits).then_some(is_open)
    }
}

fn paused(pause: &Pause) -> Paused {
    let (by, since) = (PausedBy::Operator.into(), pause.since);
    let none = Paused {
        by,
        since,
        operator: None,
        reason: String::new(),
        rejected_ppm: None,
        baseline_ppm: None,
        worst: Vec::new(),
    };
    match &pause.cause {
        PauseCause::Operator { operator, reason } => {
            Paused { operator: Some(operator.clone()), reason: reason.clone(), ..none }
        }
        PauseCause::Health { rejected, baseline, worst } => Paused {
            by: PausedBy::Health.into(),
            rejected_ppm: Some(rejected.ppm()),
            baseline_ppm: Some(baseline.ppm()),
            worst: worst.clone(),
            ..none
        },
    }
}

fn waived(waiver: ahead::Waiver) -> Waiver {
    let ahead::Waiver { wave, of, rejected, baseline, mut next } = waiver;
    let nodes = next.len();
    next.truncate(WAIVER_NODES_MAX);
    Waiver { wave, of, rejected_ppm: rejected.ppm(), baseline_ppm: baseline.ppm(), nodes, next }
}

/// Asks the engine for a rotation, and takes none of it but the refusal.
fn rotate_refused(snapshot: &Snapshot, now: Now<'_>) -> Option<Closed> {
    let command = Command::Rotate { force: false };
    let operator = CONFIG_OPERATOR.parse().expect("it is a name");
    let order = OperatorRequest { operator, reason: String::new(), if_revision: None, command };
    let refused = handle(snapshot, now, &Input::Request(order), None).err()?;
    Some(Closed { message: refused.to_string(), remedy: refused.remedy().to_owned(), until: refused.until() })
}

fn shown(slots: &Slots) -> SlotPairShown {
    SlotPairShown { primary: slots.primary.shown(), backup: slots.backup.map(PoolKey::shown) }
}

/// The nodes that a hold waits for.
fn expected(hold: &Hold) -> Option<Expected> {
    match hold {
        Hold::FirstKey { expect } => Some(expect.clone()),
        Hold::Aborted | Hold::Recovered => None,
    }
}
