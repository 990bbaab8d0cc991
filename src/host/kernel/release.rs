//! What a kernel of this release can do.

use tfo_model::problem::Problem;
use tfo_model::state::BackupSlot;

/// Major and minor number of a kernel release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelRelease {
    major: u32,
    minor: u32,
}

impl KernelRelease {
    /// Backup slot (commit 9092a76d3cf8) and SipHash cookies (commit 438ac88009bc): before it cookies were made with
    /// AES, so the same key gives other cookies, and such a node cannot share with newer ones.
    pub const SHARES: Self = Self { major: 5, minor: 3 };

    /// Reads the start of a release such as `6.1.0-42-amd64`.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }

    /// That of the running kernel; none if its name cannot be parsed.
    #[must_use]
    pub fn running() -> Option<Self> {
        Self::parse(&running_text())
    }

    /// Whether it has a backup slot.
    #[must_use]
    pub fn backup_slot(self) -> BackupSlot {
        if self >= Self::SHARES { BackupSlot::Present } else { BackupSlot::Absent }
    }
}

/// The running kernel's release, as `uname -r` prints it.
#[must_use]
pub fn running_text() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// What is wrong with the running kernel, if it cannot share keys.
#[must_use]
pub fn problem() -> Option<Problem> {
    let release = KernelRelease::running()?;
    (release.backup_slot() == BackupSlot::Absent).then(|| {
        let message = format!("kernel {} has no backup slot and makes other cookies from the same key", running_text());
        Problem::error("old_kernel", message, "use Linux 5.3 or later: this node cannot share keys with newer ones")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        let slot = |text| KernelRelease::parse(text).map(KernelRelease::backup_slot);
        assert_eq!(slot("5.2.21"), Some(BackupSlot::Absent));
        assert_eq!(slot("4.19.0-27-amd64"), Some(BackupSlot::Absent));
        assert_eq!(slot("5.3"), Some(BackupSlot::Present));
        assert_eq!(slot("5.10.0-32-cloud-amd64"), Some(BackupSlot::Present));
        assert_eq!(slot("10.0-rc1"), Some(BackupSlot::Present));
        assert_eq!(slot("unknown"), None);
        assert!(KernelRelease::running().is_some());
    }
}
