//! `tfo-demo` as its user runs it: the real binary, real namespaces, real agents.
//!
//! Each test also looks at the host before and after: nothing may be left, and nothing may have changed.  So there is one demo
//! at a time.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tfo_testbed::skip_unless;

/// Longest time for two rotations, the way to the first one, and the set-up, beside other tests.
const RUN_MAX: Duration = Duration::from_secs(120);
/// Longest time for everything to be gone after the end.
const GONE_MAX: Duration = Duration::from_secs(20);

/// An ordinary user.
const NOBODY: &str = "65534";

fn demo_path() -> &'static Path {
    Path::new(tfo_testbed::program("tfo-demo"))
}

/// Everything on the host that a demo could leave or change, one line each.
struct Host(BTreeSet<String>);

impl Host {
    fn look() -> Self {
        let mut seen = BTreeSet::new();
        for dir in ["/sys/class/net", "/run", "/run/netns", "/etc/sysctl.d"] {
            let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
            seen.extend(names.map(|path| path.display().to_string()));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
        seen.extend(mounts.lines().map(|line| format!("mount {line}")));
        for sysctl in ["tcp_fastopen", "tcp_fastopen_key", "ip_forward", "fib_multipath_hash_policy"] {
            // Hashed, for it may be the key of a host in service.
            let mut hasher = DefaultHasher::new();
            fs::read(format!("/proc/sys/net/ipv4/{sysctl}")).ok().hash(&mut hasher);
            seen.insert(format!("{sysctl} with hash {:x}", hasher.finish()));
        }
        seen.extend(fleet_processes());
        // Other tests may run beside this one: /run/netns itself, and the namespaces of `tfo_testbed::NetNs`.
        seen.retain(|line| {
            !(line.ends_with("/run/netns") || line.contains("/run/netns ") || line.contains("/run/netns/tfo-test-"))
        });
        Self(seen)
    }

    /// Fails the test if there is soon still something that was not there before.
    fn assert_nothing_is_left(&self) {
        let left = || -> Vec<String> { Self::look().0.difference(&self.0).cloned().collect() };
        if !tfo_testbed::poll_until(GONE_MAX, || left().is_empty()) {
            assert_eq!(left(), Vec::<String>::new());
        }
    }
}

/// Command lines of all processes that belong to a demo's inside.
fn fleet_processes() -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let command_lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let mut found: Vec<String> = command_lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.starts_with("tfo-demo-fleet ") || line.contains(" /run/tfo-demo/"))
        .collect();
    found.sort();
    found
}

/// A demo that runs; killed if the test ends before it does.
struct Demo {
    child: Child,
    directory: tempfile::TempDir,
}

struct Ended {
    status: ExitStatus,
    lines: Vec<String>,
    errors: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct LastLine {
    rotations: u64,
    connections: u64,
    accepted: u64,
    rejected: u64,
    passive_fail: Option<u64>,
    /// The run without staging, of `--naive`.
    naive: Option<Box<LastLine>>,
}

impl Demo {
    fn start(command: &mut Command) -> Self {
        let directory = tfo_testbed::scratch();
        let output = |name: &str| fs::File::create(directory.path().join(name)).expect("a scratch file");
        command.stdin(Stdio::null()).stdout(output("out")).stderr(output("err"));
        Self { child: command.spawn().expect("the program starts"), directory }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).expect("a scratch file of text")
    }

    fn signal(&self, signal: Signal) {
        tfo_testbed::signal::send(self.child.id(), signal);
    }

    /// Waits until the clients' first cookies are seen to be accepted.
    fn wait_for_clients(&self) {
        let up = || self.read("out").contains("accepted 100") && fleet_processes().len() > 2;
        assert!(tfo_testbed::poll_until(RUN_MAX, up), "{}{}", self.read("out"), self.read("err"));
    }

