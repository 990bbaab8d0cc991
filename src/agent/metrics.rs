//! The agent's metrics: a file for node_exporter's textfile collector, and an address for a scrape.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use prometheus::TEXT_FORMAT;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::contact::{Contact, Standing};
use super::report::{NamespaceReport, PassReport};
use super::scrape;
use super::status::Circumstances;
use tfo_config::agent::MetricsSettings;
use tfo_config::reader::Located;
use tfo_host::examine;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::kernel::netstat::{NETSTAT_PATH, TfoCounters};
use tfo_host::runtime::descriptors;
use tfo_host::runtime::files::{self, Durability};
use tfo_host::runtime::sheet::{Sheet, flag, float};
use tfo_host::runtime::usage;
use tfo_model::caveat::Caveat;
use tfo_model::problem::{Problem, chain};
use tfo_model::state::{Confinement, Phase};
use tfo_wire::status::State;

/// Where the metrics of the last pass go.
pub struct Metrics {
    textfile: Option<Located<PathBuf>>,
    listen: Option<Located<SocketAddr>>,
    text: Arc<Mutex<String>>,
    server: Option<JoinHandle<()>>,
}

impl Drop for Metrics {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

impl Metrics {
    /// Nothing is opened before the first [`Metrics::update`].
    #[must_use]
    pub fn new(settings: &MetricsSettings) -> Self {
        let (textfile, listen) = (settings.textfile.clone(), settings.listen.clone());
        Self { textfile, listen, text: Arc::default(), server: None }
    }

    /// Stops listening.  Then the address is free, and another [`Metrics`] can listen there at once.
    pub async fn close(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            // Aborted or ended, it is over.
            drop(server.await);
        }
    }

    /// Publishes a pass.  A failure is reported and retried at the next pass; the keys do not depend on it.
    pub fn update(&mut self, report: &PassReport, circumstances: Circumstances<'_>, config: &Path) -> Vec<Problem> {
        let mut problems = self.write_textfile(report, circumstances, config);
        if self.listen.is_some() {
            match encode(report, circumstances) {
                Ok(text) => *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text,
                Err(error) => problems.push(cannot_encode(&error)),
            }
            problems.extend(self.listen(config));
        }
        problems
    }

    /// Replaces the textfile alone: needs no event loop.
    #[must_use]
    pub fn write_textfile(&self, report: &PassReport, circumstances: Circumstances<'_>, config: &Path) -> Vec<Problem> {
        let Some(textfile) = &self.textfile else { return Vec::new() };
        let text = match encode(report, circumstances) {
            Ok(text) => text,
            Err(error) => return vec![cannot_encode(&error)],
        };
        let written = files::replace(&textfile.value, text.as_bytes(), 0o644, Durability::Volatile);
        let problem = |error: files::ReplaceError| {
            let remedy = "make the directory writable, or set metrics.textfile";
            let problem = descriptors::problem_of(&error, Problem::warning("metrics", chain(&error), remedy));
            textfile.locate(config, problem)
        };
        written.err().map(problem).into_iter().collect()
    }

    fn listen(&mut self, config: &Path) -> Option<Problem> {
        let place = self.listen.as_ref()?;
        if self.server.as_ref().is_some_and(|server| !server.is_finished()) {
            return None;
        }
        // Not tokio's bind: it is a coroutine, and a pass is not.
        let bound = std::net::TcpListener::bind(place.value)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .and_then(TcpListener::from_std);
        match bound {
            Ok(listener) => {
                let text = Arc::clone(&self.text);
                let page = move || {
                    let mut text = text.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    // Not in the textfile: there node_exporter's own stand under the same names.
                    let mut sheet = Sheet::default();
                    usage::add_to(&mut sheet);
                    text.push_str(&sheet.encode(Vec::new()).unwrap_or_default());
                    std::future::ready(([(CONTENT_TYPE, TEXT_FORMAT)], text))
                };
                let router = Router::new().route("/metrics", get(page));
                self.server = Some(tokio::spawn(scrape::serve(listener, router)));
                None
            }
            Err(error) => {
                let message = format!("cannot listen on {}: {error}", place.value);
                let remedy = "free the address, or set metrics.listen; the agent tries again at every pass";
                let problem = descriptors::problem_of(&error, Problem::warning("metrics", message, remedy));
                Some(place.locate(config, problem))
            }
        }
    }
}

fn cannot_encode(error: &prometheus::Error) -> Problem {
    Problem::warning("metrics", chain(error), "this is a bug; please report it")
}

