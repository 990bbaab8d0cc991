//! The configurations that `init` writes: the shipped examples, with the places and names of this host.

use std::path::Path;

use super::Wish;
use super::layout::Layout;
use tfo_model::ids::NodeId;
use tfo_pki::directory::CA_KEY;

/// The commented example of coordinator.toml that is shipped.
pub(super) const EXAMPLE: &str = include_str!("../../../config/coordinator.toml");
/// That of ctl.toml.
pub(super) const CTL_EXAMPLE: &str = include_str!("../../../config/ctl.toml");
/// The credential that has the authority's private key.
pub(super) const CREDENTIAL: &str = "ca";

/// coordinator.toml: the example, so that every key stands in it with its default.
pub(super) fn config(layout: &Layout, wish: &Wish, operator: &NodeId) -> String {
    let nodes: Vec<String> = wish.nodes.iter().map(|pattern| format!("{:?}", pattern.to_string())).collect();
    let ca = layout.ca();
    let path = |path: &Path| format!("{:?}", path.display().to_string());
    let mut text = EXAMPLE.to_owned();
    for (line, own) in [
        ("cert      = \"/etc/tfo-fleet/coordinator.crt\"", format!("cert      = {}", path(&layout.certificate()))),
        ("key       = \"/etc/tfo-fleet/coordinator.key\"", format!("key       = {}", path(&layout.key()))),
        ("client_ca = \"/etc/tfo-fleet/ca.crt\"", format!("client_ca = {}", path(&ca))),
        ("crl       = \"/etc/tfo-fleet/crl.pem\"", format!("crl       = {}", path(&layout.list()))),
        ("#[enrolment]", "[enrolment]".to_owned()),
        ("#ca_cert = \"/etc/tfo-fleet/ca.crt\"", format!("ca_cert = {}", path(&ca))),
        ("#ca_key = \"credential:ca\"", format!("ca_key = \"credential:{CREDENTIAL}\"")),
        ("operators = [\"ops1.example.org\"]", format!("operators = [\"{operator}\"]")),
        ("[pools.edge]", format!("[pools.{}]", key(wish.pool.as_str()))),
        ("nodes = [\"*.cache.example.org\"]", format!("nodes = [{}]", nodes.join(", "))),
    ] {
        text = set(&text, line, &own);
    }
    text
}

/// A key of TOML: quoted where it has a dot.
fn key(text: &str) -> String {
    if text.contains('.') { format!("{text:?}") } else { text.to_owned() }
}

/// The text with one line of it replaced.
fn set(text: &str, line: &str, by: &str) -> String {
    let (before, after) = text.split_once(&format!("\n{line}\n")).expect("the example has the line: a test reads it");
    format!("{before}\n{by}\n{after}")
}

/// ctl.toml, for root on this host.
pub(super) fn ctl(layout: &Layout, wish: &Wish) -> String {
    let addresses = wish.addresses.iter().map(|address| match address {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
    });
    let hosts = std::iter::once(wish.name.to_string()).chain(addresses);
    let urls: Vec<String> = hosts.map(|host| format!("https://{host}:{API_PORT}")).collect();
    let (ca, pair) = (layout.ca().display().to_string(), layout.operator().display().to_string());
    let pool = wish.pool.as_str();
    format!(
        "# Written by `tfo-coordinator init`.  Every key: tfo-ctl.toml(5), /usr/share/tfo-fleet/ctl.toml.\n\
         \n\
         urls = {urls:?}\n\
         ca = {ca:?}\n\
         # Certificate and key in one file, which `tfoctl renew` replaces.\n\
         cert = {pair:?}\n\
         key = {pair:?}\n\
         pool = {pool:?}\n"
    )
}

/// The port of the API, as the example has it.
const API_PORT: u16 = 9_443;

/// The drop-in of the unit.
pub(super) fn drop_in(layout: &Layout) -> String {
    let key = layout.authority().join(CA_KEY);
    format!(
        "# Written by `tfo-coordinator init`: the authority's private key, for enrolment.ca_key = \"credential:{CREDENTIAL}\".\n\
         [Service]\n\
         LoadCredential={CREDENTIAL}:{}\n",
        key.display()
    )
}
