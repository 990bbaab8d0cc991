//! Where the parts of a node are: its configuration, its certificate with its key, its authority.
//!
//! The order of writing makes every crash repairable: the whole answer first, in one file; then each part; the answer is
//! removed last.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use zeroize::Zeroizing;

use super::Wish;
use super::answer::Answer;
use crate::contact::next_of;
use crate::init::EXAMPLE;
use tfo_cli::report::{Failure, Outcome};
use tfo_config::agent::AgentSettings;
use tfo_config::contact::Renewal;
use tfo_config::reader::ConfigFile;
use tfo_host::runtime::files::{self, Durability, Guard};
use tfo_host::secret::SecretPath;
use tfo_model::ids::NodeId;
use tfo_model::problem::{Problem, chain};
use tfo_model::time::UnixTime;
use tfo_pki::issued::pair_text;
use tfo_tls::client::ClientFiles;

/// Name of certificate and key in one file.
const PAIR_NAME: &str = "node.pem";
/// Name of the authority's certificate.
const CA_NAME: &str = "ca.crt";
/// Longest kept answer in bytes.
const ANSWER_BYTES_MAX: usize = 128 << 10;

/// The files of this node, and its name.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) name: NodeId,
    pub(super) config: PathBuf,
    /// Certificate and key.
    pub(super) pair: PathBuf,
    ca: PathBuf,
    found: Found,
}

/// What is in the configuration's place.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// The example that the package puts there, unchanged.
    Example,
    /// One for which a certificate is asked.
    Configured,
}

/// A file, and whether it is new.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) path: PathBuf,
    pub(super) made: bool,
}

