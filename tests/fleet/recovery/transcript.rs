//! The transcript of docs/how-to/authority_kept_off.md is what really happens: its commands are read from there and run, and what they print
//! is compared.

use std::fmt::Write as _;

use tfo_testbed::PATIENCE;
use tfo_testbed::config::fast;
use tfo_testbed::fleet::Fleet;
use tfo_testbed::output::stdout;
use tfo_testbed::{need_netns, poll_until, skip_unless, transcript};

/// The page.
const PAGE: &str = include_str!("../../../docs/how-to/authority_kept_off.md");
/// The section whose transcript it is.
const SECTION: &str = "## Without packages";

/// Runs the commands as they are typed; starts what the text says is started in between.
fn run_all(shown: &str) -> String {
    let mut fleet = Fleet::new(3, &fast(3));
    std::fs::rename(fleet.center.path("pki"), fleet.center.path("pki-of-the-fleet")).unwrap();
    let mut said = String::new();
    let mut started = false;
    for (prompt, command) in transcript::typed(shown) {
        if command == "tfoctl nodes" && !started {
            fleet.serve();
            fleet.hosts.iter().for_each(|host| host.netns().set("ipv4/tcp_fastopen", "3"));
            fleet.start_agents();
            fleet.until_known(3);
            started = true;
        }
        let output = fleet.shell(&format!("{command} 2>&1"));
        assert!(output.status.success(), "{command}: {}", stdout(&output));
        write!(said, "{prompt}{command}\n{}", stdout(&output)).unwrap();
    }
    let well = || fleet.hosts.iter().all(|host| host.status()["state"] == "ok");
    assert!(poll_until(PATIENCE, well));
    assert!(fleet.agreed().contains(','), "it has rotated: {}", fleet.agreed());
    // Nodes that join with keys of their own, a first key and a rotation are no alarm, not even for a moment.
    let log = fleet.log();
    assert!(log.contains("kind=agree") && !log.contains("severity=critical"), "{log}");
    said
}

#[test]
fn the_page_shows_what_is_printed() {
    skip_unless!(need_netns());
    let shown = transcript::below(PAGE, SECTION);
    let said = run_all(shown);
    assert_eq!(transcript::plain(shown), transcript::plain(&said), "as it printed now:\n{said}");
}
