//! Pure decisions over `model`: `now` and everything observed are arguments, what to do is the result.

pub mod backoff;
pub mod bearing;
pub mod chained_log;
pub mod enrolment_log;
pub mod fence;
pub mod reconcile;
pub mod rollout;
pub mod route;
pub mod schedule;
