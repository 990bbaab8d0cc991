//! The operators' side of the API: reading pools and nodes, and commands.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::sync_request::check_reason;
use super::{Api, FromOperator, FromReader, ReadPool, enrol, moving};
use crate::pool::{Asked, CommandError, GivenKeys, Pool, StoreDown, Wanted};
use crate::server::{JsonBody, Refusal, RequestId};
use tfo_engine::rollout::input::{Command, Expectation, OperatorRequest, Reason, RevokeKeys};
use tfo_model::count::Revision;
use tfo_model::ids::NodeId;
use tfo_model::key::PairPrint;
use tfo_wire::error::ErrorKind;
use tfo_wire::v1::fleet::{
    AdvanceRequest, COMMAND_BYTES_MAX, Command as CommandBody, Done, ImportRequest, PoolStatus, Pools, RecoverRequest,
    RotationMode, RotationRequest,
};
use tfo_wire::v1::orders::{ExpectRequest, NODES_MAX, NodeAction, NodesRequest};
use tfo_wire::v1::secret::SecretText;

/// Longest message of a refused command in bytes: it may name ten thousand nodes.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

type Body<T> = JsonBody<T, COMMAND_BYTES_MAX>;
pub(super) type Commanded = Result<Json<Done>, Refusal>;

pub(super) fn busy() -> Refusal {
    Refusal::new(ErrorKind::Unavailable, "this coordinator is busy or stopping; ask again")
}

pub(super) fn store_down(down: StoreDown) -> Refusal {
    let message = down.blind_since.map_or_else(
        || "the store cannot be reached; ask again".to_owned(),
        |since| format!("the store cannot be reached since {since}: until it is back, no node gets an answer here"),
    );
    let remedy =
        "ask another coordinator; `tfo-coordinator check` on this one's host says what is wrong with its store";
    Refusal::new(ErrorKind::StoreUnavailable, message).with_remedy(None, remedy)
}

/// Refuses what is read from the store itself, at once: a read of one that does not answer takes long to say so.
pub(super) fn is_read(pool: &Pool) -> Result<(), Refusal> {
    if pool.is_unread() { Err(store_down(pool.store_down())) } else { Ok(()) }
}

async fn status(pool: &Pool) -> Result<PoolStatus, Refusal> {
    pool.status().await.map_err(|_| busy())?.map_err(store_down)
}

/// `GET /v1/pools`.
pub(super) async fn pools(State(api): State<Arc<Api>>, _: FromReader) -> Result<Response, Refusal> {
    let all = api.pools.load_full();
    let revisions = all.values().map(|pool| pool.revision()).collect();
    let make = async {
        let mut pools = Vec::new();
        for pool in all.values() {
            pools.push(status(pool).await?);
        }
        Ok(Pools { pools })
    };
    api.bodies.answer("pools".to_owned(), revisions, make).await
}

/// `GET /v1/pools/{pool}`.
pub(super) async fn pool(State(api): State<Arc<Api>>, ReadPool(pool): ReadPool) -> Result<Response, Refusal> {
    api.bodies.answer(format!("pools/{}", pool.name()), vec![pool.revision()], status(&pool)).await
}

/// Which nodes a reader wants to see.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodesQuery {
    /// As they are now: those whose requests wait here are asked.
    #[serde(default)]
    fresh: bool,
}

/// `GET /v1/pools/{pool}/nodes`.
pub(super) async fn nodes(
    State(api): State<Arc<Api>>,
    ReadPool(pool): ReadPool,
    query: Result<Query<NodesQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(NodesQuery { fresh }) = query.map_err(|_| bad_request("the query is fresh=true, or there is none"))?;
    let names = moving::names(&api);
    let path = format!("pools/{}/nodes{}", pool.name(), if fresh { "/fresh" } else { "" });
    let make = async {
        let nodes = if fresh { pool.fresh_nodes(names).await } else { pool.nodes(names).await };
        nodes.map_err(|_| busy())?.map_err(store_down)
    };
    api.bodies.answer(path, vec![pool.revision()], make).await
}

/// A command for the driver.
pub(super) struct Instruction {
    /// Its name in the log.
    name: &'static str,
    wanted: Wanted,
    given: GivenKeys,
}

impl Instruction {
    /// One that brings no keys.
    fn new(name: &'static str, wanted: Wanted) -> Self {
        Self { name, wanted, given: GivenKeys::default() }
    }

    /// One that the engine takes as it is.
    pub(super) fn order(name: &'static str, asked: Asked, command: Command) -> Self {
        let Asked { operator, reason, if_revision } = asked;
        Self::new(name, Wanted::Order(OperatorRequest { operator, reason, if_revision, command }))
    }