impl Places {
    /// Looks at the configuration.
    ///
    /// # Errors
    /// Fails if there is one that `join` did not write and that does not ask for it.
    pub(super) fn look(wish: &Wish<'_>) -> Result<Self, Failure> {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let (config, directory) = (absolute(wish.config), absolute(wish.directory));
        let (pair, ca) = (directory.join(PAIR_NAME), directory.join(CA_NAME));
        let found = match std::fs::read(&config) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Ok(text) if text == EXAMPLE.as_bytes() => Found::Example,
            // Reading it says what is wrong.
            Ok(_) | Err(_) => Found::Configured,
        };
        if found != Found::Configured {
            let name = wish.name.clone().or_else(tfo_config::agent::host_name).ok_or_else(no_name)?;
            return Ok(Self { name, config, pair, ca, found });
        }
        let settings =
            AgentSettings::load(&config).map_err(|problems| Failure { problems, outcome: Outcome::Config })?;
        let own = settings.contact().filter(|contact| contact.renewal == Renewal::ByAgent);
        let Some(contact) = own else {
            let message = "this configuration has no certificate that the agent renews, and `join` changes no configuration; \
                           nothing was written, and the token was not used";
            let remedy = format!(
                "move the file away, and `join` writes one; or write into its [source] (kind = \"coordinator\") or [report]: \
                 cert = key = {pair:?}, ca = {ca:?}, renew = true"
            );
            let problem = Problem::error("config_exists", message, remedy).in_file(&config);
            return Err(Failure::new(Outcome::Config, problem));
        };
        let name = wish.name.clone().or_else(|| settings.node.clone()).ok_or_else(no_name)?;
        let (pair, ca) = (contact.files.cert.clone(), contact.files.ca.clone());
        Ok(Self { name, config, pair, ca, found })
    }

    /// Whether there was no configuration of this node before.
    pub(super) fn is_fresh(&self) -> bool {
        self.found != Found::Configured
    }

    /// The files as the configuration names them.
    pub(super) fn files(&self) -> ClientFiles {
        let key = SecretPath::File(self.pair.clone());
        ClientFiles { ca: self.ca.clone(), cert: self.pair.clone(), key, crl: None }
    }

    /// Where an answer is kept until it is in its places.
    fn kept(&self) -> PathBuf {
        let mut path = self.pair.as_os_str().to_owned();
        path.push(".join");
        path.into()
    }

    /// Makes the directories, and sees that files can be written there: before a use of the token is spent.
    pub(super) fn prepare(&self) -> Result<(), Failure> {
        let directory = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
        for (directory, mode) in
            [(directory(&self.config), 0o755), (directory(&self.ca), 0o755), (directory(&self.pair), 0o755)]
        {
            let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(&directory);
            let writable = made.and_then(|()| Ok(rustix::fs::access(&directory, Access::WRITE_OK | Access::EXEC_OK)?));
            writable.map_err(|error| {
                let message = format!("files cannot be written in {}: {error}", directory.display());
                let remedy = "run it as root; nothing was written, and the token was not used";
                Failure::new(Outcome::Failed, Problem::error("directory_not_writable", message, remedy))
            })?;
        }
        Ok(())
    }

    /// What a run that was cut off has left, if it is for this name and still good.
    pub(super) fn unfinished(&self, now: UnixTime) -> Option<Answer> {
        let text = files::read_secret(&self.kept(), ANSWER_BYTES_MAX, Guard::Mode).ok()?;
        let answer: Answer = serde_json::from_slice(&text).ok()?;
        (answer.name == self.name && answer.until(now).is_some()).then_some(answer)
    }

    /// Keeps the answer, in one piece and durable.
    pub(super) fn keep(&self, answer: &Answer) -> Result<(), Failure> {
        // A buffer that grows leaves copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX));
        serde_json::to_writer(&mut *text, answer).expect("plain structs with string keys");
        files::replace(&self.kept(), &text, 0o400, Durability::Synced).map_err(|error| not_written(&error))
    }

    /// Puts everything in its place.  Writing it again changes nothing.
    pub(super) fn write(&self, answer: &Answer) -> Result<Vec<Written>, Failure> {
        let mut written = Vec::new();
        let pair = pair_text(&answer.certificate, answer.key());
        let has_ca = std::fs::read_to_string(&self.ca).is_ok_and(|text| text.contains(answer.chain.trim()));
        let mut put = |path: &Path, text: &[u8], mode: u32, is_there: bool| {
            if !is_there {
                files::replace(path, text, mode, Durability::Synced).map_err(|error| not_written(&error))?;
            }
            written.push(Written { path: path.to_owned(), made: !is_there });
            Ok(())
        };
        put(&self.ca, answer.chain.as_bytes(), 0o644, has_ca)?;
        // A pair of a renewal before this one, for a certificate that is replaced.
        drop(std::fs::remove_file(next_of(&self.pair)));
        put(&self.pair, pair.as_bytes(), 0o400, false)?;
        let text = self.configuration(answer);
        put(&self.config, text.as_bytes(), 0o644, !self.is_fresh())?;
        let kept = self.kept();
        std::fs::remove_file(&kept).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => {
                let message = format!("cannot remove {}, which has the private key: {error}", kept.display());
                Err(Failure::new(Outcome::Failed, Problem::error("join_write", message, "remove it")))
            }
        })?;
        Ok(written)
    }

    fn configuration(&self, answer: &Answer) -> String {
        let Answer { urls, pools, .. } = answer;
        let Self { pair, ca, .. } = self;
        let pool = pools[0].as_str();
        format!(
            "# Written by `tfo-agent join`.  Every key, with its default: tfo-agent.toml(5), /usr/share/tfo-fleet/agent.toml.\n\
             \n\
             [source]\n\
             kind = \"coordinator\"\n\
             urls = {urls:?}\n\
             pool = {pool:?}\n\
             ca = {ca:?}\n\
             # Certificate and key in one file, which the agent replaces when it renews them.\n\
             cert = {pair:?}\n\
             key = {pair:?}\n\
             renew = true\n"
        )
    }
}

fn no_name() -> Failure {
    let problem = Problem::error(
        "no_name",
        "the name of this host is not a DNS name in lower case",
        "name the node with --name NAME",
    );
    Failure::new(Outcome::Config, problem)
}

fn not_written(error: &files::ReplaceError) -> Failure {
    let remedy =
        "make it writable and run `tfo-agent join` again: what came with the token is kept, the next run finishes";
    Failure::new(Outcome::Failed, Problem::error("join_write", chain(error), remedy))
}
