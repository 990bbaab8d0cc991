//! What a thousand hosts that join cost: how many get a certificate in a second, and the coordinator's processor time for
//! each, as a ratio to `openssl x509 -req`, which only signs.
//!
//! `cargo bench --bench enrolment`; openssl for the peer.  Each host has a key, a connection and an address of its own, as far
//! as loopback has them; a host that is refused comes again, as `tfo-agent join` does.  The coordinator begins 64 handshakes a
//! second at its enrolment port, however many come (src/coordinator/server/strangers.rs): that is the most that the rate can
//! be.  `TFO_SMOKE=1` enrols a few, to see that it still works; its figures mean nothing.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use tfo_testbed::config::CoordinatorToml;
use tfo_testbed::coordinator::{OPERATOR, World, runtime};
use tfo_testbed::pki::client_config;
use tfo_testbed::{SOON, free_port, has_tool, poll_until};

/// Hosts.
const HOSTS: usize = 1_000;
/// How many come at a time, each from an address of its own.
const AT_A_TIME: usize = 100;
/// Certificates that openssl signs.
const SIGNED: usize = 200;
/// How long a host that was refused waits.
const PAUSE: Duration = Duration::from_millis(100);

/// A host that wants to join.
struct Host {
    name: String,
    csr: String,
}

fn main() -> ExitCode {
    let is_smoke = std::env::var_os("TFO_SMOKE").is_some();
    let (hosts, signed) = if is_smoke { (20, 3) } else { (HOSTS, SIGNED) };
    let mut world = World::new("");
    let port = free_port();
    world.ca.save(&world.path("ca.pem"));
    world.put("crl.pem", world.ca.crl(&[]).as_bytes(), 0o644);
    let of = CoordinatorToml::of(world.dir.path(), world.api, world.observe);
    let config = CoordinatorToml { crl: Some("crl.pem"), operators: &[OPERATOR], ..of };
    let ca = world.path("ca.pem");
    let enrolment = format!("[enrolment]\nlisten = \"{port}\"\nca_cert = {ca:?}\nca_key = {ca:?}\n");
    let text = config.with_pools(&format!("{enrolment}[pools.edge]\nnodes = [\"*.cache.example.org\"]\n"));
    world.put("coordinator.toml", text.as_bytes(), 0o644);
    let mut serve = Command::new(env!("CARGO_BIN_EXE_tfo-coordinator"));
    serve.args(["serve", "--config"]).arg(world.path("coordinator.toml")).stdin(Stdio::null());
    world.spawn_by(serve);
    assert!(poll_until(SOON, || world.observed("/readyz").is_some_and(|(status, _)| status == 200)), "{}", world.log());
    let (status, made) =
        world.operator().post("/v1/tokens", &json!({"pool": "edge", "uses": hosts, "life_secs": 3_600}));
    assert_eq!(status, 200, "{made}");
    let token = made["token"].as_str().expect("a text").to_owned();

    let wanted: Vec<Host> = (0..hosts).map(host).collect();
    let before = cpu_of(world.pid());
    let begun = Instant::now();
    let refused = runtime().block_on(enrol(Arc::new(wanted), (&world.ca.pem, port.port()), &token));
    let (took, cost) = (begun.elapsed(), cpu_of(world.pid()) - before);
    let each = cost.as_secs_f64() * 1e3 / hosts as f64;
    println!("{hosts} hosts join by one token, {AT_A_TIME} at a time, each from an address of its own");
    println!(
        "  rate            {:8.1} a second ({:.1} s; {refused} attempts were refused, and came again)",
        hosts as f64 / took.as_secs_f64(),
        took.as_secs_f64()
    );
    println!(
        "  processor time  {each:8.2} ms of the coordinator for each: handshake, token, signature, store with its fsync"
    );
    if has_tool("openssl") {
        let own = openssl(&world, signed);
        let ratio = each / own;
        println!("  beside it       {own:8.2} ms for `openssl x509 -req`, a process that only signs; ratio {ratio:.2}");
    } else {
        println!("  SKIPPED: the peer needs openssl");
    }
    ExitCode::SUCCESS
}

