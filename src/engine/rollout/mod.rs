//! The rollout engine: docs/protocol.md#rule-1 to rule 16 as pure code.
//!
//! Safety property: for any two required nodes a and b, `primary(a)` is in `{primary(b), backup(b)}`.  Two pairs of
//! slots are compatible if and only if they have the same primary or are the same two keys swapped.  So there are two
//! kinds of move, backup change and flip, and a barrier stands wherever the kind changes.
//!
//! | from | to | instructed slots | generation | needs | code |
//! |---|---|---|---|---|---|
//! | Empty | Steady(c, b?) | `[c,b?]` | +1 | operator: first key or import | `command::first_key`, `import` |
//! | Steady(c,b) | Staged(c→x) | `[c,x]` | +1 | barrier, not paused or held, due, drained | `walk::stage` |
//! | Staged(c→x) | Promoted, first wave | in the wave `[x,c]`, others as before | +1 | barrier | `walk::promote` |
//! | Promoted, wave k | wave k+1 | same | 0 | every opened node has acknowledged, health gate | `walk::open_wave` |
//! | Promoted, all | Steady(x,c) | same | 0 | barrier | `walk::settle` |
//! | Promoted, all, revoke c | Steady(x) | `[x]` | +1 | barrier | `walk::settle` |
//! | Steady(c,b), revoke b | Steady(c) | `[c]` | +1 | barrier | `walk::drop_backup` |
//! | Staged, abort | Steady(c, prior backup) + hold | `[c,b]` | +1 | nothing | `abort::abort` |
//! | Promoted, abort | Steady(c, backup x) + hold | `[c,x]` | +1 | nothing | `abort::abort` |
//!
//! Nothing but `recover` (rule 10) changes the slots in any other way.  [`handle`] takes one consistent snapshot and
//! returns what to commit against its revision.  The driver commits it; on a conflict it drops the result and asks
//! again. [`sync`] is the nodes' side: admission, then the answer.  Must not know: clocks, stores, key bytes.
//!
//! Known limit: a restored database brings back the records of nodes that an operator forgot, excluded or denied after
//! the backup was made.  Nothing is committed before such a node has been seen again or is measured absent.  But the
//! node may hold, or install from an answer in flight, anything that it was instructed to hold before it was taken
//! out.  The invariant covers it again only from its first install of an instruction that it got after the restore.  So
//! after a restore an operator repeats forget and deny before `recover`, and exclude after it.  Nodes that the backup
//! does not require (it excludes them, or does not know them) are not waited for.  If the restored pool instructs
//! others before such a node shows that the pool had moved on, those others lose their cookies at `recover`.

mod abort;
pub mod ahead;
pub mod barrier;
mod beat;
pub mod calendar;
pub mod changes;
pub mod clocks;
mod command;
pub mod crowd;
pub mod document;
mod draft;
mod gates;
pub mod history;
pub mod input;
mod members;
pub mod observed;
mod operator;
pub mod parts;
pub mod policy;
pub mod presence;
pub mod proposed;
pub mod record;
pub mod refusal;
mod shared;
pub mod slots;
pub mod sync;
pub mod tally;
pub mod timing;
pub mod turn;
pub mod verdict;
mod walk;
pub mod wave;

#[cfg(test)]
mod tests;

use self::document::Snapshot;
use self::input::{Input, Now, Refused, Step};
use tfo_model::key::KeyFingerprint;

/// Decides what one input does to the snapshot.
///
/// `fresh` is the fingerprint of a key that was made for [`document::Document::next_epoch`]; without one, a step that
/// needs it is answered with [`Step::MakeKey`].
///
/// # Errors
/// Fails if a command is not allowed now, with the phase and the reason.  A tick is never refused.
pub fn handle(
    snapshot: &Snapshot,
    now: Now<'_>,
    input: &Input,
    fresh: Option<KeyFingerprint>,
) -> Result<Step, Refused> {
    let result = match input {
        Input::Tick => walk::tick(snapshot, now, fresh),
        Input::Request(request) => command::carry_out(snapshot, now, request, fresh),
    };
    result.map_err(|reason| Refused { phase: snapshot.document.stage.phase(), reason })
}
