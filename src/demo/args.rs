//! The command line of `tfo-demo`.

use std::ffi::OsString;

use clap::{Parser, ValueEnum};
use tfo_cli::report::Format;

/// Name of the program, in its help and its messages.
pub(super) const PROGRAM: &str = "tfo-demo";

/// A whole fleet on this machine, without root: nodes behind one address, live TCP Fast Open clients, key rotations.
///
/// Everything happens in namespaces of its own; the host is untouched, and nothing is left behind.
/// It ends with a sentence; in a pipe the last line is
/// {"rotations","connections","accepted","rejected","passive_fail"}, with --naive also "naive" with the same fields.
/// Exit code: 0 not one connection was rejected (the naive rotations do not count), 1 some were (or something failed), 2 wrong usage.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = PROGRAM, version, verbatim_doc_comment)]
pub(super) struct Args {
    /// Nodes of the fleet, 2 to 64.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(2..=64))]
    pub(super) nodes: u8,
    /// Rotations to do, 1 to 1000.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) rotations: u16,
    /// Coordinators, 1 to 5; more than one share an etcd, which must be installed, and one of them is killed in mid-rotation.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5), conflicts_with = "naive")]
    pub(super) coordinators: u8,
    /// Source of the agents' keys.
    #[arg(long, value_enum, default_value_t = Source::Coordinator)]
    pub(super) source: Source,
    /// Form of the output: as JSON the last line alone, or what went wrong.
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
    /// Rotate until Ctrl-C.
    #[arg(long)]
    pub(super) keep: bool,
    /// First rotate without staging, each node replacing its only key at once, and compare.
    #[arg(long)]
    pub(super) naive: bool,
    /// Show the coordinator's page in a browser of this host: prints its address.
    #[arg(long, conflicts_with = "naive")]
    pub(super) page: bool,
    /// The address of the page.
    #[arg(long, hide = true, value_name = "URL")]
    pub(super) page_at: Option<String>,
    /// This process is the first of the two fleets of --naive.
    #[arg(long, hide = true, conflicts_with = "compare")]
    pub(super) replace_only: bool,
    /// The numbers of the first of the two fleets.
    #[arg(long, hide = true, value_name = "JSON")]
    pub(super) compare: Option<String>,
}

/// Source of the agents' keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Source {
    /// A coordinator, which guides the agents through every rotation.
    Coordinator,
    /// A shared secret and the clock.
    Derive,
}

impl Args {
    /// The same arguments for the process inside the namespaces.
    pub(super) fn to_words(&self) -> Vec<OsString> {
        let mut words = vec![format!("--nodes={}", self.nodes), format!("--rotations={}", self.rotations)];
        if self.coordinators > 1 {
            words.push(format!("--coordinators={}", self.coordinators));
        }
        words.push(format!("--source={}", self.source.to_possible_value().expect("none is skipped").get_name()));
        if self.format == Format::Json {
            words.push("--format=json".to_owned());
        }
        for (given, word) in [
            (self.keep, "--keep"),
            (self.naive, "--naive"),
            (self.page, "--page"),
            (self.replace_only, "--replace-only"),
        ] {
            if given {
                words.push(word.to_owned());
            }
        }
        words.extend(self.page_at.iter().map(|address| format!("--page-at={address}")));
        words.extend(self.compare.iter().map(|numbers| format!("--compare={numbers}")));
        words.into_iter().map(OsString::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from([&[PROGRAM], words].concat())
    }

    #[test]
    fn the_defaults_are_those_of_the_design() {
        let args = parse(&[]).unwrap();
        let (keep, naive, replace_only, page) = (false, false, false, false);
        let (source, format) = (Source::Coordinator, Format::Text);
        let (page_at, compare) = (None, None);
        let expected = Args {
            nodes: 8,
            rotations: 3,
            coordinators: 1,
            source,
            format,
            keep,
            naive,
            page,
            page_at,
            replace_only,
            compare,
        };
        assert_eq!(args, expected);
    }

    #[test]
    fn the_inner_process_gets_the_same_arguments() {
        for words in [
            &["--nodes", "5", "--rotations", "7", "--keep"][..],
            &["--source", "derive"],
            &["--coordinators", "3"],
            &["--page", "--page-at", "http://127.0.0.1:1/"],
            &["--format", "json"],
            &["--naive", "--replace-only"],
            &["--naive", "--compare", "{}"],
        ] {
            let args = parse(words).unwrap();
            let inner = [vec![OsString::from(PROGRAM)], args.to_words()].concat();
            assert_eq!(Args::try_parse_from(inner).unwrap(), args);
        }
    }

    #[test]
    fn values_out_of_range_and_sources_that_are_not_there_are_refused() {
        let refused: [&[&str]; 8] = [
            &["--nodes", "1"],
            &["--nodes", "65"],
            &["--rotations", "0"],
            &["--source", "random"],
            &["--naive", "--page"],
            &["--naive", "--coordinators", "3"],
            &["--coordinators", "6"],
            &["extra"],
        ];
        for words in refused {
            assert_eq!(parse(words).err().map(|error| error.exit_code()), Some(2), "{words:?}");
        }
    }
}
