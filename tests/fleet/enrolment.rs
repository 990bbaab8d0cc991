//! Nodes that join a real coordinator by a token, in the middle of a rotation, and renew what they got.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

use tfo_host::kernel::netstat::{NETSTAT_PATH, TfoCounters};
use tfo_testbed::cable::Running;

use tfo_testbed::config::fast;
use tfo_testbed::daemon::PYTHON;
use tfo_testbed::fake_coordinator::renewing;
use tfo_testbed::fleet::{Fleet, URL, node};
use tfo_testbed::output::{said, stdout};
use tfo_testbed::pki::{Ca, DAY, Leaf};
use tfo_testbed::{PATIENCE, by_size, ip, need_netns, poll_until, skip_unless};

/// One address that all nodes serve, as anycast does.
const SERVICE: &str = "10.97.0.1";
const PORT: &str = "4242";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testbed/tfo.py");

/// Hosts without certificates, and a coordinator that has the authority's key; certificates live for so long.
fn fleet(count: usize, expected: usize, lifetime: &str) -> Fleet {
    let mut fleet = Fleet::new(count, &fast(expected));
    let pki = fleet.center.path("pki");
    let enrolment = format!(
        "[enrolment]\nlisten = \"10.99.0.1:9444\"\nca_cert = \"{pki}/ca.crt\"\nca_key = \"{pki}/ca.key\"\nnode_lifetime = \
         {lifetime:?}\n",
        pki = pki.display()
    );
    let config = fs::read_to_string(fleet.center.path("coordinator.toml")).unwrap();
    fleet.center.put("coordinator.toml", format!("{enrolment}{config}").as_bytes(), 0o644);
    for host in &fleet.hosts {
        for name in ["node.crt", "node.key", "ca.crt"] {
            fs::remove_file(host.path(name)).unwrap();
        }
        host.configure(&renewing(host, &[URL.to_owned()]), "verify_interval = \"1s\"");
    }
    fleet.serve();
    fleet
}

/// A token for the pool, as an operator makes it.
#[track_caller]
fn token(fleet: &Fleet, uses: usize, more: &[&str]) -> String {
    let uses = uses.to_string();
    let (token, _) = fleet.ends(&[&["token", "create", "--expires", "1h", "--uses", &uses], more].concat(), 0);
    token
}

fn join(fleet: &Fleet, number: usize, token: &str) -> Output {
    let host = &fleet.hosts[number];
    host.put("token", token.as_bytes(), 0o400);
    let file = host.text_path("token");
    host.run("join", &["--name", &node(number), "--token-file", &file, "--format", "json"])
}

#[track_caller]
fn joins(fleet: &Fleet, number: usize, token: &str) -> Value {
    let output = join(fleet, number, token);
    assert_eq!(output.status.code(), Some(0), "{}\n{}", said(&output), fleet.log());
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// Lets a node serve the address.
fn serve(fleet: &Fleet, number: usize) -> Running {
    let netns = fleet.hosts[number].netns();
    netns.set("ipv4/tcp_fastopen", "2");
    netns.ip(&format!("addr add {SERVICE}/32 dev lo"));
    let mut server = netns.command(PYTHON);
    server.args([SCRIPT, "serve", PORT]).stdout(Stdio::piped());
    let mut server = Running(server.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    server
}

/// Cookies that a node has accepted and rejected.
fn counted(fleet: &Fleet, number: usize) -> (u64, u64) {
    let text = fleet.hosts[number].netns().run(|| fs::read_to_string(NETSTAT_PATH)).unwrap();
    let counters = TfoCounters::parse(&text);
    let of = |name: &str| counters.get(name).unwrap_or(0);
    (of("TCPFastOpenPassive"), of("TCPFastOpenPassiveFail"))
}

/// A client with one cookie for all nodes.
struct Client {
    /// Its network namespace.
    at: String,
    visits: AtomicUsize,
}

impl Client {
    /// One connection with data in the SYN, through this node.
    fn visit(&self, number: usize) {
        ip(&format!("-n {} route replace {SERVICE} via 10.99.0.{}", self.at, number + 10));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.at, PYTHON, SCRIPT, "connect", "10.99.0.1", SERVICE, PORT]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        self.visits.fetch_add(1, Ordering::SeqCst);
    }

    /// Visits nodes by turns until it is told to stop.
    fn live(&self, nodes: usize, stop: &AtomicBool) {
        let mut turn = (0..nodes).cycle();
        while !stop.load(Ordering::SeqCst) {
            self.visit(turn.next().unwrap());
        }
    }

    /// Waits until it has come twice more: the cookie that it has is of the present key.
    #[track_caller]
    fn comes_round(&self) {
        let before = self.visits.load(Ordering::SeqCst);
        assert!(poll_until(PATIENCE, || self.visits.load(Ordering::SeqCst) >= before + 2), "the client is gone");
    }
}

/// Tells it when it is dropped: a thread waits for that, also when the test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn pair(fleet: &Fleet, number: usize) -> String {
    fs::read_to_string(fleet.hosts[number].path("node.pem")).unwrap()
}

