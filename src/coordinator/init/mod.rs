//! `tfo-coordinator init`: one command on a fresh host, and it is the coordinator of a fleet: authority, certificates,
//! key-encryption key, revocation list, configuration, and root as an operator.
//!
//! Invariants: everything is looked at before anything is written, and what is there and does not belong there is named and
//! stops it; nothing of another hand is overwritten; a run that was cut off is finished by the next one; private keys are in
//! files of their owners and nowhere else.  Must not know: the store, sockets.

mod found;
mod layout;
mod shown;
mod texts;

use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use self::found::Found;
pub use self::layout::Layout;
use self::layout::{Place, give, not_written, put};
pub use self::shown::Initialised;
use super::enrolment::LIST_DAYS;
use tfo_cli::report::{Failure, Outcome};
use tfo_cli::systemctl;
use tfo_crypto::random;
use tfo_crypto::seal::KeyEncryptionKey;
use tfo_host::runtime::files;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::pattern::NamePattern;
use tfo_model::problem::{Problem, chain};
use tfo_model::time::UnixTime;
use tfo_pki::authority::{Authority, AuthorityError, Lifetime};
use tfo_pki::directory::{AUTHORITY_DAYS, Directory, DirectoryError, Fault, Wanted};
use tfo_pki::index::Index;
use tfo_pki::issued::pair_text;
use tfo_pki::key::SigningKey;
use tfo_pki::list::ListFile;
use tfo_pki::role::Role;

/// The pool that `init` makes unless another is named: the one of all examples.
pub const DEFAULT_POOL: &str = "edge";

/// What the command line says.
#[derive(Debug)]
pub struct Wish {
    /// The coordinator's DNS name.
    pub name: NodeId,
    /// Addresses under which it is reached besides.
    pub addresses: Vec<IpAddr>,
    /// The pool.
    pub pool: PoolName,
    /// Names of its nodes.
    pub nodes: Vec<NamePattern>,
}

/// Patterns of nodes for a coordinator of this name: every host of its domain.  None for a name without a domain.
#[must_use]
pub fn default_nodes(name: &NodeId) -> Option<NamePattern> {
    let (_, domain) = name.as_str().split_once('.')?;
    format!("*.{domain}").parse().ok()
}

/// The name of root as an operator: without a domain, so that it fits no pattern of the hosts of one.
fn operator_of(name: &NodeId) -> NodeId {
    /// Longest label of a DNS name (RFC 1035 section 2.3.4).
    const LABEL_MAX: usize = 63;
    let host = name.as_str().split('.').next().unwrap_or_default();
    let label: String = format!("root-{host}").chars().take(LABEL_MAX).collect();
    label.trim_end_matches('-').parse().expect("a label of a name with letters in front is a label")
}

/// Makes this host a coordinator.
///
/// # Errors
/// Fails without a change if something is in the way; after another failure the same command does the rest.
pub fn init(wish: &Wish, layout: &Layout, now: UnixTime) -> Result<Initialised, Failure> {
    let operator = operator_of(&wish.name);
    let refused = |problems| Failure { problems, outcome: Outcome::Config };
    check_names(wish, &operator).map_err(|problem| refused(vec![problem]))?;
    make_directory(&layout.etc, 0o755, None).map_err(failed)?;
    let _alone = layout.lock()?;
    let found = found::look(wish, &operator, layout, now)?;
    let made = Work { wish, layout, operator: &operator, now }.make(found)?;
    Ok(Initialised::new(wish, operator, layout, made))
}

/// Enables and starts the service.
///
/// # Errors
/// Fails with what systemd says.
pub fn enable() -> Result<(), Failure> {
    systemctl::enable_now(super::credential::UNIT, "this host is initialised")
}

/// What is wrong with the names on the command line.
fn check_names(wish: &Wish, operator: &NodeId) -> Result<(), Problem> {
    let Wish { name, nodes, .. } = wish;
    if name.as_str().rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        let message = format!("{name} is not a DNS name: its last label is a number");
        return Err(Problem::error("bad_name", message, "use a name, and give the address with --address"));
    }
    if let Some(pattern) = nodes.iter().find(|pattern| pattern.matches(operator)) {
        let message = format!("the pattern {pattern} of --nodes also fits {operator}, the operator that `init` makes");
        let remedy = "use a pattern of the nodes' names alone, such as \"*.cache.example.org\"";
        return Err(Problem::error("names_overlap", message, remedy));
    }
    Ok(())
}

/// One run, after everything was looked at.
struct Work<'a> {
    wish: &'a Wish,
    layout: &'a Layout,
    operator: &'a NodeId,
    now: UnixTime,
}