fn encode(report: &PassReport, circumstances: Circumstances<'_>) -> prometheus::Result<String> {
    let mut sheet = Sheet::default();
    // Names stand here alone, to join the other series with: a label of each would double their cost.
    let node = circumstances.contact.and_then(Contact::node).or(circumstances.node);
    let node = node.map(ToString::to_string).unwrap_or_default();
    let pool = circumstances.contact.map(|contact| contact.pool().to_string()).unwrap_or_default();
    let about = [env!("CARGO_PKG_VERSION"), report.source.as_str(), &node, &pool];
    let labels = ["version", "source", "node", "pool"];
    sheet.gauges("tfo_agent_info", "The agent that wrote this, its node and its pool.", labels, [(about, 1.0)]);
    let states = State::ALL.map(|state| ([state.as_str()], flag(report.state() == state)));
    sheet.gauges("tfo_agent_state", "1 for the current state of ok, degraded and failed.", ["state"], states);
    let now = float(circumstances.now.secs());
    sheet.gauge("tfo_agent_last_pass_timestamp_seconds", "When the keys were last compared.", now);
    let synchronised = circumstances.clock_synchronised.map(flag);
    sheet.gauge("tfo_agent_clock_synchronised", "1 if the kernel's clock is synchronised.", synchronised);
    let held = report.held.as_ref();
    let installed_at = held.map(|held| float(held.installed_at.secs()));
    sheet.gauge("tfo_agent_installed_timestamp_seconds", "When the current keys were installed.", installed_at);
    let staged = held.map(|held| flag(held.phase == Phase::Staged));
    sheet.gauge("tfo_agent_staged", "1 while the backup is the next key.", staged);
    let next_change_at = held.and_then(|held| held.next_change_at).map(|at| float(at.secs()));
    sheet.gauge("tfo_agent_next_change_timestamp_seconds", "When the keys change next.", next_change_at);
    if let Some(contact) = circumstances.contact {
        contact_metrics(contact, report, &mut sheet);
    }
    let repairs = "Keys that another program had changed, repaired.";
    sheet.counter("tfo_agent_drift_repairs_total", repairs, circumstances.drift_repairs);
    let levels = Confinement::ALL.map(|level| ([level.as_str()], flag(circumstances.confinement == level)));
    sheet.gauges("tfo_agent_landlock", "1 for how far the agent has confined itself.", ["level"], levels);
    let caveats = examine::caveats(report.namespaces.iter().map(|seen| (&seen.namespace, seen.bits)));
    let caveats = Caveat::ALL.map(|caveat| ([caveat.as_str()], flag(caveats.contains(&caveat))));
    let help = "1 for what limits or endangers TFO here although the keys are right; kernels are judged by version.";
    sheet.gauges("tfo_agent_caveat", help, ["caveat"], caveats);
    namespace_metrics(report, &mut sheet);
    sheet.encode(Vec::new())
}

/// Those that come and go have no series of their own, which would never end: they are counted, and so is what they have counted.
fn namespace_metrics(report: &PassReport, sheet: &mut Sheet) {
    let found = |is: bool| report.namespaces.iter().filter(move |seen| seen.namespace.is_found() == is);
    let count = |of: &mut dyn Iterator<Item = &NamespaceReport>| float(of.count() as u64);
    let kinds = [
        (["lasting", "true"], count(&mut found(false).filter(|seen| seen.verified))),
        (["lasting", "false"], count(&mut found(false).filter(|seen| !seen.verified))),
        (["found", "true"], count(&mut found(true).filter(|seen| seen.verified))),
        (["found", "false"], count(&mut found(true).filter(|seen| !seen.verified))),
    ];
    let help = "Namespaces by whether they come and go, and whether the wanted keys were read back.";
    sheet.gauges("tfo_agent_namespaces", help, ["kind", "verified"], kinds);
    let namespaces: Vec<&NamespaceReport> = found(false).collect();
    let keys = namespaces.iter().flat_map(|namespace| {
        slots(namespace).map(|(slot, fingerprint)| ([namespace.namespace.name().to_owned(), slot, fingerprint], 1.0))
    });
    let labels = ["namespace", "slot", "fingerprint"];
    sheet.gauges("tfo_agent_key", "1 for each key that a kernel holds, by fingerprint.", labels, keys);
    let verified = namespaces.iter().map(|seen| ([seen.namespace.name()], flag(seen.verified)));
    sheet.gauges("tfo_agent_verified", "1 if the wanted keys were read back from the kernel.", ["namespace"], verified);
    let bits = namespaces.iter().filter_map(|seen| Some(([seen.namespace.name()], f64::from(seen.bits?))));
    sheet.gauges("tfo_agent_tcp_fastopen", "net.ipv4.tcp_fastopen, a bit mask.", ["namespace"], bits);
    // node_exporter exports no TCPFastOpen counter by default, so they are here.
    let read =
        |namespace: &Namespace| namespace.within(|| TfoCounters::read(Path::new(NETSTAT_PATH)).unwrap_or_default());
    // A namespace that is gone is a problem of the pass already, and has no counters.
    let found = namespaces.iter().filter_map(|seen| Some(([seen.namespace.name()], read(&seen.namespace).ok()?)));
    let mut found: Vec<_> = found.collect();
    if report.namespaces.iter().any(|seen| seen.namespace.is_found()) || report.passing != TfoCounters::default() {
        found.push(([PASSING], report.passing));
    }
    for (kernel_name, name, help) in COUNTERS {
        let samples = found.iter().filter_map(|(name, counters)| Some((*name, counters.get(kernel_name)?)));
        sheet.counters(name, help, ["namespace"], samples);
    }
}

