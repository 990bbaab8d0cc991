//! The operators' side: looking at pools and nodes, and commands.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;

use super::sync_request::check_reason;
use super::{Api, FromOperator, FromReader, ReadPool};
use crate::pool::{Asked, CommandError, GivenKeys, Pool, Wanted};
use crate::server::{JsonBody, Refusal};
use tfo_engine::rollout::document::{Actor, AuditEntry};
use tfo_engine::rollout::input::{Command, OperatorRequest, Reason, RevokeKeys};
use tfo_model::count::Revision;
use tfo_model::ids::NodeId;
use tfo_store::AUDIT_READ_MAX;
use tfo_wire::error::ErrorKind;
use tfo_wire::v1::fleet::{
    AdvanceRequest, Audit, AuditLine, COMMAND_BYTES_MAX, Command as CommandBody, Done, ImportRequest, NodeAction,
    NodeRequest, Nodes, PoolStatus, Pools, REASON_BYTES_MAX, RecoverRequest, RotationMode, RotationRequest,
};
use tfo_wire::v1::secret::SecretText;

/// Longest message of a refused command in bytes: it may name ten thousand nodes.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

type Body<T> = JsonBody<T, COMMAND_BYTES_MAX>;
type Commanded = Result<Json<Done>, Refusal>;

fn busy() -> Refusal {
    Refusal::new(ErrorKind::Unavailable, "this coordinator is busy or stopping; ask again")
}

fn store_down() -> Refusal {
    Refusal::new(ErrorKind::StoreUnavailable, "the store cannot be reached; ask again")
}

async fn status(pool: &Pool) -> Result<PoolStatus, Refusal> {
    pool.status().await.map_err(|_| busy())?.map_err(|_| store_down())
}

/// `GET /v1/pools`.
pub(super) async fn pools(State(api): State<Arc<Api>>, _: FromReader) -> Result<Json<Pools>, Refusal> {
    let mut pools = Vec::new();
    for pool in api.pools.load_full().values() {
        pools.push(status(pool).await?);
    }
    Ok(Json(Pools { pools }))
}

/// `GET /v1/pools/{pool}`.
pub(super) async fn pool(ReadPool(pool): ReadPool) -> Result<Json<PoolStatus>, Refusal> {
    status(&pool).await.map(Json)
}

/// `GET /v1/pools/{pool}/nodes`.
pub(super) async fn nodes(ReadPool(pool): ReadPool) -> Result<Json<Nodes>, Refusal> {
    let nodes = pool.nodes().await.map_err(|_| busy())?;
    nodes.map(Json).map_err(|_| store_down())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    #[serde(default)]
    after: u64,
}

