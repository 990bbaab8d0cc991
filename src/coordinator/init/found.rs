//! What is in the places of a coordinator's files before `init` writes: each is free, or has what belongs there, or is in the
//! way.  Changes nothing.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::layout::{Layout, Place};
use super::{Wish, texts};
use crate::credential;
use tfo_cli::report::{Failure, Outcome};
use tfo_config::coordinator::CoordinatorSettings;
use tfo_config::ctl::CtlFile;
use tfo_config::reader::ConfigFile;
use tfo_crypto::seal::KeyEncryptionKey;
use tfo_host::runtime::files::{self, Guard, SecretFileError};
use tfo_host::secret::SecretPath;
use tfo_model::ids::NodeId;
use tfo_model::problem::{Problem, chain};
use tfo_model::time::UnixTime;
use tfo_pki::authority::Authority;
use tfo_pki::directory::{Directory, DirectoryError, Fault, Wanted};
use tfo_pki::index::Index;
use tfo_pki::issued::check_found;
use tfo_pki::key::SigningKey;
use tfo_pki::list::ListFile;
use tfo_pki::role::Role;

/// Longest file that is read here, in bytes: a revocation list.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What is there; the rest is to be made.
pub(super) struct Found {
    pub(super) authority: Option<(Directory, Authority, Index)>,
    pub(super) ca: Place,
    pub(super) kek: Place,
    /// The coordinator's private key.
    pub(super) key: Option<SigningKey>,
    pub(super) has_certificate: bool,
    pub(super) has_operator: bool,
    pub(super) has_list: bool,
    /// Whether the unit loads the authority's private key.
    pub(super) has_credential: bool,
    pub(super) ctl: Place,
    pub(super) config: Place,
}

/// Looks at every place.
///
/// # Errors
/// Fails with everything that is in the way.
pub(super) fn look(wish: &Wish, operator: &NodeId, layout: &Layout, now: UnixTime) -> Result<Found, Failure> {
    let mut looking = Looking { wish, operator, layout, now, problems: Vec::new() };
    let found = looking.everything();
    if looking.problems.is_empty() {
        return Ok(found);
    }
    Err(Failure { problems: looking.problems, outcome: Outcome::Refused })
}

/// Opens an authority's directory, and keeps others out until it is dropped.
pub(super) fn open_authority(path: &Path) -> Result<(Directory, Authority, Index), DirectoryError> {
    let directory = Directory::open(path)?;
    let (authority, index) = (directory.authority()?, directory.index()?);
    Ok((directory, authority, index))
}

struct Looking<'a> {
    wish: &'a Wish,
    operator: &'a NodeId,
    layout: &'a Layout,
    now: UnixTime,
    problems: Vec<Problem>,
}

