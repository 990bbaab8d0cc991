//! `import` and `recover`: the two commands that may carry keys; and `--expect`.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Args;

use super::command::{CommandArgs, Prepared, refused, run};
use crate::host::key_file;
use tfo_cli::plain::{count_of_nodes, names};
use tfo_cli::plan::{Plan, slot};
use tfo_cli::report::{Failure, Format, Outcome};
use tfo_crypto::fingerprint::pair_print;
use tfo_model::fleet::{Action, BlockedBy};
use tfo_model::ids::NodeId;
use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::node::Expected;
use tfo_model::problem::Problem;
use tfo_model::state::Phase;
use tfo_wire::v1::fleet::{ImportRequest, PoolStatus, RecoverRequest, SlotPairShown};
use tfo_wire::v1::secret::SecretText;

/// Arguments of `import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    common: CommandArgs,
    /// File with the key, or both, as the kernel shows them (0400); - for standard input
    #[arg(long, value_name = "FILE")]
    key_file: String,
    #[command(flatten)]
    expect: ExpectArgs,
}

/// Arguments of `recover`.
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    #[command(flatten)]
    common: CommandArgs,
    /// File with the keys of the fleet (from a node's sysctl.d file), if the store lacks them; - for standard input
    #[arg(long, value_name = "FILE")]
    key_file: Option<String>,
    /// Fingerprint of the primary to take over, if the fleet holds more than one pair
    #[arg(long, value_name = "FINGERPRINT")]
    primary: Option<KeyFingerprint>,
}

/// The nodes that must have the first key.
#[derive(Debug, Args)]
pub(super) struct ExpectArgs {
    /// Nodes that must have the key before the pool continues: a number, or names (repeatable, or with commas)
    #[arg(long, value_name = "N|NAME,…", value_delimiter = ',')]
    pub(super) expect: Vec<String>,
}