    fn end(mut self) -> Ended {
        let status = tfo_testbed::poll_some(RUN_MAX, || self.child.try_wait().expect("it is our child"));
        let status = status.unwrap_or_else(|| panic!("it does not end: {}{}", self.read("out"), self.read("err")));
        let lines = self.read("out").lines().map(str::to_owned).collect();
        Ended { status, lines, errors: self.read("err") }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Usually it has ended; killing the outer process kills all of it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Ended {
    fn last_line(&self) -> LastLine {
        let line = self.lines.last().unwrap_or_else(|| panic!("no output; {}", self.errors));
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}\n{}", self.errors))
    }

    fn assert_all_accepted(&self, rotations: u64) {
        let line = self.last_line();
        let told = format!("{}\n{}", self.lines.join("\n"), self.errors);
        assert_eq!(self.status.code(), Some(0), "{told}");
        assert_eq!((line.rotations, line.rejected, line.passive_fail), (rotations, 0, Some(0)), "{told}");
        assert!(line.connections > 500, "{told}");
        // 48 clients ask once for a cookie; hardly any packet is lost in a machine.
        assert!(line.accepted > line.connections * 95 / 100, "{told}");
        if line.naive.is_none() {
            let sentence =
                format!("0 of {} connections lost their cookie in {rotations} rotations", grouped(line.connections));
            assert_eq!(self.lines[self.lines.len() - 2], sentence);
        }
    }
}

/// `13 306`.
fn grouped(number: u64) -> String {
    let thousands = |number: u64| format!("{} {:03}", number / 1_000, number % 1_000);
    if number < 1_000 { number.to_string() } else { thousands(number) }
}

/// A program as an ordinary user runs it.
fn as_nobody(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(program).current_dir("/");
    // As on Debian, where an ordinary user's PATH has no sbin.
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command
}

/// A copy of the demo that every user can run.
fn open_copy() -> (tempfile::TempDir, PathBuf) {
    let directory = tfo_testbed::scratch();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let copy = directory.path().join("tfo-demo");
    fs::copy(demo_path(), &copy).expect("room for a copy");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("it is ours");
    (directory, copy)
}

/// True if an ordinary user may make namespaces here; otherwise skips.
#[track_caller]
fn need_user_namespaces() -> bool {
    let mut command = as_nobody(Path::new("unshare"));
    command.args(["--user", "--map-root-user", "--net", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    let allowed = command.status().is_ok_and(|status| status.success());
    if !allowed {
        tfo_testbed::skip("an ordinary user may not make user namespaces here");
    }
    allowed
}

#[test]
fn root_sees_every_connection_accepted_through_two_rotations() {
    skip_unless!(tfo_testbed::need_root() && tfo_testbed::need_tool("ip"));
    let (_alone, host) = (tfo_testbed::alone("demo"), Host::look());
    let demo = Demo::start(Command::new(demo_path()).args(["--nodes", "4", "--rotations", "2"]));
    let ended = demo.end();
    ended.assert_all_accepted(2);
    let all = ended.lines.join("\n");
    for part in ["first_key -> steady g1", "rotate -> staged g2", "promote -> promoted g3", "settle -> steady g3"] {
        assert!(all.contains(&format!("coordinator: {part}")), "{part}: {all}");
    }
    assert!(all.contains(" steady g1: 4 nodes ["), "{all}");
    host.assert_nothing_is_left();
}

#[test]
fn three_coordinators_on_an_etcd_lose_one_in_a_rotation_and_no_cookie() {
    skip_unless!(need_user_namespaces() && tfo_testbed::need_tool("etcd"));
    let (_alone, host, (_directory, copy)) = (tfo_testbed::alone("demo"), Host::look(), open_copy());
    let words = ["--coordinators", "3", "--nodes", "6", "--rotations", "2"];
    let ended = Demo::start(as_nobody(&copy).args(words)).end();
    ended.assert_all_accepted(2);
    let all = ended.lines.join("\n");
    let place = |part: &str| all.find(part).unwrap_or_else(|| panic!("{part}: {all}"));
    let told = [
        "starting etcd and 3 coordinators",
        "tfo3 is killed in the middle",
        "ended without tfo3",
        "rotate -> staged g4",
        "promote -> promoted g5",
    ];
    let places: Vec<usize> = told.into_iter().map(place).collect();
    assert!(places.is_sorted(), "{places:?}: {all}");
    assert!(all.contains("keys: coordinators on an etcd"), "{all}");
    host.assert_nothing_is_left();
}

#[test]
fn an_ordinary_user_sees_the_same_on_a_screen() {
    skip_unless!(need_user_namespaces() && tfo_testbed::need_tool("script"));
    let (_alone, host, (_directory, copy)) = (tfo_testbed::alone("demo"), Host::look(), open_copy());
    let shell = format!("stty cols 110 rows 40; exec {} --nodes 4 --rotations 2", copy.display());
    let mut terminal = as_nobody(Path::new("script"));
    terminal.args(["--quiet", "--flush", "--return", "--command", &shell, "/dev/null"]);
    // It does not pass signals on: a test that ends early must not wait for it.
    let ended = Demo::start(terminal.env("SHELL", "/bin/sh").env("TERM", "xterm-256color")).end();
    assert_eq!(ended.status.code(), Some(0), "{}\n{}", ended.lines.join("\n"), ended.errors);
    let screen = without_escapes(&ended.lines.join("\n"));
    // A person gets a sentence; the line of numbers is for pipes.
    let last = screen.trim_end().lines().next_back().unwrap();
    assert!(last.starts_with("0 of ") && last.ends_with(" connections lost their cookie in 2 rotations"), "{screen}");
    assert!(!screen.contains("\"rotations\""), "{screen}");
    for part in [
        "tfo-demo: 4 nodes behind 10.10.10.10 and fd00:10::10, keys: coordinator, 48 clients",
        "verdict     ok: 4 nodes accept each other's cookies",
        "pool        steady g1, 4 of 4 nodes have it",
        "pool        promoted g3, wave 1 of 2, ",
        "pool        steady g5, 4 of 4 nodes have it",
        "waits for   health",
        "rotations   2 of 2",
        " 100.00 %",
        "rejected    0 ",
        "PassiveFail 0 ",
        "PassiveFail  rejected cookies, as the nodes' kernels count them",
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    // How many nodes the first wave has differs from run to run.
    assert!(["1 node      primary ", "2 nodes     primary "].iter().any(|part| screen.contains(part)), "{screen}");
    assert!(ended.lines.iter().any(|line| line.contains("\u{1b}[32m0\u{1b}[")), "good figures are green");
    host.assert_nothing_is_left();
}

/// What a terminal was sent, without colours and movements.
fn without_escapes(sent: &str) -> String {
    let mut parts = sent.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').get(1..).unwrap_or_default()
    })
}

#[test]
fn derived_keys_rotate_without_a_coordinator() {
    skip_unless!(need_user_namespaces());
    let (_alone, host, (_directory, copy)) = (tfo_testbed::alone("demo"), Host::look(), open_copy());
    let words = ["--source", "derive", "--nodes", "4", "--rotations", "2"];
    let ended = Demo::start(as_nobody(&copy).args(words)).end();
    ended.assert_all_accepted(2);
    let agreed = |phase: &str| ended.lines.iter().any(|line| line.contains(&format!(" {phase}: 4 nodes [")));
    assert!(agreed("steady") && agreed("staged"), "{}", ended.lines.join("\n"));
    host.assert_nothing_is_left();
}

#[test]
fn naive_rotations_lose_cookies_and_staged_ones_beside_them_none() {
    skip_unless!(need_user_namespaces());
    let (_alone, host, (_directory, copy)) = (tfo_testbed::alone("demo"), Host::look(), open_copy());
    let ended = Demo::start(as_nobody(&copy).args(["--naive", "--nodes", "4", "--rotations", "2"])).end();
    ended.assert_all_accepted(2);
    let (all, line) = (ended.lines.join("\n"), ended.last_line());
    let naive = line.naive.expect("it ran first");
    // Every client has a cookie of the replaced key, which no node knows any more.
    assert!(naive.rotations == 2 && naive.rejected >= 48 && naive.passive_fail >= Some(48), "{all}");
    let sentence = format!(
        "naive: {} of {} connections lost their cookie; staged: 0 of {}",
        grouped(naive.rejected),
        grouped(naive.connections),
        grouped(line.connections)
    );
    let end = &ended.lines[ended.lines.len() - 9..];
    assert_eq!(end[7], sentence, "{all}");
    let row = |line: &str| {
        line.split("  ").map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row(&end[0]), ["naive", "staged"], "{all}");
    assert_eq!(row(&end[4]), ["rejected".to_owned(), grouped(naive.rejected), "0".to_owned()], "{all}");
    // Two fleets, and the second knows nothing of the first.
    assert!(all.contains("keys: naive (") && all.contains("keys: coordinator, "), "{all}");
    assert!(all.contains("coordinator: first_key -> steady g1"), "{all}");
    host.assert_nothing_is_left();
    // Ended in the first part, it compares nothing.
    let demo = Demo::start(as_nobody(&copy).args(["--naive", "--nodes", "2", "--rotations", "1000"]));
    assert!(
        tfo_testbed::poll_until(RUN_MAX, || demo.read("out").contains("; rotations 1 of 1000; ")),
        "{}",
        demo.read("out")
    );
    demo.signal(Signal::INT);
    let ended = demo.end();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
    assert!(ended.errors.contains("the naive rotations did not come to their end"), "{}", ended.errors);
    host.assert_nothing_is_left();
}

#[test]
fn ctrl_c_ends_a_kept_demo_in_order_and_its_page_shows_it_until_then() {
    skip_unless!(need_user_namespaces());
    let (_alone, host, (_directory, copy)) = (tfo_testbed::alone("demo"), Host::look(), open_copy());
    let demo = Demo::start(as_nobody(&copy).args(["--nodes", "2", "--keep", "--page"]));
    demo.wait_for_clients();
    // From outside of its namespaces.
    let out = demo.read("out");
    let address = out.split("The coordinator's page: http://").nth(1).and_then(|rest| rest.split('/').next());
    let address = address.unwrap_or_else(|| panic!("no address: {out}"));
    let page = || {
        let mut stream = TcpStream::connect(address).expect("it listens on the host");
        write!(stream, "GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").expect("it reads");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("a page is text");
        page
    };
    let shows = |part: &str| tfo_testbed::poll_until(RUN_MAX, || page().contains(part));
    assert!(shows("<h1>Pool demo</h1>") && shows("A rotation runs") && shows("were accepted by the primary key"));
    demo.signal(Signal::INT);
    let ended = demo.end();
    let line = ended.last_line();
    assert_eq!((ended.status.code(), line.rejected), (Some(0), 0), "{}", ended.errors);
    host.assert_nothing_is_left();
}

#[test]
fn a_killed_demo_leaves_nothing_behind() {
    skip_unless!(need_user_namespaces());
    let (_alone, host, (_directory, copy)) = (tfo_testbed::alone("demo"), Host::look(), open_copy());
    let mut commands = vec![as_nobody(&copy)];
    if rustix::process::geteuid().is_root() {
        commands.push(Command::new(demo_path()));
    }
    for mut command in commands {
        let demo = Demo::start(command.args(["--nodes", "2", "--keep"]));
        demo.wait_for_clients();
        demo.signal(Signal::KILL);
        assert_eq!(demo.end().status.code(), None);
        host.assert_nothing_is_left();
    }
}

#[test]
fn a_machine_without_ip_etcd_or_user_namespaces_is_told_what_to_do() {
    skip_unless!(tfo_testbed::need_root() && tfo_testbed::need_tool("unshare") && tfo_testbed::need_tool("setpriv"));
    let (_alone, host, demo) = (tfo_testbed::alone("demo"), Host::look(), demo_path().display());
    let without = |program: &str, words: &str| {
        format!(
            "for dir in /usr/local/bin /usr/sbin /sbin /usr/bin /bin; do p=$dir/{program}; [ ! -e $p ] || mount --bind /dev/null $p; done; \
             exec {demo}{words}"
        )
    };
    let without_user_namespaces =
        format!("echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set -all {demo}");
    let cases = [
        ("--mount", without("etcd", " --coordinators 3"), "etcd is not installed", "apt-get install etcd-server"),
        ("--mount", without("ip", ""), "the ip command is not installed", "apt-get install iproute2"),
        ("--map-root-user", without_user_namespaces, "cannot create namespaces", "user.max_user_namespaces"),
    ];
    for (namespace, script, message, remedy) in cases {
        let ended = Demo::start(Command::new("unshare").args([namespace, "sh", "-c", &script])).end();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
        assert!(ended.errors.contains(message) && ended.errors.contains(remedy), "{}", ended.errors);
        assert!(ended.lines.is_empty(), "{:?}", ended.lines);
    }
    host.assert_nothing_is_left();
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for words in [
        &["--nodes", "1"][..],
        &["--source", "random"],
        &["--no-such-switch"],
        &["--page", "--source", "derive"],
        &["--page", "--naive"],
        &["--coordinators", "3", "--source", "derive"],
    ] {
        let ended = Demo::start(Command::new(demo_path()).args(words)).end();
        assert_eq!(ended.status.code(), Some(2), "{}", ended.errors);
    }
}
