//! Tables and screens on terminals of different sizes: what is shown first, what is left out, and that nothing is hidden
//! without a word.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};

use super::fake::{Operator, ago, node, pool, three};
use tfo_testbed::signal::send;
use tfo_testbed::terminal::terminal;
use tfo_testbed::{SOON, poll_some, poll_until};

/// A program on a terminal of its own.
struct OnTerminal {
    child: Child,
    ours: File,
    /// Its end, to look at its modes.
    theirs: File,
    shown: String,
}

impl OnTerminal {
    fn start(mut command: Command, columns: u16, lines: u16) -> Self {
        let (ours, theirs) = terminal();
        resize(&theirs, columns, lines);
        let [stdin, stdout, stderr] = [(); 3].map(|()| Stdio::from(theirs.try_clone().unwrap()));
        let child = command.stdin(stdin).stdout(stdout).stderr(stderr).env("TERM", "xterm").spawn().unwrap();
        Self { child, ours, theirs, shown: String::new() }
    }

    /// Reads until `text` is there, and forgets what came before its end.
    fn until(&mut self, text: &str) -> String {
        let (mut bytes, pause) = ([0; 4096], Timespec { tv_sec: 0, tv_nsec: 0 });
        let found = poll_some(SOON, || {
            while poll(&mut [PollFd::new(&self.ours, PollFlags::IN)], Some(&pause)) == Ok(1) {
                // EIO: no program is at its other end any more.
                let Ok(count @ 1..) = self.ours.read(&mut bytes) else { break };
                self.shown += &String::from_utf8_lossy(&bytes[..count]);
            }
            self.shown.find(text)
        });
        let at = found.unwrap_or_else(|| panic!("{text} is not shown: {:?}", self.shown));
        let rest = self.shown.split_off(at + text.len());
        std::mem::replace(&mut self.shown, rest)
    }

    fn press(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.theirs).unwrap().local_modes.contains(LocalModes::ECHO | LocalModes::ICANON)
    }

    /// Waits for its end; gives the exit code.
    fn ended(&mut self) -> Option<i32> {
        let ended = poll_until(SOON, || self.child.try_wait().unwrap().is_some());
        assert!(ended, "it does not end: {}", self.shown);
        self.child.wait().unwrap().code()
    }
}

