//! Which nodes a command is about: names, patterns, a file; every one of them a node that the pool knows.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;

use clap::Args;

use tfo_cli::plain::names;
use tfo_cli::report::{Failure, Outcome};
use tfo_model::ids::NodeId;
use tfo_model::pattern::NamePattern;
use tfo_model::problem::Problem;
use tfo_wire::v1::fleet::{NodeStatus, PoolStatus};
use tfo_wire::v1::orders::NODES_MAX;

/// Longest list in bytes: the most names that a request takes fit, each with its line's end.
const LIST_BYTES_MAX: u64 = NODES_MAX as u64 * 255;
/// Stands for standard input.
const STDIN: &str = "-";

/// Options of every command about nodes.
#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    /// Names of the nodes
    #[arg(value_name = "NODE", required_unless_present_any = ["patterns", "file"])]
    names: Vec<NodeId>,
    /// Also the pool's nodes whose names match; * stands for any characters (repeatable)
    #[arg(long = "match", value_name = "PATTERN")]
    patterns: Vec<NamePattern>,
    /// Also the nodes in this file, one name a line; - for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
}

/// What was named, before the pool is asked.
pub(super) struct Targets<'a> {
    named: BTreeSet<NodeId>,
    patterns: &'a [NamePattern],
}

impl TargetArgs {
    /// Reads the file, if there is one.
    pub(super) fn read(&self) -> Result<Targets<'_>, Failure> {
        let mut named: BTreeSet<NodeId> = self.names.iter().cloned().collect();
        if let Some(file) = &self.file {
            named.extend(read_list(file)?);
        }
        if named.is_empty() && self.patterns.is_empty() {
            let problem = Problem::error("usage", "the file names no node", "write one name a line");
            return Err(Failure::new(Outcome::Config, problem));
        }
        Ok(Targets { named, patterns: &self.patterns })
    }
}

impl Targets<'_> {
    /// The nodes of the pool that are meant: all that are named, and those that match and for which the command has a
    /// meaning.  Fails, with all of them, if some names are not nodes of the pool.
    pub(super) fn of<'a>(
        &self,
        status: &PoolStatus,
        nodes: &'a [NodeStatus],
        has_meaning: impl Fn(&NodeStatus) -> bool,
    ) -> Result<Vec<&'a NodeStatus>, Failure> {
        let known: BTreeSet<&NodeId> = nodes.iter().map(|node| &node.node).collect();
        let unknown: Vec<&str> = self.named.iter().filter(|name| !known.contains(name)).map(NodeId::as_str).collect();
        if !unknown.is_empty() {
            let message = format!("pool {} has no node {}; nothing was done", status.pool, unknown.join(", "));
            let problem = Problem::error("unknown_node", message, "`tfoctl nodes --all` lists the nodes of the pool");
            return Err(Failure::new(Outcome::Failed, problem));
        }
        let matches = |node: &NodeStatus| self.patterns.iter().any(|pattern| pattern.matches(&node.node));
        let is_meant = |node: &&NodeStatus| self.named.contains(&node.node) || (matches(node) && has_meaning(node));
        let meant: Vec<&NodeStatus> = nodes.iter().filter(is_meant).collect();
        if meant.is_empty() {
            let patterns = names(self.patterns);
            let message = format!("pool {} has no node that matches {patterns} and that this is for", status.pool);
            let problem =
                Problem::error("unknown_node", message, "`tfoctl nodes --all` lists the nodes and their states");
            return Err(Failure::new(Outcome::Failed, problem));
        }
        if meant.len() > NODES_MAX {
            let message = format!("{} nodes are more than {NODES_MAX}", meant.len());
            let problem = Problem::error("too_many", message, "use narrower patterns, one after the other");
            return Err(Failure::new(Outcome::Config, problem));
        }
        Ok(meant)
    }
}

/// Reads a list; names every line that is wrong.
fn read_list(file: &str) -> Result<BTreeSet<NodeId>, Failure> {
    let config = |problem| Failure::new(Outcome::Config, problem);
    let unreadable = |error: io::Error| {
        let message = format!("cannot read the list of nodes: {error}");
        config(Problem::error("unreadable", message, "name a file with one name a line").in_file(Path::new(file)))
    };
    let mut text = String::new();
    let read = match file {
        STDIN => io::stdin().take(LIST_BYTES_MAX + 1).read_to_string(&mut text),
        path => std::fs::File::open(path).and_then(|open| open.take(LIST_BYTES_MAX + 1).read_to_string(&mut text)),
    };
    let bytes = read.map_err(unreadable)?;
    if bytes as u64 > LIST_BYTES_MAX {
        let message = format!("the list has more than {LIST_BYTES_MAX} bytes");
        let remedy = format!("name at most {NODES_MAX} nodes at a time");
        return Err(config(Problem::error("too_large", message, remedy).in_file(Path::new(file))));
    }
    parse(&text).map_err(|problems| Failure {
        problems: problems.into_iter().map(|problem| problem.in_file(Path::new(file))).collect(),
        outcome: Outcome::Config,
    })
}

/// One name a line; empty lines and those that begin with # are comments.
fn parse(text: &str) -> Result<BTreeSet<NodeId>, Vec<Problem>> {
    let (mut named, mut problems) = (BTreeSet::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.parse() {
            Ok(name) => drop(named.insert(name)),
            Err(error) => {
                let error: tfo_model::ids::BadName = error;
                let problem = Problem::error("bad_value", format!("{line:?}: {error}"), "write one node's name a line");
                problems.push(problem.on_line(index + 1));
            }
        }
    }
    if problems.is_empty() { Ok(named) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_name_a_line_and_every_wrong_line_is_named() {
        let named = parse("a.test\n\n# gone since May\n  b.test  \r\na.test").unwrap();
        assert_eq!(named, ["a.test", "b.test"].map(|name| name.parse().unwrap()).into());
        assert_eq!(parse("# none\n"), Ok(BTreeSet::new()));
        let problems = parse("A.test\nb.test\nc d\n").unwrap_err();
        assert_eq!(problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [Some(1), Some(3)]);
    }
}
