//! What follows from an answer, or from its absence: keys to install, another session, another coordinator, a pause.

use std::time::Duration;

use tracing::{debug, info};

use super::exchange::{Flight, Reply};
use super::failure::Failure;
use super::instruction::{Instructed, InvalidInstruction};
use super::{Contact, NEXT_CONTACT, News, ROUND_MIN, jitter, nonce};
use tfo_engine::backoff::part;
use tfo_engine::fence::{AnswerAccepted, AnswerRefused, PoolAnswer};
use tfo_host::runtime::clock;
use tfo_wire::client::{ClientError, Lost};
use tfo_wire::error::ErrorKind;
use tfo_wire::v1::sync::SyncAnswer;

/// Sessions that may be closed from outside before another agent with this certificate is suspected.
const CLOSED_SUSPICIOUS: u32 = 2;

/// What a pool answers that does not take this node.
const IS_NO_HOME: [ErrorKind; 3] = [ErrorKind::UnknownPool, ErrorKind::NotInPool, ErrorKind::OtherPool];

impl Contact {
    /// Takes the reply to `flight`.
    pub(super) fn take(&mut self, flight: &Flight, reply: Result<Reply, ClientError>) -> News {
        let (now, request) = (self.now(), flight.ask.request);
        self.learn(flight, &reply, now);
        if reply.is_ok() && self.link.has_lapsed(now) {
            // The pool may have excluded this node meanwhile: the next request opens a session.
            debug!(coordinator = %self.url(), "the answer came when the node was detached; asking again");
            self.link.give_up();
            self.next_at = now;
            return News::Pass;
        }
        match reply {
            Ok(Reply::NoNews { absent_after, elsewhere }) => match self.link.nothing_new(request, now) {
                Ok(()) => {
                    if let Some(absent_after) = absent_after {
                        self.link.pool_waits(absent_after);
                    }
                    let news = self.answered(flight, now, News::None);
                    if flight.waits && self.instructed.is_none() {
                        self.turn(elsewhere, now);
                    }
                    news
                }
                Err(refused) => self.refuse(&refused),
            },
            Ok(Reply::Instruction(answer)) => self.instruct(flight, &answer, now),
            Ok(Reply::Unwanted) => self.discard(InvalidInstruction::Unwanted),
            Err(error) => self.rejected(flight, &error, now),
        }
    }

    /// What the path bears, by what became of a request that was held.
    fn learn(&mut self, flight: &Flight, reply: &Result<Reply, ClientError>, now: Duration) {
        if !flight.waits {
            return;
        }
        let (waited, bearing) = (now.saturating_sub(flight.began), &mut self.bearings[self.route.current()]);
        match reply {
            Ok(_) => bearing.answered(waited),
            Err(ClientError::Unreachable { lost: Lost::Away | Lost::Late, .. }) => {
                if bearing.cut(waited, now) {
                    let hold_secs = bearing.bears().as_secs();
                    let (coordinator, waited_secs) = (self.url(), waited.as_secs());
                    info!(%coordinator, waited_secs, hold_secs, "something on the way cuts connections without data; asking for shorter holds");
                }
            }
            // It was answered, or not even sent.
            Err(_) => {}
        }
    }

    fn instruct(&mut self, flight: &Flight, answer: &SyncAnswer, now: Duration) -> News {
        let instructed = match Instructed::of(answer, &self.pool) {
            Ok(instructed) => instructed,
            Err(invalid) => return self.discard(invalid),
        };
        let absent_after = Duration::from_secs(answer.absent_after_secs);
        let Instructed { pool_id, instruction, phase, .. } = instructed;
        match self.link.answered(flight.ask.request, &PoolAnswer { pool_id, instruction, absent_after }, now) {
            // The same keys in another phase go into file and status.
            Ok(accepted)
                if accepted == AnswerAccepted::Install || self.report.phase.is_some_and(|held| held != phase) =>
            {
                self.instructed = Some(instructed);
                self.answered(flight, now, News::Pass)
            }
            Ok(_) => {
                self.instructed = None;
                self.answered(flight, now, News::None)
            }
            Err(refused) => self.refuse(&refused),
        }
    }

    /// The fence refuses the answer.
    fn refuse(&mut self, refused: &AnswerRefused) -> News {
        if matches!(refused, AnswerRefused::OtherPool { .. }) {
            self.turn_back();
        }
        self.failed(Failure::of_refused(&self.url(), refused, &self.purpose.sysctl_file))
    }

    /// The answer is invalid by itself.
    fn discard(&mut self, invalid: InvalidInstruction) -> News {
        self.link.give_up();
        self.failed(Failure::of_invalid(&self.url(), invalid))
    }

