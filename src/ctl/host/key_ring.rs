//! The keys that a cookie is compared with, to find the one that made it.
//!
//! Keys come from files, standard input or the kernel, never from the command line, and leave as fingerprints only.

use std::net::IpAddr;
use std::path::PathBuf;

use super::key_file::{self, STDIN};
use super::tcp_option::WireCookie;
use tfo_crypto::fingerprint::fingerprint;
use tfo_host::kernel::procfs::{KernelError, KeyFile};
use tfo_host::secret::SecretPath;
use tfo_model::cookie::Cookie;
use tfo_model::key::{KeyFingerprint, TfoKey};
use tfo_model::key_text::{self, TEXT_CHARS_MAX};
use tfo_model::named_enum;
use tfo_model::problem::Problem;

named_enum! {
    /// The slot of a key.
    pub(super) enum Slot {
        /// The key makes and validates cookies.
        Primary = "primary",
        /// The key only validates cookies.
        Backup = "backup",
    }
}

/// A key's slot and fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyName {
    pub(super) slot: Slot,
    pub(super) fingerprint: KeyFingerprint,
}

/// Keys with their names.
#[derive(Debug, Default)]
pub(super) struct KeyRing(Vec<(TfoKey, KeyName)>);

impl KeyRing {
    /// Reads files of kernel text, one key or `P,B` each; `-` is standard input.
    pub(super) fn from_files(files: &[PathBuf]) -> Result<Self, Problem> {
        let mut ring = Self::default();
        if files.iter().filter(|file| file.as_os_str() == STDIN).count() > 1 {
            let message = "stdin is given more than once, but can only be read once";
            return Err(Problem::error("usage", message, "put all keys on stdin, or name files"));
        }
        for file in files {
            // Room for the newline.
            let max = TEXT_CHARS_MAX + 1;
            let content = if file.as_os_str() == STDIN {
                key_file::read_stdin()?
            } else {
                SecretPath::File(file.clone()).read(max)?
            };
            let keys = key_text::parse(&content).map_err(|error| {
                let remedy = "a key file holds kernel text: PRIMARY, or PRIMARY,BACKUP";
                Problem::error("bad_key_text", error.to_string(), remedy).in_file(file)
            })?;
            ring.add(keys.primary().duplicate(), Slot::Primary);
            if let Some(backup) = keys.backup() {
                ring.add(backup.duplicate(), Slot::Backup);
            }
        }
        Ok(ring)
    }

    /// The keys that the kernel holds in this network namespace; an empty ring if none is set.
    pub(super) fn from_kernel() -> Result<Self, KernelError> {
        let mut ring = Self::default();
        if let Some((primary, backup)) = KeyFile::default().read()? {
            ring.add(primary, Slot::Primary);
            if let Some(backup) = backup {
                ring.add(backup, Slot::Backup);
            }
        }
        Ok(ring)
    }

    fn add(&mut self, key: TfoKey, slot: Slot) {
        let name = KeyName { slot, fingerprint: fingerprint(&key) };
        self.0.push((key, name));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key that makes this cookie for this client and server; the first one if the ring has it twice.
    pub(super) fn maker(&self, cookie: &WireCookie, client: IpAddr, server: IpAddr) -> Option<KeyName> {
        let cookie = cookie.linux()?;
        let made = |(key, _): &&(TfoKey, KeyName)| Cookie::of(key, client, server) == Some(cookie);
        self.0.iter().find(made).map(|(_, name)| *name)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::host::tcp_option::FastOpen;

    const A: &str = "13121110-17161514-1b1a1918-1f1e1d1c";
    const B: &str = "00000001-00000002-00000003-00000004";

    fn file(dir: &tempfile::TempDir, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_cookie_is_traced_to_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let ring = KeyRing::from_files(&[file(&dir, "keys", &format!("{A},{B}\n"), 0o400)]).unwrap();
        let (client, server): (IpAddr, IpAddr) = ("10.77.1.1".parse().unwrap(), "10.77.1.2".parse().unwrap());
        let keys = key_text::parse(format!("{A},{B}").as_bytes()).unwrap();
        for (key, slot) in [(keys.primary(), Slot::Primary), (keys.backup().unwrap(), Slot::Backup)] {
            let made = Cookie::of(key, client, server).unwrap();
            let option = [&[34, 10][..], made.as_bytes()].concat();
            let cookie = FastOpen::among(&option).unwrap().cookie.unwrap();
            let name = KeyName { slot, fingerprint: fingerprint(key) };
            assert_eq!(ring.maker(&cookie, client, server), Some(name));
            assert_eq!(ring.maker(&cookie, server, client), None, "of another pair of addresses");
        }
        let short = FastOpen::among(&[34, 6, 1, 2, 3, 4]).unwrap().cookie.unwrap();
        assert_eq!(ring.maker(&short, client, server), None);
    }

    #[test]
    fn exposed_files_and_files_without_keys_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (name, content, mode, kind) in [
            ("exposed", A, 0o444, "secret_exposed"),
            ("empty", "", 0o400, "bad_key_text"),
            ("twice", &format!("{A},{A}"), 0o400, "bad_key_text"),
            ("three", &format!("{A},{B},{A}"), 0o400, "secret_too_long"),
        ] {
            let problem = KeyRing::from_files(&[file(&dir, name, content, mode)]).unwrap_err();
            assert_eq!(problem.kind, kind, "{name}");
            assert!(!problem.to_string().contains("13121110"), "{problem}");
        }
        let problem = KeyRing::from_files(&[STDIN.into(), STDIN.into()]).unwrap_err();
        assert_eq!(problem.kind, "usage");
        let problem = KeyRing::from_files(&[dir.path().join("none")]).unwrap_err();
        assert_eq!(problem.kind, "secret_missing");
    }
}
