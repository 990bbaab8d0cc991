//! The version of a Linux kernel, and which known faults of TFO's server side are in it.  Pure.
//!
//! Ranges are those of kernel.org's own records of each CVE.  They are about kernel.org's releases: a distribution may have
//! fixed a fault without a new number.

use crate::caveat::Caveat;
use crate::state::BackupSlot;

/// A release of kernel.org: major, minor and patch number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    major: u32,
    minor: u32,
    patch: u32,
}

/// The first release of a series, and the first one after the last with a fault.
type Range = (KernelVersion, KernelVersion);

/// Backup slot (commit 9092a76d3cf8) and SipHash cookies (commit 438ac88009bc): before it cookies were made with AES, so the
/// same key gives other cookies, and such a node cannot share with newer ones.
const SHARES: KernelVersion = version(5, 3, 0);

/// CVE-2025-39955: in every release since 3.7 but those with the fix, which came into each series at another patch.
const UNCLEARED: [Range; 7] = [
    (version(3, 7, 0), version(5, 4, 300)),
    (version(5, 5, 0), version(5, 10, 245)),
    (version(5, 11, 0), version(5, 15, 194)),
    (version(5, 16, 0), version(6, 1, 154)),
    (version(6, 2, 0), version(6, 6, 108)),
    (version(6, 7, 0), version(6, 12, 49)),
    (version(6, 13, 0), version(6, 16, 9)),
];

/// CVE-2025-40186: came with the fix of the other, and was fixed some patches later; in 6.16 never.
const DOUBLE_FREE: [Range; 8] = [
    (version(5, 4, 300), version(5, 4, 301)),
    (version(5, 10, 245), version(5, 10, 246)),
    (version(5, 15, 194), version(5, 15, 195)),
    (version(6, 1, 154), version(6, 1, 157)),
    (version(6, 6, 108), version(6, 6, 113)),
    (version(6, 12, 49), version(6, 12, 54)),
    (version(6, 16, 9), version(6, 17, 0)),
    (version(6, 17, 0), version(6, 17, 4)),
];

const fn version(major: u32, minor: u32, patch: u32) -> KernelVersion {
    KernelVersion { major, minor, patch }
}

impl KernelVersion {
    /// Reads the start of a release such as `6.1.0-42-amd64` or `6.17-rc1`.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let end = release.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(release.len());
        let mut numbers = release[..end].split('.');
        let (major, minor) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        let patch = numbers.next().and_then(|patch| patch.parse().ok()).unwrap_or(0);
        Some(Self { major, minor, patch })
    }

    /// The release of kernel.org that a running kernel was made from.
    ///
    /// `release` and `build` are those of uname(2), `signature` is Ubuntu's `/proc/version_signature`.  Debian and Ubuntu count
    /// releases of their own in `release` (`6.1.0-42-amd64`), and name kernel.org's in the other two.
    #[must_use]
    pub fn of(release: &str, build: &str, signature: Option<&str>) -> Option<Self> {
        let debian = build.split_once("Debian ").and_then(|(_, version)| Self::parse(version));
        let ubuntu = signature.and_then(|signature| Self::parse(signature.split_whitespace().last()?));
        debian.or(ubuntu).or_else(|| Self::parse(release))
    }

    /// Whether it has a backup slot.
    #[must_use]
    pub fn backup_slot(self) -> BackupSlot {
        if self >= SHARES { BackupSlot::Present } else { BackupSlot::Absent }
    }

    /// What is known of TFO in it.
    pub fn caveats(self) -> impl Iterator<Item = Caveat> {
        let is_in = |ranges: &[Range]| ranges.iter().any(|(first, after)| (*first..*after).contains(&self));
        let found = [
            (self < SHARES, Caveat::OldKernel),
            (is_in(&DOUBLE_FREE), Caveat::Cve202540186),
            (is_in(&UNCLEARED), Caveat::Cve202539955),
        ];
        found.into_iter().filter_map(|(is, caveat)| is.then_some(caveat))
    }
}

