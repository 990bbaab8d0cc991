//! A terminal without a screen, for programs that look whether they are on one.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A terminal: our end, and the end of a program.  It controls no session, so its end sends no SIGHUP.
pub fn terminal() -> (File, File) {
    let ours =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("the kernel has terminals");
    grantpt(&ours).expect("it is ours");
    unlockpt(&ours).expect("it is ours");
    let name = ptsname(&ours, Vec::new()).expect("it has a name").into_string().expect("an ASCII name");
    let flags = i32::try_from(OFlags::NOCTTY.bits()).expect("a flag of open(2)");
    let theirs = OpenOptions::new().read(true).write(true).custom_flags(flags).open(name).expect("it is unlocked");
    (File::from(ours), theirs)
}
