//! The agent's metrics: a file for node_exporter's textfile collector, and an address for a scrape.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use prometheus::core::{AtomicF64, GenericCounterVec};
use prometheus::{GaugeVec, Opts, Registry, TEXT_FORMAT, TextEncoder};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::contact::{Contact, Standing};
use super::report::{NamespaceReport, PassReport};
use super::status::Circumstances;
use tfo_config::agent::MetricsSettings;
use tfo_config::reader::Located;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::kernel::netstat::{NETSTAT_PATH, TfoCounters};
use tfo_host::runtime::files::{self, Durability};
use tfo_model::problem::{Problem, chain};
use tfo_model::state::Phase;
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

    /// Stops listening.  The address is free when this is over, so that another [`Metrics`] can listen there at once.
    pub async fn close(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            // Aborted or ended: both are what we want.
            drop(server.await);
        }
    }

    /// Takes in a pass.  What goes wrong here is reported and tried again at the next pass; the keys do not depend on it.
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
        let problem = |error| {
            let remedy = "make the directory writable, or set metrics.textfile";
            textfile.locate(config, Problem::warning("metrics", chain(&error), remedy))
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
                    let text = text.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    std::future::ready(([(CONTENT_TYPE, TEXT_FORMAT)], text))
                };
                let router = Router::new().route("/metrics", get(page));
                self.server = Some(tokio::spawn(async move {
                    if let Err(error) = axum::serve(listener, router).await {
                        tracing::warn!(%error, "the metrics server has ended");
                    }
                }));
                None
            }
            Err(error) => {
                let message = format!("cannot listen on {}: {error}", place.value);
                let remedy = "free the address, or set metrics.listen; it is tried again at every poll";
                Some(place.locate(config, Problem::warning("metrics", message, remedy)))
            }
        }
    }
}

fn cannot_encode(error: &prometheus::Error) -> Problem {
    Problem::warning("metrics", chain(error), "report this to us: it cannot happen")
}

/// Text format 0.0.4; names and help are the documentation.
fn encode(report: &PassReport, circumstances: Circumstances<'_>) -> prometheus::Result<String> {
    let registry = Registry::new();
    let gauge = |name: &str, help: &str, labels: &[&str]| {
        let gauge = GaugeVec::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(gauge.clone()))?;
        Ok::<_, prometheus::Error>(gauge)
    };
    let counter = |name: &str, help: &str, labels: &[&str]| {
        let counter = GenericCounterVec::<AtomicF64>::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(counter.clone()))?;
        Ok::<_, prometheus::Error>(counter)
    };
    gauge("tfo_agent_info", "The agent that wrote this.", &["version", "source"])?
        .with_label_values(&[env!("CARGO_PKG_VERSION"), report.source.as_str()])
        .set(1.0);
    let state = gauge("tfo_agent_state", "1 for the present state of ok, degraded and failed.", &["state"])?;
    for one in State::ALL {
        state.with_label_values(&[one.as_str()]).set(f64::from(u8::from(report.state() == one)));
    }
    gauge("tfo_agent_last_pass_timestamp_seconds", "When the keys were last compared.", &[])?
        .with_label_values::<&str>(&[])
        .set(float(circumstances.now.secs()));
    if let Some(synchronised) = circumstances.clock_synchronised {
        gauge("tfo_agent_clock_synchronised", "1 if the kernel's clock is synchronised.", &[])?
            .with_label_values::<&str>(&[])
            .set(f64::from(u8::from(synchronised)));
    }
    if let Some(held) = &report.held {
        gauge("tfo_agent_installed_timestamp_seconds", "When the present keys were installed.", &[])?
            .with_label_values::<&str>(&[])
            .set(float(held.installed_at.secs()));
        let staged = held.phase == Phase::Staged;
        gauge("tfo_agent_staged", "1 while the backup is the key that comes next.", &[])?
            .with_label_values::<&str>(&[])
            .set(f64::from(u8::from(staged)));
        if let Some(at) = held.next_change_at {
            gauge("tfo_agent_next_change_timestamp_seconds", "When the keys change next.", &[])?
                .with_label_values::<&str>(&[])
                .set(float(at.secs()));
        }
    }
    if let Some(contact) = circumstances.contact {
        contact_metrics(contact, report, (&gauge, &counter))?;
    }
    counter("tfo_agent_drift_repairs_total", "Keys that somebody else had changed, repaired.", &[])?
        .with_label_values::<&str>(&[])
        .inc_by(float(circumstances.drift_repairs));
    let key = gauge(
        "tfo_agent_key",
        "1 for each key that a kernel holds, by fingerprint.",
        &["namespace", "slot", "fingerprint"],
    )?;
    let verified = gauge("tfo_agent_verified", "1 if the kernel was read back with the wanted keys.", &["namespace"])?;
    let bits = gauge("tfo_agent_tcp_fastopen", "net.ipv4.tcp_fastopen, a bit mask.", &["namespace"])?;
    for namespace in &report.namespaces {
        let name = namespace.namespace.name();
        for (slot, fingerprint) in slots(namespace) {
            key.with_label_values(&[name, slot, &fingerprint]).set(1.0);
        }
        verified.with_label_values(&[name]).set(f64::from(u8::from(namespace.verified)));
        if let Some(value) = namespace.bits {
            bits.with_label_values(&[name]).set(f64::from(value));
        }
    }
    // node_exporter exports no TCPFastOpen counter by default, so they are here.
    let read =
        |namespace: &Namespace| namespace.within(|| TfoCounters::read(Path::new(NETSTAT_PATH)).unwrap_or_default());
    let found = report.namespaces.iter().map(|namespace| &namespace.namespace);
    // A namespace that is gone has its problem already, and no counters.
    let found: Vec<_> = found.filter_map(|namespace| Some((namespace.name(), read(namespace).ok()?))).collect();
    for (kernel_name, name, help) in COUNTERS {
        let counter = counter(name, help, &["namespace"])?;
        for (namespace, counters) in &found {
            if let Some(value) = counters.get(kernel_name) {
                counter.with_label_values(&[*namespace]).inc_by(float(value));
            }
        }
    }
    TextEncoder::new().encode_to_string(&registry.gather())
}

