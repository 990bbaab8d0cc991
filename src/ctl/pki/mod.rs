//! `tfoctl pki`: certificates for a fleet that has no PKI of its own.
//!
//! An authority is a directory (`directory`); the coordinator and the agents need only ca.crt, crl.pem and their own
//! pair from it, and ca.key is best kept where no server is.

mod directory;
mod index;
mod shown;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use self::directory::{Directory, OWN_FILES, Place, REVOCATION_LIST};
use self::index::{Entry, Index, Which};
use tfo_cli::report::{self, Failure, Format, Outcome};
use tfo_host::runtime::clock;
use tfo_model::ids::NodeId;
use tfo_model::problem::{Problem, chain};
use tfo_model::serial::SerialNumber as Serial;
use tfo_model::time::UnixTime;
use tfo_pki::authority::{self, Authority, Lifetime, Revoked, Subject};
use tfo_pki::role::Role;
use tfo_pki::serial;

/// Default lifetime of an authority in days: ten years.  Replacing it means a new ca.crt on every host; the lifetime of a
/// leaf and the revocation list limit the harm of a leaked leaf.
const AUTHORITY_DAYS: u32 = 3_650;
/// Longest lifetime of an authority in days.
const AUTHORITY_DAYS_MAX: i64 = 7_300;
/// Longest lifetime of anything else in days: two years and a quarter, the limit of browsers and Apple's TLS for years.
const DAYS_MAX: i64 = 825;
/// Default lifetime of a revocation list in days: that of hosts' certificates, so that one yearly round renews both.
///
/// Coordinators refuse all peers under an expired list, and nothing renews it automatically, so it must not be the first
/// thing of a fleet to expire.  A shorter life would gain nothing: the list is a local file, which an attacker on the network
/// cannot hold back, and every revocation makes a new one.
const LIST_DAYS: u32 = 397;

/// Arguments of `pki`.
#[derive(Debug, Args)]
pub(crate) struct PkiArgs {
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Debug, Subcommand)]
enum PkiCommand {
    /// Make a certificate authority: ca.key (0600), ca.crt, an empty crl.pem; never overwrites
    Init(InitArgs),
    /// Issue a certificate: DIR/NAME/ROLE.crt, ROLE.key (0600) and ca.crt, as the configurations name them; never overwrites
    Issue(IssueArgs),
    /// Revoke a name's certificates, or one by its serial number, and renew crl.pem
    Revoke(RevokeArgs),
    /// Renew crl.pem before it expires
    Crl(CrlArgs),
    /// List the issued certificates
    List(ListArgs),
}

#[derive(Debug, Args)]
struct InitArgs {
    /// Directory of the new authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Domain that it may issue names in (repeatable); default: any name
    #[arg(long, value_name = "NAME")]
    domain: Vec<NodeId>,
    /// Lifetime in days
    #[arg(long, value_name = "N", default_value_t = AUTHORITY_DAYS, value_parser = clap::value_parser!(u32).range(1..=AUTHORITY_DAYS_MAX))]
    days: u32,
}

#[derive(Debug, Args)]
struct IssueArgs {
    /// Directory of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    role: RoleArgs,
    /// DNS name of the holder, as in the coordinator's configuration
    #[arg(value_name = "NAME")]
    name: NodeId,
    /// IP address of a coordinator, if it is also reached by address (repeatable)
    #[arg(long, value_name = "IP")]
    address: Vec<IpAddr>,
    /// Lifetime in days; default 397 for hosts, 90 for people
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=DAYS_MAX))]
    days: Option<u32>,
    /// Directory for the files, if not DIR/NAME
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line, of which clap takes exactly one")]
struct RoleArgs {
    /// For an agent
    #[arg(long)]
    node: bool,
    /// For an operator, who may change pools
    #[arg(long)]
    operator: bool,
    /// For a person or a program that may only look
    #[arg(long)]
    viewer: bool,
    /// For a coordinator
    #[arg(long)]
    coordinator: bool,
}

impl RoleArgs {
    fn role(&self) -> Role {
        if self.node {
            Role::Node
        } else if self.operator {
            Role::Operator
        } else if self.viewer {
            Role::Viewer
        } else {
            Role::Coordinator
        }
    }
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// Directory of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Revoke all certificates of this name
    #[arg(value_name = "NAME", required_unless_present = "serial", conflicts_with = "serial")]
    name: Option<NodeId>,
    /// Revoke the certificate with this serial number
    #[arg(long, value_name = "SERIAL")]
    serial: Option<Serial>,
}

