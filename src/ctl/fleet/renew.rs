//! `renew`: the operator's own certificate, over the connection that it opens: same name, new key.
//!
//! The new pair waits beside the old one (`….next`, certificate and key in one file) until a coordinator has answered over it;
//! then it takes its place.  Invariants: whatever fails, the old pair stays in use; a run that was cut off, also between two
//! files, is finished by the next one; the private key is in files of its owner and nowhere else.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use zeroize::Zeroizing;

use super::connect::{ConnectArgs, block_on, fleet_of};
use tfo_cli::report::{Failure, Format, Outcome, Report, deliver};
use tfo_config::ctl::CtlSettings;
use tfo_host::runtime::files::{self, Durability, Guard};
use tfo_host::runtime::{clock, lock::lock_exclusive};
use tfo_host::secret::SecretPath;
use tfo_model::ids::NodeId;
use tfo_model::problem::{Problem, chain, first_error};
use tfo_model::time::{UnixTime, duration_text};
use tfo_pki::issued::{self, pair_text};
use tfo_pki::renewal::Life;
use tfo_pki::request;
use tfo_tls::client::{ClientFiles, ClientIdentity, client_identity};
use tfo_wire::v1::enrol::{Certified, RenewRequest};

/// Longest wait for another `renew`, which asks a coordinator twice.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
/// Longest pair in bytes.
const PAIR_BYTES_MAX: usize = 128 << 10;
/// What a private key begins with (RFC 7468 section 10).
const KEY_BEGINS: &str = "-----BEGIN PRIVATE KEY-----";

/// Arguments of `renew`.
#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Do nothing, and succeed, before half of its life is over: for cron and timers
    #[arg(long)]
    if_needed: bool,
}

/// The result.
#[derive(Debug, Serialize)]
struct Renewal {
    /// Whether a new certificate is in place.
    renewed: bool,
    /// Whether an earlier run had been cut off.
    resumed: bool,
    name: Option<NodeId>,
    certificate_until: UnixTime,
    files: Vec<PathBuf>,
}

/// Runs `renew`.
///
/// # Errors
/// Fails, with the old pair in use, with its problems and the exit code.
pub(crate) fn renew(arguments: &RenewArgs, format: Format) -> Result<Outcome, Failure> {
    let settings = arguments.connect.settings()?;
    let pair = Pair::of(&settings)?;
    let _alone = pair.lock()?;
    let now = clock::now();
    let old = client_identity(&pair.files(), now);
    let resumed = pair.is_usable(old.as_ref().ok(), now);
    if !resumed {
        let old = old.map_err(|problems| Failure { problems, outcome: Outcome::Config })?;
        if arguments.if_needed && now < due(&old) {
            return deliver(&Renewal::of(&old, &pair, false, false), format);
        }
        pair.ask(old, &settings, format)?;
    }
    let new = pair.try_out(&settings, format)?;
    let renewal = Renewal::of(&new, &pair, true, resumed);
    pair.install()?;
    deliver(&renewal, format)
}

/// From when on `--if-needed` renews.
fn due(identity: &ClientIdentity) -> UnixTime {
    Life::of(identity.not_before, identity.not_after).renew_at(0)
}

/// Where certificate and key are: one file, or two.
struct Pair {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl Pair {
    /// The files that links lead to, if they are this user's to replace.
    fn of(settings: &CtlSettings) -> Result<Self, Failure> {
        let refused = |problem| Failure::new(Outcome::Config, problem);
        let SecretPath::File(key) = &settings.key else {
            let message =
                "the private key (`key` in ctl.toml) is a credential of systemd, which cannot be replaced from here";
            let remedy = "renew with a configuration that names the files of certificate and key";
            return Err(refused(Problem::error("key_is_credential", message, remedy)));
        };
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let pair = Self { ca: settings.ca.clone(), cert: real(&settings.cert), key: real(key) };
        for path in [&pair.cert, &pair.key] {
            // One that is missing is reported with the other problems of the files.
            let owner = fs::metadata(path).map_or(None, |found| Some(found.uid()));
            if owner.is_some_and(|owner| owner != rustix::process::geteuid().as_raw()) {
                let message = "this file belongs to another user, who could not use what `renew` puts in its place";
                let remedy = "run it as the owner of certificate and key";
                return Err(refused(Problem::error("not_owner", message, remedy).in_file(path)));
            }
        }
        Ok(pair)
    }

    /// Keeps another `renew` out until it is dropped.
    fn lock(&self) -> Result<File, Failure> {
        let directory = self.cert.parent().unwrap_or(Path::new("/"));
        let locked = File::open(directory).and_then(|file| Ok((lock_exclusive(&file, LOCK_PATIENCE)?, file)));
        match locked {
            Ok((true, file)) => Ok(file),
            Ok((false, _)) => {
                let message = format!("another `tfoctl renew` is working in {}", directory.display());
                let problem = Problem::error("locked", message, "wait until it is done, then run this again");
                Err(Failure::new(Outcome::Refused, problem))
            }
            Err(error) => Err(not_written(&format!("cannot lock {}: {error}", directory.display()))),
        }
    }

    fn files(&self) -> ClientFiles {
        let (ca, cert, key) = (self.ca.clone(), self.cert.clone(), SecretPath::File(self.key.clone()));
        ClientFiles { ca, cert, key, crl: None }
    }

    /// Where the new pair waits.
    fn next(&self) -> PathBuf {
        next_of(&self.cert)
    }

    fn next_files(&self) -> ClientFiles {
        let next = self.next();
        ClientFiles { ca: self.ca.clone(), cert: next.clone(), key: SecretPath::File(next), crl: None }
    }

