//! `tfoctl pki`: certificates for a fleet that has no PKI of its own.
//!
//! An authority is a directory (`tfo_pki::directory`); the coordinator and the agents need only ca.crt, crl.pem and their own
//! pair from it, and ca.key is best kept where no server is.

mod shown;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use tfo_cli::report::{self, Failure, Format, Outcome};
use tfo_host::runtime::clock;
use tfo_model::ids::NodeId;
use tfo_model::problem::{Problem, chain};
use tfo_model::serial::SerialNumber as Serial;
use tfo_model::time::UnixTime;
use tfo_pki::authority;
use tfo_pki::directory::{
    AUTHORITY_DAYS, Directory, DirectoryError, Fault, LIST_DAYS, OWN_FILES, Place, REVOCATION_LIST, Wanted,
};
use tfo_pki::index::{Index, Which};
use tfo_pki::key::SigningKey;
use tfo_pki::role::Role;

/// Longest lifetime of an authority in days.
const AUTHORITY_DAYS_MAX: i64 = 7_300;
/// Longest lifetime of anything else in days: two years and a quarter, the limit of browsers and Apple's TLS for years.
const DAYS_MAX: i64 = 825;
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
    let (directory, authority, index) =
        Directory::create(&arguments.dir, arguments.days, &arguments.domain, now).map_err(failure)?;
    Ok(shown::Made {
        directory: directory.path().to_owned(),
        domains: arguments.domain.clone(),
        not_after: authority.lifetime().not_after,
        crl_next_update: index.crl_next_update,
    })
}

fn issue(arguments: &IssueArgs, now: UnixTime) -> Result<shown::Issued, Failure> {
    let (name, role) = (&arguments.name, arguments.role.role());
    refuse_name(name)?;
    let directory = Directory::open(&arguments.dir).map_err(failure)?;
    let mut index = directory.index().map_err(failure)?;
    let ca_certificate = directory.ca_certificate().map_err(failure)?;
    let own = directory.file(name.as_str());
    let place = Place::of(role, arguments.out.as_deref().unwrap_or(&own));
    let authority = directory.authority().map_err(failure)?;
    let days = arguments.days.unwrap_or(role.days());
    let wanted = Wanted { role, name, addresses: &arguments.address, days };
    wanted.refuse(&authority, &index, now).map_err(failure)?;
    place.refuse_if_used(&ca_certificate).map_err(failure)?;
    let key = SigningKey::fresh().map_err(|error| failed(&error))?;
    let certified = directory.certify((&authority, &mut index), &wanted, &key.public_key(), now);
    let (certificate, entry) = certified.map_err(failure)?;
    place.write(&certificate, &key.pem(), &ca_certificate).map_err(failure)?;
    let shortened = entry.not_after < now.plus(u64::from(days) * 86_400);
    Ok(shown::Issued { entry, certificate: place.certificate, key: place.key, ca: place.ca, shortened })
}

fn revoke(arguments: &RevokeArgs, now: UnixTime) -> Result<shown::Revoked, Failure> {
    let which = match (&arguments.name, arguments.serial) {
        (_, Some(serial)) => Which::Serial(serial),
        (Some(name), None) => Which::Name(name.clone()),
        (None, None) => unreachable!("clap asks for one of them"),
    };
    let directory = Directory::open(&arguments.dir).map_err(failure)?;
    let mut index = directory.index().map_err(failure)?;
    if !index.knows(&which) {
        let message = format!("this authority has issued no certificate for {which}");
        let problem = Problem::error("unknown_certificate", message, "`tfoctl pki list` lists the issued certificates");
        return Err(Failure::new(Outcome::Failed, problem));
    }
    let authority = directory.authority().map_err(failure)?;
    let revoked = index.revoke(&which, now);
    // Also if nothing was left to revoke: an earlier run may have been interrupted before it wrote the list.
    directory.renew_list(&authority, &mut index, LIST_DAYS, now).map_err(failure)?;
    Ok(shown::Revoked { which, revoked, list: list_of(&directory, &index) })
}

fn renew(arguments: &CrlArgs, now: UnixTime) -> Result<shown::List, Failure> {
    let directory = Directory::open(&arguments.dir).map_err(failure)?;
    let mut index = directory.index().map_err(failure)?;
    let authority = directory.authority().map_err(failure)?;
    directory.renew_list(&authority, &mut index, arguments.days, now).map_err(failure)?;
    Ok(list_of(&directory, &index))
}

fn list(arguments: &ListArgs, now: UnixTime) -> Result<shown::Listing, Failure> {
    let directory = Directory::open(&arguments.dir).map_err(failure)?;
    let index = directory.index().map_err(failure)?;
    let ca = directory.ca_certificate().map_err(failure)?;
    let ca = authority::lifetime_of(&ca).map_err(|error| failed(&error))?;
    Ok(shown::Listing::new(&index, ca.not_after, now))
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

/// The exit code of a directory's failure.
fn failure(error: DirectoryError) -> Failure {
    let outcome = match error.fault {
        Fault::Usage => Outcome::Config,
        Fault::Refused => Outcome::Refused,
        Fault::Failed => Outcome::Failed,
    };
    Failure::new(outcome, error.problem)
}

fn failed(error: &authority::AuthorityError) -> Failure {
    Failure::new(Outcome::Failed, Problem::error("sign", chain(error), "try again"))
}
