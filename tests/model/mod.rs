//! The model check of the rollout engine: worlds, their steps, and the search.

pub(crate) mod search;
pub(crate) mod settle;
pub(crate) mod step;
pub(crate) mod world;
