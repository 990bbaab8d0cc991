//! The repository as such: the contract of the API, the shipped configurations, the walls, `tests/run`, the testbed itself.

#[cfg(test)]
mod api;
#[cfg(test)]
mod config_examples;
#[cfg(test)]
mod layout;
#[cfg(test)]
mod runner;
#[cfg(test)]
mod testbed;
