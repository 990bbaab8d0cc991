//! Packages, units and recipes on machines with a real systemd, and migrations of hosts that have other keys today.

#[cfg(test)]
mod agents_first;
#[cfg(test)]
mod boot;
#[cfg(test)]
mod config_management;
#[cfg(test)]
mod enrolling;
#[cfg(test)]
mod migration;
#[cfg(test)]
mod notify;
#[cfg(test)]
mod package;
#[cfg(test)]
mod recipes;
#[cfg(test)]
mod units;
