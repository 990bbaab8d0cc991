//! The metrics of a coordinator, in the Prometheus text format: [`counters`] of its life, and [`gauges`] of its pools, which
//! are made at each scrape.
//!
//! Labels are bounded: pools of the configuration, and names that the code has.  No node, no fingerprint, no key.

pub mod counters;
pub mod gauges;
