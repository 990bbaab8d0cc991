//! `coordinator.toml`: see config/coordinator.toml, which has every key with its default, unit and range.

mod advice;
mod enrolment;
mod freeze;
mod notify;
mod pool;
mod store;

pub use self::advice::advice;
pub use self::enrolment::EnrolmentSettings;
use self::enrolment::enrolment_section;
use self::notify::notify_sections;
pub use self::notify::{NotifyBy, NotifySettings, TARGETS_MAX as NOTIFY_TARGETS_MAX};
pub use self::store::{EtcdPlace, StoreKind, StoreSettings};

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use self::pool::{NAMES_MAX, pools_section};
use self::store::store_section;
use super::reader::{ConfigFile, Findings, Located, Table, absolute, bound};
use tfo_engine::rollout::policy::Policy;
use tfo_host::secret::SecretPath;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::problem::Problem;
use tfo_tls::spiffe::TrustDomain;

/// The configuration file without `--config`.
pub const DEFAULT_FILE: &str = "/etc/tfo-fleet/coordinator.toml";

/// The operator in the audit log for policies from this file; no certificate may have this name.
pub const CONFIG_OPERATOR: &str = "coordinator-config";

/// Default of `api.listen`: all addresses, IPv6 and IPv4.
const DEFAULT_LISTEN: &str = "[::]:9443";
/// Default of `observe.listen`: this host only, because it is plain HTTP.
const DEFAULT_OBSERVE: &str = "127.0.0.1:9441";

/// Checked settings of a coordinator.
#[derive(Debug)]
pub struct CoordinatorSettings {
    /// The configuration file, for problems that are found later.
    pub file: PathBuf,
    /// Where nodes and operators connect.
    pub api: ApiSettings,
    /// Where nodes get certificates; none if they come from elsewhere.
    pub enrolment: Option<EnrolmentSettings>,
    /// Where pools are stored.
    pub store: StoreSettings,
    /// Rights by name.
    pub access: AccessSettings,
    /// Address of metrics and page; none if switched off.
    pub observe: Option<Located<SocketAddr>>,
    /// Names under which browsers and monitoring may ask there.
    pub observe_names: BTreeSet<NodeId>,
    /// How operators are told of what happens.
    pub notify: Vec<NotifySettings>,
    /// The pools and their policies.
    pub pools: BTreeMap<PoolName, Located<Policy>>,
}

/// `[api]`.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Address to listen on.
    pub listen: Located<SocketAddr>,
    /// Certificate chain, PEM.
    pub cert: Located<PathBuf>,
    /// Private key, PEM.
    pub key: Located<PathBuf>,
    /// Authorities of the clients' certificates, PEM.
    pub client_ca: Located<PathBuf>,
    /// Revoked client certificates, PEM.
    pub crl: Option<Located<PathBuf>>,
}

/// `[access]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessSettings {
    /// Names that may command.
    pub operators: BTreeSet<NodeId>,
    /// Names that may only look.
    pub viewers: BTreeSet<NodeId>,
    /// The trust domain whose SPIFFE IDs name peers; none if only DNS names do.
    pub spiffe_trust_domain: Option<Located<TrustDomain>>,
}

/// What a configuration names on this host, as far as it could be read, so that all of it can be checked although
/// something is wrong.
#[derive(Debug, Default)]
pub struct Named {
    /// The key-encryption key.
    pub key_encryption_key: Option<Located<SecretPath>>,
    /// `store.key_encryption_key_next`.
    pub key_encryption_key_next: Option<Located<SecretPath>>,
    /// The private key of the authority.
    pub authority_key: Option<Located<SecretPath>>,
}

impl ConfigFile for CoordinatorSettings {
    type Named = Named;

