//! One sync: a request to a coordinator, and its answer.

use std::pin::Pin;
use std::time::Duration;

use reqwest::Method;
use serde::de::IgnoredAny;

use tfo_engine::fence::Ask;
use tfo_model::ids::PoolName;
use tfo_model::node::KeySource;
use tfo_wire::base_url::BaseUrl;
use tfo_wire::client::{Answer, Call, Client, ClientError};
use tfo_wire::v1::sync::{ANSWER_BYTES_MAX, SyncAnswer, SyncRequest};

/// How long a coordinator may take beyond the wait that it was asked for: connecting, a slow store, the way back.  Longer
/// than a coordinator gives its own store for a record (8 s, `coordinator::routes::node`).
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// A coordinator's answer.
#[derive(Debug)]
pub(super) enum Reply {
    /// 204.
    NoNews {
        /// How long the pool waits for this node, if the answer says so.
        absent_after: Option<Duration>,
        /// Whether the node is to ask another coordinator, which has fewer nodes.
        elsewhere: bool,
    },
    /// 200.
    Instruction(Box<SyncAnswer>),
    /// 200 to a node that only reports; its keys are not even parsed.
    Unwanted,
}

/// A request in flight.
pub(super) struct Flight {
    pub(super) ask: Ask,
    /// When it was sent, monotonic.
    pub(super) began: Duration,
    /// Whether it reports that another program changed the keys.
    pub(super) drift: bool,
    /// Whether its answer may be held back.
    pub(super) waits: bool,
    pub(super) reply: Pin<Box<dyn Future<Output = Result<Reply, ClientError>>>>,
}

/// Sends `request`; the coordinator has `patience` beyond the wait that the request allows.  The future owns everything
/// that it needs, so that the loop can do other work meanwhile.
pub(super) fn send(
    client: &Client,
    base: &BaseUrl,
    pool: &PoolName,
    request: SyncRequest,
    patience: Duration,
) -> Pin<Box<dyn Future<Output = Result<Reply, ClientError>>>> {
    let (client, base) = (client.clone(), base.clone());
    let path = format!("/v1/pools/{pool}/sync");
    let timeout = Duration::from_secs(request.wait_secs) + patience;
    Box::pin(async move {
        let call = Call { method: &Method::POST, path: &path, timeout, answer_bytes_max: ANSWER_BYTES_MAX };
        if request.source == KeySource::Coordinator {
            Ok(match client.answer::<_, SyncAnswer>(&base, call, Some(&request)).await? {
                Answer::Content(answer) => Reply::Instruction(Box::new(answer)),
                Answer::NoContent { absent_after, elsewhere } => Reply::NoNews { absent_after, elsewhere },
            })
        } else {
            Ok(match client.answer::<_, IgnoredAny>(&base, call, Some(&request)).await? {
                Answer::Content(IgnoredAny) => Reply::Unwanted,
                Answer::NoContent { absent_after, elsewhere } => Reply::NoNews { absent_after, elsewhere },
            })
        }
    })
}
