//! The driver of one pool: looks at the store, asks the engine, commits, and only then adopts and publishes.
//!
//! The loop serves requests ([`requests`]), writes acks that are due ([`writes`]), and ticks ([`pace`]): after news, and
//! every second or few without.  It beats ([`beats`]) and hears the nodes that have nothing new to say.  Invariants: a record that is only queued counts for no decision; every decision and
//! every answer is made from a copy that the store has just confirmed ([`seen`]).
//!
//! The driver drives by the policy of the document, whatever its own configuration file says.  The file is a proposal
//! ([`FilePolicy`]): while it stands, it is committed between rotations under the name of
//! [`CONFIG_OPERATOR`](tfo_config::coordinator::CONFIG_OPERATOR), as soon as the engine accepts it.

mod beats;
mod coordinators;
mod described;
mod failures;
mod fresh;
mod holds;
mod pace;
mod requests;
mod rest;
mod rollout;
mod seen;
mod show;
mod turn;
pub(super) mod verdict;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tracing::info;

use self::beats::Beats;
use self::described::Descriptions;
use self::fresh::Fresh;
use self::pace::Pace;
use self::rest::Rest;
use self::seen::Seen;
use self::turn::Turn;
use self::verdict::Told;
use self::writes::Writes;
use super::Watched;
use super::message::{Message, Shared};
use super::replica::Replica;
use super::waiting::WaitingNodes;
use crate::connections::Connections;
use crate::metrics::counters::Metrics;
use tfo_engine::rollout::document::Stage;
use tfo_engine::rollout::input::Wait;
use tfo_engine::rollout::policy::Policy;
use tfo_engine::rollout::proposed::FilePolicy;
use tfo_engine::rollout::sync::PoolView;
use tfo_host::runtime::clock;
use tfo_model::count::{Generation, Revision};
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;

/// Most commits of one tick: a rollout takes fewer steps in a row.
const COMMITS_MAX: usize = 8;
/// Most requests that are served together.
const BATCH_MAX: usize = 1_024;

pub(super) struct Driver {
    replica: Replica,
    writes: Writes,
    beats: Beats,
    /// Another process drives the pool under this coordinator's name.
    has_lost_name: bool,
    seen: Seen,
    pace: Pace,
    rest: Rest,
    turn: Turn,
    waiting: WaitingNodes,
    fresh: Fresh,
    /// What waiting nodes were answered from.
    published: Option<Published>,
    /// Nodes whose records a commit has changed, which may wait for an answer.
    touched: BTreeSet<NodeId>,
    /// Nodes whose latest sync is not stored.
    unrecorded: BTreeSet<NodeId>,
    /// The revision that this coordinator committed last.
    committed: Option<Revision>,
    described: Descriptions,
    /// Since when nodes have been behind their instruction.
    behind: BTreeMap<NodeId, UnixTime>,
    /// The wave that this coordinator has observed to its end.
    observed: Option<usize>,
    /// What the rollout waited for at the last tick.
    wait: Option<Wait>,
    /// The verdict that was found last.
    told: Option<Told>,
    file: FilePolicy,
    /// When a node was heard last, if that is too long ago.
    deaf_since: Option<UnixTime>,
    metrics: Arc<Metrics>,
    connections: Arc<Connections>,
    shared: Arc<Shared>,
    logged: Logged,
}

/// What was logged, once each: the store cannot be reached, the pool is frozen, the file differs, its policy is refused.
#[derive(Default)]
struct Logged {
    store_down: bool,
    frozen: bool,
    /// In what, and whether the file is still proposed.
    differs: (Vec<&'static str>, bool),
    refused: Option<String>,
}

impl Driver {
    pub(super) fn new(replica: Replica, file_policy: Policy, watched: Watched, shared: Arc<Shared>) -> Self {
        let Watched { metrics, connections } = watched;
        Self {
            seen: Seen::new(&replica),
            replica,
            writes: Writes::default(),
            beats: Beats::default(),
            has_lost_name: false,
            pace: Pace::new(),
            rest: Rest::default(),
            turn: Turn::default(),
            waiting: WaitingNodes::new(),
            fresh: Fresh::default(),
            published: None,
            touched: BTreeSet::new(),
            unrecorded: BTreeSet::new(),
            committed: None,
            described: Descriptions::default(),
            behind: BTreeMap::new(),
            observed: None,
            wait: None,
            told: None,
            file: FilePolicy::at_start(file_policy),
            deaf_since: None,
            metrics,
            connections,
            shared,
            logged: Logged::default(),
        }
    }

