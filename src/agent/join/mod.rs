//! `tfo-agent join`: one token, and this host is a node of its fleet: its own key, a certificate for it, a configuration,
//! and one sync that checks it all.
//!
//! Invariants: the private key never leaves the host; the token's secret goes to a server of the pinned authority and
//! nowhere else; what another hand configured is not overwritten; a run that was cut off is finished by the next one.

mod answer;
mod places;
mod shown;

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use self::places::Places;
pub use self::shown::Joined;
use super::reconcile::PassMode;
use super::{confine, contact, once};
use tfo_cli::report::{Failure, Outcome};
use tfo_cli::systemctl;
use tfo_config::agent::AgentSettings;
use tfo_config::reader::ConfigFile;
use tfo_host::runtime::clock;
use tfo_host::secret::SecretPath;
use tfo_model::ids::NodeId;
use tfo_model::problem::{Problem, Severity, first_error};
use tfo_pki::token::{TOKEN_BYTES_MAX, Token};
use tfo_tls::client::client_identity;

/// What the command line says.
#[derive(Debug)]
pub struct Wish<'a> {
    /// The configuration file.
    pub config: &'a Path,
    /// Where certificate and key go, unless the configuration names another place.
    pub directory: &'a Path,
    /// A file with the token, or `-` for stdin.
    pub token_file: &'a Path,
    /// The name; by default that of the configuration, or the host's.
    pub name: Option<NodeId>,
    /// Whether a good certificate of that name is enough.
    pub need: Need,
    /// Whether the service is enabled and started at the end.
    pub service: Service,
    /// Whether it is only shown what would be done.
    pub mode: PassMode,
}

/// When there is something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Always.
    Always,
    /// Only without a good certificate of this name.
    WithoutCertificate,
}

/// What happens to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Nothing: an operator decides.
    LeftAlone,
    /// It is enabled and started.
    Enabled,
}

/// Joins.
///
/// # Errors
/// Fails if this host did not join; an attempt after a failure finishes what the failed one began.
pub fn join(wish: &Wish<'_>) -> Result<Joined, Failure> {
    let places = Places::look(wish)?;
    if wish.mode == PassMode::DryRun {
        let now = clock::now();
        let has_certificate = wish.need == Need::WithoutCertificate && places.has_certificate(now);
        return Ok(Joined::would(&places, places.unfinished(now).is_some() || !has_certificate));
    }
    let (answer, resumed) = match places.unfinished(clock::now()) {
        Some(answer) => (answer, true),
        None if wish.need == Need::WithoutCertificate && places.has_certificate(clock::now()) => {
            let mut before = Joined::before(&places);
            if wish.service == Service::Enabled {
                // Changes nothing where it is enabled and runs; a run before this one may have ended before it.
                enable()?;
                before.enabled = true;
            }
            return Ok(before);
        }
        None => {
            places.prepare()?;
            let token = read_token(wish.token_file)?;
            let answer = answer::ask(&token, &places.name)?;
            drop(token);
            places.keep(&answer)?;
            (answer, false)
        }
    };
    let written = places.write(&answer)?;
    let mut joined = Joined::now(&places, &answer, written, resumed);
    check(&places, &mut joined);
    if wish.service == Service::Enabled && first_error(&joined.problems).is_none() {
        enable()?;
        joined.enabled = true;
    }
    Ok(joined)
}

/// Enables and starts the daemon.  One that runs already takes the new files by itself.
fn enable() -> Result<(), Failure> {
    systemctl::enable_now("tfo-agent.service", "this host has joined")
}

/// One run of `once` with the new certificate, or, beside a daemon, which takes the new files by itself, one question.
fn check(places: &Places, joined: &mut Joined) {
    match once::run(&places.config, PassMode::Apply, confine::not_at_all) {
        Ok(report) => joined.checked(&report),
        Err(failure) if failure.outcome == Outcome::Refused => {
            let settings = AgentSettings::load(&places.config);
            let settings = settings.as_ref().ok().and_then(|settings| settings.contact());
            joined.problems =
                settings.map_or_else(Vec::new, |contact| contact::probe(contact, &places.config, clock::now()));
            joined.runs = true;
        }
        Err(failure) => joined.problems = failure.problems,
    }
}

/// The token, from a file that only its owner can read, or from stdin.
fn read_token(place: &Path) -> Result<Token, Failure> {
    let text = if place == Path::new("-") {
        from_stdin().map_err(|error| {
            let problem =
                Problem::error("token_unreadable", format!("cannot read the token from stdin: {error}"), "try again");
            Failure::new(Outcome::Failed, problem)
        })?
    } else {
        let path: PathBuf = std::path::absolute(place).unwrap_or_else(|_| place.to_owned());
        let read = SecretPath::File(path).read(TOKEN_BYTES_MAX + 1);
        read.map_err(|problem| Failure::new(Outcome::Config, problem))?
    };
    let token = std::str::from_utf8(&text).map_err(|_| tfo_pki::token::BadToken::Character).and_then(Token::parse);
    token.map_err(|bad| {
        let remedy = "copy the whole line that `tfoctl token create` printed";
        Failure::new(Outcome::Config, Problem::error("bad_token", bad.to_string(), remedy))
    })
}

/// Stdin until its end, from a terminal one line; at most a byte more than a token may have, in a buffer that does not grow.
fn from_stdin() -> io::Result<Zeroizing<Vec<u8>>> {
    let stdin = io::stdin();
    let is_typed = stdin.is_terminal();
    if is_typed {
        eprint!("Token, then Enter: ");
    }
    // Not through the buffer of `Stdin`, which would keep a copy.
    let mut stdin = File::from(stdin.as_fd().try_clone_to_owned()?);
    let mut text = Zeroizing::new(vec![0; TOKEN_BYTES_MAX + 1]);
    let mut filled = 0;
    while filled < text.len() && !(is_typed && text[..filled].ends_with(b"\n")) {
        match stdin.read(&mut text[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(filled);
    Ok(text)
}

impl Places {
    /// Whether the certificate in place is good for this name, now.
    fn has_certificate(&self, now: tfo_model::time::UnixTime) -> bool {
        let found = client_identity(&self.files(), now);
        !self.is_fresh()
            && found.is_ok_and(|found| {
                found.names.contains(&self.name) && found.notes.iter().all(|note| note.severity == Severity::Warning)
            })
    }
}
