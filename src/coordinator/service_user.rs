//! The user of tfo-coordinator.service: `check` by root looks with its eyes, or a key file that only root can read would
//! seem right, and one that is the service's own would seem exposed.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::geteuid;

/// Its name (systemd/sysusers.d).
const NAME: &str = "tfo-coordinator";

/// Where the host's own users are.
const USERS: &str = "/etc/passwd";

/// The service's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceUser {
    uid: u32,
    gid: u32,
}

/// The service's user, if this host has it.
#[must_use]
pub fn find() -> Option<ServiceUser> {
    find_in(&std::fs::read_to_string(USERS).ok()?)
}

fn find_in(users: &str) -> Option<ServiceUser> {
    let line = users.lines().find_map(|line| line.strip_prefix(NAME)?.strip_prefix(':'))?;
    let mut fields = line.split(':').skip(1);
    Some(ServiceUser { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

impl ServiceUser {
    /// Whether this process runs as it.
    #[must_use]
    pub fn is_us(self) -> bool {
        geteuid().as_raw() == self.uid
    }

    /// Runs this program again, as this user, to its end.
    ///
    /// # Errors
    /// Fails if it cannot be run.
    pub fn run(self, arguments: &[&str]) -> io::Result<ExitCode> {
        let mut command = Command::new(std::env::current_exe()?);
        let status = command.args(arguments).uid(self.uid).gid(self.gid).status()?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_found_by_its_whole_name() {
        let users = "root:x:0:0:root:/root:/bin/bash\ntfo-coordinator2:x:7:7::/:/bin/sh\n\
                     tfo-coordinator:x:995:994:TFO:/var/lib/tfo-coordinator:/usr/sbin/nologin\n";
        assert_eq!(find_in(users), Some(ServiceUser { uid: 995, gid: 994 }));
        assert_eq!(find_in("root:x:0:0:root:/root:/bin/bash\n"), None);
        assert_eq!(find_in("tfo-coordinator:x:many:0::/:\n"), None);
    }
}