#[derive(Debug, Args)]
struct CrlArgs {
    /// Directory of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Lifetime in days
    #[arg(long, value_name = "N", default_value_t = LIST_DAYS, value_parser = clap::value_parser!(u32).range(1..=DAYS_MAX))]
    days: u32,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Directory of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Runs `pki`.
///
/// # Errors
/// Fails with its problems and the exit code.
pub(crate) fn run(arguments: &PkiArgs, format: Format) -> Result<Outcome, Failure> {
    let now = clock::now();
    match &arguments.command {
        PkiCommand::Init(arguments) => report::deliver(&init(arguments, now)?, format),
        PkiCommand::Issue(arguments) => report::deliver(&issue(arguments, now)?, format),
        PkiCommand::Revoke(arguments) => report::deliver(&revoke(arguments, now)?, format),
        PkiCommand::Crl(arguments) => report::deliver(&renew(arguments, now)?, format),
        PkiCommand::List(arguments) => report::deliver(&list(arguments, now)?, format),
    }
}

fn init(arguments: &InitArgs, now: UnixTime) -> Result<shown::Made, Failure> {
    let directory = Directory::make(&arguments.dir)?;
    directory.refuse_if_used()?;
    let made = authority::make(now, arguments.days, &arguments.domain).map_err(|error| failed(&error))?;
    let mut index = Index::empty(now);
    let put = directory.put_authority(&made.certificate, &made.key).and_then(|()| directory.authority());
    put.and_then(|authority| put_list(&directory, &authority, &mut index, now, LIST_DAYS))
        .inspect_err(|_| directory.clear_authority())?;
    Ok(shown::Made {
        directory: directory.path().to_owned(),
        domains: arguments.domain.clone(),
        not_after: now.plus(u64::from(arguments.days) * 86_400),
        crl_next_update: index.crl_next_update,
    })
}

fn issue(arguments: &IssueArgs, now: UnixTime) -> Result<shown::Issued, Failure> {
    let (name, role) = (&arguments.name, arguments.role.role());
    refuse_name(name)?;
    let directory = Directory::open(&arguments.dir)?;
    let mut index = directory.index()?;
    if let Some(other) = index.conflict(name, role, now) {
        let message = format!(
            "{name} has a certificate as {} until {} (serial {})",
            other.role.as_str(),
            other.not_after,
            other.serial
        );
        let remedy = "the name alone identifies a peer: use another name, or revoke that certificate";
        return Err(refused("name_taken", message, remedy));
    }
    let ca_certificate = directory.ca_certificate()?;
    let own = directory.file(name.as_str());
    let place = Place::of(role, arguments.out.as_deref().unwrap_or(&own));
    place.refuse_if_used(&ca_certificate)?;
    let authority = directory.authority()?;
    refuse_domain(&authority, name)?;
    let wanted = Lifetime::days(now, arguments.days.unwrap_or(role.days()));
    let lifetime = wanted.within(authority.lifetime());
    if lifetime.not_after <= now {
        let message = format!("the authority's own certificate expired at {}", authority.lifetime().not_after);
        return Err(refused("authority_expired", message, "make a new authority with `tfoctl pki init`"));
    }
    let serial = serial::fresh().map_err(|error| failed(&error.into()))?;
    let subject = Subject { role, name, addresses: &arguments.address, serial, lifetime };
    let issued = authority.issue(&subject).map_err(|error| failed(&error))?;
    let entry = Entry {
        serial,
        role,
        name: name.clone(),
        addresses: arguments.address.clone(),
        not_before: lifetime.not_before,
        not_after: lifetime.not_after,
        revoked_at: None,
    };
    index.certificates.push(entry.clone());
    directory.put_index(&index)?;
    place.write(&issued.certificate, &issued.key, &ca_certificate)?;
    let shortened = lifetime.not_after < wanted.not_after;
    Ok(shown::Issued { entry, certificate: place.certificate, key: place.key, ca: place.ca, shortened })
}

fn revoke(arguments: &RevokeArgs, now: UnixTime) -> Result<shown::Revoked, Failure> {
    let which = match (&arguments.name, arguments.serial) {
        (_, Some(serial)) => Which::Serial(serial),
        (Some(name), None) => Which::Name(name.clone()),
        (None, None) => unreachable!("clap asks for one of them"),
    };
    let directory = Directory::open(&arguments.dir)?;
    let mut index = directory.index()?;
    if !index.knows(&which) {
        let message = format!("this authority has issued no certificate for {which}");
        let problem = Problem::error("unknown_certificate", message, "`tfoctl pki list` lists the issued certificates");
        return Err(Failure::new(Outcome::Failed, problem));
    }
    let authority = directory.authority()?;
    let revoked = index.revoke(&which, now);
    // Also if nothing was left to revoke: an earlier run may have been interrupted before it wrote the list.
    put_list(&directory, &authority, &mut index, now, LIST_DAYS)?;
    Ok(shown::Revoked { which, revoked, list: list_of(&directory, &index) })
}

fn renew(arguments: &CrlArgs, now: UnixTime) -> Result<shown::List, Failure> {
    let directory = Directory::open(&arguments.dir)?;
    let mut index = directory.index()?;
    put_list(&directory, &directory.authority()?, &mut index, now, arguments.days)?;
    Ok(list_of(&directory, &index))
}

fn list(arguments: &ListArgs, now: UnixTime) -> Result<shown::Listing, Failure> {
    let directory = Directory::open(&arguments.dir)?;
    let index = directory.index()?;
    let ca = authority::lifetime_of(&directory.ca_certificate()?).map_err(|error| failed(&error))?;
    Ok(shown::Listing::new(&index, ca.not_after, now))
}

/// Raises the list's number, writes the index, and only then the list: a number must never be used twice.
fn put_list(
    directory: &Directory,
    authority: &Authority,
    index: &mut Index,
    now: UnixTime,
    days: u32,
) -> Result<(), Failure> {
    let lifetime = Lifetime::days(now, days).within(authority.lifetime());
    if lifetime.not_after <= now {
        let message = format!("the authority's own certificate expired at {}", authority.lifetime().not_after);
        return Err(refused("authority_expired", message, "make a new authority with `tfoctl pki init`"));
    }
    index.crl_number += 1;
    index.crl_next_update = lifetime.not_after;
    let revoked: Vec<Revoked> =
        index.certificates.iter().filter_map(|entry| Some(Revoked::new(&entry.serial, entry.revoked_at?))).collect();
    let text = authority.revocation_list(index.crl_number, lifetime, &revoked).map_err(|error| failed(&error))?;
    directory.put_index(index)?;
    directory.put_revocation_list(&text)
}

fn list_of(directory: &Directory, index: &Index) -> shown::List {
    let revoked = index.certificates.iter().filter(|entry| entry.revoked_at.is_some()).count();
    shown::List {
        path: directory.file(REVOCATION_LIST),
        number: index.crl_number,
        next_update: index.crl_next_update,
        revoked,
    }
}

/// Refuses names that cannot be a host's: an address in place of a name, and the names of the authority's own files.
fn refuse_name(name: &NodeId) -> Result<(), Failure> {
    let last = name.as_str().rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        let message = format!("{name} is not a DNS name: its last label is a number");
        let problem = Problem::error("bad_name", message, "use a name, and give the address with --address");
        return Err(Failure::new(Outcome::Config, problem));
    }
    if OWN_FILES.contains(&name.as_str()) {
        let problem =
            Problem::error("bad_name", format!("{name} is a file of the authority's own"), "use another name");
        return Err(Failure::new(Outcome::Config, problem));
    }
    Ok(())
}

fn refuse_domain(authority: &Authority, name: &NodeId) -> Result<(), Failure> {
    if authority.may_name(name) {
        return Ok(());
    }
    let message = format!("this authority issues only names in {}", authority.domains().join(", "));
    Err(refused("outside_domain", message, "use a name in that domain; peers would not accept another"))
}

fn refused(kind: &'static str, message: impl Into<String>, remedy: &str) -> Failure {
    Failure::new(Outcome::Refused, Problem::error(kind, message, remedy))
}

fn failed(error: &authority::AuthorityError) -> Failure {
    Failure::new(Outcome::Failed, Problem::error("sign", chain(error), "try again"))
}