/// The contact with the coordinators.  Kinds of errors are a fixed set.
fn contact_metrics(contact: &Contact, report: &PassReport, sheet: &mut Sheet) {
    let counts = contact.counts();
    let standings = Standing::ALL.iter().map(|one| ([one.as_str()], flag(contact.standing() == *one)));
    sheet.gauges(
        "tfo_agent_contact",
        "1 for the current state of the contact with the coordinators.",
        ["standing"],
        standings,
    );
    let last_contact = counts.last_contact_at.map(|at| float(at.secs()));
    sheet.gauge("tfo_agent_last_contact_timestamp_seconds", "When a coordinator last answered.", last_contact);
    let not_after = contact.certificate_not_after().map(|at| float(at.secs()));
    sheet.gauge("tfo_agent_certificate_expiry_timestamp_seconds", "Last second of the agent's certificate.", not_after);
    if let Some(counts) = contact.renewal_counts() {
        let results = [(["renewed"], counts.renewed), (["failed"], counts.failed)];
        sheet.counters(
            "tfo_agent_certificate_renewals_total",
            "Renewals of the certificate, by result.",
            ["result"],
            results,
        );
    }
    sheet.counter("tfo_agent_sync_answers_total", "Answers of coordinators.", counts.answers);
    let errors = counts.errors.iter().map(|(kind, count)| ([*kind], *count));
    sheet.counters("tfo_agent_sync_errors_total", "Failed requests, by kind.", ["kind"], errors);
    let desired = contact.desired_generation().map(|generation| float(generation.get()));
    sheet.gauge("tfo_agent_desired_generation", "The generation of the last instruction.", desired);
    let installed = report.held.as_ref().filter(|_| report.verified()).and_then(|held| held.generation);
    let installed = installed.map(|generation| float(generation.get()));
    sheet.gauge("tfo_agent_generation", "The generation that is in the file and in every kernel.", installed);
}

/// The label of all namespaces that come and go; no name under /run/netns has a colon.
const PASSING: &str = "found:";

/// The server side's counters (docs/kernel.md#counters).
const COUNTERS: [(&str, &str, &str); 5] = [
    ("TCPFastOpenPassive", "tfo_agent_passive_total", "Valid cookies accepted."),
    ("TCPFastOpenPassiveAltKey", "tfo_agent_passive_alt_key_total", "Of those, cookies of the backup key."),
    ("TCPFastOpenPassiveFail", "tfo_agent_passive_fail_total", "Cookies that fit neither key."),
    ("TCPFastOpenCookieReqd", "tfo_agent_cookie_reqd_total", "Requests for a cookie."),
    ("TCPFastOpenListenOverflow", "tfo_agent_listen_overflow_total", "SYNs without TFO because the queue was full."),
];

fn slots(namespace: &NamespaceReport) -> impl Iterator<Item = (String, String)> {
    let primary = namespace.shown.map(|shown| ("primary".to_owned(), shown.primary.to_string()));
    let backup = namespace.shown.and_then(|shown| shown.backup);
    primary.into_iter().chain(backup.map(|backup| ("backup".to_owned(), backup.to_string())))
}