    fn convert(file: &Path, mut root: Table<'_, '_>, findings: &mut Findings, named: &mut Named) -> Option<Self> {
        let api = section(&mut root, "api", "with cert, key and client_ca", findings)
            .and_then(|table| api_section(table, findings));
        let store = section(&mut root, "store", "with key_encryption_key", findings)
            .and_then(|table| store_section(table, findings, named));
        let access = section(&mut root, "access", "with operators = [\"NAME\"]", findings)
            .map(|table| access_section(table, findings));
        let (observe, observe_names) = observe_section(root.table("observe", findings), findings);
        let pools = section(&mut root, "pools", "such as [pools.edge] with nodes = [\"*.example.org\"]", findings)
            .map(|table| pools_section(table, findings));
        let notify = notify_sections(&mut root, findings);
        let enrols = root.has("enrolment");
        let enrolment = root.table("enrolment", findings).and_then(|table| enrolment_section(table, findings, named));
        root.finish(findings);
        if let (Some(api), Some(enrolment)) = (&api, &enrolment) {
            complete(api, enrolment, findings);
        }
        if let (Some(access), Some(pools)) = (&access, &pools) {
            pools.values().for_each(|pool| keep_apart(access, pool, findings));
        }
        let (api, store, access, pools) = (api?, store?, access?, pools?);
        let file = file.to_owned();
        // What is wrong with the section was added.
        (enrols == enrolment.is_some()).then_some(Self {
            file,
            api,
            enrolment,
            store,
            access,
            observe,
            observe_names,
            notify,
            pools,
        })
    }
}

/// A required section.
fn section<'t, 'i>(
    root: &mut Table<'t, 'i>,
    name: &'static str,
    remedy: &str,
    findings: &mut Findings,
) -> Option<Table<'t, 'i>> {
    if !root.has(name) {
        let problem =
            Problem::error("missing_key", format!("there is no [{name}] section"), format!("add [{name}] {remedy}"));
        findings.add_at(&root.place(name, findings), problem);
    }
    root.table(name, findings)
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "write ADDRESS:PORT, for example \"[::]:9443\"")
}

fn default_address(key: &str, text: &str) -> Located<SocketAddr> {
    Located { value: text.parse().expect("the default is an address"), key: key.to_owned(), line: None }
}

fn api_section(mut table: Table<'_, '_>, findings: &mut Findings) -> Option<ApiSettings> {
    let listen = table.parsed("listen", findings, address);
    for key in ["cert", "key", "client_ca"] {
        table.require(key, "write the absolute path of a PEM file (`tfoctl pki` makes all three)", findings);
    }
    let cert = table.parsed("cert", findings, absolute);
    let key = table.parsed("key", findings, absolute);
    let client_ca = table.parsed("client_ca", findings, absolute);
    let crl = table.parsed("crl", findings, absolute);
    table.finish(findings);
    let listen = listen.unwrap_or_else(|| default_address("api.listen", DEFAULT_LISTEN));
    Some(ApiSettings { listen, cert: cert?, key: key?, client_ca: client_ca?, crl })
}

fn access_section(mut table: Table<'_, '_>, findings: &mut Findings) -> AccessSettings {
    table.require("operators", "write operators = [\"NAME\"]: names in certificates, or [] for none", findings);
    let operators = names(&mut table, "operators", findings);
    let viewers = names(&mut table, "viewers", findings);
    let spiffe_trust_domain = table.parsed("spiffe_trust_domain", findings, str::parse::<TrustDomain>);
    table.finish(findings);
    AccessSettings { operators, viewers, spiffe_trust_domain }
}

fn names(table: &mut Table<'_, '_>, key: &'static str, findings: &mut Findings) -> BTreeSet<NodeId> {
    let Some(list) = table.strings(key, findings) else { return BTreeSet::new() };
    let mut found = BTreeSet::new();
    for text in &list.value {
        let problem = |remedy: String| Problem::error("bad_value", format!("invalid value {text:?}"), remedy);
        match text.parse::<NodeId>() {
            Ok(name) if name.as_str() == CONFIG_OPERATOR => {
                findings.add_at(
                    &list,
                    problem("this name is reserved: it stands for the configuration file in the audit log".into()),
                );
            }
            Ok(name) => drop(found.insert(name)),
            Err(error) => findings.add_at(&list, problem(error.to_string())),
        }
    }
    bound(&list, NAMES_MAX, findings);
    found
}

/// What else a coordinator needs that enrols nodes.
fn complete(api: &ApiSettings, enrolment: &EnrolmentSettings, findings: &mut Findings) {
    if api.crl.is_none() {
        let message = "[enrolment] needs a revocation list: a node that is denied loses its certificate";
        let remedy = "add crl = \"/var/lib/tfo-coordinator/crl.pem\" to [api]: the coordinator writes it";
        let place = Located { value: (), key: "api.crl".to_owned(), line: enrolment.ca_cert.line };
        findings.add_at(&place, Problem::error("missing_key", message, remedy));
    }
    if api.listen.value == enrolment.listen.value {
        let message = format!("{} is the address of the API", api.listen.value);
        let remedy = "use another port: who has no certificate must not reach the API";
        findings.add_at(&enrolment.listen, Problem::error("bad_value", message, remedy));
    }
}

