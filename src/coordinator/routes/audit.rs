//! `GET /v1/pools/{pool}/audit`: the audit log, by what a reader looks for; `…/chain`: as it is stored; `GET /v1/enrolment/audit`: what happened to tokens and
//! certificates, which belong to no pool's commits; and its `…/chain`.

use std::collections::VecDeque;

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::enrol::store_failed;
use super::fleet::{bad_request, busy, is_read, store_down};
use super::{Api, FromReader, ReadPool};
use crate::server::Refusal;
use tfo_crypto::checksum::sha256;
use tfo_engine::enrolment_log;
use tfo_engine::rollout::document::{Actor, AuditEntry};
use tfo_engine::rollout::history::LogEnd;
use tfo_model::count::Revision;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::time::UnixTime;
use tfo_store::enrolment::{LOG_KEPT, LogChain, LogEntry, LogPart, LogRow, Logged};
use tfo_store::{AUDIT_READ_MAX, ChainPart, ChainRow, Store, StoreError};
use tfo_wire::v1::chain::{AuditChain, ChainEntry, EnrolmentChain, EnrolmentChainEntry};
use tfo_wire::v1::fleet::{Audit, AuditLine};
use tfo_wire::v1::tokens::{EnrolmentAudit, EnrolmentLine};

/// What a reader looks for; every part may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// Entries of later revisions.
    #[serde(default)]
    after: u64,
    /// Entries from this time on.
    since: Option<UnixTime>,
    /// Entries that changed the record of this node; those that omit names, too, because they may be about it.
    node: Option<NodeId>,
    /// Entries of this operator.
    operator: Option<NodeId>,
    /// The latest ones alone, at most so many.
    limit: Option<usize>,
}

impl AuditQuery {
    fn fits(&self, entry: &AuditEntry) -> bool {
        let by = |name: &NodeId| matches!(&entry.actor, Actor::Operator(operator) if operator == name);
        self.since.is_none_or(|since| entry.at >= since)
            && self.node.as_ref().is_none_or(|node| entry.more > 0 || entry.nodes.contains(node))
            && self.operator.as_ref().is_none_or(by)
    }
}

/// `GET /v1/pools/{pool}/audit`.
pub(super) async fn audit(
    ReadPool(pool): ReadPool,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<Audit>, Refusal> {
    let usage = "the query is after=REVISION, since=TIME, node=NAME, operator=NAME and limit=N, or some of these";
    let Query(query) = query.map_err(|_| bad_request(usage))?;
    if query.limit.is_some_and(|limit| !(1..=AUDIT_READ_MAX).contains(&limit)) {
        return Err(bad_request(format!("limit is 1 to {AUDIT_READ_MAX}")));
    }
    is_read(&pool)?;
    let (store, name) = (pool.store(), pool.name().clone());
    let read = tokio::task::spawn_blocking(move || read(&*store, name, &query)).await;
    read.map_err(|_| busy())?.map(Json).map_err(|error| {
        tracing::warn!(pool = %pool.name(), %error, "the audit log cannot be read");
        store_down(pool.store_down())
    })
}

/// Blocking: reads pages of the log, of which the store keeps a bounded number, until the answer is full.
fn read(store: &dyn Store, pool: PoolName, query: &AuditQuery) -> Result<Audit, StoreError> {
    let mut read_to = Revision::new(query.after);
    let mut found: VecDeque<AuditEntry> = VecDeque::new();
    let more = 'pages: loop {
        let page = store.audit(&pool, read_to)?;
        let is_last = page.len() < AUDIT_READ_MAX;
        for entry in page {
            read_to = entry.revision;
            if !query.fits(&entry) {
                continue;
            }
            found.push_back(entry);
            match query.limit {
                Some(limit) if found.len() > limit => drop(found.pop_front()),
                None if found.len() == AUDIT_READ_MAX => break 'pages true,
                Some(_) | None => {}
            }
        }
        if is_last {
            break false;
        }
    };
    Ok(Audit { pool, entries: found.into_iter().map(line).collect(), more, read_to })
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
        more: entry.more,
        reason: entry.reason,
    }
}

