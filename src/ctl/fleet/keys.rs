//! `import` and `recover`: the two commands that may carry keys, and what `--expect` says.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Args;
use reqwest::Method;

use super::connect::{OrderArgs, block_on, in_file};
use super::consent::{ConsentArgs, Plan, Weight};
use super::shown::slot;
use super::steps::{Prepared, carry_out, refused};
use crate::host::key_file;
use crate::plain::{count_of_nodes, names};
use crate::report::{Failure, Format, Outcome};
use tfo_crypto::fingerprint::pair_print;
use tfo_model::fleet::{Action, BlockedBy};
use tfo_model::ids::NodeId;
use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::problem::Problem;
use tfo_model::state::Phase;
use tfo_wire::v1::fleet::{Expected, ImportRequest, PoolStatus, RecoverRequest, SlotPairShown};
use tfo_wire::v1::secret::SecretText;

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// File with the key, or both, as the kernel shows them (0400); - for standard input
    #[arg(long, value_name = "FILE")]
    key_file: String,
    #[command(flatten)]
    expect: ExpectArgs,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// Arguments of `recover`.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// File with the keys of the fleet (from a node's sysctl.d file), if the store lacks them; - for standard input
    #[arg(long, value_name = "FILE")]
    key_file: Option<String>,
    /// Which to take over, if the fleet holds more than one pair: the primary's fingerprint
    #[arg(long, value_name = "FINGERPRINT")]
    primary: Option<KeyFingerprint>,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// Who must be there.
#[derive(Debug, Args)]
pub(super) struct ExpectArgs {
    /// Who must have the key before the pool goes on: a number, or names (repeatable, or with commas)
    #[arg(long, value_name = "N|NAME,…", value_delimiter = ',')]
    pub(super) expect: Vec<String>,
}

impl ExpectArgs {
    /// As the API has it; none: the policy's `expected_nodes`.
    pub(super) fn expected(&self) -> Result<Option<Expected>, Failure> {
        if let [only] = &self.expect[..]
            && let Ok(number) = only.parse()
        {
            return Ok(Some(Expected::Number(number)));
        }
        let names: Result<BTreeSet<NodeId>, _> = self.expect.iter().map(|name| name.parse::<NodeId>()).collect();
        match names {
            Ok(names) if names.is_empty() => Ok(None),
            // A name of digits alone is a number that slipped in between.
            Ok(names) if names.iter().all(|name| !is_number(name)) => Ok(Some(Expected::Names(names))),
            Ok(_) => Err(bad_expect("a number stands alone".to_owned())),
            Err(error) => Err(bad_expect(error.to_string())),
        }
    }
}

fn is_number(name: &NodeId) -> bool {
    name.as_str().bytes().all(|byte| byte.is_ascii_digit())
}

fn bad_expect(message: String) -> Failure {
    let remedy = "write --expect 100, or --expect cp1.example.org,cp2.example.org";
    Failure::new(Outcome::Config, Problem::error("bad_value", message, remedy).at_key("--expect"))
}

/// What an expectation means, in words.
pub(super) fn expectation(expect: Option<&Expected>) -> String {
    match expect {
        None => "as many as the pool's expected_nodes".to_owned(),
        Some(Expected::Number(number)) => count_of_nodes(*number),
        Some(Expected::Names(all)) => names(all),
    }
}

/// Gives an empty pool the keys that its nodes hold already.
///
/// # Errors
/// Fails with what is wrong, its remedy and the exit code.
pub fn import(arguments: &ImportArgs, format: Format) -> Result<Outcome, Failure> {
    let expect = arguments.expect.expected()?;
    let keys = key_file::read(&arguments.key_file)?;
    let prints = pair_print(&keys);
    let connection = arguments.order.connect.open()?;
    block_on(async {
        let pool = connection.pool().await?;
        let status = connection.fleet.status(&pool).await?;
        if status.phase != Phase::Empty {
            let message = format!("pool {pool} has keys already: {}, {}", slot(status.primary), slot(status.backup));
            return Err(refused(message, "keys are imported only into an empty pool; `tfoctl rotate` makes a new key"));
        }
        let nodes = connection.fleet.nodes(&pool).await?;
        let holding = |group: &&tfo_wire::v1::fleet::FingerprintCount| {
            group.primary == prints.primary || group.backup == Some(prints.primary)
        };
        let (known, holders) =
            (nodes.nodes.len(), nodes.fingerprints.iter().filter(holding).map(|group| group.nodes).sum::<usize>());
        let backup = prints.backup.map_or_else(|| "none".to_owned(), |backup| backup.to_string());
        let plan = Plan::new("import", &status, known)
            .line(format!("the pool's first keys are {} and the backup {backup}", prints.primary))
            .line(format!("{holders} of {} that reported hold that key already", count_of_nodes(known)))
            .line("every other node is told these keys, and clients with cookies of its old key lose TFO once")
            .line(format!("the pool then holds until {} have them, and you resume", expectation(expect.as_ref())));
        let body = ImportRequest { reason: arguments.order.reason.clone(), keys: SecretText::of_pair(&keys), expect };
        let prepared = Prepared {
            method: Method::POST,
            path: "/import".to_owned(),
            body: Some(&body),
            action: Action::Import,
            reason: &arguments.order.reason,
            plan,
            weight: Weight::Heavy,
        };
        carry_out(&connection, &status, prepared, &arguments.consent, format).await
    })
}