/// `GET /v1/pools/{pool}/audit?after=REVISION`.
pub(super) async fn audit(
    ReadPool(pool): ReadPool,
    query: Result<Query<AuditQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Audit>, Refusal> {
    let query = query.map_err(|_| Refusal::new(ErrorKind::BadRequest, "the query is ?after=REVISION, or nothing"))?;
    let (store, name) = (pool.store(), pool.name().clone());
    let after = Revision::new(query.after);
    let read = tokio::task::spawn_blocking(move || store.audit(&name, after)).await;
    let entries = read.map_err(|_| busy())?.map_err(|error| {
        tracing::warn!(pool = %pool.name(), %error, "the audit log cannot be read");
        store_down()
    })?;
    let more = entries.len() == AUDIT_READ_MAX;
    Ok(Json(Audit { pool: pool.name().clone(), entries: entries.into_iter().map(line).collect(), more }))
}

fn line(entry: AuditEntry) -> AuditLine {
    AuditLine {
        at: entry.at,
        revision: entry.revision,
        generation: entry.generation,
        phase: entry.phase,
        operator: match entry.actor {
            Actor::Engine => None,
            Actor::Operator(name) => Some(name),
        },
        action: entry.action.into(),
        nodes: entry.nodes,
        reason: entry.reason,
    }
}

/// A command on its way to the driver.
struct Ordered {
    api: Arc<Api>,
    from: FromOperator,
    name: &'static str,
}

impl Ordered {
    fn asked(&self, reason: String, if_revision: Option<Revision>) -> Result<Asked, Refusal> {
        check_reason(&reason).map_err(|why| Refusal::new(ErrorKind::BadRequest, why))?;
        Ok(Asked { operator: self.from.operator.clone(), reason, if_revision })
    }

    async fn order(self, reason: String, if_revision: Option<Revision>, command: Command) -> Commanded {
        let Asked { operator, reason, if_revision } = self.asked(reason, if_revision)?;
        self.send(Wanted::Order(OperatorRequest { operator, reason, if_revision, command }), GivenKeys::default()).await
    }

    async fn send(self, wanted: Wanted, given: GivenKeys) -> Commanded {
        let done = self.from.pool.command(wanted, given).await.map_err(|_| busy())?.map_err(why);
        let (pool, metrics) = (self.from.pool.name(), &self.api.metrics);
        match &done {
            // The commit itself was logged by the driver.
            Ok(_) => metrics.command_ended(pool, "done"),
            Err((kind, message)) => {
                metrics.command_ended(pool, kind.as_str());
                tracing::info!(
                    %pool,
                    request_id = %self.from.id,
                    actor = %self.from.operator,
                    command = self.name,
                    ?kind,
                    error = message,
                    "command refused"
                );
            }
        }
        done.map(Json).map_err(|(kind, message)| Refusal::new(kind, message))
    }
}

/// `POST …/rotations`.
pub(super) async fn rotate(
    State(api): State<Arc<Api>>,
    from: FromOperator,
    JsonBody(body): Body<RotationRequest>,
) -> Commanded {
    let ordered = Ordered { api, from, name: "rotate" };
    let bad = |why| Err(Refusal::new(ErrorKind::BadRequest, why));
    let names_keys_or_nodes = !body.deny.is_empty() || !body.epochs.is_empty();
    if names_keys_or_nodes && body.mode != RotationMode::Revoke {
        return bad("deny and epochs go with mode revoke");
    }
    if body.expect.is_some() && body.mode != RotationMode::First {
        return bad("expect goes with mode first");
    }
    let command = match body.mode {
        RotationMode::Normal => Command::Rotate { force: body.force },
        RotationMode::Revoke if body.epochs.is_empty() => {
            Command::Revoke { keys: RevokeKeys::AllInstructed, deny: body.deny }
        }
        RotationMode::Revoke => Command::Revoke { keys: RevokeKeys::Epochs(body.epochs), deny: body.deny },
        RotationMode::First => {
            let asked = ordered.asked(body.reason, body.if_revision)?;
            let wanted = Wanted::FirstKey(asked, body.expect, body.force);
            return ordered.send(wanted, GivenKeys::default()).await;
        }
    };
    ordered.order(body.reason, body.if_revision, command).await
}

/// `POST …/pause`.
pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    from: FromOperator,
    JsonBody(body): Body<CommandBody>,
) -> Commanded {
    Ordered { api, from, name: "pause" }.order(body.reason, body.if_revision, Command::Pause).await
}

/// `POST …/resume`.
pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    from: FromOperator,
    JsonBody(body): Body<CommandBody>,
) -> Commanded {
    let command = Command::Resume { force: body.force };
    Ordered { api, from, name: "resume" }.order(body.reason, body.if_revision, command).await
}

/// `POST …/abort`.
pub(super) async fn abort(
    State(api): State<Arc<Api>>,
    from: FromOperator,
    JsonBody(body): Body<CommandBody>,
) -> Commanded {
    let command = Command::Abort { force: body.force };
    Ordered { api, from, name: "abort" }.order(body.reason, body.if_revision, command).await
}

/// `POST …/advance`.
pub(super) async fn advance(
    State(api): State<Arc<Api>>,
    from: FromOperator,
    JsonBody(body): Body<AdvanceRequest>,
) -> Commanded {
    let command = Command::Advance { generation: body.generation, leave: body.leave };
    Ordered { api, from, name: "advance" }.order(body.reason, None, command).await
}

/// `POST …/import`.
pub(super) async fn import(
    State(api): State<Arc<Api>>,
    from: FromOperator,
    JsonBody(body): Body<ImportRequest>,
) -> Commanded {
    let ordered = Ordered { api, from, name: "import" };
    let asked = ordered.asked(body.reason, None)?;
    let mut given = GivenKeys::default();
    let prints = take_keys(&body.keys, &mut given)?;
    ordered.send(Wanted::Import(asked, body.expect, prints.0, prints.1), given).await
}