impl Work<'_> {
    /// Makes what is missing; gives what it made.  The configuration comes last: a coordinator without all the rest is none.
    fn make(&self, found: Found) -> Result<Vec<PathBuf>, Failure> {
        let layout = self.layout;
        let (mut made, service) = (Vec::new(), Some(layout.owner));
        make_directory(&layout.state, 0o700, service).map_err(failed)?;
        let (directory, authority, mut index) = match found.authority {
            Some(authority) => authority,
            None => {
                made.push(layout.authority());
                self.make_authority()?
            }
        };
        let mut write = |path: PathBuf, content: &[u8], mode: u32, place: Place, owner: Option<(u32, u32)>| {
            put(&path, content, mode, place, owner).map_err(failed)?;
            if place != Place::Taken {
                made.push(path);
            }
            Ok::<(), Failure>(())
        };
        write(layout.ca(), authority.certificate_text().as_bytes(), 0o644, found.ca, None)?;
        write(layout.kek(), &*fresh_kek()?, 0o400, found.kek, None)?;
        let place = |is_there: bool| if is_there { Place::Taken } else { Place::Free };
        let (key, key_place) = match found.key {
            Some(key) => (key, Place::Taken),
            None => (fresh_key()?, Place::Free),
        };
        write(layout.key(), key.pem().as_bytes(), 0o400, key_place, service)?;
        if !found.has_certificate {
            let addresses = &self.wish.addresses;
            let wanted =
                Wanted { role: Role::Coordinator, name: &self.wish.name, addresses, days: Role::Coordinator.days() };
            let text = self.certify((&directory, &authority, &mut index), &wanted, &key)?;
            write(layout.certificate(), text.as_bytes(), 0o644, Place::Free, service)?;
        }
        if !found.has_operator {
            let key = fresh_key()?;
            let wanted =
                Wanted { role: Role::Operator, name: self.operator, addresses: &[], days: Role::Operator.days() };
            let text = self.certify((&directory, &authority, &mut index), &wanted, &key)?;
            let pair = pair_text(&text, &key.pem());
            write(layout.operator(), pair.as_bytes(), 0o400, Place::Free, None)?;
        }
        if !found.has_list {
            let life = Lifetime::days(self.now, LIST_DAYS).within(authority.lifetime());
            let text = ListFile::default().next(&authority, life, &index.revoked(), &[]);
            let text = text.map_err(|error| failed(signing(&error)))?;
            write(layout.list(), text.as_bytes(), 0o644, Place::Free, service)?;
        }
        // A run that was cut off between a file and its owner.
        for path in [layout.key(), layout.certificate(), layout.list()] {
            give(&path, layout.owner).map_err(failed)?;
        }
        if !found.has_credential {
            let directory = layout.drop_in().parent().map(Path::to_owned).unwrap_or_default();
            make_directory(&directory, 0o755, None).map_err(failed)?;
        }
        write(layout.drop_in(), texts::drop_in(layout).as_bytes(), 0o644, place(found.has_credential), None)?;
        write(layout.ctl(), texts::ctl(layout, self.wish).as_bytes(), 0o644, found.ctl, None)?;
        let text = texts::config(layout, self.wish, self.operator);
        write(layout.config(), text.as_bytes(), 0o644, found.config, None)?;
        Ok(made)
    }

    /// A new authority, under its name only when it is whole.
    fn make_authority(&self) -> Result<(Directory, Authority, Index), Failure> {
        let (unfinished, path) = (self.layout.unfinished_authority(), self.layout.authority());
        // What a run that was cut off has left; nothing was signed with it.
        if unfinished.symlink_metadata().is_ok() {
            std::fs::remove_dir_all(&unfinished)
                .map_err(|error| failed(not_written(&format!("cannot remove {}: {error}", unfinished.display()))))?;
        }
        drop(Directory::create(&unfinished, AUTHORITY_DAYS, &[], self.now).map_err(failure)?);
        files::rename(&unfinished, &path).map_err(|error| failed(not_written(&chain(&error))))?;
        found::open_authority(&path).map_err(failure)
    }

    fn certify(
        &self,
        (directory, authority, index): (&Directory, &Authority, &mut Index),
        wanted: &Wanted<'_>,
        key: &SigningKey,
    ) -> Result<String, Failure> {
        let certified = directory.certify((authority, index), wanted, &key.public_key(), self.now);
        certified.map(|(text, _)| text).map_err(failure)
    }
}

fn fresh_key() -> Result<SigningKey, Failure> {
    SigningKey::fresh().map_err(|error| failed(signing(&error)))
}

fn fresh_kek() -> Result<Zeroizing<[u8; KeyEncryptionKey::BYTES]>, Failure> {
    let mut bytes = Zeroizing::new([0; KeyEncryptionKey::BYTES]);
    random::fill(bytes.as_mut()).map_err(|error| failed(signing(&error.into())))?;
    Ok(bytes)
}

fn signing(error: &AuthorityError) -> Problem {
    Problem::error("sign", chain(error), "run the same command again: it keeps what it has made")
}

/// Makes a directory with those above it, if it is missing.
fn make_directory(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<(), Problem> {
    if path.is_dir() {
        return Ok(());
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|error| not_written(&format!("cannot make {}: {error}", path.display())))?;
    owner.map_or(Ok(()), |owner| give(path, owner))
}

fn failed(problem: Problem) -> Failure {
    Failure::new(Outcome::Failed, problem)
}

/// The exit code of a failure of the authority's directory.
fn failure(error: DirectoryError) -> Failure {
    let outcome = match error.fault {
        Fault::Usage => Outcome::Config,
        Fault::Refused => Outcome::Refused,
        Fault::Failed => Outcome::Failed,
    };
    Failure::new(outcome, error.problem)
}

#[cfg(test)]
mod tests;
