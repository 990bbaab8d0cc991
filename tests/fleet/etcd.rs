//! Several coordinators on one etcd: each with a name of its own, and none that the fleet needs; and how a fleet comes there,
//! with its clients and as docs/how-to/three_coordinators.md shows it.

use std::fmt::Write as _;
use std::fs;

use tfo_testbed::config::{CoordinatorToml, client_files, fast};
use tfo_testbed::coordinator::Coordinator;
use tfo_testbed::etcd::{Etcd, Plan, need_etcd};
use tfo_testbed::fake_coordinator::source;
use tfo_testbed::fleet::Fleet;
use tfo_testbed::levers::{self, inside};
use tfo_testbed::output::stdout;
use tfo_testbed::{PATIENCE, need_netns, poll_until, program, skip_unless, transcript};

const NODES: usize = 3;

fn url(number: usize) -> String {
    format!("https://10.99.0.1:{}", 9443 + number)
}

/// The coordinators, in directories of their own below the operator's.
struct Coordinators<'a> {
    fleet: &'a Fleet,
    all: Vec<Coordinator>,
}

impl<'a> Coordinators<'a> {
    fn start(fleet: &'a Fleet, etcd: &Etcd, count: usize) -> Self {
        let all = (0..count).map(|number| Coordinator::new(&fleet.center.path(&format!("c{number}")))).collect();
        let mut coordinators = Self { fleet, all };
        (0..count).for_each(|number| {
            coordinators.configure(etcd, number);
            coordinators.spawn(number);
        });
        for number in 0..count {
            coordinators.serves(number);
        }
        coordinators
    }

    fn configure(&self, etcd: &Etcd, number: usize) {
        let (center, dir) = (&self.fleet.center, self.fleet.center.path(""));
        fs::create_dir_all(dir.join(format!("c{number}"))).unwrap();
        let store = format!(
            "kind = \"etcd\"\nurls = {:?}\nca = {:?}\ncert = {:?}\nkey = {:?}\nname = \"tfo{number}\"\nname_lock = {:?}\n",
            etcd.urls(),
            etcd.path("ca.crt"),
            etcd.path("client.crt"),
            etcd.path("client.key"),
            dir.join(format!("c{number}/name.lock")),
        );
        let (api, observe) = (format!("10.99.0.1:{}", 9443 + number), format!("127.0.0.1:{}", 9543 + number));
        let of = CoordinatorToml::of(&dir, api, observe);
        let operators = &["ops1.example.org"];
        let config = CoordinatorToml { identity: "coordinator", crl: Some("crl.pem"), operators, store, ..of };
        // As short as it may be: beats come every two seconds and a half.
        let policy = format!("nodes = [\"cp*.example.org\"]\n{}absent_after = \"30s\"\n", fast(NODES));
        let text = config.with_pools(&format!("[pools.edge]\n{policy}"));
        center.put(&format!("c{number}/coordinator.toml"), text.as_bytes(), 0o644);
    }

    fn spawn(&mut self, number: usize) {
        let mut command = self.fleet.center.command("setpriv");
        let config = self.fleet.center.path(&format!("c{number}/coordinator.toml"));
        command.args(["--pdeathsig", "KILL", program("tfo-coordinator"), "serve", "--config"]).arg(config);
        command.env("TFO_LOG", "debug");
        self.all[number].spawn_by(command);
    }

    /// Waits until it serves.
    #[track_caller]
    fn serves(&mut self, number: usize) {
        let (fleet, coordinator) = (self.fleet, &mut self.all[number]);
        ask(fleet, &[number]);
        let answers = poll_until(PATIENCE, || {
            coordinator.must_run();
            fleet.ctl(&["pools"]).status.success()
        });
        assert!(answers, "{}", coordinator.log());
    }
}

/// Whom the operator asks, in this order.
fn ask(fleet: &Fleet, coordinators: &[usize]) {
    let dir = fleet.center.path("");
    let files = client_files(&dir.join("ca.crt"), &dir.join("operator.crt"), &dir.join("operator.key"));
    let urls: Vec<String> = coordinators.iter().map(|number| url(*number)).collect();
    let text = format!("urls = {urls:?}\npool = \"edge\"\n{files}");
    fleet.center.put(".config/tfo-fleet/ctl.toml", text.as_bytes(), 0o644);
}

