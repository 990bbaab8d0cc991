//! The operator's connection to the coordinator: its API, asked from the management namespace.

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::DemoError;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::runtime::clock;
use tfo_host::secret::SecretPath;
use tfo_model::count::Revision;
use tfo_tls::client::client_config;
use tfo_wire::base_url::BaseUrl;
use tfo_wire::client::{Call, Client, ClientError};
use tfo_wire::v1::coordinators::Coordinators;
use tfo_wire::v1::fleet::{Audit, PoolStatus};

/// Timeout for an answer; everything is on this machine.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is accepted: a few hundred bytes for each of at most 64 nodes, or a page of the audit log.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// An operator of the pool.
pub struct Api {
    namespace: Namespace,
    runtime: tokio::runtime::Runtime,
    client: Client,
    base: BaseUrl,
    pool: &'static str,
}

impl Api {
    /// Reads `ca.crt`, `operator.crt` and `operator.key` of the directory; connects with the first request.
    pub fn new(namespace: Namespace, directory: &Path, url: &str, pool: &'static str) -> Result<Self, DemoError> {
        let file = |name: &str| directory.join(name);
        let key = SecretPath::File(file("operator.key"));
        let tls = client_config(&file("ca.crt"), &file("operator.crt"), &key, clock::now());
        let tls = tls.map_err(|problems| DemoError::Tls(problems.iter().map(ToString::to_string).collect()))?;
        let client = Client::new(tls).map_err(|error| DemoError::Tls(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(DemoError::step("connect to the coordinator"))?;
        Ok(Self { namespace, runtime, client, base: url.parse().expect("the demo's own URL"), pool })
    }

    /// Sends a request for a path below the pool; `""` is the pool itself.
    ///
    /// # Errors
    /// The inner error is the coordinator's refusal, or that none answers.
    pub fn ask<B: Serialize, A: DeserializeOwned>(
        &self,
        method: &Method,
        below: &str,
        body: Option<&B>,
    ) -> Result<Result<A, ClientError>, DemoError> {
        let path = format!("/v1/pools/{}{below}", self.pool);
        let call = Call { method, path: &path, timeout: TIMEOUT, answer_bytes_max: ANSWER_BYTES_MAX };
        // The runtime has one thread, this one: its sockets are made in the namespace that this thread is in.
        let answer = self.namespace.within(|| self.runtime.block_on(self.client.call(&self.base, call, body)))?;
        let nothing = || ClientError::BadAnswer { url: self.base.to_string(), what: "it is empty".to_owned() };
        Ok(answer.and_then(|answer| answer.ok_or_else(nothing)))
    }

    /// The current state of the pool.
    pub fn pool(&self) -> Result<Result<PoolStatus, ClientError>, DemoError> {
        self.ask(&Method::GET, "", None::<&()>)
    }

    /// The coordinators of the pool.
    pub fn coordinators(&self) -> Result<Result<Coordinators, ClientError>, DemoError> {
        self.ask(&Method::GET, "/coordinators", None::<&()>)
    }

    /// The commits after a revision.
    pub fn audit(&self, after: Revision) -> Result<Result<Audit, ClientError>, DemoError> {
        self.ask(&Method::GET, &format!("/audit?after={after}"), None::<&()>)
    }
}
