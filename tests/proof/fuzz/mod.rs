//! Fuzzing of everything that reads what others wrote: packets, captures, the kernel's texts, a node's request, our own file after others
//! had it in hand.
//!
//! A plain mutating driver, because it runs wherever the tests run: stable compiler, nothing to install, a few seconds each in every
//! `tests/run`, a minute each with `tests/run --full`, and as long as `TFO_FUZZ_SECONDS` says.  It is not guided by coverage; inputs that
//! end in a way not seen before are kept and mutated further.  `TFO_FUZZ_SEED` repeats a run.  A failing input is printed; it belongs into
//! tests/proof/fuzz/corpus, which every run reads whole first.

mod targets;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::Duration;

use tfo_host::kernel::sysctl_d::{self, Record};
use tfo_model::count::{Epoch, Generation};
use tfo_model::key::PairPrint;
use tfo_model::node::KeySource;
use tfo_model::state::{Phase, SlotPrint, SlotPrints};
use tfo_model::time::UnixTime;
use tfo_testbed::random::Dice;

/// Seconds for each target, usually and with `--full`.
const SECONDS: u64 = 2;
const SECONDS_FULL: u64 = 60;

/// Longest input that is made, in bytes.
const INPUT_BYTES_MAX: usize = 16_384;

/// Inputs that are kept because they ended in a new way: a bound.
const KEPT_MAX: usize = 4096;

/// A byte that readers are sensitive to, as often as any.
fn byte(dice: &mut Dice) -> u8 {
    const EDGES: [u8; 16] = [0, 1, 2, 4, 5, 6, 15, 16, 32, 34, 44, 64, 127, 128, 254, 255];
    let byte = dice.roll().to_le_bytes()[0];
    if byte & 1 == 0 { EDGES[usize::from(byte >> 4)] } else { dice.roll().to_le_bytes()[3] }
}

fn range(dice: &mut Dice, length: usize) -> std::ops::Range<usize> {
    let start = dice.index(length + 1);
    start..start + dice.index((length - start).min(64) + 1)
}

/// One to eight small changes.
fn mutate(dice: &mut Dice, input: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..=dice.index(8) {
        let length = input.len();
        match dice.index(9) {
            0 | 1 if length > 0 => input[dice.index(length)] ^= 1 << dice.index(8),
            2 | 3 if length > 0 => input[dice.index(length)] = byte(dice),
            4 => input.truncate(dice.index(length + 1)),
            5 => drop(input.drain(range(dice, length))),
            6 => {
                let (copy, at) = (input[range(dice, length)].to_vec(), dice.index(length + 1));
                input.splice(at..at, copy);
            }
            7 => {
                let other = &others[dice.index(others.len())];
                let (piece, place) = (other[range(dice, other.len())].to_vec(), range(dice, length));
                input.splice(place, piece);
            }
            _ => {
                let at = dice.index(length + 1);
                let fresh: Vec<u8> = (0..dice.index(8)).map(|_| byte(dice)).collect();
                input.splice(at..at, fresh);
            }
        }
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().expect("it is a number"))
}

/// Runs a target over its corpus, then over mutations of it until the time is up.
fn fuzz(name: &str, more: Vec<Vec<u8>>, target: impl Fn(&[u8]) -> u64) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> =
        std::fs::read_dir(&directory).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).chain(more).collect();
    assert!(!corpus.is_empty(), "{name} has no corpus");
    let seed = number("TFO_FUZZ_SEED").unwrap_or_else(|| targets::class((std::process::id(), name)));
    let seconds = number("TFO_FUZZ_SECONDS").unwrap_or(tfo_testbed::by_size(1, SECONDS, SECONDS_FULL));
    let run = |input: &[u8]| {
        catch_unwind(AssertUnwindSafe(|| target(input))).unwrap_or_else(|panic| {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("{name}: fails with TFO_FUZZ_SEED={seed}; input ({} bytes): {hex}", input.len());
            resume_unwind(panic)
        })
    };
    let mut seen: HashSet<u64> = corpus.iter().map(|input| run(input)).collect();
    let (started, mut dice, mut runs) = (tfo_testbed::now(), Dice::new(seed), 0_u64);
    while started.elapsed() < Duration::from_secs(seconds) {
        let mut input = corpus[dice.index(corpus.len())].clone();
        mutate(&mut dice, &mut input, &corpus);
        if seen.insert(run(&input)) && corpus.len() < KEPT_MAX {
            corpus.push(input);
        }
        runs += 1;
    }
    eprintln!("{name}: {runs} inputs, {} ways to end, seed {seed}", seen.len());
    assert!(runs > 0 && seen.len() > 1, "every input ends the same way");
}

#[test]
fn packets_and_their_options() {
    fuzz("packet", Vec::new(), targets::packet);
}

#[test]
fn captures() {
    fuzz("capture", Vec::new(), targets::capture);
}

#[test]
fn the_kernels_key_text() {
    fuzz("key_text", Vec::new(), targets::key_text);
}

#[test]
fn the_kernels_counters() {
    fuzz("netstat", Vec::new(), targets::netstat);
}

#[test]
fn a_nodes_request() {
    fuzz("sync_request", Vec::new(), targets::sync_request);
}

#[test]
fn a_nodes_request_without_hyper() {
    let head = "POST /v1/pools/edge/sync HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let whole = format!("{head}content-length: 2\r\n\r\n{{}}");
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n");
    let two = format!("{whole}{whole}");
    fuzz("whole_request", [whole, chunked, two].map(String::into_bytes).to_vec(), targets::whole_request);
}

