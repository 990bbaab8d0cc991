//! Our file in sysctl.d: it sets the key at boot, and its header is the agent's memory and fence across restarts.
//!
//! Never holds other keys than the header names: the fingerprints in it are checked against the keys when it is read.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::runtime::files::{self, Durability, ReplaceError};
use tfo_crypto::fingerprint::pair_print;
use tfo_model::count::{Epoch, Generation};
use tfo_model::ids::PoolId;
use tfo_model::key::KeyPair;
use tfo_model::key_text::{self, KeyText};
use tfo_model::named::Named;
use tfo_model::node::KeySource;
use tfo_model::state::{Phase, SlotPrint, SlotPrints};
use tfo_model::time::UnixTime;

/// First line, which tells our file from others.  Persisted: the number changes when the format does.
const MAGIC: &str = "# Managed by tfo-agent (tfo-fleet), format 1. Do not edit: changes are replaced.";
/// What sysctl.d calls the key.
pub const SYSCTL_NAME: &str = "net.ipv4.tcp_fastopen_key";
/// Longest file that can be ours, in bytes.
const FILE_BYTES_MAX: u64 = 16_384;
/// Stands for a missing value.
const NONE: &str = "-";

/// What the header remembers.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where the keys come from.
    pub source: Named<KeySource>,
    /// The pool of the keys.
    pub pool_id: Option<PoolId>,
    /// The instruction with these keys.
    pub generation: Option<Generation>,
    /// Where the rotation stood.
    pub phase: Phase,
    /// Epochs and fingerprints of the keys below.
    pub prints: SlotPrints,
    /// The joints of the schedule that were known then: an entry that is first seen too late is reported.
    pub joints: Vec<UnixTime>,
    /// When it was written, by this host's clock: a clock that is far before it is wrong.
    pub installed_at: UnixTime,
}

impl Record {
    /// Whether both remember the same, whenever they were written.
    #[must_use]
    pub fn same_but_for_time(&self, other: &Self) -> bool {
        *self == Self { installed_at: self.installed_at, ..other.clone() }
    }
}

/// What is in the file's place.
#[derive(Debug)]
pub enum Persisted {
    /// No file.
    Absent,
    /// A file that the agent did not write, or that was changed since.
    Foreign,
    /// The agent's file, complete.
    Ours {
        /// Its header.
        record: Record,
        /// The keys that it sets at boot.
        keys: KeyPair,
    },
}

impl Persisted {
    /// The header, if the file is ours.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Ours { record, .. } => Some(record),
            Self::Absent | Self::Foreign => None,
        }
    }
}

/// Reads the file.
///
/// # Errors
/// Fails if it is there but cannot be read.
pub fn read(path: &Path) -> io::Result<Persisted> {
    let text = match files::open_regular(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Persisted::Absent),
        // A pipe, a device, a directory, or a socket, which cannot be opened at all.
        Err(error) if is_no_regular_file(&error) => return Ok(Persisted::Foreign),
        Err(error) => return Err(error),
        Ok(file) => {
            let size = file.metadata()?.len();
            if size > FILE_BYTES_MAX {
                return Ok(Persisted::Foreign);
            }
            // As long as the file from the start: a string that grows would leave copies of the keys behind.
            let mut text = Zeroizing::new(String::with_capacity(usize::try_from(size).map_or(0, |size| size + 1)));
            let read = io::Read::read_to_string(&mut io::Read::take(file, FILE_BYTES_MAX), &mut text);
            match read {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Persisted::Foreign),
                other => other?,
            };
            text
        }
    };
    Ok(parse(&text).map_or(Persisted::Foreign, |(record, keys)| Persisted::Ours { record, keys }))
}

fn is_no_regular_file(error: &io::Error) -> bool {
    let found = error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none();
    found || rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::NXIO)
}

/// The kind of the problem that other users may read the file.
pub const SYSCTL_FILE_EXPOSED: &str = "sysctl_file_exposed";

/// Whether only root, or this process's user, may read or write the file.  False if it is missing.
#[must_use]
pub fn is_private(path: &Path) -> bool {
    let is_own = |uid: u32| uid == 0 || uid == rustix::process::geteuid().as_raw();
    std::fs::metadata(path).is_ok_and(|found| found.mode() & 0o077 == 0 && is_own(found.uid()))
}

/// Writes the file: atomically, durably, mode 0600.
///
/// # Errors
/// Fails if a step fails; the old file stays then.
pub fn write(path: &Path, record: &Record, keys: &KeyPair) -> Result<(), ReplaceError> {
    files::replace(path, render(record, keys).as_bytes(), 0o600, Durability::Synced)
}

