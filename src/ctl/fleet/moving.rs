//! `move`: leads nodes over to another pool of the same coordinators (docs/how-to/move_nodes.md).
//!
//! It is one order to the old pool.  What only the coordinator knows (its patterns, what the other pool denies) it refuses
//! itself.

use clap::Args;

use super::command::{refused, run};
use super::nodes::{NodeArgs, is_in_file, meant, ready};
use tfo_cli::plan::members::is_here;
use tfo_cli::report::{Failure, Format, Outcome};
use tfo_model::fleet::{Action, NodeState};
use tfo_model::ids::PoolName;
use tfo_model::node::KeySource;
use tfo_model::state::Phase;
use tfo_wire::v1::fleet::{NodeStatus, PoolStatus};
use tfo_wire::v1::orders::NodeAction;

/// Arguments of `move`.
#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// The pool that they are to belong to
    #[arg(long, value_name = "POOL")]
    to: PoolName,
    /// Lower the number of expected nodes of the old pool to the required ones that are left, in the same step
    #[arg(long)]
    lower_expected: bool,
}

/// Moves nodes to another pool.
pub(crate) fn move_nodes(arguments: &MoveArgs, format: Format) -> Result<Outcome, Failure> {
    let MoveArgs { node: NodeArgs { common, targets }, to, lower_expected } = arguments;
    let targets = targets.read()?;
    run(common, format, async |fleet, status| {
        let target = fleet.pools().await?.pools.into_iter().find(|pool| pool.pool == *to);
        let target = target
            .ok_or_else(|| refused(format!("the coordinator has no pool {to}"), "`tfoctl pools` lists its pools"))?;
        check(status, &target)?;
        // Again to the same pool: an order that may have been given already.
        let may_move = |node: &NodeStatus| {
            (is_here(node) || node.moved_to.as_ref() == Some(to)) && node.source == KeySource::Coordinator
        };
        let meant = meant(&targets, (fleet, status), may_move).await?;
        if let Some(elsewhere) = meant.nodes().iter().find(|node| node.state == NodeState::Moved && !may_move(node)) {
            let message = format!("{} was moved to another pool already", elsewhere.node);
            return Err(refused(message, "move it from that pool, or end the order (`tfoctl forget`)"));
        }
        let (it, its) = (meant.word("it", "them"), meant.word("its", "their"));
        let (leaves, has) = (meant.word("it leaves", "they leave"), meant.word("it has", "they have"));
        let certificates = meant.word("its certificate stays", "their certificates stay");
        let (is, new) = (meant.word("it is", "they are"), meant.word("a new node", "new nodes"));
        let PoolStatus { pool: from, .. } = status;
        let plan = meant
            .plan(Action::Move)
            .line(format!(
                "to pool {to}, {} at generation {}: {is} {new} there, and its barriers wait for {it} from {its} first contact",
                target.phase.as_str(),
                target.generation
            ))
            .line(format!("{leaves} pool {from} at once: none of its barriers waits for {it}; {certificates} valid"))
            .line(format!(
                "take {it} out of the addresses of pool {from} first: as soon as {has} the other keys, {its} clients of pool \
                 {from} lose TFO"
            ))
            .line(format!("then set `pool = \"{to}\"` in {its} agent.toml: until then {is} led over again at each start"));
        let plan = meant.what_is_left(plan, *lower_expected).map_err(is_in_file)?;
        let action = NodeAction::Move { to: to.clone(), lower_expected: *lower_expected };
        Ok(ready(meant, plan, common, (Action::Move, action)))
    })
}

/// What is refused without asking the coordinator.
fn check(from: &PoolStatus, to: &PoolStatus) -> Result<(), Failure> {
    if from.pool_id == to.pool_id {
        return Err(refused(format!("the nodes are in pool {} already", to.pool), "name another pool with --to"));
    }
    if to.phase == Phase::Empty {
        let message = format!("pool {} has no key yet: the nodes would hold none", to.pool);
        let remedy = format!("give it its first key: `tfoctl --pool {} rotate --first`", to.pool);
        return Err(refused(message, &remedy));
    }
    Ok(())
}
