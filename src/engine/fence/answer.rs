//! An answer compared with the fence alone (docs/protocol.md#rule-9).

use crate::rollout::slots::{Fence, Instruction};
use crate::rollout::sync::REPORT_LEAD_MAX;
use tfo_model::count::Generation;
use tfo_model::ids::PoolId;

/// An answer that the fence accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnswerAccepted {
    /// Install it: file, kernel, read back.
    Install,
    /// The file holds it already: look at the kernel only.
    Same,
}

/// An answer that the fence refuses: the installed keys stay, the agent reports it and backs off.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AnswerRefused {
    /// Not the answer to the outstanding request: late, or repeated.
    #[error("the answer belongs to no outstanding request")]
    NotOutstanding,
    /// The pool was made again under the old name, or this is the wrong coordinator.
    #[error("the answer is for pool {answered}, but this node's keys belong to pool {held}")]
    OtherPool {
        /// Pool of the file.
        held: PoolId,
        /// Pool of the answer.
        answered: PoolId,
    },
    /// The coordinator's store lags or was restored.
    #[error("the answer has generation {answered}, but this node holds generation {held}")]
    LowerGeneration {
        /// Generation of the file.
        held: Generation,
        /// Generation of the answer.
        answered: Generation,
    },
    /// The coordinator gives generations that no pool reaches: after it no other answer would ever be accepted.
    #[error("the answer has generation {answered}, too far above generation {held} of this node")]
    TooFarAhead {
        /// Generation of the file.
        held: Generation,
        /// Generation of the answer.
        answered: Generation,
    },
    /// The coordinator's store was restored and went another way.
    #[error("the answer has other keys under generation {generation} than this node received under it")]
    OtherKeys {
        /// Generation of both.
        generation: Generation,
    },
}

/// The highest generation that a node without keys takes from a pool: none that is driven comes near it.
pub const JOINER_GENERATION_MAX: u64 = u64::MAX / 2;

/// Compares an answer with the fence alone.
///
/// Under one generation the same primary with a backup added is accepted: the node's kernel had one slot when the file
/// was written, and has two now (rule 9).
///
/// # Errors
/// Fails for another pool, a lower generation, one that is further ahead than a coordinator takes from a node
/// ([`REPORT_LEAD_MAX`]; a node without keys takes up to [`JOINER_GENERATION_MAX`]), and the same generation with other
/// fingerprints.
pub fn check_answer(
    fence: Option<&Fence>,
    pool_id: &PoolId,
    instruction: &Instruction,
) -> Result<AnswerAccepted, AnswerRefused> {
    let Some(fence) = fence else {
        // Of a pool that it does not know; what is above could never be followed by another answer.
        let (held, answered) = (Generation::ZERO, instruction.generation);
        let is_possible = answered.get() <= JOINER_GENERATION_MAX;
        return if is_possible {
            Ok(AnswerAccepted::Install)
        } else {
            Err(AnswerRefused::TooFarAhead { held, answered })
        };
    };
    if fence.pool_id != *pool_id {
        return Err(AnswerRefused::OtherPool { held: fence.pool_id, answered: *pool_id });
    }
    let generation = instruction.generation;
    if generation < fence.generation {
        return Err(AnswerRefused::LowerGeneration { held: fence.generation, answered: generation });
    }
    if generation.get() > fence.generation.get().saturating_add(REPORT_LEAD_MAX) {
        return Err(AnswerRefused::TooFarAhead { held: fence.generation, answered: generation });
    }
    let (held, answered) = (fence.slots.pair(), instruction.slots.pair());
    if generation > fence.generation {
        Ok(AnswerAccepted::Install)
    } else if held == answered {
        Ok(AnswerAccepted::Same)
    } else if held == answered.primary_alone() {
        Ok(AnswerAccepted::Install)
    } else {
        Err(AnswerRefused::OtherKeys { generation })
    }
}
