//! What stands between agent and coordinator and cuts connections on which no data passes: the agent finds out how long a request
//! may wait.

use std::time::Duration;

use crate::contact::install::Site;
use crate::start_ready;
use serde_json::Value;
use tfo_testbed::fake_coordinator::{source, told};
use tfo_testbed::proxy::{Mode, Proxy};
use tfo_testbed::{PATIENCE, by_size, need_netns, poll_until, skip_unless};

/// The longest hold that the agents ask for: a twelfth of the default, as are the times after which the path cuts.
const WAIT_SECS: u64 = 24;

/// The holds that an agent asks for on a path that cuts after so long, until it was held three times over one connection.
fn asked_for(cut_after: Duration) -> Vec<u64> {
    let site = Site::new();
    let address = site.coordinator.address().parse().unwrap();
    let proxy = site.host.netns().run(|| Proxy::before(address));
    proxy.set(Mode::CutIdle(cut_after));
    site.coordinator.tell(told(4, "steady", 1, Some(2)));
    let wait = format!("wait = \"{WAIT_SECS}s\"");
    site.host.configure(&source(&site.host, &[proxy.url()], &wait), "verify_interval = \"60s\"");
    let mut daemon = start_ready(&site.host);
    let is_settled = || {
        let asked = site.coordinator.asked();
        let last: Vec<_> =
            asked.iter().rev().take(4).map(|asked| (asked.connection, asked.body["wait_secs"].clone())).collect();
        last.len() == 4 && last[0].1.as_u64() > Some(0) && last.iter().all(|asked| *asked == last[0])
    };
    assert!(poll_until(2 * PATIENCE, is_settled), "{:?}", waits(&site));
    assert_eq!(site.status("connected", |status| status["contact"] == "connected")["error"], Value::Null);
    daemon.stop();
    waits(&site)
}

/// The holds that were asked for, without those that ask at once.
fn waits(site: &Site) -> Vec<u64> {
    let asked = site.coordinator.asked();
    asked.iter().filter_map(|asked| asked.body["wait_secs"].as_u64()).filter(|secs| *secs > 0).collect()
}

#[test]
fn an_agent_asks_for_what_its_path_bears() {
    skip_unless!(need_netns());
    // 25 s, 50 s and 350 s, in a twelfth of the time: the second and the third where there is time for them.
    let paths = by_size(
        [Some((2, 1)), None, None],
        [Some((2, 1)), Some((4, 2)), None],
        [Some((2, 1)), Some((4, 2)), Some((29, 24))],
    );
    let paths = paths.into_iter().flatten().map(|(cut_secs, bears_secs)| {
        std::thread::spawn(move || (bears_secs, asked_for(Duration::from_secs(cut_secs))))
    });
    for path in paths.collect::<Vec<_>>() {
        let (bears_secs, asked) = path.join().unwrap();
        let settled = asked.iter().position(|secs| *secs == bears_secs).expect("it comes to that");
        let (before, after) = asked.split_at(settled);
        // One cut may be a restart; the second one is the path's.
        let cuts = if bears_secs == WAIT_SECS { 0 } else { 2 };
        assert_eq!(before, vec![WAIT_SECS; cuts], "{asked:?}");
        assert!(after.iter().all(|secs| *secs == bears_secs), "{asked:?}");
    }
}
