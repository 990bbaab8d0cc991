//! `sniff` beside dumpcap on the same wire, with tshark as the judge: the same packets, none more, none less.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use tfo_host::kernel::netstat::{NETSTAT_PATH, TfoCounters};

use super::world::{A, B, C, Cable, at, connect, echo, fingerprint, key_file, tfoctl};
use tfo_testbed::cable::{CLIENT, OTHER_CLIENT, Running, SERVER};
use tfo_testbed::daemon::PYTHON;
use tfo_testbed::output::stderr;
use tfo_testbed::{NetNs, SOON, need_netns, need_tool, poll_until, scratch, skip_unless};

const PORT: u16 = 80;
/// A port without a listener.
const CLOSED: u16 = 9;

/// A packet as both name it: addresses and ports, option, cookie, bytes of data; and how often it came.
type Packets = BTreeMap<(String, String, String, String, u64, String, u64), usize>;

/// What tshark finds in a capture with this filter; `option` is the kind that the filter looks for.
fn judge(file: &Path, filter: &str, option: u64) -> Packets {
    let fields =
        ["ip.src", "ipv6.src", "ip.dst", "ipv6.dst", "tcp.srcport", "tcp.dstport", "tcp.options.tfo.cookie", "tcp.len"];
    let mut command = Command::new("tshark");
    command.args(["-n", "-r", file.to_str().unwrap(), "-Y", filter, "-T", "fields"]);
    command.args(fields.iter().flat_map(|field| ["-e", field]));
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let mut packets = Packets::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let values: Vec<&str> = line.split('\t').collect();
        let either = |a: usize, b: usize| if values[a].is_empty() { values[b] } else { values[a] }.to_owned();
        let data = values[7].parse().unwrap();
        let packet = (
            either(0, 1),
            either(2, 3),
            values[4].to_owned(),
            values[5].to_owned(),
            option,
            values[6].to_owned(),
            data,
        );
        *packets.entry(packet).or_default() += 1;
    }
    packets
}

/// The same of what `sniff --format json` printed; and its summary.
fn sniffed(stdout: &str) -> (Packets, Vec<Value>, Value) {
    let mut lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.pop().unwrap()["summary"].clone();
    let mut packets = Packets::new();
    for line in &lines {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| line[name].as_u64().unwrap();
        let ports = ["source_port", "destination_port"].map(|name| number(name).to_string());
        let [from, to] = ports;
        let packet =
            (text("source"), text("destination"), from, to, number("option"), text("cookie"), number("data_bytes"));
        *packets.entry(packet).or_default() += 1;
    }
    assert_eq!(summary["packets"].as_u64().unwrap(), lines.len() as u64);
    (packets, lines, summary)
}

/// Both must have seen the same; what only one has seen is told.
#[track_caller]
fn assert_same(seen: &Packets, expected: &Packets, what: &str) {
    let only = |a: &Packets, b: &Packets| -> Vec<String> {
        a.iter().filter(|(packet, count)| b.get(*packet) != Some(*count)).map(|entry| format!("{entry:?}")).collect()
    };
    let (more, less) = (only(seen, expected), only(expected, seen));
    assert!(more.is_empty() && less.is_empty(), "{what}: only sniff {more:#?}, only tshark {less:#?}");
}

/// `tfoctl sniff --format json` that listens.
struct Listening {
    running: Running,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Listening {
    fn start(netns: &NetNs, arguments: &[&str]) -> Self {
        let mut command = tfoctl(netns, &["sniff", "--format", "json"]);
        let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on "), "{line}");
        Self { running: Running(child), stderr }
    }

    /// Ctrl-C, and what it printed until then.
    fn stop(mut self) -> String {
        self.running.signal(Signal::INT);
        self.finish()
    }

    fn finish(&mut self) -> String {
        let mut text = String::new();
        self.running.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let status = self.running.0.wait().unwrap();
        let mut complaints = String::new();
        self.stderr.read_to_string(&mut complaints).unwrap();
        assert!(status.success() && complaints.is_empty(), "{status} {complaints}");
        text
    }
}

/// dumpcap on an interface, which is capturing when this returns.
fn dumpcap(netns: &NetNs, interface: &str, file: &Path) -> Running {
    let mut command = netns.command("dumpcap");
    command.args(["-q", "-i", interface, "-w", file.to_str().unwrap()]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("File: ") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "dumpcap has ended");
    }
    // Its pipe must not fill.
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    Running(child)
}

