//! Packages, units and recipes on machines with a real systemd, and migrations of hosts that have other keys today.

#[cfg(test)]
mod ansible;
#[cfg(test)]
mod boot;
#[cfg(test)]
mod image;
#[cfg(test)]
mod migration;
#[cfg(test)]
mod notify;
#[cfg(test)]
mod package;
#[cfg(test)]
mod package_rpm;
#[cfg(test)]
mod puppet;
#[cfg(test)]
mod recipes;
#[cfg(test)]
mod release;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod units;
