//! The etcd that several coordinators share: one member, the host's own program, in the management namespace.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::coordinator::ADDRESS;
use super::error::DemoError;
use super::network::find_program;
use super::program::Program;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::runtime::clock;

/// Where it listens for clients.
const PORT: u16 = 2379;
/// Where it would listen for other members.
const PEER_PORT: u16 = 2380;
/// Longest time until it serves.
const UP_MAX: Duration = Duration::from_secs(15);

/// Where the coordinators find it.
pub(super) fn url() -> String {
    format!("https://{ADDRESS}:{PORT}")
}

/// The host's etcd.
///
/// # Errors
/// Fails if it is not installed.
pub(super) fn find() -> Result<PathBuf, DemoError> {
    find_program("etcd").ok_or(DemoError::NoEtcd)
}

/// Starts it with `server.crt` and `server.key` of the directory, and waits until it serves.
pub(super) fn start(namespace: &Namespace, directory: &Path) -> Result<Program, DemoError> {
    let mut command = Command::new(find()?);
    let peers = format!("http://127.0.0.1:{PEER_PORT}");
    let file = |name: &str| directory.join(name);
    command.args(["--name", "demo", "--data-dir"]).arg(file("etcd"));
    command.args(["--listen-client-urls", &url(), "--advertise-client-urls", &url()]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.args(["--initial-cluster", &format!("demo={peers}")]);
    command.arg("--cert-file").arg(file("server.crt")).arg("--key-file").arg(file("server.key"));
    let log = file("etcd-log");
    let mut program = Program::start_other(namespace, ("etcd".to_owned(), log), command)?;
    let start = clock::monotonic();
    // It listens once it has elected itself.
    while namespace.within(|| TcpStream::connect((ADDRESS, PORT)))?.is_err() {
        program.must_run()?;
        if clock::left_of(UP_MAX, start).is_zero() {
            return Err(program.fault(format!("does not serve within {} s", UP_MAX.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(program)
}
