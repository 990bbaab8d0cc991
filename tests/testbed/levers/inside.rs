//! A test in namespaces of its own: it is started again there as the first process, and judged from outside.
//!
//! Mounts, names, interfaces and files go with the namespaces; every process goes with the PID namespace, whose first
//! process dies with the test outside, however that ends.

use std::process::{Command, Stdio};

use crate::output::{stderr, stdout};
use crate::{alone, need_root, need_tool, test_executable};

/// Says that this process is the one inside.
const INSIDE: &str = "TFO_TEST_INSIDE";

/// A /run of its own: names of namespaces, locks of agents, and all files of the fleet; an etcd sets 64 MiB aside twice.
const ENTER: &str = "mount -t tmpfs -o mode=0755,size=256m tfo-test /run; exec \"$@\"";

/// True if a fleet can be made here; otherwise skips.
#[track_caller]
fn can_run() -> bool {
    need_root() && need_tool("ip") && need_tool("unshare") && need_tool("setpriv")
}

/// Runs a test inside, without another one of these: two cores would be too busy for a fair judgement beside another fleet.
///
/// To be called as `inside(|| ...)` in the test's own function, for the closure's type says which test it is.
#[track_caller]
pub fn inside<F: FnOnce()>(test: F) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    if can_run() {
        let _alone = alone("fleet");
        start_again::<F>();
    }
}

/// The same beside others, for a test that mostly waits for the clock.
#[track_caller]
pub fn beside<F: FnOnce()>(test: F) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    if can_run() {
        start_again::<F>();
    }
}

#[track_caller]
fn start_again<F>() {
    let closure = std::any::type_name::<F>();
    let name = closure.split_once("::").and_then(|(_binary, path)| path.strip_suffix("::{{closure}}"));
    let name = name.unwrap_or_else(|| panic!("{closure} is not a closure of a test"));
    let output = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=KILL"])
        .args(["--propagation", "private", "sh", "-ec", ENTER, "sh"])
        .arg(test_executable())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("setpriv starts");
    let (stdout, stderr) = (stdout(&output), stderr(&output));
    print!("{stdout}");
    eprint!("{stderr}");
    assert!(output.status.success() && stdout.contains("1 passed"), "{name} failed inside ({})", output.status);
}
