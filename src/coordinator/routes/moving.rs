//! Nodes that an operator moves to another pool: the order, and how a node hears of it (docs/protocol.md#rule-6, rule 9).
//!
//! Two pools are concerned, each with a driver of its own, and no commit spans both.  The old pool's commit is the move.
//! What comes before it only refuses; what comes after it ends an earlier order of the new pool to send the nodes back.  If
//! that fails, the order is given once more, and changes nothing in the old pool.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fleet::{Commanded, Instruction, busy, execute, store_down};
use super::{Api, FromNode, FromOperator};
use crate::pool::{Asked, GivenKeys, Pool, PoolNames, SyncError, Welcome};
use crate::server::Refusal;
use tfo_engine::fence::MoveOrder;
use tfo_engine::rollout::input::{Command, Expectation, Target};
use tfo_engine::rollout::sync::SyncRefused;
use tfo_model::ids::{NodeId, PoolId, PoolName};
use tfo_model::state::Phase;
use tfo_wire::error::{ErrorKind, MovedTo};

/// Most names in a refusal.
const NAMES_MAX: usize = 20;

/// The names of all pools of this coordinator.
pub(super) fn names(api: &Api) -> PoolNames {
    api.pools.load().values().map(|pool| (pool.pool_id(), pool.name().clone())).collect()
}

/// What an operator wants.
pub(super) struct Move {
    pub(super) nodes: BTreeSet<NodeId>,
    /// The other pool.
    pub(super) to: PoolName,
    pub(super) expected: Expectation,
}

/// Moves nodes to another pool.
pub(super) async fn order(api: &Api, from: &FromOperator, asked: Asked, wanted: Move) -> Commanded {
    let Move { nodes, to, expected } = wanted;
    let target = target_of(api, &to)?;
    let patterns = &target.policy().nodes;
    let unfit = nodes.iter().filter(|node| !patterns.iter().any(|pattern| pattern.matches(node)));
    refuse_any(unfit, &format!("the `nodes` patterns of pool {to} match no such name"), "add them there, and reload")?;
    let welcome = target.welcome(nodes.clone()).await.map_err(|_| busy())?.map_err(store_down)?;
    let Welcome { phase, denied, moved_away, known: _ } = welcome;
    if phase == Phase::Empty {
        let remedy = "give that pool its first key (`tfoctl rotate --first`), then move nodes to it";
        return Err(refused(format!("pool {to} has no key yet: the nodes would hold none"), remedy));
    }
    refuse_any(denied.iter(), &format!("denied in pool {to}"), "`tfoctl allow` them there first")?;
    let place = Target { pool_id: target.pool_id(), name: to.clone() };
    let command = Command::Move { nodes, to: place, expected };
    let done = execute(api, from, Instruction::order("move", asked.clone(), command)).await?;
    if !moved_away.is_empty() {
        let reason = format!("moved back from {}", from.pool.name());
        let command = Command::Forget { nodes: moved_away, expected: Expectation::Keep };
        let asked = Asked { reason, ..asked };
        let ended = target.command(Instruction::order("forget", asked, command).wanted(), GivenKeys::default()).await;
        if !matches!(ended, Ok(Ok(_))) {
            let message = format!("the nodes have left pool {}, but pool {to} still sends them back", from.pool.name());
            return Err(Refusal::new(ErrorKind::Unavailable, message).with_remedy(None, "give the same order again"));
        }
    }
    Ok(done)
}

fn target_of(api: &Api, to: &PoolName) -> Result<Arc<Pool>, Refusal> {
    api.pools.load().get(to).cloned().ok_or_else(|| {
        refused(format!("this coordinator has no pool {to}"), "name one of its pools; `tfoctl pools` lists them")
    })
}

fn refused(message: String, remedy: &str) -> Refusal {
    Refusal::new(ErrorKind::Refused, message).with_remedy(None, remedy)
}

fn refuse_any<'a>(nodes: impl Iterator<Item = &'a NodeId>, why: &str, remedy: &str) -> Result<(), Refusal> {
    let names: Vec<&str> = nodes.map(NodeId::as_str).collect();
    if names.is_empty() {
        return Ok(());
    }
    let more = names.len().saturating_sub(NAMES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let names = names[..names.len().min(NAMES_MAX)].join(", ");
    Err(refused(format!("{why}: {names}{more}; nothing was done"), remedy))
}

/// What a node hears that was refused: the order of the pool that it asked, or that of the pool whose keys it reports.
pub(super) async fn order_to(api: &Api, from: &FromNode, held: Option<PoolId>, error: &SyncError) -> Option<MovedTo> {
    let order = match error {
        SyncError::Refused(SyncRefused::Moved { to }) => MoveOrder { from: from.pool.pool_id(), to: *to },
        SyncError::Refused(SyncRefused::OtherPool) => {
            let pool = api.pools.load().values().find(|pool| Some(pool.pool_id()) == held).cloned()?;
            // Without an answer it is refused as without an order, and asks again.
            pool.order_for(from.node.clone()).await.ok()?.ok()??
        }
        SyncError::Refused(_) | SyncError::StoreDown | SyncError::Internal => return None,
    };
    let pool = names(api).remove(&order.to)?;
    Some(MovedTo { from: order.from, pool, pool_id: order.to })
}
