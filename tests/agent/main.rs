//! `tfo-agent`: its command line, the daemon, the kernel that it writes to, a coordinator that it asks, and what it must not
//! leak.

#[cfg(test)]
mod cli;
#[cfg(test)]
mod contact;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod leaks;