/// Takes over a fleet that is ahead of a restored store.
///
/// # Errors
/// Fails with what is wrong, its remedy and the exit code.
pub fn recover(arguments: &RecoverArgs, format: Format) -> Result<Outcome, Failure> {
    let keys = arguments.key_file.as_deref().map(key_file::read).transpose()?;
    let connection = arguments.order.connect.open()?;
    block_on(async {
        let pool = connection.pool().await?;
        let status = connection.fleet.status(&pool).await?;
        let slots = choose(&status, arguments.primary)?;
        let prints =
            PairPrint { primary: slots.primary.fingerprint, backup: slots.backup.map(|backup| backup.fingerprint) };
        if let (Some(keys), Some(file)) = (&keys, &arguments.key_file)
            && pair_print(keys) != prints
        {
            return Err(other_keys(Path::new(file), &pair_print(keys), &slots));
        }
        let plan = Plan::new("recover", &status, status.required)
            .line(format!(
                "the pool takes over what its fleet holds: {}, {}",
                slot(Some(slots.primary)),
                slot(slots.backup)
            ))
            .line("its generation jumps above everything that any node was told")
            .line(format!("{} are required; those that stay absent are excluded", count_of_nodes(status.required)))
            .line("the pool then holds until `tfoctl resume`");
        let keys = keys.as_ref().map(SecretText::of_pair);
        let body = RecoverRequest { reason: arguments.order.reason.clone(), slots: Some(slots), keys };
        let prepared = Prepared {
            method: Method::POST,
            path: "/recover".to_owned(),
            body: Some(&body),
            action: Action::Recover,
            reason: &arguments.order.reason,
            plan,
            weight: Weight::Heavy,
        };
        carry_out(&connection, &status, prepared, &arguments.consent, format).await
    })
}

/// The pair to take over: the only one, or the one that was named.
fn choose(status: &PoolStatus, primary: Option<KeyFingerprint>) -> Result<SlotPairShown, Failure> {
    let fits = |slots: &&SlotPairShown| primary.is_none_or(|primary| slots.primary.fingerprint == primary);
    let found: Vec<&SlotPairShown> = status.recoverable.iter().filter(fits).collect();
    match &found[..] {
        [only] => Ok(**only),
        [] if status.recoverable.is_empty() => {
            let (message, remedy) = if status.blocked_by == Some(BlockedBy::Frozen.into()) {
                ("no node that was heard reports keys that could be taken over", "wait until the nodes have reported")
            } else {
                ("the pool is not frozen: there is nothing to recover", "see `tfoctl pools`")
            };
            Err(refused(message, remedy))
        }
        found => {
            let all = names(status.recoverable.iter().map(|slots| slot(Some(slots.primary))));
            let message = format!("{} of the pairs that the fleet holds fit; their primaries: {all}", found.len());
            Err(refused(message, "name one with --primary FINGERPRINT"))
        }
    }
}

fn other_keys(file: &Path, found: &PairPrint, slots: &SlotPairShown) -> Failure {
    let shown = |backup: Option<KeyFingerprint>| backup.map_or_else(|| "-".to_owned(), |backup| backup.to_string());
    let message = format!(
        "it holds {},{}, and the fleet {},{}",
        found.primary,
        shown(found.backup),
        slots.primary.fingerprint,
        shown(slots.backup.map(|backup| backup.fingerprint))
    );
    let remedy = "take the line net.ipv4.tcp_fastopen_key from the sysctl.d file of a node that is up to date";
    in_file(file, Outcome::Refused, Problem::error("other_keys", message, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(texts: &[&str]) -> Result<Option<Expected>, Outcome> {
        let arguments = ExpectArgs { expect: texts.iter().map(|text| (*text).to_owned()).collect() };
        arguments.expected().map_err(|failure| failure.outcome)
    }

    #[test]
    fn a_number_or_names_are_expected() {
        assert_eq!(expected(&[]), Ok(None));
        assert_eq!(expected(&["100"]), Ok(Some(Expected::Number(100))));
        let names = ["a", "b.example.org"].map(|name| name.parse().unwrap()).into();
        assert_eq!(expected(&["b.example.org", "a", "a"]), Ok(Some(Expected::Names(names))));
        for bad in [&["A"][..], &["1", "2"], &["a", "1"], &[""]] {
            assert_eq!(expected(bad), Err(Outcome::Config), "{bad:?}");
        }
    }
}