    /// The nodes whose certificates end with it.
    fn cut_off(&self) -> BTreeSet<NodeId> {
        let Wanted::Order(OperatorRequest { command, .. }) = &self.wanted else { return BTreeSet::new() };
        match command {
            Command::Deny { nodes } | Command::Forget { nodes, .. } | Command::Revoke { deny: nodes, .. } => {
                nodes.clone()
            }
            _ => BTreeSet::new(),
        }
    }

    /// What the driver gets.
    pub(super) fn wanted(self) -> Wanted {
        self.wanted
    }
}

/// The route of a command whose body has everything: `convert` makes it an instruction of the operator.
pub(super) fn command<B: DeserializeOwned + Send + 'static>(
    convert: fn(B, NodeId) -> Result<Instruction, Refusal>,
) -> MethodRouter<Arc<Api>> {
    post(move |State(api): State<Arc<Api>>, from: FromOperator, JsonBody(body): Body<B>| async move {
        let instruction = convert(body, from.operator.clone())?;
        execute(&api, &from, instruction).await
    })
}

pub(super) async fn execute(api: &Api, from: &FromOperator, instruction: Instruction) -> Commanded {
    let planned = enrol::plan(api, from, instruction.name, instruction.cut_off()).await?;
    let Instruction { name, wanted, given } = instruction;
    let done = from.pool.command(wanted, given).await.map_err(|_| busy())?;
    let followed = enrol::follow(api, planned, &done).await;
    let done = done.map_err(why);
    let (pool, metrics) = (from.pool.name(), &api.metrics);
    match &done {
        // The driver has logged the commit itself.
        Ok(_) => metrics.command_ended(pool, "done"),
        Err(refusal) => {
            let (kind, message) = (refusal.kind(), refusal.message());
            metrics.command_ended(pool, kind.as_str());
            tracing::info!(
                %pool,
                request_id = %from.id,
                actor = %from.operator,
                command = name,
                ?kind,
                error = message,
                "command refused"
            );
        }
    }
    let done = done?;
    followed?;
    Ok(Json(done))
}

/// An order of an operator that is not JSON: from a page.  It is refused unless the document is at this revision.
pub(crate) async fn ordered(
    api: &Api,
    from: (Arc<Pool>, NodeId, RequestId),
    name: &'static str,
    (reason, revision, command): (String, Revision, Command),
) -> Result<Done, Refusal> {
    let (pool, operator, id) = from;
    let asked = asked(operator.clone(), reason, Some(revision))?;
    let from = FromOperator { pool, operator, id };
    execute(api, &from, Instruction::order(name, asked, command)).await.map(|Json(done)| done)
}

pub(super) fn bad_request(why: impl Into<String>) -> Refusal {
    Refusal::new(ErrorKind::BadRequest, why)
}

pub(super) fn asked(operator: NodeId, reason: String, if_revision: Option<Revision>) -> Result<Asked, Refusal> {
    check_reason(&reason).map_err(bad_request)?;
    Ok(Asked { operator, reason, if_revision })
}

/// `POST …/rotations`.
pub(super) fn rotate(body: RotationRequest, operator: NodeId) -> Result<Instruction, Refusal> {
    let names_keys_or_nodes = !body.deny.is_empty() || !body.epochs.is_empty();
    if names_keys_or_nodes && body.mode != RotationMode::Revoke {
        return Err(bad_request("deny and epochs go with mode revoke"));
    }
    if body.expect.is_some() && body.mode != RotationMode::First {
        return Err(bad_request("expect goes with mode first"));
    }
    let asked = asked(operator, body.reason, body.if_revision)?;
    let command = match body.mode {
        RotationMode::Normal => Command::Rotate { force: body.force },
        RotationMode::Revoke if body.epochs.is_empty() => {
            Command::Revoke { keys: RevokeKeys::AllInstructed, deny: body.deny }
        }
        RotationMode::Revoke => Command::Revoke { keys: RevokeKeys::Epochs(body.epochs), deny: body.deny },
        RotationMode::First => {
            let wanted = Wanted::FirstKey(asked, body.expect, body.force);
            return Ok(Instruction::new("rotate", wanted));
        }
    };
    Ok(Instruction::order("rotate", asked, command))
}

/// `POST …/pause`.
pub(super) fn pause(body: CommandBody, operator: NodeId) -> Result<Instruction, Refusal> {
    Ok(Instruction::order("pause", asked(operator, body.reason, body.if_revision)?, Command::Pause))
}

/// `POST …/resume`.
pub(super) fn resume(body: CommandBody, operator: NodeId) -> Result<Instruction, Refusal> {
    let command = Command::Resume { force: body.force };
    Ok(Instruction::order("resume", asked(operator, body.reason, body.if_revision)?, command))
}

/// `POST …/abort`.
pub(super) fn abort(body: CommandBody, operator: NodeId) -> Result<Instruction, Refusal> {
    let command = Command::Abort { force: body.force };
    Ok(Instruction::order("abort", asked(operator, body.reason, body.if_revision)?, command))
}