fn render(record: &Record, keys: &KeyPair) -> Zeroizing<String> {
    // Room for everything at once, for the same reason as above; 100 bytes a joint are plenty.
    let mut out = Zeroizing::new(String::with_capacity(1_024 + 100 * record.joints.len()));
    let joints: Vec<String> = record.joints.iter().map(ToString::to_string).collect();
    let joints = if joints.is_empty() { NONE.to_owned() } else { joints.join(" ") };
    let lines = [
        MAGIC.to_owned(),
        format!("# source: {}", record.source),
        format!("# pool_id: {}", shown(record.pool_id.as_ref())),
        format!("# generation: {}", shown(record.generation.as_ref())),
        format!("# phase: {}", record.phase.as_str()),
        format!("# primary: {}", slot_text(Some(&record.prints.primary))),
        format!("# backup: {}", slot_text(record.prints.backup.as_ref())),
        format!("# joints: {joints}"),
        format!("# installed_at: {}", record.installed_at),
    ];
    for line in lines {
        out.push_str(&line);
        out.push('\n');
    }
    let text = KeyText::of(keys);
    let text = std::str::from_utf8(text.expose()).expect("hex digits, dashes and a comma");
    writeln!(out, "{SYSCTL_NAME} = {text}").expect("writing to a string cannot fail");
    out
}

fn shown<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| NONE.to_owned(), ToString::to_string)
}

fn slot_text(slot: Option<&SlotPrint>) -> String {
    slot.map_or_else(|| NONE.to_owned(), |slot| format!("{} epoch {}", slot.fingerprint, shown(slot.epoch.as_ref())))
}

/// None for a text that [`render`] did not write, or whose keys do not have the fingerprints of the header.
fn parse(text: &str) -> Option<(Record, KeyPair)> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next()? != MAGIC {
        return None;
    }
    let mut field = |name: &str| lines.next()?.strip_prefix("# ")?.strip_prefix(name)?.strip_prefix(": ");
    let source = field("source")?.parse().ok()?;
    let pool_id = parse_optional(field("pool_id")?)?;
    let generation = parse_optional(field("generation")?)?;
    let phase = field("phase")?.parse().ok()?;
    let primary = parse_slot(field("primary")?)??;
    let backup = parse_slot(field("backup")?)?;
    let joints = match field("joints")? {
        NONE => Vec::new(),
        joints => joints.split(' ').map(|joint| joint.parse().ok()).collect::<Option<_>>()?,
    };
    let installed_at = field("installed_at")?.parse().ok()?;
    let keys = lines.next()?.strip_prefix(SYSCTL_NAME)?.strip_prefix(" = ")?;
    let keys = key_text::parse(keys.as_bytes()).ok()?;
    let prints = SlotPrints { primary, backup };
    if lines.next().is_some() || pair_print(&keys) != prints.pair() {
        return None;
    }
    Some((Record { source, pool_id, generation, phase, prints, joints, installed_at }, keys))
}

/// Outer none: not what we write.  Inner none: no value.
#[expect(clippy::option_option, reason = "two different kinds of nothing")]
fn parse_optional<T: FromStr>(text: &str) -> Option<Option<T>> {
    if text == NONE { Some(None) } else { text.parse().ok().map(Some) }
}

