//! Configurations of the programs, as text.

use std::fmt::Display;
use std::path::Path;

/// coordinator.toml: all files are in one directory, and stay there.
pub struct CoordinatorToml<'a> {
    /// The directory.
    pub dir: &'a Path,
    pub api: String,
    pub observe: String,
    /// NAME of NAME.crt and NAME.key, the coordinator's own.
    pub identity: &'a str,
    pub client_ca: &'a str,
    /// The revocation list, if there is one.
    pub crl: Option<&'a str>,
    /// Lines of `[store]` besides the key.
    pub store: String,
    pub operators: &'a [&'a str],
    pub viewers: &'a [&'a str],
}

impl<'a> CoordinatorToml<'a> {
    /// With `server.crt`, `ca.crt`, no revocation list and no viewers.
    pub fn of(dir: &'a Path, api: impl Display, observe: impl Display) -> Self {
        let (api, observe) = (api.to_string(), observe.to_string());
        let (identity, client_ca) = ("server", "ca.crt");
        let store = format!("path = \"{}/state.db\"\n", dir.display());
        Self { dir, api, observe, identity, client_ca, crl: None, store, operators: &[], viewers: &[] }
    }

    /// All of it; `pools` begins with the heading of a pool.
    pub fn with_pools(&self, pools: &str) -> String {
        let Self { dir, api, observe, identity, client_ca, crl, store, operators, viewers } = self;
        let dir = dir.display();
        let crl = crl.map_or_else(String::new, |crl| format!("crl = \"{dir}/{crl}\"\n"));
        format!(
            "[api]\nlisten = {api:?}\ncert = \"{dir}/{identity}.crt\"\nkey = \"{dir}/{identity}.key\"\n\
             client_ca = \"{dir}/{client_ca}\"\n{crl}[store]\n{store}\
             key_encryption_key = \"{dir}/kek\"\n[access]\noperators = {operators:?}\nviewers = {viewers:?}\n\
             [observe]\nlisten = {observe:?}\n{pools}"
        )
    }
}

/// A policy for three nodes, under which a rotation passes as fast as its barriers.
pub const FAST: &str = "interval = \"1d\"\nexpected_nodes = 3\npromote_waves = [\"100%\"]\ndrain_max = \"0s\"\n\
                        health_window = \"0s\"\n";

/// The same for so many nodes.
pub fn fast(expected: usize) -> String {
    FAST.replace("expected_nodes = 3", &format!("expected_nodes = {expected}"))
}

/// The key that seals the others in a store: 32 bytes, no two the same.
pub fn kek() -> Vec<u8> {
    (0..32u8).map(|at| at.wrapping_mul(37)).collect()
}

/// Where the three files are, as `[source]`, `[report]` and ctl.toml name them.
pub fn client_files(ca: &Path, cert: &Path, key: &Path) -> String {
    format!("ca = {ca:?}\ncert = {cert:?}\nkey = {key:?}\n")
}