/// `POST …/recover`.
pub(super) async fn recover(
    State(api): State<Arc<Api>>,
    from: FromOperator,
    JsonBody(body): Body<RecoverRequest>,
) -> Commanded {
    let ordered = Ordered { api, from, name: "recover" };
    let asked = ordered.asked(body.reason, None)?;
    let mut given = GivenKeys::default();
    if let Some(keys) = &body.keys {
        take_keys(keys, &mut given)?;
    }
    ordered.send(Wanted::Recover(asked, body.slots), given).await
}

type Prints = (tfo_model::key::KeyFingerprint, Option<tfo_model::key::KeyFingerprint>);

fn take_keys(text: &SecretText, given: &mut GivenKeys) -> Result<Prints, Refusal> {
    // The error quotes nothing of the text.
    let pair = text.parse().map_err(|error| Refusal::new(ErrorKind::BadRequest, format!("keys: {error}")))?;
    let primary = given.add(pair.primary().duplicate());
    Ok((primary, pair.backup().map(|backup| given.add(backup.duplicate()))))
}

fn node_of(path: Result<Path<(String, String)>, axum::extract::rejection::PathRejection>) -> Result<NodeId, Refusal> {
    let name = path.ok().and_then(|Path((_, node))| node.parse().ok());
    name.ok_or_else(|| Refusal::new(ErrorKind::UnknownNode, "this is no name of a node"))
}

/// `PUT …/nodes/{node}`.
pub(super) async fn put_node(
    State(api): State<Arc<Api>>,
    from: FromOperator,
    path: Result<Path<(String, String)>, axum::extract::rejection::PathRejection>,
    JsonBody(body): Body<NodeRequest>,
) -> Commanded {
    let node = node_of(path)?;
    let (name, command) = match body.action {
        NodeAction::Exclude { until } => ("exclude", Command::Exclude { node, until }),
        NodeAction::Deny => ("deny", Command::Deny { node }),
    };
    Ordered { api, from, name }.order(body.reason, None, command).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ForgetQuery {
    #[serde(default)]
    reason: String,
}

/// `DELETE …/nodes/{node}?reason=`.
pub(super) async fn forget_node(
    State(api): State<Arc<Api>>,
    from: FromOperator,
    path: Result<Path<(String, String)>, axum::extract::rejection::PathRejection>,
    query: Result<Query<ForgetQuery>, axum::extract::rejection::QueryRejection>,
) -> Commanded {
    let node = node_of(path)?;
    let query = query.map_err(|_| {
        let why = format!("the query is ?reason=TEXT of at most {REASON_BYTES_MAX} bytes, or nothing");
        Refusal::new(ErrorKind::BadRequest, why)
    })?;
    let Query(ForgetQuery { reason }) = query;
    Ordered { api, from, name: "forget" }.order(reason, None, Command::Forget { node }).await
}

fn why(not_done: CommandError) -> (ErrorKind, String) {
    let refused = match not_done {
        CommandError::Refused(refused) => refused,
        CommandError::NotPossible(why) => return (ErrorKind::Refused, why),
        CommandError::StoreDown => {
            return (ErrorKind::StoreUnavailable, "the store cannot be reached; nothing was changed".to_owned());
        }
        CommandError::OutcomeOpen => {
            let why = "the store failed while it was written: look at the pool to see whether it was done";
            return (ErrorKind::StoreUnavailable, why.to_owned());
        }
        CommandError::Overtaken => {
            return (ErrorKind::Moved, "others changed the pool at the same time; look, and ask again".to_owned());
        }
        CommandError::Internal => return (ErrorKind::Internal, "the coordinator's log has more".to_owned()),
    };
    let kind = match &refused.reason {
        Reason::Frozen { .. } => ErrorKind::PoolFrozen,
        Reason::NotHeard(_) => ErrorKind::NotHeard,
        Reason::RevisionMoved(_) | Reason::GenerationMoved(_) | Reason::MoreBehind(_) => ErrorKind::Moved,
        Reason::UnknownNode(_) => ErrorKind::UnknownNode,
        _ => ErrorKind::Refused,
    };
    let mut message = refused.to_string();
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push_str(", ...");
    }
    (kind, message)
}