#[expect(clippy::option_option, reason = "two different kinds of nothing")]
fn parse_slot(text: &str) -> Option<Option<SlotPrint>> {
    if text == NONE {
        return Some(None);
    }
    let (fingerprint, epoch) = text.split_once(" epoch ")?;
    Some(Some(SlotPrint { fingerprint: fingerprint.parse().ok()?, epoch: parse_optional::<Epoch>(epoch)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[u8] = b"13121110-17161514-1b1a1918-1f1e1d1c,00000001-00000002-00000003-00000004";

    fn record(keys: &KeyPair) -> Record {
        let print = pair_print(keys);
        let slot = |fingerprint, epoch| SlotPrint { fingerprint, epoch: Epoch::new(epoch) };
        Record {
            source: KeySource::Derive.into(),
            pool_id: None,
            generation: Some(Generation::new(7)),
            phase: Phase::Staged,
            prints: SlotPrints {
                primary: slot(print.primary, 1_763_769_600),
                backup: print.backup.map(|print| slot(print, 0)),
            },
            joints: vec![UnixTime::from_secs(1_000), UnixTime::from_secs(2_000)],
            installed_at: UnixTime::from_secs(1_763_769_601),
        }
    }

    #[test]
    fn the_file_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("50-tcp_fastopen_key.conf");
        assert!(matches!(read(&path).unwrap(), Persisted::Absent));
        let keys = key_text::parse(KEYS).unwrap();
        let record = record(&keys);
        write(&path, &record, &keys).unwrap();
        assert_eq!(read(&path).unwrap().record(), Some(&record));
        assert_eq!((Persisted::Absent.record(), Persisted::Foreign.record()), (None, None));
        let Persisted::Ours { record: back, keys: back_keys } = read(&path).unwrap() else { panic!("not ours") };
        assert_eq!(back, record);
        assert_eq!(pair_print(&back_keys), pair_print(&keys));
        let last = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            last.lines().last(),
            Some("net.ipv4.tcp_fastopen_key = 13121110-17161514-1b1a1918-1f1e1d1c,00000001-00000002-00000003-00000004")
        );
    }

    #[test]
    fn a_single_key_without_history_reads_back() {
        let keys = key_text::parse(&KEYS[..35]).unwrap();
        let mut record = record(&keys);
        record.prints.primary.epoch = None;
        (record.generation, record.joints) = (None, vec![]);
        record.pool_id = Some("0123456789abcdef0123456789abcdef".parse().unwrap());
        assert_eq!(parse(&render(&record, &keys)).unwrap().0, record);
    }

    #[test]
    fn whatever_else_stands_there_is_foreign() {
        let keys = key_text::parse(KEYS).unwrap();
        let whole = render(&record(&keys), &keys).to_string();
        assert!(parse(&whole).is_some());
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut]).is_none(), "cut at {cut}");
        }
        assert!(parse(&format!("{whole}net.ipv4.tcp_fastopen = 3\n")).is_none(), "another setting was added");
        assert!(parse(&whole.replace("1f1e1d1c", "1f1e1d1d")).is_none(), "the key was edited");
        assert!(parse(&whole.replace("format 1", "format 2")).is_none());
        assert!(parse("net.ipv4.tcp_fastopen_key=1-2-3-4\n").is_none());
    }

    #[test]
    fn what_is_no_file_is_foreign_and_keeps_no_reader_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("50-tcp_fastopen_key.conf");
        let foreign = |what: &str| assert!(matches!(read(&path).unwrap(), Persisted::Foreign), "{what}");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        foreign("a pipe without a writer");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read(&link).unwrap(), Persisted::Foreign), "a link to it");
        // It is replaced as any other file is.
        let keys = key_text::parse(KEYS).unwrap();
        write(&path, &record(&keys), &keys).unwrap();
        assert!(matches!(read(&path).unwrap(), Persisted::Ours { .. }));
        std::fs::remove_file(&path).unwrap();
        let _socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        foreign("a socket");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        foreign("a directory");
        assert!(matches!(read(Path::new("/dev/zero")).unwrap(), Persisted::Foreign), "a device without an end");
    }

    #[test]
    fn a_file_has_a_greatest_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("50-tcp_fastopen_key.conf");
        let keys = key_text::parse(KEYS).unwrap();
        // 21 bytes for each joint, and the generation for what is left.
        let of = |joints: usize, digits: usize| {
            let generation = "1".repeat(digits).parse().ok();
            render(&Record { generation, joints: vec![UnixTime::from_secs(1_000); joints], ..record(&keys) }, &keys)
        };
        let bytes_max = usize::try_from(FILE_BYTES_MAX).unwrap();
        let joints = 1 + (bytes_max - of(1, 1).len()) / 21;
        let digits = 1 + bytes_max - of(joints, 1).len();
        std::fs::write(&path, of(joints, digits).as_bytes()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), FILE_BYTES_MAX);
        assert!(matches!(read(&path).unwrap(), Persisted::Ours { .. }));
        std::fs::write(&path, of(joints + 1, 1).as_bytes()).unwrap();
        assert!(matches!(read(&path).unwrap(), Persisted::Foreign));
    }

    #[test]
    fn what_is_no_text_is_foreign_and_what_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("50-tcp_fastopen_key.conf");
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert!(matches!(read(&path).unwrap(), Persisted::Foreign));
        assert_eq!(read(&path.join("below-a-file")).unwrap_err().kind(), io::ErrorKind::NotADirectory);
        // A regular file whose first byte belongs to no page: EIO.
        assert!(read(Path::new("/proc/self/mem")).is_err());
        let os = |errno: rustix::io::Errno| io::Error::from(errno);
        for (error, is_none) in [
            (io::ErrorKind::InvalidInput.into(), true),
            (os(rustix::io::Errno::NXIO), true),
            (os(rustix::io::Errno::INVAL), false),
            (os(rustix::io::Errno::ACCESS), false),
            (io::ErrorKind::PermissionDenied.into(), false),
        ] {
            assert_eq!(is_no_regular_file(&error), is_none, "{error:?}");
        }
    }

    #[test]
    fn a_file_is_private_if_no_other_user_may_do_anything() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("50-tcp_fastopen_key.conf");
        assert!(!is_private(&path), "missing");
        let keys = key_text::parse(KEYS).unwrap();
        write(&path, &record(&keys), &keys).unwrap();
        assert!(is_private(&path));
        for (mode, expected) in
            [(0o600, true), (0o400, true), (0o700, true), (0o640, false), (0o604, false), (0o610, false)]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_private(&path), expected, "{mode:o}");
        }
    }

    #[test]
    fn only_the_time_may_differ_in_the_same_record() {
        let keys = key_text::parse(KEYS).unwrap();
        let record = record(&keys);
        assert!(record.same_but_for_time(&Record { installed_at: UnixTime::from_secs(5), ..record.clone() }));
        assert!(!record.same_but_for_time(&Record { generation: None, ..record.clone() }));
    }
}