fn host(number: usize) -> Host {
    let name = format!("n{number}.cache.example.org");
    let csr = tfo_pki::request::make(&name.parse().expect("a name")).expect("randomness").csr;
    Host { name, csr }
}

/// Enrols all hosts; gives how many attempts were refused or cut.
async fn enrol(hosts: Arc<Vec<Host>>, (ca, port): (&str, u16), token: &str) -> usize {
    let (next, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (id, secret) = {
        let mut parts = token.split('.').skip(1).map(str::to_owned);
        (parts.next().expect("an id"), parts.next().expect("a secret"))
    };
    let mut all = tokio::task::JoinSet::new();
    for worker in 0..AT_A_TIME {
        let from = IpAddr::V4(Ipv4Addr::new(127, 0, 8, u8::try_from(worker + 1).expect("a hundred")));
        let client = reqwest::Client::builder().tls_backend_preconfigured(client_config(ca, None)).local_address(from);
        let client = client.timeout(SOON).build().expect("a client");
        let (hosts, next, refused) = (Arc::clone(&hosts), Arc::clone(&next), Arc::clone(&refused));
        let (id, secret) = (id.clone(), secret.clone());
        all.spawn(async move {
            while let Some(Host { name, csr }) = hosts.get(next.fetch_add(1, Ordering::Relaxed)) {
                let body = json!({"token_id": id, "secret": secret, "name": name, "csr": csr});
                loop {
                    let url = format!("https://localhost:{port}/v1/enrol");
                    let request = client.post(url).header("content-type", "application/json").body(body.to_string());
                    match request.send().await {
                        Ok(answer) if answer.status() == 200 => {
                            let answer = answer.bytes().await.expect("an answer");
                            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
                            assert!(answer["certificate"].is_string(), "{answer}");
                            break;
                        }
                        Ok(answer) => assert!(answer.status().is_server_error(), "{}", answer.status()),
                        Err(_) => {}
                    }
                    refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        });
    }
    while let Some(done) = all.join_next().await {
        done.expect("no worker panics");
    }
    refused.load(Ordering::Relaxed)
}

/// Processor time in milliseconds for each certificate that openssl signs, in a process of its own.
fn openssl(world: &World, count: usize) -> f64 {
    let Host { csr, .. } = host(0);
    world.put("request.pem", csr.as_bytes(), 0o644);
    let before = cpu(Path::new("/proc/self/stat"), [15, 16]);
    for _ in 0..count {
        let mut openssl = Command::new("openssl");
        openssl.args(["x509", "-req", "-days", "30", "-in"]).arg(world.path("request.pem")).arg("-CA");
        openssl
            .arg(world.path("ca.pem"))
            .arg("-CAkey")
            .arg(world.path("ca.pem"))
            .arg("-out")
            .arg(world.path("own.crt"));
        let output = openssl.output().expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let spent = cpu(Path::new("/proc/self/stat"), [15, 16]) - before;
    spent.as_secs_f64() * 1e3 / count as f64
}

/// Processor time of a process.
fn cpu_of(pid: u32) -> Duration {
    cpu(Path::new(&format!("/proc/{pid}/stat")), [13, 14])
}

/// The sum of two fields of a stat file (proc_pid_stat(5)), counted from 0, in the clock's ticks.
fn cpu(stat: &Path, fields: [usize; 2]) -> Duration {
    let text = fs::read_to_string(stat).expect("the process runs");
    // The name, in parentheses, may have spaces: what follows it is the third field.
    let (_, rest) = text.rsplit_once(')').expect("a name");
    let rest: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 = fields.iter().map(|field| rest[field - 2].parse::<u64>().expect("a number")).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
