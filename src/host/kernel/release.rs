//! The release of the running kernel.

use tfo_model::kernel::KernelVersion;

/// Ubuntu's own file: its version, and that of kernel.org.
const SIGNATURE_PATH: &str = "/proc/version_signature";

/// Its name, as `uname -r` prints it.
#[must_use]
pub fn running_text() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The release of kernel.org that it was made from, as far as its names tell; none if they cannot be parsed.
#[must_use]
pub fn running() -> Option<KernelVersion> {
    let name = rustix::system::uname();
    let signature = std::fs::read_to_string(SIGNATURE_PATH).ok();
    KernelVersion::of(&name.release().to_string_lossy(), &name.version().to_string_lossy(), signature.as_deref())
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_kernel_is_known() {
        assert!(super::running().is_some(), "{}", super::running_text());
    }
}
