//! Whole fleets of real programs: under fire with live traffic, in disasters that an operator recovers from, and as
//! `tfo-demo` shows them.
//!
//! Scenarios with live traffic run on the fleet of `tfo_testbed::levers`: what happens, when, and what it may cost is
//! written here.  A scenario ends only when every client has come round several times.

#[cfg(test)]
mod broken;
#[cfg(test)]
mod careless;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod enrolment;
#[cfg(test)]
mod etcd;
#[cfg(test)]
mod fire;
#[cfg(test)]
mod import;
#[cfg(test)]
mod joint;
#[cfg(test)]
mod own_pki;
#[cfg(test)]
mod recovery;
