//! A simulated fleet over the engine's own code, and the seeds that it is run with.

mod beats;
mod clients;
mod coordinators;
mod copies;
mod fake;
mod files;
mod fleet;
mod ghosts;
mod held;
mod looks;
mod nodes;
mod operators;
mod rules;
mod seeds;
mod shelf;
mod summary;
mod trouble;
mod turns;
