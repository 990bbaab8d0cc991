//! Model check over the engine's own code: worlds, their steps, the search, and the checks.

mod beats;
mod check;
mod harmless;
mod liar;
mod pools;
mod search;
mod settle;
mod step;
mod world;