/// Each agent knows all coordinators.
fn configure_agents(fleet: &Fleet) {
    for host in &fleet.hosts {
        let urls: Vec<String> = (0..3).map(url).collect();
        let times = "start_timeout = \"20s\"\nwait = \"5s\"\nperiod = \"10s\"";
        host.configure(&source(host, &urls, times), "verify_interval = \"1s\"");
    }
}

#[test]
fn three_coordinators_share_a_rotation_and_one_is_killed_in_it() {
    skip_unless!(need_netns() && need_etcd());
    let mut fleet = Fleet::new(NODES, &fast(NODES));
    configure_agents(&fleet);
    let start = |program: &str| {
        let mut command = fleet.center.command("setpriv");
        command.args(["--pdeathsig", "KILL", program]);
        command
    };
    let etcd = Etcd::new(&Plan { client_certs: true, start: &start, ..Plan::of(1) });
    fleet.start_agents();
    let fleet = fleet;
    let mut coordinators = Coordinators::start(&fleet, &etcd, 3);
    ask(&fleet, &[0, 1, 2]);
    fleet.first_key();
    fleet.converged(NODES);
    let first = fleet.agreed();
    // Started at one that dies at once; the others take it to its end.
    fleet.ends(&["rotate"], 0);
    coordinators.all[0].kill();
    ask(&fleet, &[1, 2]);
    let rotated = |before: &str| {
        let old = before.split(',').next().unwrap().to_owned();
        let is_done = poll_until(PATIENCE, || {
            let kernels: Vec<String> = fleet.hosts.iter().map(|host| host.kernel()).collect();
            kernels.iter().all(|kernel| kernel.ends_with(&format!(",{old}")))
        });
        let logs: Vec<String> = coordinators.all.iter().map(Coordinator::log).collect();
        assert!(is_done, "not rotated: {:#}\n{}", fleet.pool(), logs.join("\n---\n"));
        fleet.converged(NODES);
        fleet.agreed()
    };
    let second = rotated(&first);
    // It comes back under its name, which nothing else has taken, and drives with the others.
    coordinators.spawn(0);
    coordinators.serves(0);
    ask(&fleet, &[2, 0, 1]);
    fleet.converged(NODES);
    fleet.ends(&["rotate", "--wait", "--timeout", "60s"], 0);
    let third = fleet.agreed();
    assert!(third.ends_with(&format!(",{}", second.split(',').next().unwrap())), "{second} {third}");
    // Every revision was committed once, by whichever coordinator.
    let audit = fleet.json(&["audit"]);
    let revisions: Vec<u64> =
        audit["entries"].as_array().unwrap().iter().map(|entry| entry["revision"].as_u64().unwrap()).collect();
    let (low, high) = (revisions.iter().min().unwrap(), revisions.iter().max().unwrap());
    assert_eq!(high - low + 1, revisions.len() as u64, "{revisions:?}");
    let logs: Vec<String> = coordinators.all.iter().map(Coordinator::log).collect();
    assert!(!logs.iter().any(|log| log.contains("refuses what the engine proposes") || log.contains("panicked")));
    // A second process under a name that is in use does not take it.
    let config = fleet.center.path("c1/coordinator.toml");
    let mut double = fleet.center.command(program("tfo-coordinator"));
    let lock = |name: &str| format!("/c1/{name}");
    let text = fs::read_to_string(&config).unwrap().replace(&lock("name.lock"), &lock("other.lock"));
    let text = text.replace(":9444", ":9449").replace(":9544", ":9549");
    fleet.center.put("c1/double.toml", text.as_bytes(), 0o644);
    let ended = double.args(["serve", "--config"]).arg(fleet.center.path("c1/double.toml")).output().unwrap();
    assert_eq!(ended.status.code(), Some(2), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("store_in_use"));
    coordinators.all[1].must_run();
}

/// One of three coordinators is killed in the middle of a promotion, and comes back.
fn one_is_killed(fleet: &mut levers::Fleet) {
    fleet.begin_rotation();
    fleet.half_promoted();
    fleet.kill_coordinator_of(2);
    fleet.clients_come_round();
    fleet.settled();
    fleet.start_coordinator_of(2);
}

