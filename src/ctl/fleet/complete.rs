//! Names of nodes, pools and contexts for the shell's completion: from the coordinator that the command line so far names,
//! within a moment, or none.  It says nothing on stderr: the operator is in the middle of a line.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::time::Duration;

use clap_complete::CompletionCandidate;

use super::connect::{ConnectArgs, Connection, block_on};
use tfo_cli::report::Failure;
use tfo_config::ctl::CtlFile;
use tfo_config::reader::ConfigFile;
use tfo_model::problem::Problem;

/// How long a Tab may take.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// The nodes of the pool.
pub(crate) fn nodes(word: &OsStr) -> Vec<CompletionCandidate> {
    fitting(
        word,
        ask(async |connection| {
            let pool = connection.pool().await?;
            Ok(connection.fleet.nodes(&pool).await?.nodes.into_iter().map(|node| node.node.to_string()).collect())
        }),
    )
}

/// The pools of the coordinator.
pub(crate) fn pools(word: &OsStr) -> Vec<CompletionCandidate> {
    fitting(
        word,
        ask(async |connection| {
            Ok(connection.fleet.pools().await?.pools.into_iter().map(|pool| pool.pool.to_string()).collect())
        }),
    )
}

/// The contexts of the configuration.
pub(crate) fn contexts(word: &OsStr) -> Vec<CompletionCandidate> {
    let file = so_far().file().ok().and_then(|file| CtlFile::load(&file).ok());
    fitting(word, file.iter().flat_map(CtlFile::contexts).filter_map(|(name, _)| name.map(str::to_owned)).collect())
}

fn fitting(word: &OsStr, names: Vec<String>) -> Vec<CompletionCandidate> {
    let word = word.to_string_lossy();
    names.into_iter().filter(|name| name.starts_with(&*word)).map(CompletionCandidate::new).collect()
}

fn ask(names: impl AsyncFnOnce(&Connection) -> Result<Vec<String>, Failure>) -> Vec<String> {
    let asked = so_far().prepare(None).and_then(|(connection, _)| block_on(in_time(names(&connection))));
    asked.unwrap_or_default()
}

async fn in_time<T>(asking: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = || Problem::error("late", "no answer came in time", "ask again");
    let asked = tokio::time::timeout(PATIENCE, asking).await;
    asked.unwrap_or_else(|_| Err(Failure::new(tfo_cli::report::Outcome::Failed, late())))
}

/// The options on the command line so far, which the shell hands over after `--`.
fn so_far() -> ConnectArgs {
    of_words(std::env::args_os().skip_while(|word| word != "--").skip(1))
}

/// Not with clap: the line is not finished.
fn of_words(words: impl Iterator<Item = OsString>) -> ConnectArgs {
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let value = |option: &str| {
        let after = words.windows(2).rfind(|two| two[0] == option).map(|two| two[1].clone());
        after.or_else(|| {
            words.iter().rev().find_map(|word| Some(word.strip_prefix(option)?.strip_prefix('=')?.to_owned()))
        })
    };
    let pool = value("--pool").and_then(|name| name.parse().ok());
    ConnectArgs { config: value("--config").map(Into::into), context: value("--context"), pool }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_so_far_says_which_fleet() {
        let of = |line: &str| of_words(line.split(' ').map(OsString::from));
        let found = of("tfoctl --config /a nodes --pool=edge --context lab --st");
        assert_eq!(found.config.unwrap().to_str(), Some("/a"));
        assert_eq!((found.context.as_deref(), found.pool.unwrap().as_str()), (Some("lab"), "edge"));
        assert!(of("tfoctl nodes --pool").pool.is_none());
    }
}
