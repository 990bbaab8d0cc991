//! Why the demo could not be shown.

use std::io;

use tfo_host::kernel::namespace::NamespaceError;
use tfo_host::runtime::files::ReplaceError;
use tfo_wire::client::ClientError;

/// Why the demo ended without a verdict.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The machine does not let us make namespaces.
    #[error("cannot make namespaces of our own")]
    Namespaces(#[source] io::Error),
    /// Some step of the set-up failed.
    #[error("cannot {what}")]
    Step {
        /// What was tried: `start the fleet`.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of the demo's own could not be written.
    #[error(transparent)]
    File(#[from] ReplaceError),
    /// A namespace that we made is gone.
    #[error(transparent)]
    Enter(#[from] NamespaceError),
    /// No `ip`.
    #[error("there is no ip command")]
    NoIp,
    /// No IPv6 in this kernel.
    #[error("this kernel has no IPv6")]
    NoIpv6,
    /// `ip` refused a line.
    #[error("ip could not set up {place}: {message}")]
    Ip {
        /// What was set up.
        place: String,
        /// What `ip` said.
        message: String,
    },
    /// The system gave no randomness.
    #[error(transparent)]
    NoRandomness(#[from] tfo_crypto::random::NoRandomness),
    /// No certificates could be made.
    #[error("cannot make certificates")]
    Certificates(#[from] rcgen::Error),
    /// The operator's certificates cannot be used.
    #[error("cannot use the demo's own certificates: {0}")]
    Tls(String),
    /// The coordinator does not speak as it should.
    #[error(transparent)]
    Api(#[from] ClientError),
    /// A program is not what it should be.
    #[error("{who} {what}; it said last:\n{log}")]
    Program {
        /// The program: `the agent of node1`.
        who: String,
        /// What is wrong with it: `ended (signal: 9)`.
        what: String,
        /// The last lines that it logged.
        log: String,
    },
    /// Something did not happen in time.
    #[error("{what} within {secs} s")]
    Late {
        /// What did not happen.
        what: String,
        /// How long it was waited for, in seconds.
        secs: u64,
    },
    /// One of our own threads ended early.
    #[error("the {0} ended early")]
    Worker(&'static str),
    /// The process inside the namespaces was killed.
    #[error("the fleet was killed ({0})")]
    Killed(std::process::ExitStatus),
    /// The user ended it before there was anything to judge.
    #[error("stopped before the fleet was up")]
    Stopped,
}

impl DemoError {
    /// A step that failed.
    pub fn step(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Step { what, source }
    }

    /// What the user can do about it, if we know.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Namespaces(_) => Some(
                "an ordinary user needs unprivileged user namespaces: sysctl user.max_user_namespaces above 0, \
                 kernel.unprivileged_userns_clone=1 (Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu); a container \
                 needs --privileged; or run it as root",
            ),
            Self::NoIpv6 => Some("the demo shows v4 and v6: load the ipv6 module, or boot without ipv6.disable=1"),
            Self::NoIp => Some("install iproute2: apt-get install iproute2"),
            _ => None,
        }
    }
}