#[test]
fn many_nodes_join_by_one_token_while_a_rotation_runs_and_renew_by_themselves() {
    skip_unless!(need_netns());
    let count = by_size(10, 10, 100);
    // A hundred nodes on two cores: a life that none of them sleeps through.
    let mut fleet = fleet(count, 3, by_size("20s", "20s", "2m"));
    let token = token(&fleet, count, &[]);
    // A pool without a key: they have joined all the same, and wait for it.
    for number in 0..3 {
        assert_eq!(joins(&fleet, number, &token)["joined"], true);
        fleet.start_agent(number);
    }
    fleet.until_known(3);
    fleet.ends(&["rotate", "--first", "--wait", "--yes", "--timeout", "60s"], 0);
    fleet.ends(&["resume"], 0);
    fleet.converged(3);
    // A client whose cookie must be good everywhere and all the time.
    let mut servers: Vec<Running> = (0..3).map(|number| serve(&fleet, number)).collect();
    let client = Client { at: fleet.center.netns().name().to_owned(), visits: AtomicUsize::new(0) };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = StopAtEnd(&stop);
        let live = scope.spawn(|| client.live(3, &stop));
        client.comes_round();
        // The rest, at once, and a rotation.
        fleet.ends(&["rotate", "--reason", "test"], 0);
        std::thread::scope(|scope| {
            for number in 3..count {
                let (fleet, token) = (&fleet, &token);
                scope.spawn(move || joins(fleet, number, token));
            }
        });
        (3..count).for_each(|number| fleet.start_agent(number));
        fleet.converged(count);
        fleet.agreed();
        client.comes_round();
        // One more than the token is for, and a name that is in force: refused, and nothing changed.
        let output = join(&fleet, 0, &token);
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        // Each renews with a new key, several times, while the next rotation walks over all of them.
        let first: Vec<String> = (0..count).map(|number| pair(&fleet, number)).collect();
        fleet.rotate();
        client.comes_round();
        let renewed = || (0..count).all(|number| pair(&fleet, number) != first[number]);
        assert!(poll_until(by_size(1, 1, 3) * PATIENCE, renewed), "{}", fleet.log());
        fleet.rotate();
        client.comes_round();
        drop(end);
        live.join().unwrap();
    });
    // The cookie of before is good at each node that has joined since.
    for number in 3..count {
        servers.push(serve(&fleet, number));
        client.visit(number);
    }
    let counts: Vec<(u64, u64)> = (0..count).map(|number| counted(&fleet, number)).collect();
    assert!(counts.iter().all(|(accepted, rejected)| *accepted > 0 && *rejected == 0), "{counts:?}");
    let nodes = fleet.json(&["nodes", "--all"]);
    assert!(nodes["nodes"].as_array().unwrap().iter().all(|node| node["note"].is_null()), "{nodes:#}");
    // Who joined, by which token and from where; renewals, too.
    let log = fleet.json(&["audit"])["enrolment"].take();
    let count_of = |action: &str| log.as_array().unwrap().iter().filter(|line| line["action"] == action).count();
    assert_eq!((count_of("token_made"), count_of("enrolled"), count_of("token_used_up")), (1, count, 1), "{log:#}");
    assert!(count_of("renewed") >= count, "{log:#}");
    let joined = log.as_array().unwrap().iter().find(|line| line["nodes"][0] == node(4)).unwrap();
    assert_eq!((&joined["address"], &joined["token"]), (&"10.99.0.14".into(), &token[5..17].into()), "{joined}");
    let verified = fleet.json(&["audit", "--verify"])["enrolment"].take();
    assert_eq!((&verified["whole"], &verified["broken"]), (&true.into(), &Value::Null), "{verified}");
    assert!(verified["entries"].as_u64() >= Some(log.as_array().unwrap().len() as u64), "{verified}");
    drop(servers);
}

