//! A node of the fleet as its root finds it: an /etc of its own, `systemctl`, and the pages of docs/how-to at hand.

use std::fmt::Write as _;
use std::path::Path;

use tfo_testbed::agent_path;
use tfo_testbed::host::KEY_FILE;
use tfo_testbed::levers::{DIRECTORY, Ended, Fleet};

/// Makes the node's own /etc and `systemctl`; `@` stands for the repository.
const PREPARE: &str = "
mkdir -p etc changed work bin run
cp @/tests/machine/migration/systemctl.py bin/systemctl
chmod 755 bin/systemctl
mount -t overlay node -o lowerdir=/etc,upperdir=changed,workdir=work etc
mkdir -p etc/tfo-fleet etc/systemd/system /run/tfo-agent
cp @/systemd/tfo-agent.service etc/systemd/system/
";
/// Puts them where a host has them, for one line and what it leaves running.
const ENTER: &str = "mount --bind etc /etc; mount --bind run /run/tfo-agent; cd /";

fn repository() -> &'static str {
    env!("CARGO_MANIFEST_DIR")
}

/// A path in the repository.
pub(crate) fn in_repository(path: &str) -> String {
    format!("{}/{path}", repository())
}

/// The blocks of commands of a page of docs/how-to, as they are typed.
#[track_caller]
pub(crate) fn blocks(page: &str) -> Vec<String> {
    let path = in_repository(&format!("docs/how-to/{page}"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut blocks = vec![String::new()];
    for line in text.lines() {
        let last = blocks.last_mut().expect("there is one");
        match line.strip_prefix("    ") {
            Some(command) => writeln!(last, "{command}").expect("a String takes everything"),
            None if !last.is_empty() => blocks.push(String::new()),
            None => {}
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// A text with something else in one place; it must be there, once.
#[track_caller]
pub(crate) fn with(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} in {text}");
    text.replace(from, to)
}

/// Runs a line outside the node's own mounts.
fn shell(fleet: &mut Fleet, node: usize, line: &str) -> (Option<i32>, String) {
    let Ended { code, said } = fleet.shell(node, line);
    (code, said)
}

/// Makes nodes that can be typed on.
pub(crate) fn prepare(fleet: &mut Fleet, nodes: usize) {
    for node in 1..=nodes {
        let (code, said) = shell(fleet, node, &PREPARE.replace('@', repository()));
        assert_eq!(code, Some(0), "{said}");
    }
}

/// Types a script on a node; gives its exit code and what it said.
pub(crate) fn try_to_type(fleet: &mut Fleet, node: usize, script: &str) -> (Option<i32>, String) {
    let programs = agent_path().parent().map_or("", |path: &Path| path.to_str().expect("target paths are UTF-8"));
    let here = format!("{DIRECTORY}/node{node}");
    let quoted = script.replace('\'', "'\\''");
    let line = format!(
        "export PATH={here}/bin:{programs}:$PATH; exec unshare --mount --propagation private sh -ec '{ENTER}\n{quoted}'"
    );
    shell(fleet, node, &line)
}

/// Types a script on a node, every line of which must do.
#[track_caller]
pub(crate) fn typed(fleet: &mut Fleet, node: usize, script: &str) -> String {
    let (code, said) = try_to_type(fleet, node, script);
    assert_eq!(code, Some(0), "node{node}: {script}\n{said}");
    said
}

/// What a node's kernel holds.
pub(crate) fn kernel(fleet: &mut Fleet, node: usize) -> String {
    shell(fleet, node, &format!("cat {KEY_FILE}")).1.trim().to_owned()
}

/// What a node's daemon has logged.
pub(crate) fn agent_log(fleet: &mut Fleet, node: usize) -> String {
    shell(fleet, node, "cat bin/tfo-agent.service.log").1
}

/// What the kernels of the first so many nodes hold.
pub(crate) fn kernels(fleet: &mut Fleet, nodes: usize) -> Vec<String> {
    (1..=nodes).map(|node| kernel(fleet, node)).collect()
}