    fn answered(&mut self, flight: &Flight, now: Duration, news: News) -> News {
        let first = self.counts.answers == 0;
        let had_failed = self.failure.take().is_some();
        self.awaits_others = false;
        self.counts.answers += 1;
        self.counts.last_contact_at = Some(clock::now());
        self.led = 0;
        self.route.succeeded();
        self.report.answered(flight.drift);
        let took = now.saturating_sub(flight.began);
        if took >= ROUND_MIN {
            self.closed = 0;
        }
        let idle = news == News::None && flight.waits && flight.ask.seen.get() > 0;
        self.next_at = if idle && took < ROUND_MIN { now + ROUND_MIN + part(ROUND_MIN, jitter()) } else { now };
        debug!(coordinator = %self.url(), generation = %self.link.seen(), "answered");
        if first || had_failed {
            // Only now: in TLS 1.3 a client believes that it is connected before the server has refused it.
            info!(coordinator = %self.url(), pool = %self.pool, "connected");
            return News::Pass;
        }
        news
    }

    /// While there is nothing new: back to a better coordinator, or to another one because this one has too many nodes.
    fn turn(&mut self, elsewhere: bool, now: Duration) {
        if self.route.returns(now) || (elsewhere && self.route.relieved(now, jitter())) {
            debug!(coordinator = %self.url(), "asking this one from now on");
            self.link.open_session(clock::now_ms(), nonce());
            self.next_at = now;
        }
    }

    /// The coordinator answered with an error, or could not be reached.
    fn rejected(&mut self, flight: &Flight, error: &ClientError, now: Duration) -> News {
        let request = flight.ask.request;
        let body = match error {
            ClientError::Refused { body, .. } => body.as_deref(),
            _ => None,
        };
        if let Some(moved) = body.and_then(|body| body.moved.as_ref().filter(|_| body.kind == ErrorKind::NodeMoved))
            && let Some(news) = self.lead(request, moved, now)
        {
            return news;
        }
        match body.map(|body| (body.kind, body.ordinal)) {
            Some((ErrorKind::SessionClosed, Some(ordinal)))
                if self.link.session_closed(request, ordinal, nonce(), now).is_ok() =>
            {
                self.instructed = None;
                self.closed += 1;
                if self.closed < CLOSED_SUSPICIOUS {
                    let session = self.link.session();
                    debug!(coordinator = %self.url(), %session, "a later session was open; this one follows it");
                    self.next_at = now;
                    return News::None;
                }
            }
            // It knows this node, and answers once it knows the others: with the one coordinator, and at most once in a row.
            Some((ErrorKind::NotHeard, _)) if !flight.waits && self.waits_for_others() => {
                self.link.give_up();
                self.awaits_others = true;
                let news = self.note(Failure::of_error(error));
                self.next_at = now;
                return news;
            }
            // A late answer is ignored.
            Some((ErrorKind::OtherPool, _)) => drop(self.link.other_pool(request, now)),
            _ => {}
        }
        if matches!(body, Some(body) if IS_NO_HOME.contains(&body.kind)) {
            self.turn_back();
        }
        self.link.give_up();
        self.failed(Failure::of_error(error))
    }

    fn failed(&mut self, failure: Failure) -> News {
        self.awaits_others = false;
        let (trouble, asked) = (failure.trouble, bounded(failure.asked));
        let news = self.note(failure);
        let next = self.route.failed(self.now(), trouble, asked, jitter());
        self.next_at = next.at;
        if next.other {
            self.link.open_session(clock::now_ms(), nonce());
            self.instructed = None;
        }
        news
    }

    /// Counts and shows a failure.
    fn note(&mut self, failure: Failure) -> News {
        let same = self.failure.as_ref().is_some_and(|known| known.kind == failure.kind);
        debug!(coordinator = %self.url(), error = %failure.message, "the exchange failed");
        *self.counts.errors.entry(failure.kind).or_default() += 1;
        self.failure = Some(failure);
        if same { News::None } else { News::Pass }
    }
}

/// The pause that a coordinator asks for, so bounded that this node is back within [`NEXT_CONTACT`], jitter included.
fn bounded(asked: Option<Duration>) -> Option<Duration> {
    asked.map(|asked| asked.min(NEXT_CONTACT * 2 / 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_that_was_asked_for_keeps_the_promise_to_be_back() {
        let secs = Duration::from_secs;
        assert_eq!(bounded(None), None);
        assert_eq!(bounded(Some(secs(2))), Some(secs(2)));
        let longest = bounded(Some(secs(3_600))).unwrap();
        assert!(longest + part(longest / 2, u32::MAX) <= NEXT_CONTACT);
    }
}
