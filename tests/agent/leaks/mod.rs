//! No 4 consecutive bytes of any key or secret, raw, hex or base64, in anything that the agent shows or leaves behind.
//!
//! The search decodes what it looks at: every run of hex digits at both offsets, every run of base64 characters at all
//! four, so a piece is found wherever it starts.  It is proven with planted keys first.

mod daemon;

use std::process::Output;
use tfo_testbed::skip_unless;

use tfo_testbed::host::Host;
use tfo_testbed::output::{stderr, stdout};
use tfo_testbed::secrets::{base64_value, decode, hex_value};

/// Bytes of a secret that may appear in a row: fewer than this.
const WINDOW: usize = 4;

/// Random and fixed: made once with `openssl rand -hex 32`.
const SECRET: [u8; 32] = [
    0xb9, 0x4e, 0xd1, 0x07, 0x6a, 0xf3, 0x92, 0x5c, 0xe8, 0x13, 0xc5, 0x8f, 0x2b, 0xd6, 0x70, 0xa9, 0x34, 0xfd, 0x81,
    0x4b, 0x9e, 0xc2, 0x57, 0xe0, 0x1d, 0xa6, 0x78, 0xcb, 0x05, 0xf9, 0x62, 0xb3,
];
/// Kernel text of two pairs: the second one follows the first.
const FIRST: &str = "d3a95f1e-c86b20f7-9b41e5d8-5ae7c39d,8fc61b72-e9d4a053-b7250f9c-ac93d6f1";
const SECOND: &str = "97be40c5-fa18d36b-e2c95d87-b06cf4a1,d3a95f1e-c86b20f7-9b41e5d8-5ae7c39d";

/// What must not be seen.
type Secrets = tfo_testbed::secrets::Secrets<WINDOW>;

/// The secret, both pairs, and what the kernel of a derive host holds.
fn all_secrets() -> Secrets {
    let mut secrets = Secrets::new();
    secrets.add("secret", &SECRET);
    secrets.add_pair("first", FIRST);
    secrets.add_pair("second", SECOND);
    secrets
}

// ---- the search itself ----

fn base64(bytes: &[u8], alphabet: [u8; 2]) -> String {
    let digit = |value: u32| {
        (0..=255)
            .find(|byte| base64_value(*byte, alphabet) == u8::try_from(value).ok())
            .expect("a step of the test works")
    };
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let all = chunk.iter().fold(0, |all, byte| all << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            text.push(char::from(digit(all >> (18 - 6 * at) & 63)));
        }
    }
    text
}

#[test]
fn the_search_finds_four_planted_bytes_in_every_writing() {
    let secrets = all_secrets();
    let mut planted = 0;
    let mut plant = |how: &str, text: Vec<u8>| {
        for around in [(&b""[..], &b""[..]), (b"log: key=", b" end\n"), (b"\"", b"\"")] {
            let hay = [around.0, &text, around.1].concat();
            assert!(!secrets.find(&hay).is_empty(), "{how} is not found: {}", String::from_utf8_lossy(&hay));
            planted += 1;
        }
    };
    for at in 0..=SECRET.len() - WINDOW {
        let piece = &SECRET[at..at + WINDOW];
        let lower: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
        plant("raw", piece.to_vec());
        plant("hex", lower.clone().into());
        plant("upper hex", lower.to_uppercase().into());
        plant("hex at an odd digit", format!("0x0{lower}f").into());
        plant("hex with colons", piece.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":").into());
        plant("escaped", piece.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>().into());
        plant("decimal", format!("{piece:?}").into());
        for alphabet in [*b"+/", *b"-_"] {
            for before in 0..3 {
                let with = [&b"\0\0\0"[..before], piece, b"\xff"].concat();
                plant("base64", base64(&with, alphabet).into());
            }
        }
    }
    // The kernel's text, cut anywhere so that four whole bytes are left.
    for key in FIRST.split(',') {
        for end in (8..=key.len()).filter(|end| key[..*end].replace('-', "").len() % 2 == 0) {
            let digits: Vec<(usize, char)> = key[..end].char_indices().filter(|(_, c)| *c != '-').collect();
            let (start, _) = digits[digits.len() - 8];
            plant("kernel text", key[start..end].into());
        }
    }
    assert!(planted > 1_000, "{planted}");
    // The search ignores three bytes of a secret, and whatever the agent may show.
    assert!(secrets.find(format!("{:02x?}", &SECRET[..3]).as_bytes()).is_empty());
    secrets
        .absent("a fingerprint", "primary 6c3f8e4b21cc43a0, backup 8733a57999198333; next change 2026-11-23T00:00:00Z");
}

// ---- what commands print ----

fn secret_host() -> Host {
    let host = Host::new();
    host.write("etc/secret", SECRET, 0o400);
    host
}

const DERIVE: &str = "[source]\nkind = \"derive\"\n[[source.schedule]]\nsecret = \"@/etc/secret\"\n";

/// Adds what the kernel of a derive host holds, which depends on the time: windows that may come up by chance are left.
fn add_kernel(secrets: &mut Secrets, host: &Host) {
    let mut derived = Secrets::new();
    for key in host.kernel().split(',') {
        for window in key.replace('-', "").as_bytes().windows(2 * WINDOW).step_by(2) {
            let bytes = decode(window, 4, hex_value);
            let mut values = bytes.clone();
            values.sort_unstable();
            values.dedup();
            if values.len() == WINDOW {
                derived.add("derived", &bytes);
                derived.add("derived, reversed", &bytes.iter().rev().copied().collect::<Vec<_>>());
            }
        }
    }
    assert!(derived.0.len() > 20, "the kernel holds keys");
    secrets.0.extend(derived.0);
}

