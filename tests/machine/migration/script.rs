//! A timer script that writes the agent's own file, as GrapheneOS' does, gives way to a coordinator.

use serde_json::{Value, json};

use super::node::{blocks, kernel, kernels, typed};
use super::{CHANGE, FOREIGN, MANY, NODES, serving};
use tfo_testbed::levers::{Fleet, beside};
use tfo_testbed::poll_until;

const FILE: &str = "/etc/sysctl.d/50-tcp_fastopen_key.conf";

/// The script, its units, and two runs of it, for two days.  The day is a file's: it is the same on all nodes.
fn scripted() -> String {
    format!(
        r#"mkdir -p /etc/local
cat > /etc/local/rotate-keys <<'END'
#!/bin/sh
# A keyed hash of the day becomes the primary, and the primary the backup.
new=$(printf 'our secret %s' "$(cat /run/tfo-test/day)" | sha256sum | sed 's/^\(.\{{8\}}\)\(.\{{8\}}\)\(.\{{8\}}\)\(.\{{8\}}\).*/\1-\2-\3-\4/')
old=$(sed -n 's/^net.ipv4.tcp_fastopen_key *= *\([^,]*\).*/\1/p' {FILE})
echo "net.ipv4.tcp_fastopen_key = $new,${{old:-$new}}" > {FILE}
sysctl -qp {FILE}
END
chmod 755 /etc/local/rotate-keys
printf '[Service]\nExecStart=/etc/local/rotate-keys\n' > /etc/systemd/system/tcp-fastopen-rotate-keys.service
printf '[Timer]\nOnCalendar=daily\n[Install]\nWantedBy=timers.target\n' > /etc/systemd/system/tcp-fastopen-rotate-keys.timer
systemctl enable --now tcp-fastopen-rotate-keys.timer
for day in 1 2; do echo $day > /run/tfo-test/day; /etc/local/rotate-keys; done"#
    )
}

/// The next day, at midnight: every timer that is enabled runs its script.
fn midnight(fleet: &mut Fleet, day: u32) {
    typed(fleet, 1, &format!("echo {day} > /run/tfo-test/day"));
    for node in 1..=NODES {
        typed(
            fleet,
            node,
            "if [ -h /etc/systemd/system/timers.target.wants/tcp-fastopen-rotate-keys.timer ]; then /etc/local/rotate-keys; fi",
        );
    }
}

#[test]
fn a_timer_script_gives_way_to_a_coordinator() {
    beside(|| {
        let mut fleet = serving(&scripted());
        let blocks = blocks("from-timer-script.md");
        let [stop, import, start] = blocks.as_slice() else { panic!("{blocks:?}") };
        fleet.costs("an agent beside the script, on one node", MANY..=u64::MAX, both_write);
        fleet.clients_come_round();
        fleet.costs("the script stopped on one node alone", MANY..=u64::MAX, |fleet| {
            typed(fleet, 1, stop);
            midnight(fleet, 4);
        });
        as_the_others(&mut fleet, 1);
        typed(&mut fleet, 1, "systemctl enable --now tcp-fastopen-rotate-keys.timer");
        fleet.clients_come_round();
        fleet.costs_nothing("from a timer script to a coordinator", |fleet| {
            (1..=NODES).for_each(|node| drop(typed(fleet, node, stop)));
            let before = kernel(fleet, 1);
            // What would be the script's next run.
            midnight(fleet, 5);
            assert_eq!(kernels(fleet, NODES), vec![before.clone(); NODES]);
            to_the_coordinator(fleet, &before, import, start);
            let (primary, _) = before.split_once(',').expect("the script has left a pair");
            let holds = |fleet: &mut Fleet, key: &str| kernels(fleet, NODES).iter().any(|keys| keys.contains(key));
            fleet.rotation();
            assert!(kernels(fleet, NODES).iter().all(|keys| keys.ends_with(&format!(",{primary}"))));
            fleet.rotation();
            assert!(!holds(fleet, primary));
        });
        fleet.end();
    });
}

/// An agent that has the keys of the day before, and runs on while the timer does.
fn both_write(fleet: &mut Fleet) {
    typed(
        fleet,
        1,
        &format!(
            "sed -n 's/^net.ipv4.tcp_fastopen_key *= *//p' {FILE} > /etc/tfo-fleet/keys
             chmod 400 /etc/tfo-fleet/keys
             printf '[source]\\nkind = \"file\"\\npath = \"/etc/tfo-fleet/keys\"\\n[install]\\nverify_interval = \"1s\"\\n' > /etc/tfo-fleet/agent.toml"
        ),
    );
    let said = typed(fleet, 1, "tfo-agent check");
    assert!(said.contains(FOREIGN) && said.contains("/etc/local/rotate-keys:4"), "{said}");
    let before = kernel(fleet, 1);
    typed(fleet, 1, "systemctl enable --now tfo-agent");
    midnight(fleet, 3);
    assert!(poll_until(CHANGE, || kernel(fleet, 1) == before), "the agent has put its keys back");
    assert_ne!(kernel(fleet, 2), before);
    let repaired = || fleet.look()["nodes"]["node1"]["status"]["drift_repairs"].as_u64() > Some(0);
    assert!(poll_until(CHANGE, repaired));
    fleet.clients_come_round();
    typed(fleet, 1, "systemctl disable --now tfo-agent; rm /etc/tfo-fleet/agent.toml");
    as_the_others(fleet, 1);
}

/// Gives a node what another has.
fn as_the_others(fleet: &mut Fleet, node: usize) {
    let keys = kernel(fleet, node + 1);
    typed(fleet, node, &format!("echo 'net.ipv4.tcp_fastopen_key = {keys}' > {FILE}; sysctl -qp {FILE}"));
}

fn to_the_coordinator(fleet: &mut Fleet, keys: &str, import: &str, start: &str) {
    let (read, import) = import.trim_end().rsplit_once('\n').expect("two lines");
    assert_eq!(import, format!("tfoctl import --key-file static.key --expect {NODES}"));
    let taken = typed(fleet, 1, &format!("cd $(mktemp -d); {read}; cat static.key"));
    assert_eq!(taken.trim(), keys);
    let body = json!({"reason": "the keys of today", "keys": taken.trim(), "expect": {"number": NODES}});
    fleet.command("/import", &body);
    for node in 1..=NODES {
        // The configuration of a node of this coordinator, at the places of a real host.
        let here = format!("/run/tfo-test/node{node}");
        typed(
            fleet,
            node,
            &format!(
                "sed 's,^sysctl_file.*,sysctl_file = \"{FILE}\",; s,^runtime_dir.*,runtime_dir = \"/run/tfo-agent\",' {here}/agent.toml > /etc/tfo-fleet/agent.toml"
            ),
        );
        typed(fleet, node, start);
    }
    fleet.converged();
    assert_eq!(kernels(fleet, NODES), vec![keys; NODES], "nothing changes by the import");
    let files = (1..=NODES).all(|node| typed(fleet, node, &format!("head -n 1 {FILE}")).contains("tfo-agent"));
    assert!(files, "the file is the agents' now");
    let held: Value = fleet.pool();
    assert_eq!(held["blocked_by"], "held", "{held:#}");
    fleet.command("/resume", &json!({}));
}
