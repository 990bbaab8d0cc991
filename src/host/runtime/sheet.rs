//! A sheet of metrics in Prometheus' text format 0.0.4, written afresh each time: a value that is gone leaves no sample.
//!
//! Names and help are the documentation.

use prometheus::core::{AtomicF64, Collector, GenericCounterVec};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts, Registry, TextEncoder};

/// Collects samples; a mistake in a name is reported by [`Sheet::encode`].
pub struct Sheet {
    registry: Registry,
    failed: prometheus::Result<()>,
}

impl Default for Sheet {
    fn default() -> Self {
        Self { registry: Registry::new(), failed: Ok(()) }
    }
}

impl Sheet {
    /// A gauge without labels; nothing if the value is unknown.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Into<Option<f64>>) {
        self.gauges(name, help, [], value.into().map(|value| ([""; 0], value)));
    }

    /// A counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, [], [([""; 0], value)]);
    }

    /// A counter of seconds; nothing if the value is unknown.
    pub fn counter_secs(&mut self, name: &str, help: &str, secs: Option<f64>) {
        let family = GenericCounterVec::<AtomicF64>::new(Opts::new(name, help), &[]).inspect(|family| {
            secs.into_iter().for_each(|secs| family.with_label_values::<&str>(&[]).inc_by(secs));
        });
        self.register(family);
    }

    /// A gauge with a sample for each combination of label values.
    pub fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        samples: impl IntoIterator<Item = ([impl AsRef<str> + std::fmt::Debug; N], f64)>,
    ) {
        let family = GaugeVec::new(Opts::new(name, help), &labels).inspect(|family| {
            samples.into_iter().for_each(|(values, value)| family.with_label_values(&values).set(value));
        });
        self.register(family);
    }

    /// A counter with a sample for each combination of label values.
    pub fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        samples: impl IntoIterator<Item = ([impl AsRef<str> + std::fmt::Debug; N], u64)>,
    ) {
        let family = GenericCounterVec::<AtomicF64>::new(Opts::new(name, help), &labels).inspect(|family| {
            samples.into_iter().for_each(|(values, value)| family.with_label_values(&values).inc_by(float(value)));
        });
        self.register(family);
    }

    /// The text, with the families of another registry.
    ///
    /// # Errors
    /// Fails if a name is invalid or used twice, which is a bug.
    pub fn encode(self, others: Vec<MetricFamily>) -> prometheus::Result<String> {
        self.failed?;
        let mut families = self.registry.gather();
        families.extend(others);
        TextEncoder::new().encode_to_string(&families)
    }

    fn register(&mut self, family: prometheus::Result<impl Collector + 'static>) {
        let registered = family.and_then(|family| self.registry.register(Box::new(family)));
        if self.failed.is_ok() {
            self.failed = registered;
        }
    }
}

/// 1 for true.
#[must_use]
pub fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// A number as Prometheus has them.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other number; 2^53 seconds or packets are enough")]
pub fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_has_each_family_once_and_nothing_unknown() {
        let mut sheet = Sheet::default();
        sheet.gauge("tfo_known", "A number.", 2.0);
        sheet.gauge("unknown", "No number.", None::<f64>);
        sheet.counters("tfo_seen_total", "Some.", ["kind"], [(["a"], 1), (["b"], 2)]);
        let text = sheet.encode(Vec::new()).unwrap();
        assert!(text.contains("\ntfo_known 2\n") && text.contains("\ntfo_seen_total{kind=\"b\"} 2\n"), "{text}");
        assert!(!text.contains("unknown"), "{text}");
    }

    #[test]
    fn a_name_that_is_used_twice_is_refused() {
        let mut sheet = Sheet::default();
        sheet.gauge("same", "A number.", 1.0);
        sheet.counter("same", "A number.", 1);
        sheet.gauge("other", "A number.", 1.0);
        assert!(sheet.encode(Vec::new()).is_err());
    }
}