#[track_caller]
fn quiet(secrets: &Secrets, what: &str, output: &Output) {
    secrets.absent(&format!("{what}: stdout"), stdout(output));
    secrets.absent(&format!("{what}: stderr"), stderr(output));
}

/// Every file below the host's directory that is not meant to hold keys.
fn left_files(host: &Host, mut look: impl FnMut(&str, &[u8])) {
    let meant = ["secret", "keys", "50-tcp_fastopen_key.conf", "strace"];
    let mut directories = vec![host.path("")];
    let mut files = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("a step of the test works") {
            let path = entry.expect("a step of the test works").path();
            if path.is_dir() { directories.push(path) } else { files.push(path) }
        }
    }
    files.retain(|file| !meant.iter().any(|name| file.ends_with(name)));
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        look(&file.display().to_string(), &std::fs::read(&file).expect("a step of the test works"));
    }
}

#[test]
fn no_command_prints_a_key() {
    skip_unless!(tfo_testbed::need_netns());
    let mut secrets = all_secrets();
    let host = secret_host();
    let every = |secrets: &Secrets, what: &str| {
        for (command, more) in [
            ("once", &["--dry-run"][..]),
            ("once", &["--dry-run", "--format", "json"]),
            ("check", &[]),
            ("check", &["--format", "json"]),
            ("once", &["--format", "json"]),
            ("once", &[]),
        ] {
            quiet(secrets, &format!("{what}: {command} {more:?}"), &host.run(command, more));
        }
        left_files(&host, |place, content| secrets.absent(place, content));
    };
    host.use_keys(FIRST);
    every(&secrets, "first");
    assert_eq!(host.kernel(), FIRST);
    host.use_keys(SECOND);
    every(&secrets, "second");
    assert_eq!(host.kernel(), SECOND);
    host.configure(DERIVE);
    every(&secrets, "derive");
    add_kernel(&mut secrets, &host);
    every(&secrets, "derive, known");
    host.configure("[source]\nkind = \"random\"\n");
    every(&secrets, "random");
    add_kernel(&mut secrets, &host);
    every(&secrets, "random, known");
}

#[test]
fn no_error_quotes_a_key() {
    skip_unless!(tfo_testbed::need_netns());
    let secrets = all_secrets();
    let host = secret_host();
    host.use_keys(FIRST);
    let every = |what: &str| {
        for (command, more) in
            [("once", &[][..]), ("once", &["--format", "json"]), ("check", &["--format", "json"]), ("run", &[])]
        {
            let output = host.agent(command).args(more).env("TFO_LOG", "trace").output().unwrap();
            assert_ne!(output.status.code(), Some(0), "{what}: {command}");
            quiet(&secrets, &format!("{what}: {command}"), &output);
        }
    };
    // Garbage near a key.
    let (primary, backup) = FIRST.split_once(',').unwrap();
    for text in [
        format!("{FIRST}x"),
        format!("{FIRST},{backup}"),
        format!("{primary}:{backup}"),
        FIRST.to_uppercase(),
        format!("{primary},{primary}"),
        format!("key = {FIRST}\n"),
        FIRST.replace('-', ""),
        FIRST[..60].to_owned(),
    ] {
        host.use_keys(&text);
        every(&text);
    }
    host.write("etc/keys", SECRET, 0o400);
    every("a secret where key text should be");
    // A secret or a key that an operator wrote into the configuration.
    let hex: String = SECRET.iter().map(|byte| format!("{byte:02x}")).collect();
    for value in [hex.as_str(), primary, FIRST, &base64(&SECRET, *b"+/")] {
        for text in [
            DERIVE.replace("@/etc/secret", value),
            DERIVE.replace("@/etc/secret", &format!("credential:/{value}")),
            DERIVE.replace("\"@/etc/secret\"", value),
            DERIVE.replace("\"@/etc/secret\"", &format!("\"{value}")),
            DERIVE.replace("\"@/etc/secret\"", &format!("[\"{value}\"]")),
            format!("[source]\nkind = \"file\"\npath = \"{value}\"\n"),
            format!("{DERIVE}key = \"{value}\"\n"),
            format!("{DERIVE}algorithm = \"static\"\nkey_file = \"{value}\"\n"),
            format!("{DERIVE}{value}\n"),
        ] {
            host.configure(&text);
            every(&text);
        }
    }
    // The wrong file named as the configuration.
    for (content, what) in [(&SECRET[..], "raw"), (hex.as_bytes(), "hex"), (FIRST.as_bytes(), "key text")] {
        host.write("etc/agent.toml", content, 0o600);
        every(&format!("--config {what}"));
    }
    // What stands in the sysctl.d file when it is not ours, or was changed.
    host.use_keys(FIRST);
    for text in [format!("net.ipv4.tcp_fastopen_key = {SECOND}\n"), format!("# {SECOND} {hex}\n")] {
        host.write("sysctl.d/50-tcp_fastopen_key.conf", text, 0o600);
        for command in ["check", "once"] {
            quiet(&secrets, "another's file", &host.run(command, &["--format", "json"]));
        }
    }
}