#[test]
fn a_token() {
    let pin = "AAAAAAAAAAAAAAAAAAAAAA";
    let token = |urls: &str| format!("tfo1.0123456789ab.{pin}.{pin}.{urls}\n").into_bytes();
    let urls = ["https://c1.example.org:9444", "https://[::1]:1,https://c2", "http://c1"];
    fuzz("token", urls.map(token).to_vec(), targets::token);
}

#[test]
fn a_strangers_request() {
    let name = "cp1.cache.example.org";
    let body = |csr: &str| {
        let body = serde_json::json!({"token_id": "0123456789ab", "secret": "AAAAAAAAAAAAAAAAAAAAAA", "name": name, "csr": csr});
        body.to_string().into_bytes()
    };
    let csr = tfo_pki::request::make(&name.parse().unwrap()).unwrap().csr;
    fuzz("enrol_request", vec![body(&csr), body("")], targets::enrol_request);
}

#[test]
fn a_peers_certificate() {
    let ca = tfo_testbed::pki::Ca::new("ca");
    let ids = ["node", "operator"].map(|purpose| format!("spiffe://fleet.example.org/tfo/{purpose}/cp1.example.org"));
    let other = "spiffe://other.example.org/tfo/node/cp1.example.org";
    let names =
        [&[&*ids[0]][..], &[&ids[1], "cp1.example.org"], &["cp2.example.org", &ids[0]], &[other], &[&ids[0], other]];
    let certificates = names.map(|names| ca.client(names).chain()[0].to_vec());
    fuzz("peer", certificates.to_vec(), targets::peer);
}

#[test]
fn a_coordinators_answer() {
    let text = "00000001-00000001-00000001-00000001";
    let print = tfo_crypto::fingerprint::pair_print(&tfo_model::key_text::parse(text.as_bytes()).unwrap());
    let answer = |pool: &str| {
        let primary = serde_json::json!({"epoch": 2, "fingerprint": print.primary.to_string(), "key": text});
        let answer = serde_json::json!({
            "pool": pool, "pool_id": "0123456789abcdef0123456789abcdef", "generation": 3, "phase": "steady",
            "primary": primary, "backup": null, "absent_after_secs": 600,
        });
        answer.to_string().into_bytes()
    };
    fuzz("sync_answer", vec![answer("text"), answer("TEXT")], targets::sync_answer);
    let errors = ["{\"kind\":\"denied\",\"message\":\"m\",\"request_id\":\"r\"}", "{\"kind\":\"new\"}"];
    fuzz("error_body", errors.map(|text| text.as_bytes().to_vec()).to_vec(), targets::error_body);
}

#[test]
fn our_file_in_sysctl_d() {
    // Each input is a file.
    let dir = tfo_testbed::scratch_in_memory();
    let place = dir.path().join("50-tcp_fastopen_key.conf");
    // As the agent writes it: with and without what may be missing.
    let texts = [
        "13121110-17161514-1b1a1918-1f1e1d1c",
        "13121110-17161514-1b1a1918-1f1e1d1c,deadbeef-00000002-cafef00d-00000004",
    ];
    let files = texts.map(|text| {
        let keys = tfo_model::key_text::parse(text.as_bytes()).unwrap();
        let prints = tfo_crypto::fingerprint::pair_print(&keys);
        let record = sysctl_record(prints);
        sysctl_d::write(&place, &record, &keys).unwrap();
        std::fs::read(&place).unwrap()
    });
    fuzz("sysctl_file", files.to_vec(), |bytes| targets::sysctl_file(bytes, &place));
}

#[test]
fn the_configurations() {
    // As they are shipped, with every example switched on in turn by what is cut and joined.
    for name in ["agent", "coordinator", "ctl"] {
        let shipped = std::fs::read(tfo_testbed::repository(&format!("config/{name}.toml"))).unwrap();
        let text = String::from_utf8(shipped.clone()).unwrap().replace("\n#", "\n");
        fuzz(&format!("{name}_toml"), vec![shipped, text.into_bytes()], |bytes| targets::configuration(name, bytes));
    }
}

fn sysctl_record(prints: PairPrint) -> Record {
    let slot = |fingerprint| SlotPrint { fingerprint, epoch: Epoch::new(1_763_769_600) };
    let generation = prints.backup.map(|_| Generation::new(7));
    let pool_id = generation.map(|_| "0123456789abcdef0123456789abcdef".parse().unwrap());
    Record {
        source: KeySource::Derive.into(),
        pool_id,
        generation,
        phase: if prints.backup.is_some() { Phase::Staged } else { Phase::Steady },
        prints: SlotPrints { primary: slot(prints.primary), backup: prints.backup.map(slot) },
        joints: vec![UnixTime::from_secs(1_000), UnixTime::from_secs(2_000)],
        installed_at: UnixTime::from_secs(1_763_769_601),
    }
}

#[test]
fn the_driver_finds_a_fault() {
    // A fault behind two bytes that no corpus has: found, and told with its input.
    let faulty = |bytes: &[u8]| {
        assert!(bytes.len() < 3 || bytes[1] != 34 || bytes[2] & 1 == 0, "the fault");
        targets::class((bytes.len().min(4), bytes.get(1) == Some(&34)))
    };
    let found = catch_unwind(|| fuzz("key_text", vec![b"seed".to_vec()], faulty));
    let payload = found.expect_err("it is behind two bytes");
    let told = payload.downcast_ref::<String>().cloned();
    let told = told.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    assert!(told.as_deref().is_some_and(|told| told.contains("the fault")), "{told:?}");
}
