//! `check` at the coordinators: asks each what it knows of this node, so that nothing is joined or acknowledged.

use std::path::Path;
use std::time::Duration;

use reqwest::Method;

use super::failure::{Failure, UNREACHABLE, refusal};
use super::identity;
use super::moved::left;
use super::standing::no_key;
use tfo_config::contact::ContactSettings;
use tfo_host::runtime::event_loop;
use tfo_model::problem::{Problem, Severity};
use tfo_model::state::Phase;
use tfo_model::time::UnixTime;
use tfo_tls::client::ClientIdentity;
use tfo_wire::base_url::BaseUrl;
use tfo_wire::client::{Call, Client, ClientError};
use tfo_wire::error::ErrorKind;
use tfo_wire::v1::sync::SelfAnswer;

/// Longest time for one coordinator: an operator waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer in bytes.
const ANSWER_BYTES_MAX: usize = 4_096;

/// What is wrong with the coordinators; nothing if the certificates cannot be used.
#[must_use]
pub fn probe(settings: &ContactSettings, config: &Path, now: UnixTime) -> Vec<Problem> {
    let Ok(ClientIdentity { config: tls, .. }) = identity::load(settings, config, now) else { return Vec::new() };
    let mut problems = Vec::new();
    let runtime = event_loop::new();
    let (Ok(client), Ok(runtime)) = (Client::new(tls), runtime) else {
        problems.push(Problem::error("http_client", "cannot make an HTTP client", "check the limits of this process"));
        return problems;
    };
    for base in &settings.urls.value {
        let path = format!("/v1/pools/{}/self", settings.pool);
        let call = Call { method: &Method::GET, path: &path, timeout: PATIENCE, answer_bytes_max: ANSWER_BYTES_MAX };
        let answer: Result<Option<SelfAnswer>, ClientError> = runtime.block_on(client.call::<(), _>(base, call, None));
        let found = answered(base, answer);
        problems.extend(found.map(|problem| match problem.kind {
            super::NO_KEY => problem,
            _ => settings.urls.locate(config, problem),
        }));
    }
    runtime.shutdown_background();
    // Each coordinator of the pool says so.
    if let Some(first) = problems.iter().position(|problem| problem.kind == super::NO_KEY) {
        let mut at = 0..;
        problems.retain(|problem| at.next() == Some(first) || problem.kind != super::NO_KEY);
    }
    // As long as one coordinator answers, the others may be away.
    let away = |problem: &Problem| problem.kind == UNREACHABLE || problem.kind == "coordinator_unavailable";
    if problems.iter().filter(|problem| away(problem)).count() < settings.urls.value.len() {
        problems.iter_mut().filter(|p| away(p)).for_each(|problem| problem.severity = Severity::Warning);
    }
    problems
}

/// What one answer says is wrong.
fn answered(base: &BaseUrl, answer: Result<Option<SelfAnswer>, ClientError>) -> Option<Problem> {
    let refused = |kind: ErrorKind, what: String| {
        let (kind, remedy) = refusal(kind);
        Some(Problem::error(kind, format!("{base} answers: {what}"), remedy))
    };
    match answer {
        Ok(Some(known)) if known.denied => refused(ErrorKind::Denied, format!("{} is denied", known.node)),
        Ok(Some(known)) if known.frozen => refused(ErrorKind::PoolFrozen, format!("pool {} is frozen", known.pool)),
        Ok(Some(SelfAnswer { pool, moved_to: Some(to), .. })) => Some(left(&pool, &to, "the agent's configuration")),
        Ok(Some(known)) if known.phase == Phase::Empty => Some(no_key(&known.pool)),
        Ok(Some(_)) => None,
        Ok(None) => {
            let message = format!("{base} accepts a request and answers nothing");
            let remedy = "check what answers there: it is not a coordinator (a proxy?)";
            Some(Failure::new("coordinator_bad_answer", message, remedy).problem())
        }
        Err(error) => Some(Failure::of_error(&error).problem()),
    }
}