type MakeGauge<'a> = &'a dyn Fn(&str, &str, &[&str]) -> prometheus::Result<GaugeVec>;
type MakeCounter<'a> = &'a dyn Fn(&str, &str, &[&str]) -> prometheus::Result<GenericCounterVec<AtomicF64>>;

/// How it stands with the coordinators.  Kinds of errors are a fixed set.
fn contact_metrics(
    contact: &Contact,
    report: &PassReport,
    (gauge, counter): (MakeGauge<'_>, MakeCounter<'_>),
) -> prometheus::Result<()> {
    let counts = contact.counts();
    let standing = gauge("tfo_agent_contact", "1 for the present standing with the coordinators.", &["standing"])?;
    for one in Standing::ALL {
        standing.with_label_values(&[one.as_str()]).set(f64::from(u8::from(contact.standing() == one)));
    }
    if let Some(at) = counts.last_contact_at {
        gauge("tfo_agent_last_contact_timestamp_seconds", "When a coordinator answered last.", &[])?
            .with_label_values::<&str>(&[])
            .set(float(at.secs()));
    }
    if let Some(at) = contact.certificate_not_after() {
        gauge("tfo_agent_certificate_expiry_timestamp_seconds", "Last second of the agent's certificate.", &[])?
            .with_label_values::<&str>(&[])
            .set(float(at.secs()));
    }
    counter("tfo_agent_sync_answers_total", "Answers of coordinators.", &[])?
        .with_label_values::<&str>(&[])
        .inc_by(float(counts.answers));
    let errors = counter("tfo_agent_sync_errors_total", "Requests that came to nothing, by kind.", &["kind"])?;
    for (kind, count) in &counts.errors {
        errors.with_label_values(&[*kind]).inc_by(float(*count));
    }
    if let Some(generation) = contact.desired_generation() {
        gauge("tfo_agent_desired_generation", "The generation that a coordinator told last.", &[])?
            .with_label_values::<&str>(&[])
            .set(float(generation.get()));
    }
    let installed = report.held.as_ref().filter(|_| report.verified()).and_then(|held| held.generation);
    if let Some(generation) = installed {
        gauge("tfo_agent_generation", "The generation that is in the file and in every kernel.", &[])?
            .with_label_values::<&str>(&[])
            .set(float(generation.get()));
    }
    Ok(())
}

/// The server side's counters (docs/kernel.md#counters).
const COUNTERS: [(&str, &str, &str); 5] = [
    ("TCPFastOpenPassive", "tfo_agent_passive_total", "Valid cookies taken."),
    ("TCPFastOpenPassiveAltKey", "tfo_agent_passive_alt_key_total", "Of those, cookies of the backup key."),
    ("TCPFastOpenPassiveFail", "tfo_agent_passive_fail_total", "Cookies that no key fits."),
    ("TCPFastOpenCookieReqd", "tfo_agent_cookie_reqd_total", "Requests for a cookie."),
    ("TCPFastOpenListenOverflow", "tfo_agent_listen_overflow_total", "SYNs without TFO because the queue was full."),
];

fn slots(namespace: &NamespaceReport) -> impl Iterator<Item = (&'static str, String)> {
    let primary = namespace.shown.map(|shown| ("primary", shown.primary.to_string()));
    let backup = namespace.shown.and_then(|shown| shown.backup).map(|backup| ("backup", backup.to_string()));
    primary.into_iter().chain(backup)
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other number; 2^53 seconds or packets are enough")]
fn float(value: u64) -> f64 {
    value as f64
}
