//! What `join` shows: text for people, JSON for programs (docs/reference/json.md#join).

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::answer::Answer;
use super::places::{Places, Written};
use crate::report::PassReport;
use crate::status;
use tfo_cli::report::Report;
use tfo_host::runtime::clock;
use tfo_model::ids::NodeId;
use tfo_model::problem::{Problem, first_error};
use tfo_model::time::{UnixTime, duration_text};

/// The result.  Wire v1.
#[derive(Debug, Serialize)]
pub struct Joined {
    /// Whether this run got a certificate, or finished a run that did; with `dry_run`, whether it would.
    pub joined: bool,
    dry_run: bool,
    /// Whether an earlier run had been cut off.
    resumed: bool,
    node: NodeId,
    /// Last second of the certificate; null if nothing was done.
    certificate_until: Option<UnixTime>,
    files: Vec<File>,
    /// Whether the service was enabled and started.
    pub(super) enabled: bool,
    /// Whether a daemon runs already.
    pub(super) runs: bool,
    /// What the first sync found.
    pub problems: Vec<Problem>,
    #[serde(skip)]
    line: Option<String>,
}

#[derive(Debug, Serialize)]
struct File {
    path: PathBuf,
    made: bool,
}

impl Joined {
    /// Nothing was to be done.
    pub(super) fn before(places: &Places) -> Self {
        Self {
            joined: false,
            dry_run: false,
            resumed: false,
            node: places.name.clone(),
            certificate_until: None,
            files: Vec::new(),
            enabled: false,
            runs: false,
            problems: Vec::new(),
            line: None,
        }
    }

    /// What a run without `--dry-run` would do.
    pub(super) fn would(places: &Places, join: bool) -> Self {
        Self { joined: join, dry_run: true, ..Self::before(places) }
    }

    /// Everything is in its place.
    pub(super) fn now(places: &Places, answer: &Answer, written: Vec<Written>, resumed: bool) -> Self {
        let files = written.into_iter().map(|Written { path, made }| File { path, made }).collect();
        let until = answer.until(clock::now());
        Self { joined: true, resumed, certificate_until: until, files, ..Self::before(places) }
    }

    /// Takes in what the first sync found.
    pub(super) fn checked(&mut self, report: &PassReport) {
        self.problems.clone_from(&report.problems);
        self.line = Some(status::line(report));
    }

    /// Whether this host is a node that works.
    #[must_use]
    pub fn is_well(&self) -> bool {
        first_error(&self.problems).is_none()
    }

    fn next(&self) -> &'static str {
        match (self.enabled, self.runs, self.is_well()) {
            (true, ..) => "tfo-agent.service is enabled and runs.",
            (_, true, true) => "The agent that runs already uses the new certificate.",
            (_, _, true) => "Next: systemctl enable --now tfo-agent    (or: tfo-agent-once.timer)",
            (_, _, false) => "This host has its certificate; see above what is wrong, then: tfo-agent check",
        }
    }
}

impl Report for Joined {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.joined && self.dry_run {
            return writeln!(out, "{} would join with the token: nothing was done.", self.node);
        }
        if !self.joined {
            return writeln!(out, "{} has a good certificate: nothing was done.", self.node);
        }
        for file in &self.files {
            let word = if file.made { "made" } else { "kept" };
            writeln!(out, "{word}  {}", file.path.display())?;
        }
        if self.resumed {
            writeln!(out, "An earlier run of `join` was cut off; this one has finished it, without the token.")?;
        }
        if let Some(until) = self.certificate_until {
            let left = until.secs_since(clock::now());
            // Of days and weeks the minutes are noise.
            let left = duration_text(if left > 86_400 { left.div_ceil(3_600) * 3_600 } else { left });
            writeln!(
                out,
                "{} has joined; its certificate ends at {until}, in {left}, and is renewed by the agent.",
                self.node
            )?;
        }
        if let Some(line) = &self.line {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "{}", self.next())
    }
}
