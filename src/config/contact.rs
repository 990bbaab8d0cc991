//! How an agent reaches its pool's coordinators: what `[source]` with `kind = "coordinator"` and `[report]` share.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Findings, Located, Table, absolute};
use tfo_host::secret::SecretPath;
use tfo_model::ids::PoolName;
use tfo_model::problem::Problem;
use tfo_tls::client::ClientFiles;
use tfo_wire::base_url::BaseUrl;
use tfo_wire::v1::sync::{NEXT_CONTACT_SECS_MAX, WAIT_SECS_MAX};

/// Most coordinators of a pool: usual are one to five, and during a replacement one more.
const URLS_MAX: usize = 8;
/// Default of `wait`: all that is allowed, because the agent finds out what its path bears.
const DEFAULT_WAIT: Duration = Duration::from_secs(WAIT_SECS_MAX);
/// Default of `period`: the usual timer of config management.
const DEFAULT_PERIOD: Duration = Duration::from_secs(3_600);
/// Default of `start_timeout`: a third of the unit's TimeoutStartSec=30s.
const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest `start_timeout`: servers wait for it at boot.
const START_TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// Most words of `on_detached`.
const HOOK_WORDS_MAX: usize = 32;

/// Where the coordinators are, and the identity of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactSettings {
    /// At least one; asked in this order.
    pub urls: Located<Vec<BaseUrl>>,
    /// The pool.
    pub pool: PoolName,
    /// Certificates and key.
    pub files: ClientFiles,
    /// Place of the key in the configuration, for problems.
    pub place: Located<()>,
    /// Who renews the certificate.
    pub renewal: Renewal,
    /// The longest that a coordinator may hold its answer back without news.
    pub wait: Duration,
    /// `once`: how often it is run.
    pub period: Duration,
}

/// See [`ContactSettings::renewal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// An operator, or a PKI of the site's own.
    ByHand,
    /// The agent, over its own connection; certificate and key are one file, because two cannot be replaced at once.
    ByAgent,
}

/// Settings of a source alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoordinatorSettings {
    /// Where the keys come from.
    pub contact: ContactSettings,
    /// How long a start waits for an answer before the node serves by its file alone.
    pub start_timeout: Duration,
    /// Command for a node that was out of contact for longer than the pool waits; empty for none.
    pub on_detached: Vec<String>,
    /// What happens to bit 0x2 of `net.ipv4.tcp_fastopen` while the pool's keys are missing.
    pub server_bit: ServerBit,
    /// Whether the node may serve while its pool has no key yet.
    pub empty_pool: EmptyPool,
}

/// See [`CoordinatorSettings::empty_pool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmptyPool {
    /// Ready once a coordinator has answered so: there is no cookie to lose (docs/protocol.md#rule-9).
    Ready,
    /// Not ready before the first key is installed.
    Held,
}

/// See [`CoordinatorSettings::server_bit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerBit {
    /// Never touched.
    LeftAlone,
    /// Cleared without the pool's keys, and set again with them.
    Held,
}