    /// Works until it is stopped.
    pub(super) fn run(mut self, receiver: &Receiver<Box<Message>>) {
        self.tick();
        // The last batch was full: more requests are waiting.
        let mut backlog = false;
        while !self.has_lost_name {
            let next = self.pace.next_tick.min(self.next_beat());
            let next = self.writes.flush_at.map_or(next, |at| at.min(next));
            let next = self.waiting.next_end().into_iter().chain(self.fresh.ends_at()).fold(next, Instant::min);
            match receiver.recv_timeout(next.saturating_duration_since(clock::monotonic())) {
                Ok(first) => {
                    if !backlog && matches!(*first, Message::Sync { .. }) {
                        let gather = self.pace.gather(self.awaited());
                        std::thread::sleep(next.saturating_duration_since(clock::monotonic()).min(gather));
                    }
                    let batch = std::iter::once(first).chain(receiver.try_iter().take(BATCH_MAX - 1));
                    let batch: Vec<Message> = batch.map(|message| *message).collect();
                    backlog = batch.len() == BATCH_MAX;
                    if self.serve(batch).is_break() {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.end_holds();
            self.end_fresh();
            if self.writes.flush_at.is_some_and(|at| at <= clock::monotonic()) || self.next_beat() <= clock::monotonic()
            {
                self.flush();
                self.tick_for_news();
            }
            if self.pace.next_tick <= clock::monotonic() {
                self.tick();
            }
        }
        self.write_heard();
        self.flush();
        self.waiting.let_go();
        info!(pool = %self.replica.pool(), "the driver has ended");
    }

    fn tick_for_news(&mut self) {
        self.pace.tick_for_news(self.awaited());
    }

    /// How many nodes the rollout waited for at the last tick.
    fn awaited(&self) -> usize {
        self.wait.as_ref().map_or(0, |wait| wait.waiting_for.len())
    }

    /// Drives the rollout as far as it goes now, and answers the nodes that wait for it.
    fn tick(&mut self) {
        let start = clock::monotonic();
        self.pace.news = 0;
        self.flush();
        for _ in 0..COMMITS_MAX {
            match self.follow() {
                Some(_) => self.observe(),
                None => break,
            }
            if !self.step() {
                break;
            }
            // Before the next look at all nodes: they have waited for it.
            self.publish();
        }
        self.publish();
        self.ask_for_counters();
        self.note_turns();
        if self.rest.takes_note() {
            self.note_behind();
        }
        self.sweep();
        self.erase();
        self.pace.ticked(start);
        self.pace.tick_within(self.until_its_turn());
        if self.logged.store_down {
            self.pace.tick_within(self.left_of_blindness());
        }
        self.judge_now_and_then();
    }

    /// Time until nodes that are held without the store are let go; none if they are.
    fn left_of_blindness(&self) -> Option<Duration> {
        let blind_max = self.replica.document().policy.blind_max();
        blind_max.checked_sub(self.shared.unconfirmed_for()).filter(|left| !left.is_zero())
    }

    /// Answers the waiting nodes if the document has changed: all of them if that can be news for all, otherwise those
    /// whose records have changed.  A pause, a policy or an exclusion wakes no other node.
    fn publish(&mut self) {
        if self.published.as_ref() == Some(&self.publishable()) || !self.look() {
            return;
        }
        let (now, touched) = (self.publishable(), std::mem::take(&mut self.touched));
        if self.published.as_ref().is_some_and(|before| before.news == now.news) {
            self.waiting.publish_to(&touched, &self.replica, self.seen.view);
        } else {
            self.waiting.publish(&self.replica, self.seen.view);
        }
        self.published = Some(now);
    }

    fn publishable(&self) -> Published {
        let document = self.replica.document();
        let opened = match &document.stage {
            Stage::Promoted { wave, .. } => (wave.opened, wave.taken_in.len()),
            Stage::Empty | Stage::Steady { .. } | Stage::Staged { .. } => (0, 0),
        };
        let news = News { generation: document.generation, opened, view: self.seen.view };
        Published { revision: document.revision, news }
    }
}

/// What waiting nodes were answered from.
#[derive(Debug, PartialEq, Eq)]
struct Published {
    revision: Revision,
    news: News,
}

/// What an answer follows from besides the node's own record: as long as it stays the same, there is nothing new for a
/// node that was held.
#[derive(Debug, PartialEq, Eq)]
struct News {
    generation: Generation,
    /// Waves, and nodes that were taken into one.
    opened: (usize, usize),
    /// Whether the pool is frozen, and whether all nodes are heard.
    view: PoolView,
}

#[cfg(test)]
mod tests;