/// Finds an operator or a viewer whom a pool's patterns take for a node.  The coordinator never gives such a certificate keys,
/// but who writes a pattern that is too wide means other names than he thinks.
fn keep_apart(access: &AccessSettings, pool: &Located<Policy>, findings: &mut Findings) {
    let Located { value: policy, key, line } = pool;
    for (names, role) in [(&access.operators, "operators"), (&access.viewers, "viewers")] {
        let overlap = names.iter().find(|name| policy.nodes.iter().any(|one| one.matches(name)));
        let Some(name) = overlap else { continue };
        let message = format!("{name} fits a pattern of nodes, and is in access.{role}");
        let remedy = format!("narrow the pattern to names of nodes, such as \"*.cache.example.org\", or rename {name}");
        let place = Located { value: (), key: format!("{key}.nodes"), line: *line };
        findings.add_at(&place, Problem::error("names_overlap", message, remedy));
    }
}

/// The address, and the names under which it is asked.
fn observe_section(
    table: Option<Table<'_, '_>>,
    findings: &mut Findings,
) -> (Option<Located<SocketAddr>>, BTreeSet<NodeId>) {
    let Some(mut table) = table else { return (observe_default(), BTreeSet::new()) };
    let names = names(&mut table, "names", findings);
    (observe_listen(table, findings), names)
}

fn observe_default() -> Option<Located<SocketAddr>> {
    Some(default_address("observe.listen", DEFAULT_OBSERVE))
}

