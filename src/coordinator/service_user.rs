//! The user of tfo-coordinator.service.  `check`, run as root, reads the files as this user; otherwise it would accept a
//! key file that only root can read, and report the service's own as exposed.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::process::geteuid;

use tfo_model::problem::Problem;

/// Its name (systemd/sysusers.d).
pub const NAME: &str = "tfo-coordinator";

/// The host's own users.
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

    /// Its user and its group.
    #[must_use]
    pub fn owner(self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// Runs this program again, as this user, to its end.
    ///
    /// # Errors
    /// Fails if it cannot be run, or if a signal ended it before it could report anything.
    pub fn run(self, arguments: &[&str]) -> Result<ExitCode, Problem> {
        match std::env::current_exe() {
            Ok(program) => self.run_program(&program, arguments),
            Err(error) => Err(not_looked(format!("cannot find this program's own file: {error}"))),
        }
    }

    fn run_program(self, program: &Path, arguments: &[&str]) -> Result<ExitCode, Problem> {
        let ended = Command::new(program).args(arguments).uid(self.uid).gid(self.gid).status();
        let status = ended.map_err(|error| {
            not_looked(format!("{} cannot be run as the service's user, {NAME}: {error}", program.display()))
        })?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        let ended_by =
            || not_looked(format!("{}, run as the service's user, was ended by {status}", program.display()));
        code.map(ExitCode::from).ok_or_else(ended_by)
    }
}

/// The problem of a check that did not happen.
fn not_looked(message: String) -> Problem {
    let remedy = format!(
        "install the program where {NAME} can run it, such as /usr/bin; if it is there, check the kernel's log. Or check \
         a copy of the file as root: check --config COPY"
    );
    Problem::error("not_run_as_service", message, remedy)
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

    #[test]
    fn a_check_that_is_killed_is_reported() {
        let us = ServiceUser { uid: geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
        let run = |program: &str, script: &str| us.run_program(Path::new(program), &["-c", script]);
        assert!(run("/bin/sh", "exit 2").is_ok(), "it has reported why itself");
        let problem = run("/bin/sh", "kill -9 $$").expect_err("it is killed");
        assert!(problem.message.contains("was ended by signal: 9"), "{problem}");
        let problem = run("/nowhere/sh", "exit 0").expect_err("it is not there");
        assert!(problem.message.contains("/nowhere/sh cannot be run as the service's user"), "{problem}");
        assert!(problem.remedy.contains("/usr/bin"), "{problem}");
    }
}
