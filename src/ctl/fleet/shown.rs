//! Pools, the audit log and results of commands as text.  As JSON they are the types of the API.

use std::io::{self, Write};

use serde::Serialize;

use super::verdict::line;
use tfo_cli::plain::{count_of_nodes, names, names_of, plain};
use tfo_cli::plan::slot;
use tfo_cli::report::Report;
use tfo_cli::table::Table;
use tfo_host::runtime::clock;
use tfo_model::state::SlotPrint;
use tfo_model::time::{UnixTime, duration_text};
use tfo_wire::v1::fleet::{AuditLine, Done, PoolStatus, Pools};
use tfo_wire::v1::tokens::EnrolmentLine;

/// A type of the API, which is shown as JSON unchanged.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Shown<T>(pub(super) T);

impl Report for Shown<Pools> {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.0.pools.is_empty() {
            return writeln!(out, "the coordinator has no pools: add [pools.NAME] to its configuration");
        }
        let now = clock::now();
        let mut table = Table::new(&["POOL", "PHASE", "GEN", "PRIMARY", "BACKUP", "NODES", "NEXT"]);
        for pool in &self.0.pools {
            let waves = pool.waves.map_or(String::new(), |waves| format!(" {}/{}", waves.opened, waves.of));
            table.row([
                pool.pool.to_string(),
                format!("{}{waves}", pool.phase.as_str()),
                pool.generation.to_string(),
                print(pool.primary),
                print(pool.backup),
                format!("{}/{}", pool.converged, pool.required),
                pool.next_at.map_or_else(|| "-".to_owned(), |at| in_time(at, now)),
            ]);
        }
        table.write(out)?;
        self.0.pools.iter().try_for_each(|pool| {
            writeln!(out, "{}: {}", pool.pool, line(&pool.verdict))?;
            if pool.cookie_lifetime_secs > 0 {
                let lifetime = duration_text(pool.cookie_lifetime_secs);
                writeln!(out, "{}: an observer can follow a client by one cookie for at most {lifetime}", pool.pool)?;
            }
            remarks(pool).into_iter().try_for_each(|remark| writeln!(out, "{remark}"))
        })
    }
}

/// How long until then, in its largest unit: a table has no room for more.
fn in_time(at: UnixTime, now: UnixTime) -> String {
    match at.secs_since(now) {
        0 => "now".to_owned(),
        secs => format!("in {}", duration_text(secs).split(' ').next().unwrap_or_default()),
    }
}

/// The fingerprint of a slot.
fn print(slot: Option<SlotPrint>) -> String {
    slot.map_or_else(|| "-".to_owned(), |slot| slot.fingerprint.to_string())
}

/// Lines for what neither the table nor the verdict has; each names the pool.
pub(super) fn remarks(pool: &PoolStatus) -> Vec<String> {
    let mut remarks = Vec::new();
    if !pool.waiting_for.is_empty() {
        remarks.push(format!("waits for {}", names(&pool.waiting_for)));
    }
    if !pool.revoking.is_empty() {
        remarks.push(format!("drives out {}", names(pool.revoking.iter().map(|key| slot(Some(*key))))));
    }
    for slots in &pool.recoverable {
        remarks.push(format!("the fleet holds {}, {}", slot(Some(slots.primary)), slot(slots.backup)));
    }
    if pool.reporting > 0 {
        remarks.push(format!(
            "{} only reporting: keys come from another source, not from this pool",
            count_of_nodes(pool.reporting)
        ));
    }
    if !pool.policy_differs.is_empty() {
        let then = if pool.policy_waits {
            "it takes effect between rotations"
        } else {
            "the pool's counts, and a reload of that coordinator would take the file's"
        };
        let differs = names(&pool.policy_differs);
        remarks.push(format!("this coordinator's file differs from the pool's policy in {differs}: {then}"));
    }
    remarks.into_iter().map(|text| format!("{}: {text}", pool.pool)).collect()
}

impl Report for Shown<Done> {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Done { pool, revision, generation, phase, action, nodes, more } = &self.0;
        write!(
            out,
            "{}: done in pool {pool}; generation {generation}, {}, revision {revision}",
            plain(action.as_str()),
            phase.as_str()
        )?;
        if nodes.is_empty() { writeln!(out) } else { writeln!(out, "; {}", names_of(nodes, *more)) }
    }
}

/// One line of the audit log.
pub(super) fn audit_line(line: &AuditLine) -> String {
    let who = line.operator.as_ref().map_or_else(|| "coordinator".to_owned(), ToString::to_string);
    let mut text = format!(
        "{}  r{} g{}  {}  {who}  {}",
        line.at,
        line.revision,
        line.generation,
        line.phase.as_str(),
        plain(line.action.as_str())
    );
    if !line.nodes.is_empty() {
        text += &format!("  [{}]", names_of(&line.nodes, line.more));
    }
    if !line.reason.is_empty() {
        text += &format!("  \"{}\"", plain(&line.reason));
    }
    text
}

/// One line about tokens and certificates.
pub(super) fn enrolment_line(line: &EnrolmentLine) -> String {
    let who = match (&line.operator, &line.address) {
        (Some(operator), _) => operator.to_string(),
        (None, Some(address)) => address.to_string(),
        (None, None) => "coordinator".to_owned(),
    };
    let mut text = format!("{}  enrolment  {who}  {}", line.at, plain(line.action.as_str()));
    if line.count != 1 {
        text += &format!(" x{}", line.count);
    }
    if let Some(token) = &line.token {
        text += &format!("  token {token}");
    }
    if !line.nodes.is_empty() {
        text += &format!("  [{}]", names_of(&line.nodes, line.more));
    }
    if !line.reason.is_empty() {
        text += &format!("  \"{}\"", plain(&line.reason));
    }
    text
}