impl Looking<'_> {
    fn everything(&mut self) -> Found {
        let (layout, wish, now) = (self.layout, self.wish, self.now);
        let authority = self.authority();
        let signer = authority.as_ref().map(|(_, authority, _)| authority);
        let ca = self.text(&layout.ca(), |text| match signer {
            Some(own) if text.contains(own.certificate_text().trim()) => Ok(Place::Taken),
            _ => Err("it is not the certificate of the authority here".to_owned()),
        });
        let kek = self.kek();
        let key = self.key();
        let certificate = self
            .text(&layout.certificate(), |text| signed(text, key.as_ref(), signer, (&wish.name, &wish.addresses), now));
        let operator = self.operator(signer);
        let list = self.text(&layout.list(), |text| match signer {
            Some(own) => ListFile::read(text, own).map(|_| Place::Taken).map_err(|error| error.to_string()),
            None => Err("there is no authority here that it could be of".to_owned()),
        });
        Found {
            ca: ca.unwrap_or(Place::Free),
            kek: if kek { Place::Taken } else { Place::Free },
            key,
            has_certificate: certificate.is_some(),
            has_operator: operator,
            has_list: list.is_some(),
            has_credential: self.credential(),
            ctl: self.ctl().unwrap_or(Place::Free),
            config: self.config().unwrap_or(Place::Free),
            authority,
        }
    }

    /// Says that something is in the way.
    fn in_the_way(&mut self, path: &Path, why: &str) {
        let message = format!("this file is there already, and {why}; nothing was changed");
        let remedy = "move it away, and run the same command again: it makes what is missing";
        self.problems.push(Problem::error("exists", message, remedy).in_file(path));
    }

    /// Judges the text of a file; none if there is none.
    fn text(&mut self, path: &Path, judge: impl FnOnce(&str) -> Result<Place, String>) -> Option<Place> {
        match read(path) {
            Ok(None) => None,
            Ok(Some(text)) => match std::str::from_utf8(&text).map_err(|_| "it is not text".to_owned()).and_then(judge)
            {
                Ok(place) => Some(place),
                Err(why) => {
                    self.in_the_way(path, &why);
                    None
                }
            },
            Err(error) => {
                self.in_the_way(path, &format!("it cannot be read ({error})"));
                None
            }
        }
    }

    fn authority(&mut self) -> Option<(Directory, Authority, Index)> {
        let path = self.layout.authority();
        path.symlink_metadata().ok()?;
        match open_authority(&path) {
            Ok((directory, authority, index)) => {
                self.names_can_be_issued(&authority, &index);
                Some((directory, authority, index))
            }
            Err(DirectoryError { fault: Fault::Usage, .. }) => {
                self.in_the_way(&path, "it is not the directory of an authority");
                None
            }
            Err(error) => {
                self.problems.push(error.problem);
                None
            }
        }
    }

    /// What would fail later.
    fn names_can_be_issued(&mut self, authority: &Authority, index: &Index) {
        for (role, name) in [(Role::Coordinator, &self.wish.name), (Role::Operator, self.operator)] {
            let wanted = Wanted { role, name, addresses: &[], days: role.days() };
            let judged = wanted.refuse(authority, index, self.now);
            self.problems.extend(judged.err().map(|error| error.problem));
        }
    }

    fn kek(&mut self) -> bool {
        let path = self.layout.kek();
        // One byte more than it may have, so that a longer one is told as that.
        let why = match files::read_secret(&path, KeyEncryptionKey::BYTES + 1, Guard::Mode) {
            Ok(bytes) if bytes.len() == KeyEncryptionKey::BYTES => return true,
            Ok(bytes) => format!("it has {} bytes instead of {}", bytes.len(), KeyEncryptionKey::BYTES),
            Err(SecretFileError::Missing) if path.symlink_metadata().is_err() => return false,
            Err(error) => chain(&error),
        };
        self.in_the_way(&path, &why);
        false
    }

    fn key(&mut self) -> Option<SigningKey> {
        let path = self.layout.key();
        let why = match read(&path) {
            Ok(None) => return None,
            Ok(Some(text)) => match (self.is_exposed(&path), SigningKey::read(&text)) {
                (false, Ok(key)) => return Some(key),
                (true, _) => "other users can read or change it".to_owned(),
                (false, Err(error)) => format!("it is {error}"),
            },
            Err(error) => format!("it cannot be read ({error})"),
        };
        self.in_the_way(&path, &why);
        None
    }

    /// Whether others than root and the service can read a file.
    fn is_exposed(&self, path: &Path) -> bool {
        let is_guarded = |found: std::fs::Metadata| {
            let us = rustix::process::geteuid().as_raw();
            found.mode() & 0o077 == 0 && [0, us, self.layout.owner.0].contains(&found.uid())
        };
        !std::fs::metadata(path).is_ok_and(is_guarded)
    }

    fn operator(&mut self, signer: Option<&Authority>) -> bool {
        let path = self.layout.operator();
        let judged = match read(&path) {
            Ok(None) => return false,
            Ok(Some(_)) if self.is_exposed(&path) => Err("other users can read or change it".to_owned()),
            Ok(Some(text)) => match (std::str::from_utf8(&text), SigningKey::read(&text)) {
                (Ok(text), Ok(key)) => signed(text, Some(&key), signer, (self.operator, &[]), self.now),
                _ => Err("it is not a certificate with its key".to_owned()),
            },
            Err(error) => Err(format!("it cannot be read ({error})")),
        };
        match judged {
            Ok(_) => true,
            Err(why) => {
                self.in_the_way(&path, &why);
                false
            }
        }
    }

    fn credential(&mut self) -> bool {
        let directories: Vec<&Path> = self.layout.units.iter().map(std::path::PathBuf::as_path).collect();
        if credential::is_loaded(texts::CREDENTIAL, &directories) {
            return true;
        }
        let path = self.layout.drop_in();
        if path.symlink_metadata().is_ok() {
            self.in_the_way(&path, &format!("it does not load the credential {}", texts::CREDENTIAL));
        }
        false
    }

    fn ctl(&mut self) -> Option<Place> {
        let (path, pair) = (self.layout.ctl(), self.layout.operator());
        self.text(&path, |text| {
            if text == texts::CTL_EXAMPLE {
                return Ok(Place::Example);
            }
            let file = CtlFile::parse(&path, text).map_err(|problems| format!("it is wrong: {}", first(&problems)))?;
            let is_ours = file.contexts().any(|(_, settings)| settings.cert == pair);
            if is_ours { Ok(Place::Taken) } else { Err(format!("no `cert` in it is {}", pair.display())) }
        })
    }

    fn config(&mut self) -> Option<Place> {
        let (path, layout) = (self.layout.config(), self.layout);
        self.text(&path, |text| {
            if text == texts::EXAMPLE {
                return Ok(Place::Example);
            }
            let settings = CoordinatorSettings::parse(&path, text);
            let settings = settings.map_err(|problems| format!("it is wrong: {}", first(&problems)))?;
            let enrolment = settings.enrolment.as_ref();
            for (key, is, wanted) in [
                ("api.cert", Some(settings.api.cert.value.clone()), layout.certificate()),
                ("api.key", Some(settings.api.key.value.clone()), layout.key()),
                ("api.client_ca", Some(settings.api.client_ca.value.clone()), layout.ca()),
                ("api.crl", settings.api.crl.as_ref().map(|crl| crl.value.clone()), layout.list()),
                ("enrolment.ca_cert", enrolment.map(|own| own.ca_cert.value.clone()), layout.ca()),
            ] {
                if is.as_ref() != Some(&wanted) {
                    return Err(format!("its {key} is not {}, which `init` makes", wanted.display()));
                }
            }
            let credential = SecretPath::Credential(texts::CREDENTIAL.to_owned());
            match enrolment.and_then(|own| own.ca_key.as_ref()).map(|key| &key.value) {
                Some(found) if *found == credential => Ok(Place::Taken),
                _ => Err(format!("its enrolment.ca_key is not {credential}, which `init` gives to the service")),
            }
        })
    }
}

fn first(problems: &[Problem]) -> String {
    problems.first().map_or_else(String::new, |problem| {
        let key = problem.key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
        format!("{key}{}", problem.message)
    })
}

/// Whether a certificate is the one that would be made.
fn signed(
    text: &str,
    key: Option<&SigningKey>,
    signer: Option<&Authority>,
    wanted: (&NodeId, &[std::net::IpAddr]),
    now: UnixTime,
) -> Result<Place, String> {
    let (Some(key), Some(signer)) = (key, signer) else {
        return Err("its private key, or the authority that could have signed it, is not here".to_owned());
    };
    check_found(text, key, signer, wanted, now).map(|_| Place::Taken).map_err(|bad| bad.to_string())
}

/// A whole file; none if nothing has its name.
fn read(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = match files::open_regular(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => return Ok(None),
        other => other?,
    };
    // A buffer that grows would leave copies of a key behind.
    let length = file.metadata()?.len();
    if length > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(length).read_to_end(&mut text)?;
    Ok(Some(text))
}