/// Several hundred connections: both families, plain ones, cookies of the primary, of the backup, of neither; requests of both forms.
fn traffic(cable: &Cable) {
    let lengths: Vec<usize> = (0..40).map(|index| 1 + index * 31).collect();
    let all_clients = || {
        for (family, server) in SERVER.iter().enumerate() {
            for source in [CLIENT[family], OTHER_CLIENT[family]] {
                connect(&cable.client, source, server, PORT, &lengths);
            }
        }
    };
    cable.server.set_keys(A);
    all_clients();
    // Promoted: the old cookies are of the backup.
    cable.server.set_keys(&format!("{B},{A}"));
    all_clients();
    // Something else: the cookies are of no key.
    cable.server.set_keys(C);
    all_clients();
    // Without the option.
    cable.client.run(|| {
        for server in SERVER {
            for _ in 0..50 {
                std::net::TcpStream::connect((server, PORT)).unwrap();
            }
        }
    });
    for more in [&[][..], &["--experimental"]] {
        let targets = SERVER.map(|server| at(server, PORT));
        let output = cable.tfoctl(&[&["probe", "--count", "25", &targets[0], &targets[1]], more].concat());
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn sniff_and_tshark_see_the_same_packets_live_and_from_files() {
    skip_unless!(need_netns() && need_tool("tshark") && need_tool("dumpcap") && need_tool("editcap"));
    let cable = Cable::new();
    echo(&cable.server, PORT);
    let dir = scratch();
    let keys = key_file(&dir, "keys", &format!("{B},{A}"));
    let path = |name: &str| dir.path().join(name);
    let arguments = ["--key-file", keys.to_str().unwrap()];
    let on_any = Listening::start(&cable.server, &arguments);
    let on_cable = Listening::start(&cable.client, &[&["-i", "cable"][..], &arguments].concat());
    let captures = [
        dumpcap(&cable.server, "any", &path("cooked.pcapng")),
        dumpcap(&cable.client, "cable", &path("ethernet.pcapng")),
    ];
    traffic(&cable);
    let (on_any, on_cable) = (on_any.stop(), on_cable.stop());
    // dumpcap writes late: when the last packet is in its file, all are.
    assert_eq!(cable.results(&["probe", &at(SERVER[0], CLOSED)]).0[0]["result"], "closed");
    let written = |name: &str| {
        let filter = format!("tcp.srcport == {CLOSED} && tcp.flags.reset == 1");
        let output = Command::new("tshark").arg("-nr").arg(path(name)).args(["-Y", &filter]).output().unwrap();
        !output.stdout.is_empty()
    };
    assert!(poll_until(SOON, || written("cooked.pcapng") && written("ethernet.pcapng")), "dumpcap has not written all");
    for mut capture in captures {
        capture.signal(Signal::INT);
        assert!(poll_until(SOON, || capture.0.try_wait().unwrap().is_some()), "dumpcap does not end");
    }

    let ethernet = path("ethernet.pcapng");
    let mut expected = judge(&ethernet, "tcp.option_kind == 34 && tcp.port == 80", 34);
    let standard = expected.values().sum::<usize>();
    // Cookies in the experimental option are a field of the same name.
    expected.extend(judge(&ethernet, "tcp.option_kind == 254 && tcp.port == 80", 254));
    let total = expected.values().sum::<usize>();
    assert!(total - standard >= 100, "25 requests and 25 grants of each family");
    // 480 connections with a SYN each, and the grants.
    assert!(standard > 480 + 100, "{standard}");

    let (packets, _, summary) = sniffed(&on_cable);
    assert_same(&packets, &expected, "live on one interface");
    assert_same(&sniffed(&on_any).0, &expected, "live on all interfaces");
    assert_eq!(summary["dropped"], 0);
    let count = |name: &str| summary[name].as_u64().unwrap();
    // Each pair of addresses: 1 request, then 39 + 40 + 40 cookies; 1 grant, 1 for the backup's cookie, 1 for the first wrong one.
    // A probe's request may come twice: a port that the server still has in TIME_WAIT is answered the second time only.
    assert_eq!(count("cookies"), 4 * 119);
    assert!(count("requests") >= 4 + 100 && count("grants") >= 4 * 3 + 100, "{summary}");
    // By key: A's 39 + 1 and the grant; B's 39 and the grant, and one more that C refuses; C's the rest.
    assert_eq!((count("backup"), count("primary")), (4 * (39 + 1 + 1), 4 * (39 + 1 + 1)));
    assert_eq!(count("neither"), count("cookies") + count("grants") - count("backup") - count("primary"));

    for (name, format) in [
        ("cooked", "pcap"),
        ("cooked", "nsecpcap"),
        ("ethernet", "pcap"),
        ("ethernet", "nsecpcap"),
        ("ethernet", "pcapng"),
        ("cooked", "pcapng"),
    ] {
        let (from, to) = (path(&format!("{name}.pcapng")), path(&format!("{name}.{format}")));
        if format != "pcapng" {
            let status = Command::new("editcap").arg("-F").arg(format).args([&from, &to]).status().unwrap();
            assert!(status.success(), "{format}");
        }
        let output = tfoctl(&cable.client, &["sniff", "--format", "json", "--read", to.to_str().unwrap()])
            .args(arguments)
            .output()
            .unwrap();
        let (packets, lines, _) = sniffed(std::str::from_utf8(&output.stdout).unwrap());
        let mut packets = packets;
        packets.retain(|(_, _, _, to, ..), _| *to != CLOSED.to_string());
        assert_same(&packets, &expected, &format!("{name}.{format}"));
        assert!(output.status.success());
        // The capture's own times, to the microsecond.
        let first = Command::new("tshark")
            .args([
                "-n",
                "-r",
                to.to_str().unwrap(),
                "-Y",
                "tcp.option_kind == 34",
                "-T",
                "fields",
                "-e",
                "frame.time_epoch",
                "-c",
                "50",
            ])
            .output()
            .unwrap();
        let epoch = String::from_utf8(first.stdout).unwrap().lines().next().unwrap().to_owned();
        let at: jiff::Timestamp = lines[0]["at"].as_str().unwrap().parse().unwrap();
        assert_eq!(
            format!("{}.{:06}", at.as_second(), at.subsec_microsecond()),
            epoch[..epoch.len() - 3],
            "{name}.{format}"
        );
    }
}

#[test]
fn live_cookies_are_named_by_the_keys_of_this_host() {
    skip_unless!(need_netns());
    let cable = Cable::new();
    echo(&cable.server, PORT);
    cable.server.set_keys(&format!("{B},{A}"));
    // Ends by itself after 4 packets: request, grant, two cookies.
    let mut listening = Listening::start(&cable.server, &["--count", "4"]);
    connect(&cable.client, CLIENT[0], SERVER[0], PORT, &[1, 100, 1400]);
    let (_, lines, summary) = sniffed(&listening.finish());
    let words: Vec<_> =
        lines.iter().map(|line| (line["kind"].as_str().unwrap(), line["data_bytes"].as_u64().unwrap())).collect();
    assert_eq!(words, [("request", 0), ("grant", 0), ("cookie", 100), ("cookie", 1400)]);
    assert!(
        lines[1..].iter().all(|line| line["key"] == "primary" && line["fingerprint"] == fingerprint(B)),
        "{lines:?}"
    );
    assert_eq!(summary["primary"], 3);
}

#[test]
fn a_rotation_meanwhile_is_followed() {
    skip_unless!(need_netns());
    let cable = Cable::new();
    echo(&cable.server, PORT);
    let mut listening = Listening::start(&cable.server, &["--count", "6"]);
    connect(&cable.client, CLIENT[0], SERVER[0], PORT, &[1, 2]);
    // Wait for the lines: what is read later is named by the keys of later.
    let mut stdout = BufReader::new(listening.running.0.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        (line["kind"].as_str().unwrap().to_owned(), line["key"].as_str().map(str::to_owned))
    };
    let expect = |kind: &str, key: Option<&str>| (kind.to_owned(), key.map(str::to_owned));
    assert_eq!(line(), expect("request", None));
    assert_eq!(line(), expect("grant", Some("primary")));
    assert_eq!(line(), expect("cookie", Some("primary")));
    cable.server.set_keys(&format!("{B},{A}"));
    connect(&cable.client, CLIENT[0], SERVER[0], PORT, &[1, 2]);
    assert_eq!(line(), expect("cookie", Some("backup")));
    assert_eq!(line(), expect("grant", Some("primary")));
    assert_eq!(line(), expect("cookie", Some("primary")));
    assert!(listening.running.0.wait().unwrap().success());
}

/// A SYN with these options, from a raw socket: python's arguments are source, target, port and the options in hex.
const SYN: &str = "
import socket, struct, sys
source, target, port, options = sys.argv[1], sys.argv[2], int(sys.argv[3]), bytes.fromhex(sys.argv[4])
options += bytes([1]) * (-len(options) % 4)
head = lambda checksum: struct.pack('!HHLLBBHHH', 40000, port, 1, 0, (20 + len(options)) // 4 << 4, 2, 64000, checksum, 0)
pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack('!BBH', 0, 6, 20 + len(options))
words = pseudo + head(0) + options
total = sum(struct.unpack('!%dH' % (len(words) // 2), words))
while total >> 16:
    total = (total & 0xffff) + (total >> 16)
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
    raw.bind((source, 0))
    raw.sendto(head(~total & 0xffff) + options, (target, 0))
";

/// Of two Fast Open options in a SYN, `sniff` names the one that this kernel goes by.
#[test]
fn of_several_options_the_kernels_is_named() {
    skip_unless!(need_netns() && need_tool("python3"));
    let cable = Cable::new();
    echo(&cable.server, PORT);
    // A cookie that no key made: to go by it is counted as a failure, to go by a request as a request.
    let (cookie, other, request, odd) = ("220a0102030405060708", "fe0cf9890807060504030201", "fe04f989", "220501 0203");
    let counts = || {
        let found = cable.server.run(|| TfoCounters::read(Path::new(NETSTAT_PATH)).unwrap());
        (found.passive_fail.unwrap(), found.cookie_reqd.unwrap())
    };
    for (options, kind, shown) in [
        ([cookie, request], "request", None),
        ([request, cookie], "cookie", Some("0102030405060708")),
        ([cookie, other], "cookie", Some("0807060504030201")),
        ([other, cookie], "cookie", Some("0102030405060708")),
        ([cookie, odd], "cookie", Some("0102030405060708")),
    ] {
        let (listening, before) = (Listening::start(&cable.server, &["-i", "cable"]), counts());
        let mut python = cable.client.command(PYTHON);
        python.args(["-c", SYN, CLIENT[0], SERVER[0], &PORT.to_string()]).arg(options.concat().replace(' ', ""));
        assert!(python.status().unwrap().success());
        let rise = if kind == "request" { (before.0, before.1 + 1) } else { (before.0 + 1, before.1) };
        assert!(poll_until(SOON, || counts() == rise), "{options:?}: {before:?} {:?}", counts());
        let (_, lines, _) = sniffed(&listening.stop());
        let syns: Vec<_> = lines.iter().filter(|line| line["kind"] != "grant").collect();
        assert_eq!(syns.len(), 1, "{lines:#?}");
        assert_eq!((syns[0]["kind"].as_str(), syns[0]["cookie"].as_str()), (Some(kind), shown), "{options:?}");
    }
}

#[test]
fn what_goes_over_the_loopback_is_seen_once() {
    skip_unless!(need_netns());
    let cable = Cable::new();
    echo(&cable.server, PORT);
    for arguments in [&["--count", "3"][..], &["--count", "3", "-i", "lo"]] {
        let mut listening = Listening::start(&cable.server, arguments);
        let output = tfoctl(&cable.server, &["probe", "127.0.0.1:80", "[::1]:80"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let (_, lines, _) = sniffed(&listening.finish());
        let words: Vec<_> =
            lines.iter().map(|line| (line["kind"].as_str().unwrap(), line["source"].as_str().unwrap())).collect();
        assert_eq!(words, [("request", "127.0.0.1"), ("grant", "127.0.0.1"), ("request", "::1")]);
    }
    // Another interface shows none of it.
    let listening = Listening::start(&cable.server, &["-i", "cable"]);
    assert!(tfoctl(&cable.server, &["probe", "127.0.0.1:80"]).output().unwrap().status.success());
    assert!(cable.tfoctl(&["probe", &at(SERVER[0], PORT)]).status.success());
    let (_, lines, _) = sniffed(&listening.stop());
    assert_eq!(lines.iter().map(|line| line["source"].as_str().unwrap()).collect::<Vec<_>>(), [CLIENT[0], SERVER[0]]);
}