    /// Whether a run before this one left a pair that is worth a try.
    fn is_usable(&self, old: Option<&ClientIdentity>, now: UnixTime) -> bool {
        client_identity(&self.next_files(), now).is_ok_and(|next| {
            let is_newer = |old: &ClientIdentity| next.names == old.names && next.not_after > old.not_after;
            first_error(&next.notes).is_none() && old.is_none_or(is_newer)
        })
    }

    /// Gets a certificate for a new key, and keeps both beside the old ones.
    fn ask(&self, old: ClientIdentity, settings: &CtlSettings, format: Format) -> Result<(), Failure> {
        let [name] = &old.names[..] else {
            let message = format!("the certificate has {} names, and a renewed one would have one", old.names.len());
            let problem = Problem::error("several_names", message, "issue it where it was issued before");
            return Err(Failure::new(Outcome::Config, problem.in_file(&self.cert)));
        };
        let name = name.clone();
        let failed =
            |kind, message: String, remedy: &str| Failure::new(Outcome::Failed, Problem::error(kind, message, remedy));
        let made = request::make(&name).map_err(|error| failed("no_randomness", chain(&error), "try again"))?;
        let fleet = fleet_of(old, settings.urls.clone(), Some(format))?;
        let wanted = RenewRequest { csr: made.csr };
        let Certified { certificate, chain, .. } = block_on(fleet.certificate(&wanted))?;
        issued::check((&certificate, &chain), &made.key, &name, None, clock::now()).map_err(|bad| {
            let message = format!("the coordinator sent a certificate that cannot be used: {bad}");
            failed(
                "certificate_unusable",
                message,
                "compare the releases of tfoctl and the coordinator, and their clocks",
            )
        })?;
        let text = pair_text(&certificate, &made.key);
        files::replace(&self.next(), text.as_bytes(), 0o400, Durability::Synced)
            .map_err(|error| not_written(&tfo_model::problem::chain(&error)))
    }

    /// Asks a coordinator over the new pair.  One that refuses it makes it useless.
    fn try_out(&self, settings: &CtlSettings, format: Format) -> Result<ClientIdentity, Failure> {
        let read = || {
            let identity = client_identity(&self.next_files(), clock::now());
            identity.map_err(|problems| Failure { problems, outcome: Outcome::Failed })
        };
        let fleet = fleet_of(read()?, settings.urls.clone(), Some(format))?;
        match block_on(fleet.pools()) {
            Ok(_) => read(),
            Err(mut failure) => {
                let message = if failure.outcome == Outcome::Refused {
                    // If it cannot be removed, the next run replaces it.
                    drop(fs::remove_file(self.next()));
                    "the new certificate was refused, and is not used; the old one stays in its place"
                } else {
                    "the new certificate waits until a coordinator has answered over it; the old one stays in its place"
                };
                let remedy = "run `tfoctl renew` again when the coordinator answers";
                failure.problems.push(Problem::warning("not_renewed", message, remedy));
                Err(failure)
            }
        }
    }

    /// Puts the new pair into its place.
    fn install(&self) -> Result<(), Failure> {
        let next = self.next();
        if self.cert == self.key {
            return files::rename(&next, &self.cert).map_err(|error| not_written(&chain(&error)));
        }
        let text =
            files::read_secret(&next, PAIR_BYTES_MAX, Guard::Mode).map_err(|error| not_written(&chain(&error)))?;
        let text = Zeroizing::new(String::from_utf8_lossy(&text).into_owned());
        let (certificate, key) = text.split_at(text.find(KEY_BEGINS).unwrap_or(text.len()));
        for (path, content, mode) in [(&self.key, key, 0o400), (&self.cert, certificate, 0o644)] {
            let mode = fs::metadata(path).map_or(mode, |found| found.mode() & 0o777);
            files::replace(path, content.as_bytes(), mode, Durability::Synced)
                .map_err(|error| not_written(&chain(&error)))?;
        }
        fs::remove_file(&next).map_err(|error| not_written(&format!("cannot remove {}: {error}", next.display())))
    }
}

/// Where a new pair waits until it has worked.
pub(super) fn next_of(cert: &Path) -> PathBuf {
    let mut path = cert.as_os_str().to_owned();
    path.push(".next");
    path.into()
}

fn not_written(what: &str) -> Failure {
    let remedy =
        "make the directory of the certificate writable, and run `tfoctl renew` again: it finishes what it began";
    Failure::new(Outcome::Failed, Problem::error("renew_write", what, remedy))
}

impl Renewal {
    fn of(identity: &ClientIdentity, pair: &Pair, renewed: bool, resumed: bool) -> Self {
        let mut files = vec![pair.cert.clone()];
        if pair.key != pair.cert {
            files.push(pair.key.clone());
        }
        let name = identity.names.first().cloned();
        Self { renewed, resumed, name, certificate_until: identity.not_after, files }
    }
}

impl Report for Renewal {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let name = self.name.as_ref().map_or_else(|| "this operator".to_owned(), ToString::to_string);
        let until = self.certificate_until;
        let left = duration_text(until.secs_since(clock::now()));
        if !self.renewed {
            return writeln!(out, "the certificate of {name} is good until {until}, in {left}: nothing was done");
        }
        if self.resumed {
            writeln!(out, "an earlier run was cut off; this one has finished it")?;
        }
        let files: Vec<String> = self.files.iter().map(|path| path.display().to_string()).collect();
        writeln!(out, "{name} has a new certificate, with a new key, until {until}: {}", files.join(", "))
    }
}
