//! A simulated fleet over the engine's own code, and the seeds that it is run with.

mod clients;
mod ears;
mod fake;
mod files;
mod fleet;
mod operators;
mod seeds;
mod shelf;
mod summary;