impl ExpectArgs {
    /// The expectation as the API has it; none for the policy's `expected_nodes`.
    pub(super) fn expected(&self) -> Result<Option<Expected>, Failure> {
        if let [only] = &self.expect[..]
            && let Ok(number) = only.parse()
        {
            return Ok(Some(Expected::Number(number)));
        }
        let names: Result<BTreeSet<NodeId>, _> = self.expect.iter().map(|name| name.parse::<NodeId>()).collect();
        match names {
            Ok(names) if names.is_empty() => Ok(None),
            // A name of digits alone is a number among the names.
            Ok(names) if names.iter().all(|name| !is_number(name)) => Ok(Some(Expected::Names(names))),
            Ok(_) => Err(bad_expect("a number cannot be combined with other values".to_owned())),
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

/// An expectation in words.
pub(super) fn expectation(expect: Option<&Expected>) -> String {
    match expect {
        None => "as many nodes as the pool's expected_nodes".to_owned(),
        Some(Expected::Number(number)) => count_of_nodes(*number),
        Some(Expected::Names(all)) => names(all),
    }
}

/// Gives an empty pool the keys that its nodes already hold.
pub(crate) fn import(arguments: &ImportArgs, format: Format) -> Result<Outcome, Failure> {
    let expect = arguments.expect.expected()?;
    let keys = key_file::read(&arguments.key_file)?;
    run(&arguments.common, format, async |fleet, status| {
        if status.phase != Phase::Empty {
            let slots = format!("{}, {}", slot(status.primary), slot(status.backup));
            let message = format!("pool {} already has keys: {slots}", status.pool);
            return Err(refused(message, "keys are imported only into an empty pool; `tfoctl rotate` makes a new key"));
        }
        let PairPrint { primary, backup } = pair_print(&keys);
        let nodes = fleet.nodes(&status.pool).await?;
        let holding =
            nodes.fingerprints.iter().filter(|group| [Some(group.primary), group.backup].contains(&Some(primary)));
        let (known, holders) = (nodes.nodes.len(), holding.map(|group| group.nodes).sum::<usize>());
        let backup = backup.map_or_else(|| "none".to_owned(), |backup| backup.to_string());
        let plan = Plan::new("import", status, known)
            .line(format!("the pool's first keys are primary {primary}, backup {backup}"))
            .line(format!("{holders} of {} that reported already hold the primary", count_of_nodes(known)))
            .line("every other node installs these keys, and clients with cookies of its old key lose TFO once")
            .line(format!("the pool then holds until the keys are on {} and you resume", expectation(expect.as_ref())));
        let reason = arguments.common.reason.clone();
        let body = ImportRequest { reason, keys: SecretText::of_pair(&keys), expect };
        Ok(Prepared::post(plan, Action::Import, body))
    })
}

/// Takes over a fleet that is ahead of a restored store.
pub(crate) fn recover(arguments: &RecoverArgs, format: Format) -> Result<Outcome, Failure> {
    let keys = arguments.key_file.as_deref().map(key_file::read).transpose()?;
    run(&arguments.common, format, async |_, status| {
        let slots = choose(status, arguments.primary)?;
        let prints =
            PairPrint { primary: slots.primary.fingerprint, backup: slots.backup.map(|backup| backup.fingerprint) };
        if let (Some(keys), Some(file)) = (&keys, &arguments.key_file)
            && pair_print(keys) != prints
        {
            return Err(other_keys(Path::new(file), &pair_print(keys), &prints));
        }
        let (primary, backup) = (slot(Some(slots.primary)), slot(slots.backup));
        let plan = Plan::new("recover", status, status.required)
            .line(format!("the pool takes over the keys that its fleet holds: {primary}, {backup}"))
            .line(believed(status))
            .line("if no store was restored, these reports are false: `tfoctl rotate --mode revoke --deny` these nodes instead")
            .line("its generation jumps above every generation that a node has seen")
            .line(format!("required: {}; those that stay absent are excluded", count_of_nodes(status.required)))
            .line("the pool then holds until `tfoctl resume`");
        let reason = arguments.common.reason.clone();
        let keys = keys.as_ref().map(SecretText::of_pair);
        Ok(Prepared::post(plan, Action::Recover, RecoverRequest { reason, slots: Some(slots), keys }))
    })
}

/// Whose word it takes: the nodes that report what this store never gave out.
fn believed(status: &PoolStatus) -> String {
    let (nodes, more) = (&status.verdict.nodes, status.verdict.more);
    let of = format!("{} of {}", nodes.len() + more, count_of_nodes(status.required));
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("it believes {of}: {}{more}", names(nodes))
}

/// The pair to take over: the only one, or the one that was chosen.
fn choose(status: &PoolStatus, primary: Option<KeyFingerprint>) -> Result<SlotPairShown, Failure> {
    let fits = |slots: &&SlotPairShown| primary.is_none_or(|primary| slots.primary.fingerprint == primary);
    let found: Vec<&SlotPairShown> = status.recoverable.iter().filter(fits).collect();
    match &found[..] {
        [only] => Ok(**only),
        [] if status.recoverable.is_empty() => {
            let (message, remedy) = if status.blocked_by == Some(BlockedBy::Frozen.into()) {
                ("no node has reported keys that could be taken over", "wait until the nodes have reported")
            } else {
                ("the pool is not frozen: there is nothing to recover", "`tfoctl pools` shows its state")
            };
            Err(refused(message, remedy))
        }
        found => {
            let all = names(status.recoverable.iter().map(|slots| slot(Some(slots.primary))));
            let message = format!("{} of the fleet's key pairs match; the primaries are {all}", found.len());
            Err(refused(message, "choose one with --primary FINGERPRINT"))
        }
    }
}

fn other_keys(file: &Path, found: &PairPrint, wanted: &PairPrint) -> Failure {
    let shown = |pair: &PairPrint| {
        let backup = pair.backup.map_or_else(|| "-".to_owned(), |backup| backup.to_string());
        format!("{},{backup}", pair.primary)
    };
    let message = format!("the file holds {}; the fleet holds {}", shown(found), shown(wanted));
    let remedy = "take the line net.ipv4.tcp_fastopen_key from the sysctl.d file of a node that is up to date";
    Failure::new(Outcome::Refused, Problem::error("other_keys", message, remedy).in_file(file))
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
