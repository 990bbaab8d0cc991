//! `check` at the coordinators: sends each a request that none can grant, so that nothing is joined or acknowledged.

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde::de::IgnoredAny;
use serde_json::json;

use super::failure::{Failure, UNREACHABLE};
use super::identity;
use tfo_config::contact::ContactSettings;
use tfo_model::problem::{Problem, Severity};
use tfo_model::time::UnixTime;
use tfo_tls::client::ClientIdentity;
use tfo_wire::client::{Call, Client, ClientError};
use tfo_wire::error::ErrorKind;

/// Longest time for one coordinator: an operator waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is wrong with the coordinators; nothing if the certificates cannot be used.
#[must_use]
pub fn probe(settings: &ContactSettings, config: &Path, now: UnixTime) -> Vec<Problem> {
    let Ok(ClientIdentity { config: tls, .. }) = identity::load(settings, config, now) else { return Vec::new() };
    let mut problems = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let (Ok(client), Ok(runtime)) = (Client::new(tls), runtime) else {
        problems.push(Problem::error("http_client", "cannot make an HTTP client", "check the limits of this process"));
        return problems;
    };
    for base in &settings.urls.value {
        let path = format!("/v1/pools/{}/sync", settings.pool);
        let call = Call { method: &Method::POST, path: &path, timeout: PATIENCE, answer_bytes_max: 4_096 };
        let body = json!({});
        let answer: Result<Option<IgnoredAny>, ClientError> = runtime.block_on(client.call(base, call, Some(&body)));
        let failure = match answer {
            // A sync without a single field is refused after everything else is right.
            Err(ClientError::Refused { body: Some(body), .. }) if body.kind == ErrorKind::BadRequest => continue,
            Err(error) => Failure::of_error(&error),
            Ok(_) => Failure::new(
                "coordinator_bad_answer",
                format!("{base} accepts a request that every coordinator refuses"),
                "check what answers there: it is not a coordinator (a proxy?)",
            ),
        };
        problems.push(settings.urls.locate(config, failure.problem()));
    }
    runtime.shutdown_background();
    // As long as one coordinator answers, the others may be away.
    let away = |problem: &Problem| problem.kind == UNREACHABLE || problem.kind == "coordinator_unavailable";
    if problems.iter().filter(|problem| away(problem)).count() < settings.urls.value.len() {
        problems.iter_mut().filter(|p| away(p)).for_each(|problem| problem.severity = Severity::Warning);
    }
    problems
}
