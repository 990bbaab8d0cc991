//! Proofs by computing: the model check of the rollout engine, the simulation of a whole fleet, and fuzzing of every
//! reader.
//!
//! A package of its own, because it wants optimised code and the other tests do not.  It has tests and nothing else.

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod model;
#[cfg(test)]
mod simulation;
