//! `[enrolment]`: where nodes get certificates, and from which authority.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::{Named, address};
use crate::reader::{Findings, Located, Table, absolute};
use tfo_host::secret::SecretPath;
use tfo_model::problem::Problem;

/// Default of `enrolment.listen`: all addresses, beside the API's port.
const DEFAULT_LISTEN: &str = "[::]:9444";
/// Default of `enrolment.node_lifetime`, in seconds: 30 days.  Renewed at two thirds, so a coordinator may be away for ten.
const DEFAULT_LIFETIME_SECS: u64 = 30 * 86_400;
/// Its range in seconds: 10 s for trials, 397 days as `tfoctl pki` issues them.
const LIFETIME_SECS: RangeInclusive<u64> = 10..=397 * 86_400;

/// `[enrolment]`.
#[derive(Debug, Clone)]
pub struct EnrolmentSettings {
    /// Address to listen on.
    pub listen: Located<SocketAddr>,
    /// Certificate of the authority, PEM; others that nodes are to trust may follow it.
    pub ca_cert: Located<PathBuf>,
    /// Its private key; none where this coordinator signs nothing, and points on.
    pub ca_key: Option<Located<SecretPath>>,
    /// Lifetime of a node's certificate.
    pub node_lifetime: Located<Duration>,
}

pub(super) fn enrolment_section(
    mut table: Table<'_, '_>,
    findings: &mut Findings,
    named: &mut Named,
) -> Option<EnrolmentSettings> {
    let listen = table.parsed("listen", findings, address);
    table.require("ca_cert", "write the absolute path of the authority's certificate, PEM", findings);
    let ca_cert = table.parsed("ca_cert", findings, absolute);
    let ca_key = table.secret_path("ca_key", findings);
    named.authority_key.clone_from(&ca_key);
    let node_lifetime = table.span("node_lifetime", findings);
    table.finish(findings);
    if let Some(life) = node_lifetime.as_ref().filter(|life| !LIFETIME_SECS.contains(&life.value.as_secs())) {
        let problem = Problem::error("out_of_range", "this is out of range", "write 10s to 397d; 30d is usual");
        findings.add_at(life, problem);
    }
    let default = |key: &str| Located { value: (), key: format!("enrolment.{key}"), line: None };
    let listen = listen.unwrap_or_else(|| {
        let Located { key, line, .. } = default("listen");
        Located { value: DEFAULT_LISTEN.parse().expect("the default is an address"), key, line }
    });
    let node_lifetime = node_lifetime.unwrap_or_else(|| {
        let Located { key, line, .. } = default("node_lifetime");
        Located { value: Duration::from_secs(DEFAULT_LIFETIME_SECS), key, line }
    });
    Some(EnrolmentSettings { listen, ca_cert: ca_cert?, ca_key, node_lifetime })
}
