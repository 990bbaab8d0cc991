//! Errors that end the demo without a verdict.

use std::io;

use tfo_host::kernel::namespace::NamespaceError;
use tfo_host::runtime::files::ReplaceError;
use tfo_wire::client::ClientError;

/// Why the demo ended without a verdict.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// This machine does not allow the demo to create namespaces.
    #[error("cannot create namespaces")]
    Namespaces(#[source] io::Error),
    /// A step failed.
    #[error("cannot {what}")]
    Step {
        /// The step, for example `start the fleet`.
        what: String,
        /// Cause.
        source: io::Error,
    },
    /// The demo could not write one of its files.
    #[error(transparent)]
    File(#[from] ReplaceError),
    /// A namespace of the demo disappeared.
    #[error(transparent)]
    Enter(#[from] NamespaceError),
    /// The `ip` command is missing.
    #[error("the ip command is not installed")]
    NoIp,
    /// The `etcd` program is missing.
    #[error("several coordinators share an etcd, and etcd is not installed")]
    NoEtcd,
    /// The kernel does not support IPv6.
    #[error("this kernel has no IPv6")]
    NoIpv6,
    /// The `ip` command failed.
    #[error("ip could not set up {place}: {message}")]
    Ip {
        /// Part of the network that was being set up.
        place: String,
        /// Error message of `ip`.
        message: String,
    },
    /// The system provided no random bytes.
    #[error(transparent)]
    NoRandomness(#[from] tfo_crypto::random::NoRandomness),
    /// Creating certificates failed.
    #[error("cannot make certificates")]
    Certificates(#[from] rcgen::Error),
    /// The operator's certificates cannot be used.
    #[error("cannot use the demo's own certificates: {0}")]
    Tls(String),
    /// The coordinator broke its protocol.
    #[error(transparent)]
    Api(#[from] ClientError),
    /// A program of the fleet misbehaved.
    #[error("{who} {what}; the end of its log:\n{log}")]
    Program {
        /// The program, for example `the agent of node1`.
        who: String,
        /// Its fault, for example `ended (signal: 9)`.
        what: String,
        /// The last lines of its log.
        log: String,
    },
    /// A timeout.
    #[error("{what} within {secs} s")]
    Late {
        /// The event that did not happen, for example `the fleet did not rotate`.
        what: String,
        /// The timeout in seconds.
        secs: u64,
    },
    /// One of our own threads ended early.
    #[error("the {0} ended early")]
    Worker(&'static str),
    /// The process inside the namespaces was killed.
    #[error("the fleet was killed ({0})")]
    Killed(std::process::ExitStatus),
    /// The user ended the demo before the fleet was up.
    #[error("stopped before the fleet was up")]
    Stopped,
}

impl DemoError {
    /// A step that failed.
    pub fn step(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Step { what, source }
    }

    /// Advice for the user, if there is any.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Namespaces(_) => Some(
                "an ordinary user needs unprivileged user namespaces: sysctl user.max_user_namespaces above 0, \
                 kernel.unprivileged_userns_clone=1 (Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu); a container \
                 needs --privileged; or run it as root",
            ),
            Self::NoIpv6 => Some("the demo shows v4 and v6: load the ipv6 module, or boot without ipv6.disable=1"),
            Self::NoEtcd => Some("install it: apt-get install etcd-server; or leave out --coordinators"),
            Self::NoIp => Some("install iproute2: apt-get install iproute2"),
            _ => None,
        }
    }
}
