//! `tfo-coordinator`: generates keys, takes pools through rotations, shows their state.
//!
//! From the outside in: [`cli`] and [`serve`] (one event loop for signals, reload and the watchdog), [`server`] (sockets,
//! TLS, limits), [`routes`] (API v1: which peer may request what), [`enrolment`] (the authority: who gets a
//! certificate), [`store`] (the kind that is configured), [`pool`] (one thread for each pool: the engine between store and
//! nodes), [`metrics`], [`notify`] (what operators are told without asking), and [`dashboard`] (health, the page).
//! [`init`] makes a host a coordinator; [`rekey`] replaces the key that seals the keys.

pub mod backup;
pub mod cli;
pub mod connections;
pub mod credential;
pub mod dashboard;
pub mod enrolment;
pub mod in_use;
pub mod init;
pub mod metrics;
pub mod notify;
pub mod pool;
pub mod preflight;
pub mod rekey;
pub mod routes;
pub mod serve;
pub mod server;
pub mod service_user;
pub mod store;
