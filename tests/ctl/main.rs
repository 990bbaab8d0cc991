//! `tfoctl`: fleet commands against a coordinator fake and real, the commands for one host, the private CA.

#[cfg(test)]
mod console;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod local;
#[cfg(test)]
mod pki;
#[cfg(test)]
mod wire;
