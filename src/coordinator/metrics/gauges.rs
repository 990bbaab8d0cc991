//! Gauges of pools and of the server, made at each scrape.  Names and help are the documentation.

use prometheus::{GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};

use super::counters::Metrics;
use crate::pool::Summary;
use crate::server::Server;
use tfo_model::fleet::BlockedBy;
use tfo_model::ids::PoolName;
use tfo_model::state::Phase;
use tfo_tls::server::ServerTls;

/// What the gauges are read from.
pub struct Scraped<'a> {
    /// Connections and refusals.
    pub server: &'a Server,
    /// Certificates.
    pub tls: &'a ServerTls,
    /// Every pool; none where the driver or its store does not answer.
    pub pools: &'a [(PoolName, Option<Summary>)],
}

/// All metrics in the text format 0.0.4.
///
/// # Errors
/// Fails if a metric has a bad name, which is a bug.
pub fn encode(scraped: &Scraped<'_>, counters: &Metrics) -> prometheus::Result<String> {
    let gauges = Gauges::new()?;
    gauges.about("tfo_coordinator_info", "The coordinator that wrote this.", "version", env!("CARGO_PKG_VERSION"))?;
    gauges.server(scraped)?;
    for (name, summary) in scraped.pools {
        gauges.reached.with_label_values(&[name.as_str()]).set(flag(summary.is_some()));
        if let Some(summary) = summary {
            gauges.pool(name.as_str(), summary);
        }
    }
    let mut families = gauges.registry.gather();
    families.extend(counters.gather());
    TextEncoder::new().encode_to_string(&families)
}

/// Reads one number of a pool.
type Read = fn(&Summary) -> f64;

struct Gauges {
    registry: Registry,
    reached: GaugeVec,
    numbers: Vec<(GaugeVec, Read)>,
    phase: GaugeVec,
    blocked: GaugeVec,
    nodes: GaugeVec,
}

impl Gauges {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let gauge = GaugeVec::new(Opts::new(format!("tfo_coordinator_{name}"), help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let numbers: [(&str, &str, Read); 10] = [
            ("pool_revision", "Changes of the document.", |pool| float(pool.status.revision.get())),
            ("pool_generation", "Generation of the instructions to the nodes.", |pool| {
                float(pool.status.generation.get())
            }),
            ("pool_required", "Nodes that barriers wait for.", |pool| count(pool.status.required)),
            ("pool_converged", "Of these, nodes that have acknowledged their instruction.", |pool| {
                count(pool.status.converged)
            }),
            ("pool_waiting_for", "Nodes that the pool waits for.", |pool| count(pool.status.waiting_for.len())),
            ("pool_held", "Requests that are held until there is something new.", |pool| count(pool.held)),
            ("pool_key_pairs", "Different pairs of keys that nodes have installed.", |pool| {
                count(pool.fingerprints.len())
            }),
            ("pool_since_timestamp_seconds", "When this phase began.", |pool| float(pool.status.since.secs())),
            ("pool_paused", "1 if an operator or the health gate stopped it.", |pool| flag(pool.status.paused)),
            ("pool_drives", "0 if the configuration file differs from the pool's policy.", |pool| {
                flag(pool.status.drives)
            }),
        ];
        let numbers = numbers.into_iter().map(|(name, help, value)| Ok((gauge(name, help, &["pool"])?, value)));
        Ok(Self {
            numbers: numbers.collect::<prometheus::Result<_>>()?,
            reached: gauge("pool_store_reached", "1 if the pool's driver reaches its store.", &["pool"])?,
            phase: gauge("pool_phase", "1 for the present phase.", &["pool", "phase"])?,
            blocked: gauge("pool_blocked", "1 for the gate that is closed.", &["pool", "gate"])?,
            nodes: gauge("pool_nodes", "Nodes by state.", &["pool", "state"])?,
            registry,
        })
    }

    fn pool(&self, name: &str, summary: &Summary) {
        for (gauge, value) in &self.numbers {
            gauge.with_label_values(&[name]).set(value(summary));
        }
        for phase in Phase::ALL {
            self.phase.with_label_values(&[name, phase.as_str()]).set(flag(phase == summary.status.phase));
        }
        for gate in BlockedBy::ALL {
            let is_closed = summary.status.blocked_by == Some(gate.into());
            self.blocked.with_label_values(&[name, gate.as_str()]).set(flag(is_closed));
        }
        for (state, nodes) in &summary.states {
            self.nodes.with_label_values(&[name, state.as_str()]).set(count(*nodes));
        }
    }

    fn about(&self, name: &str, help: &str, label: &str, value: &str) -> prometheus::Result<()> {
        let gauge = GaugeVec::new(Opts::new(name, help), &[label])?;
        gauge.with_label_values(&[value]).set(1.0);
        self.registry.register(Box::new(gauge))
    }

    fn server(&self, scraped: &Scraped<'_>) -> prometheus::Result<()> {
        let number = |name: &str, help: &str, value: f64| {
            let gauge = prometheus::Gauge::with_opts(Opts::new(name, help))?;
            gauge.set(value);
            self.registry.register(Box::new(gauge))
        };
        let expiries = scraped.tls.expiries();
        number("tfo_coordinator_connections", "Open connections of the API.", count(scraped.server.connections()))?;
        number(
            "tfo_coordinator_certificate_expiry_timestamp_seconds",
            "Last second of the coordinator's certificate.",
            float(expiries.certificate.secs()),
        )?;
        number(
            "tfo_coordinator_client_ca_expiry_timestamp_seconds",
            "Last second of the first CA to expire.",
            float(expiries.client_ca.secs()),
        )?;
        if let Some(crl) = expiries.crl {
            let help = "When the revocation list expires; then no client is let in.";
            number("tfo_coordinator_crl_expiry_timestamp_seconds", help, float(crl.secs()))?;
        }
        let broken = "Problems of certificate files that are not in use because of them.";
        number("tfo_coordinator_certificate_problems", broken, count(scraped.tls.broken().len()))?;
        let refused =
            Opts::new("tfo_coordinator_refused_total", "Connections and requests refused before their route.");
        let refused = IntCounterVec::new(refused, &["reason"])?;
        for (reason, count) in scraped.server.refusals().counts() {
            refused.with_label_values(&[reason.as_str()]).inc_by(count);
        }
        self.registry.register(Box::new(refused))
    }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn count(count: usize) -> f64 {
    float(count as u64)
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other number; 2^53 of anything here is enough")]
fn float(value: u64) -> f64 {
    value as f64
}
