//! `tfoctl cookie`: the cookie that a server with these keys gives to a client, as `ip tcp_metrics` and packets show it.

use std::io::{self, Write};
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::key_file;
use tfo_cli::report::{Failure, Format, Outcome, Report, deliver};
use tfo_crypto::fingerprint::fingerprint;
use tfo_model::cookie::Cookie;
use tfo_model::key::{KeyFingerprint, TfoKey};
use tfo_model::problem::Problem;

/// Arguments of `cookie`.
#[derive(Debug, clap::Args)]
pub struct CookieArgs {
    /// File with kernel text, one key or PRIMARY,BACKUP, which only its owner may read; "-": standard input
    #[arg(long, value_name = "FILE|-")]
    key_file: String,
    /// Address of the client, as the server sees it
    #[arg(long, value_name = "ADDRESS")]
    src: IpAddr,
    /// Address of the server
    #[arg(long, value_name = "ADDRESS")]
    dst: IpAddr,
}

/// Wire v1: `cookie --format json` (docs/reference/json.md).
#[derive(Serialize)]
struct Cookies {
    src: IpAddr,
    dst: IpAddr,
    cookies: Vec<SlotCookie>,
}

#[derive(Serialize)]
struct SlotCookie {
    slot: &'static str,
    #[serde(serialize_with = "as_text")]
    cookie: Cookie,
    #[serde(skip)]
    key: KeyFingerprint,
}

fn as_text<S: Serializer>(cookie: &Cookie, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(cookie)
}

impl Report for Cookies {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "client {}, server {}", self.src, self.dst)?;
        self.cookies.iter().try_for_each(|SlotCookie { slot, cookie, key }| {
            let role = if *slot == "primary" { "given and accepted" } else { "accepted only" };
            writeln!(out, "{slot:<7}  {cookie}  {role}, key {key}")
        })
    }
}

/// Makes the cookies of both slots.
///
/// # Errors
/// Fails if the keys cannot be read, or if one address is IPv4 and the other IPv6.
pub fn run(arguments: &CookieArgs, format: Format) -> Result<Outcome, Failure> {
    // A server that listens on [::] sees IPv4 clients as ::ffff:a.b.c.d; the packets, and so the cookies, are IPv4's.
    let (src, dst) = (arguments.src.to_canonical(), arguments.dst.to_canonical());
    if src.is_ipv4() != dst.is_ipv4() {
        let message = format!("--src {src} and --dst {dst} are of different address families");
        let remedy = "give two IPv4 or two IPv6 addresses: those in the IP header of the client's SYN";
        return Err(Failure::new(Outcome::Config, Problem::error("address_families", message, remedy)));
    }
    let keys = key_file::read(&arguments.key_file)?;
    let of = |slot, key: &TfoKey| {
        let cookie = Cookie::of(key, src, dst).expect("both are of one family");
        SlotCookie { slot, cookie, key: fingerprint(key) }
    };
    let backup = keys.backup().map(|key| of("backup", key));
    deliver(&Cookies { src, dst, cookies: [of("primary", keys.primary())].into_iter().chain(backup).collect() }, format)
}