/// The source's section; the caller finishes the table.
pub(super) fn coordinator_source(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<CoordinatorSettings> {
    let contact = contact(table, findings);
    let start_timeout =
        bounded(table.span("start_timeout", findings), findings, Duration::from_secs(1), START_TIMEOUT_MAX);
    let on_detached = table.strings("on_detached", findings);
    if let Some(hook) = &on_detached {
        let absolute = hook.value.first().is_none_or(|program| program.starts_with('/'));
        if !absolute || hook.value.len() > HOOK_WORDS_MAX {
            let message = "this is not an executable command";
            let remedy = "write the program's absolute path and its arguments, [\"/usr/bin/systemctl\", \"start\", \"x.service\"]";
            findings.add_at(hook, Problem::error("bad_value", message, remedy));
        }
    }
    let hold = table.boolean("hold_server_bit", findings).is_some_and(|hold| hold.value);
    let hold_start = table.boolean("hold_until_first_key", findings).is_some_and(|hold| hold.value);
    Some(CoordinatorSettings {
        contact: contact?,
        start_timeout: start_timeout.unwrap_or(DEFAULT_START_TIMEOUT),
        on_detached: on_detached.map(|hook| hook.value).unwrap_or_default(),
        server_bit: if hold { ServerBit::Held } else { ServerBit::LeftAlone },
        empty_pool: if hold_start { EmptyPool::Held } else { EmptyPool::Ready },
    })
}

/// `[report]`.
pub(super) fn report_section(mut table: Table<'_, '_>, findings: &mut Findings) -> Option<ContactSettings> {
    let report = contact(&mut table, findings);
    table.finish(findings);
    report
}

/// The keys that both sections share; the caller finishes the table.
fn contact(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<ContactSettings> {
    for (key, remedy) in [
        ("urls", "write urls = [\"https://coordinator.example.org:9443\"]"),
        ("pool", "write the pool's name, pool = \"edge\""),
        ("ca", "write the absolute path of the CA's certificate"),
        ("cert", "write the absolute path of this host's certificate"),
        ("key", "write key = \"/absolute/path\" or \"credential:NAME\""),
    ] {
        table.require(key, remedy, findings);
    }
    let urls = table.strings("urls", findings).and_then(|urls| base_urls(urls, findings));
    let pool = table.parsed("pool", findings, str::parse::<PoolName>);
    let ca = table.parsed("ca", findings, absolute);
    let cert = table.parsed("cert", findings, absolute);
    let key: Option<Located<SecretPath>> = table.secret_path("key", findings);
    let crl = table.parsed("crl", findings, absolute);
    let renewal = renewal(table, cert.as_ref(), key.as_ref(), findings);
    let wait_max = Duration::from_secs(WAIT_SECS_MAX);
    let wait = bounded(table.span("wait", findings), findings, Duration::from_secs(1), wait_max);
    let period_max = Duration::from_secs(NEXT_CONTACT_SECS_MAX);
    let period = bounded(table.span("period", findings), findings, Duration::from_secs(10), period_max);
    let Located { value: key, key: key_name, line } = key?;
    Some(ContactSettings {
        urls: urls?,
        pool: pool?.value,
        place: Located { value: (), key: key_name, line },
        files: ClientFiles { ca: ca?.value, cert: cert?.value, key, crl: crl.map(|crl| crl.value) },
        renewal,
        wait: wait.unwrap_or(DEFAULT_WAIT),
        period: period.unwrap_or(DEFAULT_PERIOD),
    })
}

/// `renew`; certificate and key must then be one file that can be replaced.
fn renewal(
    table: &mut Table<'_, '_>,
    cert: Option<&Located<PathBuf>>,
    key: Option<&Located<SecretPath>>,
    findings: &mut Findings,
) -> Renewal {
    let Some(renew) = table.boolean("renew", findings).filter(|renew| renew.value) else { return Renewal::ByHand };
    if let (Some(cert), Some(key)) = (cert, key)
        && key.value != SecretPath::File(cert.value.clone())
    {
        let message = "the agent renews a certificate only where certificate and key are one file: two files cannot be \
                       replaced at once";
        let remedy = "name one file in `cert` and `key`, as `tfo-agent join` does, or remove `renew`";
        findings.add_at(&renew, Problem::error("bad_value", message, remedy));
    }
    Renewal::ByAgent
}

/// Coordinators, each once.
pub(super) fn base_urls(urls: Located<Vec<String>>, findings: &mut Findings) -> Option<Located<Vec<BaseUrl>>> {
    let mut parsed: Vec<BaseUrl> = Vec::new();
    for url in &urls.value {
        match url.parse::<BaseUrl>() {
            Ok(url) if parsed.contains(&url) => {
                findings.add_at(&urls, Problem::error("bad_value", format!("{url} is named twice"), "remove one"));
            }
            Ok(url) => parsed.push(url),
            // Not quoted: it may contain a user and a password.
            Err(error) => {
                let message = "one of these is not the URL of a coordinator";
                findings.add_at(&urls, Problem::error("bad_value", message, error.to_string()));
            }
        }
    }
    if !(1..=URLS_MAX).contains(&urls.value.len()) {
        let message = format!("{} coordinators are listed", urls.value.len());
        let remedy = format!("write 1 to {URLS_MAX} coordinators");
        findings.add_at(&urls, Problem::error("out_of_range", message, remedy));
        return None;
    }
    (parsed.len() == urls.value.len()).then_some(Located { value: parsed, key: urls.key, line: urls.line })
}

fn bounded(span: Option<Located<Duration>>, findings: &mut Findings, min: Duration, max: Duration) -> Option<Duration> {
    let span = span?;
    if (min..=max).contains(&span.value) {
        return Some(span.value);
    }
    let text = |bound: Duration| tfo_model::time::duration_text(bound.as_secs());
    let remedy = format!("write {} to {}", text(min), text(max));
    findings.add_at(&span, Problem::error("out_of_range", "this is out of range", remedy));
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::agent::AgentSettings;
    use crate::reader::ConfigFile;

    #[test]
    fn the_agent_renews_one_file_and_nothing_else() {
        let of = |cert: &str, key: &str, more: &str| {
            let text = format!(
                "[source]\nkind = \"random\"\n[report]\nurls = [\"https://c1\"]\npool = \"edge\"\nca = \"/ca\"\n\
                 cert = {cert:?}\nkey = {key:?}\n{more}"
            );
            AgentSettings::parse(Path::new("agent.toml"), &text).map_err(|problems| {
                problems.iter().map(|problem| (problem.line, problem.key.clone().unwrap())).collect::<Vec<_>>()
            })
        };
        let renewal = |settings: AgentSettings| settings.contact().map(|contact| contact.renewal);
        assert_eq!(of("/a.crt", "/a.key", "").map(renewal), Ok(Some(Renewal::ByHand)));
        assert_eq!(of("/a.crt", "/a.key", "renew = false").map(renewal), Ok(Some(Renewal::ByHand)));
        assert_eq!(of("/pair", "/pair", "renew = true").map(renewal), Ok(Some(Renewal::ByAgent)));
        for (cert, key) in [("/a.crt", "/a.key"), ("/a.crt", "credential:a")] {
            let found = of(cert, key, "renew = true").map(renewal);
            assert_eq!(found, Err(vec![(Some(9), "report.renew".to_owned())]), "{cert} {key}");
        }
    }
}