fn resize(terminal: impl AsFd, columns: u16, lines: u16) {
    tcsetwinsize(terminal, Winsize { ws_col: columns, ws_row: lines, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

/// What a command shows on a terminal that is so wide: lines without the terminal's carriage returns.
fn on_terminal(mut command: Command, columns: u16) -> String {
    let (mut ours, theirs) = terminal();
    resize(&theirs, columns, 50);
    let mut child =
        command.stdin(Stdio::null()).stdout(theirs).stderr(Stdio::inherit()).env("TERM", "xterm").spawn().unwrap();
    drop(command);
    // A terminal without a program at its end cannot be read: EIO.
    let (mut shown, mut bytes) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = ours.read(&mut bytes) {
        shown.extend_from_slice(&bytes[..count]);
    }
    assert!(child.wait().unwrap().success());
    String::from_utf8(shown).unwrap().replace('\r', "")
}

/// One of each state, in an order that is not that of the table.
fn mixed() -> Value {
    let name = |name: &str| format!("{name}.cache.example.org");
    let behind = |state: &str| json!({"state": state, "behind_since": ago(5 * 3_600 + 600), "last_report_at": ago(2 * 3_600 + 600), "generation": 11});
    let reported = |with: Value| {
        let mut with = with;
        with["last_report_at"] = ago(2 * 3_600 + 600);
        with
    };
    json!([
        node(&name("a-converged"), reported(json!({"connected": true, "connected_since": ago(3 * 86_400)}))),
        node(
            &name("b-disconnected"),
            reported(json!({"state": "disconnected", "connected": false, "connected_since": ago(3 * 3_600 + 600)}))
        ),
        node(&name("c-straggler"), behind("straggler")),
        node(&name("d-failed"), reported(json!({"state": "failed", "error": "sysctl_write_refused_by_the_kernel"}))),
        node(&name("e-excluded"), reported(json!({"state": "excluded", "excluded": "operator"}))),
        node(&name("f-denied"), reported(json!({"state": "denied"}))),
        node(&name("g-silent"), behind("silent")),
        node(&name("h-drifted"), behind("drifted")),
        node(&name("i-oneslot"), reported(json!({"state": "one_slot", "backup": null}))),
        node(&name("j-reporting"), reported(json!({"state": "reporting", "source": "derive"}))),
    ])
}

#[test]
fn a_table_fits_its_terminal_and_the_worst_comes_first() {
    let (operator, _coordinator) = Operator::with(&pool(json!({"required": 7, "converged": 1})), &mixed());
    let all = || operator.command(&["nodes", "--all"]);
    for columns in [80, 150] {
        let mut plain = all();
        plain.env("NO_COLOR", "1");
        let shown = on_terminal(plain, columns);
        let longest = shown.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= usize::from(columns), "{longest} columns of {columns}:\n{shown}");
        insta::assert_snapshot!(format!("nodes_at_{columns}"), shown);
    }
    let names = |shown: &str| -> Vec<char> {
        shown.lines().filter(|line| line.contains(".cache.")).filter_map(|line| line.chars().next()).collect()
    };
    let everything = operator.ok(&["nodes", "--all"]);
    assert_eq!(names(&everything), ['d', 'h', 'c', 'g', 'b', 'e', 'f', 'i', 'j', 'a'], "{everything}");
    assert!(everything.contains("sysctl_write_refused_by_the_kernel"), "off a terminal nothing is cut: {everything}");
    assert_eq!(names(&operator.ok(&["nodes"])), ['d', 'h', 'c', 'g', 'b', 'e', 'f'], "what needs attention");
    assert!(on_terminal(all(), 80).contains("\u{1b}[31mfailed\u{1b}[39m"), "in colour");
    let mut dumb = all();
    dumb.env("NO_COLOR", "");
    assert!(on_terminal(dumb, 80).contains("\u{1b}[31mfailed"), "an empty NO_COLOR says nothing");
    let mut no_color = all();
    no_color.env("NO_COLOR", "1");
    assert!(!on_terminal(no_color, 80).contains('\u{1b}'));
}

#[test]
fn a_thousand_nodes_are_filtered_sorted_and_counted() {
    let late = |n: u64| json!({"state": "straggler", "behind_since": ago(60 * n), "last_report_at": ago(n)});
    let one = |n: u64| {
        let with = if n % 100 == 7 { late(n) } else { json!({"last_report_at": ago(n)}) };
        node(&format!("node{n:05}.test"), with)
    };
    let nodes: Value = (0..1_000).map(one).collect();
    let (operator, _coordinator) = Operator::with(&pool(json!({"required": 1_000, "converged": 990})), &nodes);
    let rows = |arguments: &[&str]| -> Vec<String> {
        let shown = operator.ok(&[&["nodes"], arguments].concat());
        shown.lines().filter_map(|line| Some(line.strip_prefix("node0")?.split('.').next()?.to_owned())).collect()
    };
    assert_eq!(rows(&[]).len(), 10, "those that need attention");
    assert_eq!(rows(&["--all"]).len(), 1_000);
    assert_eq!(rows(&["--limit", "12"])[9..], ["0907", "0000", "0001"], "the worst first, then by name");
    assert_eq!(rows(&["--sort", "name"]).len(), 20);
    assert_eq!(rows(&["--sort", "behind", "--limit", "2"]), ["0907", "0807"]);
    assert_eq!(rows(&["--sort", "last-report", "--limit", "2"]), ["0999", "0998"]);
    assert_eq!(rows(&["--match", "node0000*", "--match", "node00010.*"]).len(), 11);
    assert_eq!(rows(&["--state", "straggler,failed", "--match", "node001*"]), ["0107"]);
    let shown = operator.ok(&["nodes", "--state", "converged"]);
    assert!(shown.ends_with("20 of 990 nodes; --all lists every node, --limit N more, --state and --match fewer\n"));
    assert!(operator.ok(&["nodes", "--state", "denied"]).ends_with("no node fits\n"));
    // Programs get all of them, or what they ask for, and the counts of all.
    let json = |arguments: &[&str]| operator.json(&[&["nodes"], arguments].concat(), 0);
    assert_eq!(json(&[])["nodes"].as_array().unwrap().len(), 1_000);
    let filtered = json(&["--state", "straggler", "--sort", "behind", "--limit", "1"]);
    assert_eq!(
        (&filtered["nodes"][0]["node"], &filtered["fingerprints"][0]["nodes"]),
        (&json!("node00907.test"), &json!(1_000))
    );
    for wrong in [["--state", "broken"], ["--match", "UPPER"], ["--sort", "age"], ["--limit", "-1"]] {
        operator.ends(&[&["nodes"][..], &wrong].concat(), 2);
    }
    operator.ends(&["nodes", "node00001.test", "--all"], 2);
}

#[test]
fn one_node_has_a_page() {
    let until = tfo_model::time::UnixTime::from_secs(tfo_testbed::unix_now() + 40 * 86_400 - 3_600);
    let with = json!({
        "state": "excluded", "excluded": "operator", "excluded_until": until, "connected": true,
        "connected_since": ago(2 * 3_600 + 600), "certificate_until": until, "error": "boot_order", "behind_since": ago(300),
        "last_report_at": ago(3 * 3_600 + 600)
    });
    let (operator, _coordinator) =
        Operator::with(&pool(json!({})), &json!([node("cp3.test", with), node("cp4.test", json!({}))]));
    let page = operator.ok(&["nodes", "cp3.test"]);
    for part in [
        "node cp3.test\n",
        "state         excluded\n",
        "problem       boot_order\n",
        "(in 39d)",
        "as this coordinator has seen it",
        "(2h ago)",
        "kernel        6.1.0\n",
        "agent         0.1.0\n",
        "tcp_fastopen  3\n",
        "primary       aaaaaaaaaaaaaaaa (7)\n",
        "(3h ago)",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(operator.ok(&["nodes", "cp4.test"]).contains("connected     unknown: it asks by a timer"));
    assert_eq!(operator.json(&["nodes", "cp4.test"], 0)["nodes"][0]["node"], "cp4.test");
    let (_, stderr) = operator.ends(&["nodes", "cp3"], 1);
    assert!(stderr.contains("has no node cp3") && stderr.contains("did you mean cp3.test?"), "{stderr}");
}

/// Forty nodes that are behind.
fn forty() -> Value {
    (1..=40).map(|n| node(&format!("n{n:02}.test"), json!({"state": "straggler"}))).collect()
}

#[test]
fn watch_scrolls_says_what_it_hides_and_gives_the_terminal_back() {
    let (operator, _coordinator) = Operator::with(&pool(json!({"required": 40, "converged": 0})), &forty());
    let mut screen = OnTerminal::start(operator.command(&["watch", "--interval", "1h"]), 80, 15);
    // 15 lines: seven above the table, its heading, the rows, the foot.
    let first = screen.until("nodes 1-7 of 40");
    assert!(first.contains("\u{1b}[?1049h") && first.contains("n01.test") && first.contains("n07.test"), "{first}");
    assert!(!first.contains("n08.test"), "{first}");
    assert!(!screen.echoes(), "keys are not shown");
    screen.press("\u{1b}[6~");
    assert!(screen.until("nodes 8-14 of 40").contains("n14.test"));
    screen.press("jj\u{1b}[A");
    screen.until("nodes 9-15 of 40");
    screen.press("G");
    assert!(screen.until("nodes 34-40 of 40").contains("n40.test"));
    screen.press("g");
    screen.until("nodes 1-7 of 40");
    // Another size: the kernel tells only the foreground of a session.
    resize(&screen.theirs, 60, 20);
    send(screen.child.id(), Signal::WINCH);
    // The line about the pool takes two now.
    screen.until("nodes 1-11 of 40");
    resize(&screen.theirs, 60, 4);
    send(screen.child.id(), Signal::WINCH);
    screen.until("lines above hidden: enlarge the terminal");
    screen.press("q");
    screen.until("\u{1b}[?1049l");
    assert_eq!((screen.ended(), screen.echoes()), (Some(0), true));
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut screen = OnTerminal::start(operator.command(&["watch", "--interval", "1h"]), 80, 15);
        screen.until("nodes 1-7 of 40");
        send(screen.child.id(), signal);
        screen.until("\u{1b}[?1049l");
        assert_eq!((screen.ended(), screen.echoes()), (Some(0), true), "{signal:?}");
    }
}

#[test]
fn watch_shows_an_outage_above_what_it_saw() {
    let (operator, mut coordinator) = Operator::with(&pool(json!({})), &three());
    let mut screen = OnTerminal::start(operator.command(&["watch", "--interval", "1s"]), 80, 24);
    screen.until("no node is behind");
    coordinator.stop();
    screen.until("lost since ");
    assert!(screen.until("no node is behind").contains("error: "));
    screen.press("q");
    assert_eq!(screen.ended(), Some(0));
}