/// `POST …/advance`.
pub(super) fn advance(body: AdvanceRequest, operator: NodeId) -> Result<Instruction, Refusal> {
    let command = Command::Advance { generation: body.generation, leave: body.leave };
    Ok(Instruction::order("advance", asked(operator, body.reason, None)?, command))
}

/// `POST …/import`.
pub(super) fn import(body: ImportRequest, operator: NodeId) -> Result<Instruction, Refusal> {
    let asked = asked(operator, body.reason, None)?;
    let mut given = GivenKeys::default();
    let prints = take_keys(&body.keys, &mut given)?;
    let wanted = Wanted::Import(asked, body.expect, prints.primary, prints.backup);
    Ok(Instruction { name: "import", wanted, given })
}

/// `POST …/recover`.
pub(super) fn recover(body: RecoverRequest, operator: NodeId) -> Result<Instruction, Refusal> {
    let asked = asked(operator, body.reason, None)?;
    let mut given = GivenKeys::default();
    if let Some(keys) = &body.keys {
        take_keys(keys, &mut given)?;
    }
    Ok(Instruction { name: "recover", wanted: Wanted::Recover(asked, body.slots), given })
}

fn take_keys(text: &SecretText, given: &mut GivenKeys) -> Result<PairPrint, Refusal> {
    // The error quotes nothing of the text.
    let pair = text.parse().map_err(|error| bad_request(format!("keys: {error}")))?;
    let primary = given.add(pair.primary().duplicate());
    Ok(PairPrint { primary, backup: pair.backup().map(|backup| given.add(backup.duplicate())) })
}

/// `POST …/nodes`.
pub(super) async fn order_nodes(
    State(api): State<Arc<Api>>,
    from: FromOperator,
    JsonBody(body): Body<NodesRequest>,
) -> Commanded {
    let NodesRequest { action, nodes, reason } = body;
    if !(1..=NODES_MAX).contains(&nodes.len()) {
        return Err(bad_request(format!("nodes has 1 to {NODES_MAX} names")));
    }
    let asked = asked(from.operator.clone(), reason, None)?;
    let expectation = |lower| if lower { Expectation::Lower } else { Expectation::Keep };
    let (name, command) = match action {
        NodeAction::Exclude { until } => ("exclude", Command::Exclude { nodes, until }),
        NodeAction::Include => ("include", Command::Include { nodes }),
        NodeAction::Deny => ("deny", Command::Deny { nodes }),
        NodeAction::Allow => ("allow", Command::Allow { nodes }),
        NodeAction::Forget { lower_expected } => {
            ("forget", Command::Forget { nodes, expected: expectation(lower_expected) })
        }
        NodeAction::Move { to, lower_expected } => {
            return moving::order(
                &api,
                &from,
                asked,
                moving::Move { nodes, to, expected: expectation(lower_expected) },
            )
            .await;
        }
    };
    execute(&api, &from, Instruction::order(name, asked, command)).await
}

/// `POST …/expect`.
pub(super) fn expect(body: ExpectRequest, operator: NodeId) -> Result<Instruction, Refusal> {
    let command = Command::Expect { number: body.number };
    Ok(Instruction::order("expect", asked(operator, body.reason, body.if_revision)?, command))
}

/// The refusal of a command: the reason first, and what to do about it.
pub(super) fn why(not_done: CommandError) -> Refusal {
    let refused = match not_done {
        CommandError::Refused(refused) => refused,
        CommandError::NotPossible(why) => return Refusal::new(ErrorKind::Refused, why),
        CommandError::StoreDown => {
            let why = "the store cannot be reached; nothing was changed";
            return Refusal::new(ErrorKind::StoreUnavailable, why);
        }
        CommandError::OutcomeOpen => {
            let why = "the store failed while it was written: look at the pool to see whether it was done";
            return Refusal::new(ErrorKind::StoreUnavailable, why);
        }
        CommandError::Overtaken => {
            return Refusal::new(ErrorKind::Moved, "others changed the pool at the same time; look, and ask again");
        }
        CommandError::Internal => return Refusal::new(ErrorKind::Internal, "the coordinator's log has more"),
    };
    let kind = match &refused.reason {
        Reason::Frozen { .. } => ErrorKind::PoolFrozen,
        Reason::NotHeard(_) => ErrorKind::NotHeard,
        Reason::RevisionMoved(_) | Reason::GenerationMoved(_) | Reason::MoreBehind(_) => ErrorKind::Moved,
        Reason::UnknownNodes(_) => ErrorKind::UnknownNode,
        _ => ErrorKind::Refused,
    };
    let mut message = refused.to_string();
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push_str(", ...");
    }
    Refusal::new(kind, message).with_remedy(refused.until(), refused.remedy())
}
