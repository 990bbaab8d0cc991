//! Results of `tfoctl pki`: text for people, JSON for programs.  Never key bytes.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use tfo_cli::report::Report;
use tfo_cli::table::Table;
use tfo_model::ids::NodeId;
use tfo_model::time::UnixTime;
use tfo_pki::index::{Entry, Index, State, Which};
use tfo_pki::role::Role;

/// Where a coordinator has its revocation list, as the shipped configuration names it (config/coordinator.toml).
const INSTALLED_LIST: &str = "/etc/tfo-fleet/crl.pem";

/// A new authority.
#[derive(Debug, Serialize)]
pub(super) struct Made {
    /// Its directory.
    pub(super) directory: PathBuf,
    /// Domains that it is limited to.
    pub(super) domains: Vec<NodeId>,
    /// End of its certificate.
    pub(super) not_after: UnixTime,
    /// When crl.pem must be renewed.
    pub(super) crl_next_update: UnixTime,
}

impl Report for Made {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let directory = self.directory.display();
        writeln!(out, "authority  {directory}, until {}", self.not_after)?;
        if self.domains.is_empty() {
            writeln!(out, "names      any (--domain limits it to your own)")?;
        } else {
            let domains: Vec<&str> = self.domains.iter().map(NodeId::as_str).collect();
            writeln!(out, "names      in {}", domains.join(", "))?;
        }
        writeln!(out, "ca.key     with it one can pose as any node or operator: keep it off servers")?;
        writeln!(out, "ca.crt     to every host (client_ca, ca)")?;
        writeln!(
            out,
            "crl.pem    to every coordinator (crl); renew it before {}, or they refuse new nodes",
            self.crl_next_update
        )
    }
}

/// A new certificate.
#[derive(Debug, Serialize)]
pub(super) struct Issued {
    /// Its entry in the index.
    #[serde(flatten)]
    pub(super) entry: Entry,
    /// Its file.
    pub(super) certificate: PathBuf,
    /// Its private key's file.
    pub(super) key: PathBuf,
    /// The authority's certificate.
    pub(super) ca: PathBuf,
    /// Whether it ends earlier than requested, because its authority does.
    pub(super) shortened: bool,
}

impl Report for Issued {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Entry { name, role, serial, not_after, .. } = &self.entry;
        writeln!(out, "{} {name}, serial {serial}, until {not_after}", role.as_str())?;
        if self.shortened {
            writeln!(out, "it ends with its authority, earlier than requested")?;
        }
        for path in [&self.certificate, &self.key, &self.ca] {
            writeln!(out, "  {}", path.display())?;
        }
        match role {
            Role::Operator => writeln!(out, "add it to the coordinators' configuration: operators = [\"{name}\"]"),
            Role::Viewer => writeln!(out, "add it to the coordinators' configuration: viewers = [\"{name}\"]"),
            Role::Node | Role::Coordinator => Ok(()),
        }
    }
}

/// The revocation list.
#[derive(Debug, Serialize)]
pub(super) struct List {
    /// Its file.
    pub(super) path: PathBuf,
    /// Its number.
    pub(super) number: u64,
    /// When it must be renewed.
    pub(super) next_update: UnixTime,
    /// How many certificates are on it.
    pub(super) revoked: usize,
}

impl Report for List {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { path, number, next_update, revoked } = self;
        writeln!(out, "{}: number {number}, {revoked} revoked, to be renewed before {next_update}", path.display())?;
        writeln!(out, "copy it to every coordinator, where coordinator.toml has in [api]: crl = \"{INSTALLED_LIST}\"")?;
        writeln!(
            out,
            "coordinators read it by themselves within 5 s, and then cut off who is on it, also if connected"
        )?;
        writeln!(out, "once it has expired, they refuse new nodes")
    }
}

/// A revocation.
#[derive(Debug, Serialize)]
pub(super) struct Revoked {
    /// The certificates that were selected.
    #[serde(skip)]
    pub(super) which: Which,
    /// The certificates that this command revoked.
    pub(super) revoked: Vec<Entry>,
    /// The new list.
    #[serde(rename = "crl")]
    pub(super) list: List,
}

impl Report for Revoked {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.revoked.is_empty() {
            writeln!(out, "{} was already revoked", self.which)?;
        }
        for entry in &self.revoked {
            writeln!(out, "revoked {} {}, serial {}", entry.role.as_str(), entry.name, entry.serial)?;
        }
        self.list.write_text(out)
    }
}

/// All issued certificates.
#[derive(Debug, Serialize)]
pub(super) struct Listing {
    ca_not_after: UnixTime,
    crl_next_update: UnixTime,
    crl_number: u64,
    certificates: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    state: State,
    #[serde(flatten)]
    entry: Entry,
}

impl Listing {
    /// The entries of an index, sorted by name and then by age.
    pub(super) fn new(index: &Index, ca_not_after: UnixTime, now: UnixTime) -> Self {
        let mut certificates: Vec<Listed> =
            index.certificates.iter().map(|e| Listed { state: e.state(now), entry: e.clone() }).collect();
        certificates.sort_by(|a, b| (&a.entry.name, a.entry.not_after).cmp(&(&b.entry.name, b.entry.not_after)));
        let (crl_next_update, crl_number) = (index.crl_next_update, index.crl_number);
        Self { ca_not_after, crl_next_update, crl_number, certificates }
    }
}

impl Report for Listing {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["NAME", "ROLE", "STATE", "UNTIL", "SERIAL"]);
        for Listed { state, entry } in &self.certificates {
            table.row([
                entry.name.to_string(),
                entry.role.as_str().to_owned(),
                state.as_str().to_owned(),
                entry.not_after.to_string(),
                entry.serial.to_string(),
            ]);
        }
        table.write(out)?;
        writeln!(out, "authority until {}; crl.pem to be renewed before {}", self.ca_not_after, self.crl_next_update)
    }
}