/// Where a reader of the chain is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChainQuery {
    /// Entries of later revisions.
    #[serde(default)]
    after: u64,
}

/// `GET /v1/pools/{pool}/audit/chain`: what is stored, be it right or not.  The reader judges.
pub(super) async fn chain(
    ReadPool(pool): ReadPool,
    query: Result<Query<ChainQuery>, QueryRejection>,
) -> Result<Json<AuditChain>, Refusal> {
    let Query(ChainQuery { after }) = query.map_err(|_| bad_request("the query is after=REVISION, or none"))?;
    is_read(&pool)?;
    let (store, name) = (pool.store(), pool.name().clone());
    let read = tokio::task::spawn_blocking(move || store.chain(&name, Revision::new(after))).await;
    let down = || store_down(pool.store_down());
    let read = read.map_err(|_| busy())?.map_err(|error| {
        tracing::warn!(pool = %pool.name(), %error, "the audit log cannot be read");
        down()
    })?;
    let ChainPart { pool_id, end, rows } = read.ok_or_else(down)?;
    let LogEnd { revision, document, chain, kept } = end;
    let entry = |ChainRow { revision, text, is_intact }| ChainEntry { revision, text, intact: is_intact };
    let entries = rows.into_iter().map(entry).collect();
    Ok(Json(AuditChain { pool: pool.name().clone(), pool_id, revision, document, chain, kept, entries }))
}

/// Where a reader of the log of enrolment is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnrolmentQuery {
    /// Entries of later numbers.
    #[serde(default)]
    after: u64,
}

/// `GET /v1/enrolment/audit`.
pub(super) async fn enrolment(
    State(api): State<Arc<Api>>,
    _: FromReader,
    query: Result<Query<EnrolmentQuery>, QueryRejection>,
) -> Result<Json<EnrolmentAudit>, Refusal> {
    let Query(EnrolmentQuery { after }) = query.map_err(|_| bad_request("the query is after=NUMBER, or none"))?;
    let Some(enrolment) = &api.enrolment else { return Ok(Json(EnrolmentAudit::default())) };
    let store = Arc::clone(enrolment.store());
    let read = tokio::task::spawn_blocking(move || store.log(LogPart::After(after))).await.map_err(|_| busy())?;
    let found = read.map_err(|error| store_failed(&error))?;
    let (more, read_to) = (found.len() == AUDIT_READ_MAX, found.last().map_or(after, |last| last.number));
    Ok(Json(EnrolmentAudit { entries: found.into_iter().map(enrolment_line).collect(), more, read_to }))
}

/// `GET /v1/enrolment/audit/chain`: as [`chain`]; the log of a coordinator without `[enrolment]` is empty.
pub(super) async fn enrolment_chain(
    State(api): State<Arc<Api>>,
    _: FromReader,
    query: Result<Query<EnrolmentQuery>, QueryRejection>,
) -> Result<Json<EnrolmentChain>, Refusal> {
    let Query(EnrolmentQuery { after }) = query.map_err(|_| bad_request("the query is after=NUMBER, or none"))?;
    let Some(enrolment) = &api.enrolment else {
        let chain = enrolment_log::start(sha256);
        return Ok(Json(EnrolmentChain { number: 0, chain, kept: LOG_KEPT, entries: Vec::new() }));
    };
    let store = Arc::clone(enrolment.store());
    let read = tokio::task::spawn_blocking(move || store.log_chain(after)).await.map_err(|_| busy())?;
    let LogChain { end, rows } = read.map_err(|error| store_failed(&error))?;
    let entry = |LogRow { number, text, is_intact }| EnrolmentChainEntry { number, text, intact: is_intact };
    let entries = rows.into_iter().map(entry).collect();
    Ok(Json(EnrolmentChain { number: end.number, chain: end.chain, kept: end.kept, entries }))
}

fn enrolment_line(Logged { number, entry }: Logged) -> EnrolmentLine {
    let LogEntry { at, action, pool, token, nodes, more, operator, address, count, reason } = entry;
    EnrolmentLine { at, number, action: action.into(), pool, token, nodes, more, operator, address, count, reason }
}
