//! `tfoctl sniff`: the SYNs and SYN/ACKs that carry TCP Fast Open, live or from a capture, and which key made each cookie.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use super::key_file::STDIN;
use super::key_ring::KeyRing;
use super::packet::{NotRead, Packet};
use super::pcap::{Capture, CaptureError, CapturedAt};
use tfo_cli::report::{Failure, Format, Outcome};
use tfo_model::problem::Problem;

mod event;
mod live;

use event::{Event, Line, Summary};

/// Arguments of `sniff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 done (also when ended by Ctrl-C), 1 failed, 2 usage, 3 not allowed.")]
pub struct Arguments {
    /// Interface to listen on; without it, all interfaces
    #[arg(short, long, value_name = "IF", conflicts_with = "read")]
    interface: Option<String>,
    /// Read a capture, pcap or pcapng ("-": stdin), instead of listening
    #[arg(long, value_name = "FILE")]
    read: Option<PathBuf>,
    /// End after this many packets
    #[arg(long, value_name = "PACKETS", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this many seconds
    #[arg(long, conflicts_with = "read", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    seconds: Option<u64>,
    /// Kernel text, one key or PRIMARY,BACKUP ("-": stdin); may be given several times.  Without it, the keys of this host, if they can be read
    #[arg(long = "key-file", value_name = "FILE")]
    key_files: Vec<PathBuf>,
}

/// Shows every packet with a Fast Open option, and totals at the end.
///
/// # Errors
/// Fails if the interface or the file cannot be read, or if stdout cannot be written.
pub fn run(arguments: &Arguments, format: Format) -> Result<Outcome, Failure> {
    let usage = |problem| Failure::new(Outcome::Config, problem);
    let from_stdin = |path: &PathBuf| path.as_os_str() == STDIN;
    if arguments.read.iter().chain(&arguments.key_files).filter(|path| from_stdin(path)).count() > 1 {
        let message = "stdin is given more than once, but can only be read once";
        return Err(usage(Problem::error("usage", message, "name files instead of \"-\"")));
    }
    let keys = if arguments.key_files.is_empty() {
        keys_of_this_host(arguments)
    } else {
        KeyRing::from_files(&arguments.key_files).map_err(usage)?
    };
    let keys_of = if arguments.key_files.is_empty() { KeysOf::Host } else { KeysOf::Files };
    let (left, summary) = (arguments.count, Summary::default());
    let mut sniffer = Sniffer { keys, keys_of, format, left, summary };
    let came = match &arguments.read {
        Some(path) => sniffer.read_file(path),
        None => live::listen(arguments, &mut sniffer),
    };
    match came {
        Err(Ending::Output(error)) => Err(Failure::undelivered(error)),
        // It failed before the first packet.
        Err(Ending::Failed(failure)) if sniffer.summary == Summary::default() => Err(failure),
        other => {
            sniffer.finish().map_err(Failure::undelivered)?;
            match other {
                Err(Ending::Failed(failure)) => Err(failure),
                _ => Ok(Outcome::Done),
            }
        }
    }
}

/// Source of the keys that cookies are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeysOf {
    /// The given files.
    Files,
    /// The kernel of this host, whose keys may change meanwhile.
    Host,
}

/// Reads the keys of the kernel.  If that fails, warns when listening; a capture may come from another host.
fn keys_of_this_host(arguments: &Arguments) -> KeyRing {
    KeyRing::from_kernel().unwrap_or_else(|error| {
        if arguments.read.is_none() {
            let problem = Problem::warning(
                "keys_unread",
                format!("cookies are shown without their keys: {error}"),
                "run it as root, or give --key-file",
            );
            // Nothing can be reported if stderr is closed.
            drop(writeln!(io::stderr(), "{problem}"));
        }
        KeyRing::default()
    })
}

/// Why reading packets ended.
enum Ending {
    /// The requested number of packets was reached.
    Enough,
    /// Writing to stdout failed.
    Output(io::Error),
    /// Any other failure.
    Failed(Failure),
}

/// Turns packets into lines, and counts them.
struct Sniffer {
    keys: KeyRing,
    keys_of: KeysOf,
    format: Format,
    left: Option<u64>,
    summary: Summary,
}

impl Sniffer {
    /// Reads the keys of this host again, if they are used: the next packet may come after a rotation.
    fn refresh_keys(&mut self) {
        if self.keys_of == KeysOf::Host
            && let Ok(keys) = KeyRing::from_kernel()
        {
            self.keys = keys;
        }
    }

    /// Handles one IP packet.
    fn see(&mut self, at: CapturedAt, bytes: &[u8]) -> Result<(), Ending> {
        let event = match Packet::parse(bytes) {
            Ok(packet) => Event::of(at, &packet, &self.keys),
            Err(NotRead::Cut) => {
                self.summary.cut += 1;
                None
            }
            Err(NotRead::Malformed | NotRead::NotTcp) => None,
        };
        let Some(event) = event else { return Ok(()) };
        self.summary.add(&event);
        self.show(&Line::Event(&event)).map_err(Ending::Output)?;
        if let Some(left) = &mut self.left {
            *left -= 1;
            if *left == 0 {
                return Err(Ending::Enough);
            }
        }
        Ok(())
    }

    fn show(&self, line: &Line<'_>) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        match self.format {
            Format::Json => {
                serde_json::to_writer(&mut stdout, line)?;
                stdout.write_all(b"\n")?;
            }
            Format::Text => writeln!(stdout, "{line}")?,
        }
        // The reader of a pipe wants each line at once.
        stdout.flush()
    }

    fn finish(&self) -> io::Result<()> {
        self.show(&Line::Summary(&self.summary))
    }

    fn read_file(&mut self, path: &Path) -> Result<(), Ending> {
        let failed = |error: CaptureError| {
            let message = match &error {
                CaptureError::Io(cause) => format!("{error}: {cause}"),
                _ => error.to_string(),
            };
            let problem =
                Problem::error("capture", message, "give a complete capture, as tcpdump -w or dumpcap writes it");
            Ending::Failed(Failure::new(Outcome::Failed, problem.in_file(path)))
        };
        let reader: Box<dyn Read> = if path.as_os_str() == STDIN {
            Box::new(io::stdin().lock())
        } else {
            Box::new(File::open(path).map_err(|error| failed(CaptureError::Io(error)))?)
        };
        let mut capture = Capture::open(BufReader::new(reader)).map_err(failed)?;
        while let Some(frame) = capture.next_frame().map_err(failed)? {
            if let Some(packet) = frame.link.ip_packet(frame.bytes) {
                self.see(frame.at, packet)?;
            }
        }
        Ok(())
    }
}