#[test]
fn a_fleet_comes_from_sqlite_to_three_coordinators_and_no_client_notices() {
    skip_unless!(need_etcd());
    inside(|| {
        let mut fleet = levers::Fleet::up(6);
        fleet.costs_nothing("a rotation with the file", levers::Fleet::rotation);
        fleet.costs_nothing("from SQLite to etcd", |fleet| {
            fleet.move_to_etcd(3);
            fleet.converged();
        });
        fleet.costs_nothing("a rotation with etcd", levers::Fleet::rotation);
        fleet.costs_nothing("one of three killed in the middle of a promotion", one_is_killed);
        fleet.costs_nothing("a rotation after all that", levers::Fleet::rotation);
        fleet.end();
    });
}

/// The page, and the section whose transcript is typed here.
const PAGE: &str = "docs/how-to/three_coordinators.md";
const SECTION: &str = "## From SQLite to etcd";

/// Types what the page shows, on a fleet with one coordinator that has a file; what systemd does there is done by hand.
fn type_all(shown: &str) -> String {
    let mut fleet = Fleet::new(NODES, &format!("{}absent_after = \"30s\"\n", fast(NODES)));
    configure_agents(&fleet);
    fleet.serve();
    fleet.start_agents();
    fleet.first_key();
    let start = |program: &str| {
        let mut command = fleet.center.command("setpriv");
        command.args(["--pdeathsig", "KILL", program]);
        command
    };
    let etcd = Etcd::new(&Plan { client_certs: true, start: &start, ..Plan::of(1) });
    let before = fleet.agreed();
    let mut file = fleet;
    let mut said = String::new();
    let commands = transcript::typed(shown);
    let place = commands.iter().position(|(_, command)| command.contains("start tfo-coordinator")).unwrap();
    let (first, then) = commands.split_at(place);
    {
        let all = (0..3).map(|number| Coordinator::new(&file.center.path(&format!("c{number}")))).collect();
        let written = Coordinators { fleet: &file, all };
        (0..3).for_each(|number| written.configure(&etcd, number));
    }
    let of_first = fs::read(file.center.path("c0/coordinator.toml")).unwrap();
    file.center.put("etcd.toml", &of_first, 0o644);
    let mut run = |file: &Fleet, (prompt, command): &(&str, String)| {
        let output = file.shell(&format!("{command} 2>&1"));
        assert!(output.status.success(), "{command}: {}\n{}", stdout(&output), file.log());
        write!(said, "{prompt}{command}\n{}", stdout(&output)).unwrap();
    };
    for (prompt, command) in first {
        if command.contains("stop tfo-coordinator") {
            file.stop();
            run(&file, &(prompt, format!("true # {command}")));
        } else {
            run(&file, &(prompt, command.clone()));
        }
    }
    let fleet = file;
    let all = (0..3).map(|number| Coordinator::new(&fleet.center.path(&format!("c{number}")))).collect();
    let mut coordinators = Coordinators { fleet: &fleet, all };
    for (prompt, command) in then {
        if command.contains("start tfo-coordinator") {
            (0..3).for_each(|number| coordinators.spawn(number));
            (0..3).for_each(|number| coordinators.serves(number));
            ask(&fleet, &[0, 1, 2]);
            fleet.converged(NODES);
            run(&fleet, &(prompt, format!("true # {command}")));
        } else {
            run(&fleet, &(prompt, command.clone()));
        }
    }
    let after = fleet.agreed();
    assert!(after.ends_with(&format!(",{}", before.split(',').next().unwrap())), "{before} {after}");
    said.replace("true # ", "")
}

#[test]
fn the_page_shows_what_is_printed_on_the_way_to_etcd() {
    skip_unless!(need_netns() && need_etcd());
    let page = fs::read_to_string(tfo_testbed::repository(PAGE)).unwrap();
    let shown = transcript::below(&page, SECTION);
    let said = type_all(shown);
    assert_eq!(transcript::plain(shown), transcript::plain(&said), "as it printed now:\n{said}");
}