impl std::fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        let slot = |text| KernelVersion::parse(text).map(KernelVersion::backup_slot);
        assert_eq!(slot("5.2.21"), Some(BackupSlot::Absent));
        assert_eq!(slot("4.19.0-27-amd64"), Some(BackupSlot::Absent));
        assert_eq!(slot("5.3"), Some(BackupSlot::Present));
        assert_eq!(slot("5.10.0-32-cloud-amd64"), Some(BackupSlot::Present));
        assert_eq!(slot("10.0-rc1"), Some(BackupSlot::Present));
        for none in ["unknown", "", ".", "6", "6.", "six.one", "99999999999.1"] {
            assert_eq!(slot(none), None, "{none}");
        }
    }

    #[test]
    fn a_distributions_own_number_gives_way_to_that_of_kernel_org() {
        let debian = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.155-1 (2025-10-05)";
        let ubuntu = Some("Ubuntu 6.8.0-90.91-generic 6.8.12\n");
        let rows = [
            ("6.1.0-41-amd64", debian, None, "6.1.155"),
            ("6.8.0-90-generic", "#91-Ubuntu SMP", ubuntu, "6.8.12"),
            ("6.18.44-fc", "#1 SMP PREEMPT_DYNAMIC", None, "6.18.44"),
            ("5.14.0-570.el9.x86_64", "#1 SMP", None, "5.14.0"),
            ("6.12.50", "#1 Debian unstable", Some(""), "6.12.50"),
        ];
        for (release, build, signature, expected) in rows {
            assert_eq!(KernelVersion::of(release, build, signature).unwrap().to_string(), expected, "{release}");
        }
    }

    /// Both sides of every border in kernel.org's records of the two CVEs.
    #[test]
    fn a_fault_is_in_its_range_and_in_no_other_release() {
        const OLD: Caveat = Caveat::OldKernel;
        const FREE: Caveat = Caveat::Cve202540186;
        const CLEAR: Caveat = Caveat::Cve202539955;
        let rows: [(&str, &[Caveat]); 37] = [
            ("3.6.11", &[OLD]),
            ("3.7", &[OLD, CLEAR]),
            ("5.2.21", &[OLD, CLEAR]),
            ("5.3", &[CLEAR]),
            ("5.4.299", &[CLEAR]),
            ("5.4.300", &[FREE]),
            ("5.4.301", &[]),
            ("5.9.16", &[CLEAR]),
            ("5.10.244", &[CLEAR]),
            ("5.10.245", &[FREE]),
            ("5.10.246", &[]),
            ("5.14.0", &[CLEAR]),
            ("5.15.193", &[CLEAR]),
            ("5.15.194", &[FREE]),
            ("5.15.195", &[]),
            ("6.0.19", &[CLEAR]),
            ("6.1.153", &[CLEAR]),
            ("6.1.154", &[FREE]),
            ("6.1.156", &[FREE]),
            ("6.1.157", &[]),
            ("6.5.13", &[CLEAR]),
            ("6.6.107", &[CLEAR]),
            ("6.6.108", &[FREE]),
            ("6.6.112", &[FREE]),
            ("6.6.113", &[]),
            ("6.8.12", &[CLEAR]),
            ("6.12.48", &[CLEAR]),
            ("6.12.49", &[FREE]),
            ("6.12.54", &[]),
            ("6.16.8", &[CLEAR]),
            ("6.16.9", &[FREE]),
            ("6.16.12", &[FREE]),
            ("6.17", &[FREE]),
            ("6.17.3", &[FREE]),
            ("6.17.4", &[]),
            ("6.18.44", &[]),
            ("7.0", &[]),
        ];
        for (text, expected) in rows {
            let found: Vec<Caveat> = KernelVersion::parse(text).unwrap().caveats().collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}