#[test]
fn a_node_whose_certificate_has_ended_keeps_its_keys_and_comes_back_with_a_token() {
    skip_unless!(need_netns());
    let fleet = fleet(1, 1, "10s");
    joins(&fleet, 0, &token(&fleet, 1, &[]));
    fleet.ends(&["rotate", "--first", "--yes", "--reason", "test"], 0);
    let host = &fleet.hosts[0];
    host.once_ok();
    let keys = host.kernel();
    let once = || -> Value { serde_json::from_str(&stdout(&host.once(&["--format", "json"]))).unwrap() };
    // Nothing runs that would renew it: neither a daemon nor a timer.
    let ended =
        || stdout(&host.run("check", &["--config-only", "--format", "json"])).contains("tls_certificate_expired");
    assert!(poll_until(PATIENCE, ended), "{}", once());
    let found = once();
    let told =
        found["problems"].as_array().unwrap().iter().find(|problem| problem["kind"] == "tls_certificate_expired");
    assert!(told.unwrap()["remedy"].as_str().unwrap().contains("tfo-agent join"), "{found}");
    assert_eq!((host.kernel(), host.persisted_keys()), (keys.clone(), Some(keys.clone())));
    joins(&fleet, 0, &token(&fleet, 1, &["--replace"]));
    assert_eq!((once()["changed"].as_bool(), host.kernel()), (Some(false), keys));
}

#[test]
fn an_operator_renews_two_files_and_a_run_that_was_cut_off_is_finished() {
    skip_unless!(need_netns());
    let mut fleet = fleet(0, 1, "30d");
    let home = fleet.center.path("");
    let path = |name: &str| home.join(name);
    let [cert, key, next] = ["operator.crt", "operator.key", "operator.crt.next"].map(path);
    let pair = || [&cert, &key].map(|path| fs::read_to_string(path).unwrap());
    let first = pair();
    let early = fleet.json(&["renew", "--if-needed"]);
    assert_eq!((&early["renewed"], pair()), (&Value::from(false), first.clone()));
    let renewed = fleet.json(&["renew"]);
    assert_eq!((&renewed["renewed"], &renewed["name"]), (&Value::from(true), &Value::from("ops1.example.org")));
    let second = pair();
    assert!(second[0] != first[0] && second[1] != first[1] && !next.exists(), "another key each time");
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o400);
    fleet.ends(&["pools"], 0);
    // Cut off between the two files: neither pair is whole, and the new one is still beside them.
    fs::write(&next, second.concat()).unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o400)).unwrap();
    fs::write(&cert, &first[0]).unwrap();
    let (_, said) = fleet.ends(&["pools"], 2);
    assert!(said.contains("a renewal of this certificate was cut off") && said.contains("tfoctl renew"), "{said}");
    let (said, _) = fleet.ends(&["renew"], 0);
    assert!(said.contains("an earlier run was cut off"), "{said}");
    assert!(pair() == second && !next.exists());
    fleet.ends(&["pools"], 0);
    // Its end nears: said in the last week, and not before.
    let authority = [path("pki/ca.crt"), path("pki/ca.key")].map(|file| fs::read_to_string(file).unwrap()).concat();
    fleet.center.put("authority.pem", authority.as_bytes(), 0o600);
    let authority = Ca::load(&path("authority.pem"));
    for (days, is_said) in [(8, false), (6, true)] {
        let client = Leaf::client(&["ops1.example.org"]);
        let leaf = Leaf { from_secs: -83 * DAY, until_secs: days * DAY, ..client };
        authority.issue(&leaf).write(&home, "operator");
        let (_, said) = fleet.ends(&["pools"], 0);
        assert_eq!(said.contains("`tfoctl renew`"), is_said, "{days} days: {said}");
    }
    // A coordinator that is away: the old pair stays.
    let old = pair();
    fleet.stop();
    let (_, said) = fleet.ends(&["renew"], 1);
    assert!(said.contains("unreachable") || said.contains("cannot reach") || said.contains("refused"), "{said}");
    assert!(pair() == old && !next.exists());
    let config = fs::read_to_string(path(".config/tfo-fleet/ctl.toml")).unwrap();
    let lines = config.lines().map(|line| if line.starts_with("key") { "key = \"credential:key\"" } else { line });
    fs::write(path(".config/tfo-fleet/ctl.toml"), lines.collect::<Vec<_>>().join("\n")).unwrap();
    let (_, said) = fleet.ends(&["renew"], 2);
    assert!(said.contains("is a credential of systemd"), "{said}");
}