fn observe_listen(mut table: Table<'_, '_>, findings: &mut Findings) -> Option<Located<SocketAddr>> {
    let given = table.has("listen");
    let listen = table.parsed("listen", findings, |text| match text {
        "" => Ok(None),
        _ => address(text).map(Some),
    });
    table.finish(findings);
    if !given {
        return observe_default();
    }
    let Located { value, key, line } = listen?;
    value.map(|value| Located { value, key, line })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_engine::rollout::policy::{Share, WaveRule};

    const GOOD: &str = r#"
[api]
cert = "/c.crt"
key = "/c.key"
client_ca = "/ca.crt"
[store]
key_encryption_key = "credential:kek"
[access]
operators = ["ops1.example.org"]
[pools.edge]
nodes = ["*.cache.example.org"]
promote_waves = ["cp1*", "0.5%", "100%"]
drain_below = 0.01
"#;

    fn problems(text: &str) -> Vec<(String, &'static str)> {
        let problems = CoordinatorSettings::parse(Path::new("c.toml"), text).err().unwrap_or_default();
        problems.into_iter().map(|problem| (problem.key.unwrap_or_default(), problem.kind)).collect()
    }

    #[test]
    fn a_file_has_some_pools_and_not_too_many() {
        let (rest, pool) = GOOD.split_at(GOOD.find("[pools.edge]").unwrap());
        let with = |count: usize| {
            let pools = (0..count).map(|index| {
                pool.replace("pools.edge", &format!("pools.p{index}")).replace("cache", &format!("cache{index}"))
            });
            problems(&format!("{rest}{}", pools.collect::<String>()))
        };
        assert_eq!(with(64), []);
        for (count, problem) in [(0, ("pools", "missing_key")), (65, ("pools.NAME", "out_of_range"))] {
            assert_eq!(with(count), [(problem.0.to_owned(), problem.1)], "{count}");
        }
    }

    #[test]
    fn a_policy_that_no_document_has_room_for_is_refused_at_its_place() {
        let with = |names: usize| {
            let names: Vec<String> = (0..names).map(|n| format!("\"cp{n:04}{}\"", ".abcdefghi".repeat(20))).collect();
            GOOD.replace("\"*.cache.example.org\"", &names.join(", "))
        };
        assert_eq!(problems(&with(600)), []);
        assert_eq!(problems(&with(700)), [("pools.edge.nodes".to_owned(), "policy")]);
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let settings = CoordinatorSettings::parse(Path::new("c.toml"), GOOD).unwrap();
        assert_eq!(settings.api.listen.value.to_string(), DEFAULT_LISTEN);
        assert_eq!(settings.observe.map(|at| at.value.to_string()).as_deref(), Some(DEFAULT_OBSERVE));
        let StoreKind::Sqlite { path } = settings.store.kind else { panic!("the default is a file") };
        assert_eq!(path.value, Path::new(store::DEFAULT_PATH));
        let policy = &settings.pools.values().next().unwrap().value;
        let waves = vec![
            WaveRule::Names("cp1*".parse().unwrap()),
            WaveRule::Share(Share::from_ppm(5_000).unwrap()),
            WaveRule::Share(Share::ALL),
        ];
        let expected = Policy::with_defaults(vec!["*.cache.example.org".parse().unwrap()]);
        assert_eq!(*policy, Policy { promote_waves: waves, ..expected });
    }

    #[test]
    fn a_store_is_a_file_or_a_cluster_with_all_that_it_needs() {
        let with = |lines: &str| GOOD.replace("[store]\n", &format!("[store]\n{lines}\n"));
        let cluster = "kind = \"etcd\"\nurls = [\"https://e1.example.org:2379\"]\nca = \"/e.crt\"\n";
        let settings = CoordinatorSettings::parse(Path::new("c.toml"), &with(cluster)).unwrap();
        let StoreKind::Etcd(place) = settings.store.kind else { panic!("a cluster") };
        assert_eq!((place.prefix.value.as_str(), place.urls.value.len()), ("/tfo-fleet/", 1));
        assert!(place.name.is_none() && place.user.is_none() && place.identity.is_none());
        let whole = "user = \"tfo\"\npassword = \"credential:etcd\"\ncert = \"/c\"\nkey = \"/k\"\nprefix = \"/a/b/\"\nname = \"tfo1\"\nname_lock = \"/l\"";
        assert_eq!(problems(&with(&format!("{cluster}{whole}"))), []);
        for (lines, key, kind) in [
            ("kind = \"consul\"", "store.kind", "bad_value"),
            ("urls = [\"https://e1.example.org:2379\"]", "store.urls", "unknown_key"),
            (&format!("{cluster}path = \"/x\""), "store.path", "unknown_key"),
            (&format!("{cluster}user = \"tfo\""), "store.user", "missing_key"),
            (&format!("{cluster}password = \"/p\""), "store.password", "missing_key"),
            (&format!("{cluster}cert = \"/c\""), "store.cert", "missing_key"),
            (&format!("{cluster}prefix = \"/x\""), "store.prefix", "bad_value"),
            (&format!("{cluster}name = \"A B\""), "store.name", "bad_value"),
            (&cluster.replace("https", "http"), "store.urls", "bad_value"),
        ] {
            assert_eq!(problems(&with(lines)), [(key.to_owned(), kind)], "{lines}");
        }
        let enrols = with(cluster).replace("client_ca = \"/ca.crt\"\n", "client_ca = \"/ca.crt\"\ncrl = \"/crl\"\n");
        let enrols = format!("{enrols}[enrolment]\nca_cert = \"/ca.crt\"\nca_key = \"/ca.key\"\n");
        assert_eq!(problems(&enrols), []);
    }

    #[test]
    fn enrolment_is_off_or_whole() {
        let with = |api: &str, lines: &str| {
            let text = GOOD.replace("[store]", &format!("{api}\n[store]"));
            format!("{text}[enrolment]\n{lines}\n")
        };
        let files = "ca_cert = \"/ca.crt\"\nca_key = \"credential:ca\"\n";
        let crl = "crl = \"/crl.pem\"";
        let settings = CoordinatorSettings::parse(Path::new("c.toml"), &with(crl, files)).unwrap();
        let enrolment = settings.enrolment.unwrap();
        assert_eq!(enrolment.listen.value.to_string(), "[::]:9444");
        assert_eq!(enrolment.node_lifetime.value.as_secs(), 30 * 86_400);
        assert!(CoordinatorSettings::parse(Path::new("c.toml"), GOOD).unwrap().enrolment.is_none());
        // It signs nothing, and points on.
        let keyless = with(crl, "ca_cert = \"/ca.crt\"\n");
        assert!(CoordinatorSettings::parse(Path::new("c.toml"), &keyless).unwrap().enrolment.unwrap().ca_key.is_none());
        let same = "listen = \"[::]:9443\"\n";
        for (text, expected) in [
            (with("", files), vec![("api.crl", "missing_key")]),
            (with(crl, ""), vec![("enrolment.ca_cert", "missing_key")]),
            (with(crl, &format!("{files}{same}")), vec![("enrolment.listen", "bad_value")]),
            (with(crl, &format!("{files}node_lifetime = \"9s\"")), vec![("enrolment.node_lifetime", "out_of_range")]),
            (with(crl, &format!("{files}lifetime = \"9d\"")), vec![("enrolment.lifetime", "unknown_key")]),
            (
                with(crl, "ca_cert = \"ca.crt\"\nca_key = \"ca.key\""),
                vec![("enrolment.ca_cert", "bad_value"), ("enrolment.ca_key", "bad_value")],
            ),
        ] {
            let found = problems(&text);
            let found: Vec<_> = found.iter().map(|(key, kind)| (key.as_str(), *kind)).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_trust_domain_is_off_or_a_domain() {
        let with = |line: &str| GOOD.replace("[pools.edge]", &format!("{line}\n[pools.edge]"));
        let domain = |text: &str| {
            let settings = CoordinatorSettings::parse(Path::new("c.toml"), text).unwrap();
            settings.access.spiffe_trust_domain.map(|domain| domain.value.to_string())
        };
        assert_eq!(domain(GOOD), None);
        let good = with("spiffe_trust_domain = \"fleet.example.org\"");
        assert_eq!(domain(&good).as_deref(), Some("fleet.example.org"));
        for bad in ["", "spiffe://fleet.example.org", "fleet.example.org/tfo", "Fleet.example.org"] {
            let found = problems(&with(&format!("spiffe_trust_domain = {bad:?}")));
            assert_eq!(found, [("access.spiffe_trust_domain".to_owned(), "bad_value")], "{bad}");
        }
    }

    #[test]
    fn all_problems_come_at_once() {
        let text = "[api]\nlisten = \"9443\"\ncert = \"c.crt\"\n[store]\nkind = \"etcd\"\nurls = []\n\
                    [access]\noperators = [\"Ops\", \"coordinator-config\"]\n\
                    [pools.Text]\nnodes = []\ninterval = \"1s\"\npromote_waves = [\"5%\", \"0%\"]\ndrain_below = 2\nx = 1\n";
        let found = problems(text);
        let found: Vec<_> = found.iter().map(|(key, kind)| (key.as_str(), *kind)).collect();
        let expected = [
            ("api.key", "missing_key"),
            ("api.client_ca", "missing_key"),
            ("api.listen", "bad_value"),
            ("api.cert", "bad_value"),
            ("store.key_encryption_key", "missing_key"),
            ("store.ca", "missing_key"),
            ("store.urls", "out_of_range"),
            ("access.operators", "bad_value"),
            ("access.operators", "bad_value"),
            ("pools.Text", "bad_value"),
            ("pools.Text.nodes", "out_of_range"),
            ("pools.Text.interval", "out_of_range"),
            ("pools.Text.promote_waves", "bad_value"),
            ("pools.Text.drain_below", "wrong_type"),
            ("pools.Text.x", "unknown_key"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn who_commands_or_looks_is_never_a_node() {
        for (text, role) in [
            (GOOD.replace("\"*.cache.example.org\"", "\"cp1.example.org\", \"*.example.org\""), "operators"),
            (GOOD.replace("operators =", "viewers = [\"v.cache.example.org\"]\noperators ="), "viewers"),
        ] {
            let found = CoordinatorSettings::parse(Path::new("c.toml"), &text).unwrap_err();
            let [problem] = &found[..] else { panic!("{found:?}") };
            assert_eq!((problem.kind, problem.key.as_deref()), ("names_overlap", Some("pools.edge.nodes")));
            let line = text.lines().position(|line| line.starts_with("[pools.edge]")).unwrap() + 1;
            assert_eq!(problem.line, Some(line));
            assert!(problem.message.contains(role) && !problem.remedy.is_empty(), "{problem:?}");
        }
    }

    #[test]
    fn a_pool_waits_for_its_nodes_for_longer_than_they_are_silent() {
        let with = |value: &str| problems(&format!("{GOOD}\nabsent_after = \"{value}\"\n"));
        assert_eq!(with("30s"), []);
        for short in ["1s", "29s"] {
            assert_eq!(with(short), [("pools.edge.absent_after".to_owned(), "out_of_range")], "{short}");
        }
    }

    #[test]
    fn the_last_wave_is_everybody() {
        let text = GOOD.replace("\"0.5%\", \"100%\"", "\"5%\"");
        assert_eq!(problems(&text), [("pools.edge.promote_waves".to_owned(), "policy")]);
    }
}
