//! `[store]`: a file for one coordinator, or an etcd cluster for several.

use std::path::PathBuf;

use super::Named;
use crate::reader::{Findings, Located, Table, absolute};
use tfo_host::secret::SecretPath;
use tfo_model::ids::CoordinatorName;
use tfo_model::problem::Problem;
use tfo_wire::base_url::BaseUrl;

/// Default of `store.path`: StateDirectory= of the unit.
pub(super) const DEFAULT_PATH: &str = "/var/lib/tfo-coordinator/state.db";
/// Default of `store.prefix`.
const DEFAULT_PREFIX: &str = "/tfo-fleet/";
/// Default of `store.name_lock`, in the same directory.
const DEFAULT_LOCK: &str = "/var/lib/tfo-coordinator/name.lock";
/// Most members of a cluster that are named: etcd recommends five, and seven at most.
const URLS_MAX: usize = 9;
/// Longest prefix.
const PREFIX_BYTES_MAX: usize = 200;

/// `[store]`.
#[derive(Debug)]
pub struct StoreSettings {
    /// Where pools are stored.
    pub kind: StoreKind,
    /// Path of the key that seals the keys in it.
    pub key_encryption_key: Located<SecretPath>,
    /// Path of the key that takes its place; none except while that happens.
    pub key_encryption_key_next: Option<Located<SecretPath>>,
}

/// The kind of the store.
#[derive(Debug)]
pub enum StoreKind {
    /// One file.
    Sqlite {
        /// The file.
        path: Located<PathBuf>,
    },
    /// A cluster.
    Etcd(Box<EtcdPlace>),
}

/// How to reach an etcd cluster, and as whom.
#[derive(Debug)]
pub struct EtcdPlace {
    /// The members.
    pub urls: Located<Vec<BaseUrl>>,
    /// What every key begins with.
    pub prefix: Located<String>,
    /// Authority of the members' certificates, PEM.
    pub ca: Located<PathBuf>,
    /// Own certificate, PEM, and its key, if members ask for one.
    pub identity: Option<(Located<PathBuf>, Located<SecretPath>)>,
    /// User and password, if etcd has users.
    pub user: Option<(Located<String>, Located<SecretPath>)>,
    /// The name of this coordinator; none: the first name in its certificate, by the alphabet.
    pub name: Option<Located<CoordinatorName>>,
    /// A file that the process of this name holds.
    pub name_lock: Located<PathBuf>,
}

pub(super) fn store_section(
    mut table: Table<'_, '_>,
    findings: &mut Findings,
    named: &mut Named,
) -> Option<StoreSettings> {
    let kind = table.string("kind", findings);
    table.require("key_encryption_key", "write \"credential:NAME\" or the path of a file of 32 bytes", findings);
    let key_encryption_key = table.secret_path("key_encryption_key", findings);
    let key_encryption_key_next = table.secret_path("key_encryption_key_next", findings);
    named.key_encryption_key.clone_from(&key_encryption_key);
    named.key_encryption_key_next.clone_from(&key_encryption_key_next);
    let kind = match kind.as_ref().map(|kind| kind.value.as_str()) {
        None | Some("sqlite") => {
            let path = table.parsed("path", findings, absolute);
            Some(StoreKind::Sqlite { path: path.unwrap_or_else(|| default("path", DEFAULT_PATH.into())) })
        }
        Some("etcd") => etcd_place(&mut table, findings).map(|place| StoreKind::Etcd(Box::new(place))),
        Some(other) => {
            let problem =
                Problem::error("bad_value", format!("unknown store {other:?}"), "write \"sqlite\" or \"etcd\"");
            findings.add_at(kind.as_ref().expect("it has just been read"), problem);
            None
        }
    };
    table.finish(findings);
    Some(StoreSettings { kind: kind?, key_encryption_key: key_encryption_key?, key_encryption_key_next })
}

fn etcd_place(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<EtcdPlace> {
    table.require("urls", "write urls = [\"https://etcd1.example.org:2379\"], with all members", findings);
    table.require("ca", "write the absolute path of the authority of etcd's certificates, PEM", findings);
    let urls = table.strings("urls", findings).and_then(|urls| members(urls, findings));
    let prefix = table.parsed("prefix", findings, prefix);
    let ca = table.parsed("ca", findings, absolute);
    let (cert, key) = (table.parsed("cert", findings, absolute), table.secret_path("key", findings));
    let identity = both(cert, key, ["cert", "key"], findings);
    let (user, password) = (table.string("user", findings), table.secret_path("password", findings));
    let user = both(user, password, ["user", "password"], findings);
    let name = table.parsed("name", findings, str::parse::<CoordinatorName>);
    let name_lock = table.parsed("name_lock", findings, absolute);
    Some(EtcdPlace {
        urls: urls?,
        prefix: prefix.unwrap_or_else(|| default("prefix", DEFAULT_PREFIX.to_owned())),
        ca: ca?,
        identity,
        user,
        name,
        name_lock: name_lock.unwrap_or_else(|| default("name_lock", DEFAULT_LOCK.into())),
    })
}

fn default<T>(key: &str, value: T) -> Located<T> {
    Located { value, key: format!("store.{key}"), line: None }
}

/// Two settings that are of no use without each other.
fn both<A, B>(
    one: Option<Located<A>>,
    other: Option<Located<B>>,
    [first, second]: [&str; 2],
    findings: &mut Findings,
) -> Option<(Located<A>, Located<B>)> {
    let mut lacks = |place: Located<()>, has: &str, lacks: &str| {
        let message = format!("there is a {has} and no {lacks}");
        findings.add_at(&place, Problem::error("missing_key", message, format!("write both, or remove {has}")));
        None
    };
    match (one, other) {
        (Some(one), Some(other)) => Some((one, other)),
        (Some(one), None) => lacks(Located { value: (), key: one.key, line: one.line }, first, second),
        (None, Some(other)) => lacks(Located { value: (), key: other.key, line: other.line }, second, first),
        (None, None) => None,
    }
}

fn prefix(text: &str) -> Result<String, &'static str> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    let is_good = is_plain && text.ends_with('/') && text.len() <= PREFIX_BYTES_MAX;
    if is_good {
        Ok(text.to_owned())
    } else {
        Err("write letters, digits, \".\", \"_\", \"-\" and \"/\", with \"/\" at the end")
    }
}

fn members(urls: Located<Vec<String>>, findings: &mut Findings) -> Option<Located<Vec<BaseUrl>>> {
    // Not quoted: one may contain a user and a password.
    let parsed: Option<Vec<BaseUrl>> = urls.value.iter().map(|url| url.parse().ok()).collect();
    match parsed {
        None => {
            let (message, remedy) =
                ("one of these is not the URL of a member", "write https://HOST:PORT, usually 2379");
            findings.add_at(&urls, Problem::error("bad_value", message, remedy));
            None
        }
        Some(parsed) if (1..=URLS_MAX).contains(&parsed.len()) => {
            Some(Located { value: parsed, key: urls.key, line: urls.line })
        }
        Some(parsed) => {
            let message = format!("{} members are listed", parsed.len());
            findings.add_at(&urls, Problem::error("out_of_range", message, format!("write 1 to {URLS_MAX} members")));
            None
        }
    }
}
