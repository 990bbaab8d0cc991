//! What `status` shows besides the host: the agent's own report.

use std::io::{self, Write};

use serde::Serialize;

use super::gather::Facts;
use tfo_cli::host_report::{HostReport, HostView, Section};
use tfo_model::count::{Epoch, Generation};
use tfo_model::ids::PoolName;
use tfo_model::key::KeyFingerprint;
use tfo_model::named::Named;
use tfo_model::node::KeySource;
use tfo_model::problem::Problem;
use tfo_model::state::{Phase, SlotPrint};
use tfo_model::time::{UnixTime, duration_text};
use tfo_wire::status::{Standing, State};

/// What `tfoctl status` alone says of a host.  Wire v1.
#[derive(Debug, Serialize)]
pub(super) struct AgentSection {
    /// The agent's own report; null without one.
    agent: Option<AgentView>,
}

/// The agent's state, from status.json or, without that, from the header of the sysctl.d file.
#[derive(Debug, Serialize)]
struct AgentView {
    /// Null: the data comes from the sysctl.d file, so from an earlier boot or run.
    state: Option<State>,
    source: Named<KeySource>,
    pool: Option<PoolName>,
    generation: Option<Generation>,
    phase: Phase,
    primary: Option<KeyView>,
    backup: Option<KeyView>,
    installed_at: Option<UnixTime>,
    /// When the agent last saw these keys in the kernel of its own namespace.
    verified_at: Option<UnixTime>,
    next_change_at: Option<UnixTime>,
    drift_repairs: Option<u64>,
    last_contact_at: Option<UnixTime>,
    /// State of the contact with the coordinators; null if the source has none.
    contact: Option<Named<Standing>>,
}

#[derive(Debug, Serialize)]
struct KeyView {
    epoch: Option<Epoch>,
    fingerprint: KeyFingerprint,
    /// When it became, or will become, primary; null if the epoch is not a time.
    born_at: Option<UnixTime>,
    /// Seconds since `born_at`; null before that time.
    age_secs: Option<u64>,
}

/// The report of what was collected.
pub(super) fn of(facts: &Facts, problems: Vec<Problem>) -> HostReport<AgentSection> {
    let held = facts.held().map(|held| held.pair());
    let host = HostView::of(&facts.host, &facts.file_path, held);
    HostReport::new(facts.now, AgentSection { agent: AgentView::of(facts) }, Some(host), problems)
}

impl AgentView {
    fn of(facts: &Facts) -> Option<Self> {
        let key = |source: &Named<KeySource>, SlotPrint { epoch, fingerprint }: SlotPrint| {
            // The epoch is the unix second at which the key becomes primary, so it is its birth too.
            let dated = source.known().is_some_and(KeySource::uses_clock);
            let born_at = epoch.filter(|_| dated).map(|epoch| UnixTime::from_secs(epoch.get()));
            let age_secs = born_at.filter(|born| *born <= facts.now).map(|born| facts.now.secs_since(born));
            KeyView { epoch, fingerprint, born_at, age_secs }
        };
        if let Some(reported) = facts.reported() {
            return Some(Self {
                state: Some(reported.state),
                source: reported.source.clone(),
                pool: reported.pool.clone(),
                generation: reported.generation,
                phase: reported.phase,
                primary: reported.primary.map(|slot| key(&reported.source, slot)),
                backup: reported.backup.map(|slot| key(&reported.source, slot)),
                installed_at: reported.installed_at,
                verified_at: reported.namespaces.first().and_then(|own| own.verified_at),
                next_change_at: reported.next_change_at,
                drift_repairs: Some(reported.drift_repairs),
                last_contact_at: reported.last_contact_at,
                contact: reported.contact.clone(),
            });
        }
        facts.record().map(|record| Self {
            state: None,
            source: record.source.clone(),
            pool: None,
            generation: record.generation,
            phase: record.phase,
            primary: Some(key(&record.source, record.prints.primary)),
            backup: record.prints.backup.map(|slot| key(&record.source, slot)),
            installed_at: Some(record.installed_at),
            verified_at: None,
            next_change_at: None,
            drift_repairs: None,
            last_contact_at: None,
            contact: None,
        })
    }
}

/// `3h 20m ago`, `in 5m`: the two largest units.
fn relative(at: UnixTime, now: UnixTime) -> String {
    let (earlier, later) = (now.secs_since(at), at.secs_since(now));
    let short = |secs| duration_text(secs).split(' ').take(2).collect::<Vec<_>>().join(" ");
    if later > 0 { format!("in {}", short(later)) } else { format!("{} ago", short(earlier)) }
}

fn when(at: Option<UnixTime>, now: UnixTime, none: &str) -> String {
    at.map_or_else(|| none.to_owned(), |at| format!("{at} ({})", relative(at, now)))
}

fn slot_line(key: Option<&KeyView>, now: UnixTime) -> String {
    let Some(key) = key else { return "none".to_owned() };
    let epoch = key.epoch.map_or_else(|| "no epoch".to_owned(), |epoch| format!("epoch {epoch}"));
    let age = match (key.born_at, key.age_secs) {
        (Some(born), Some(_)) => format!("primary since {born} ({})", relative(born, now)),
        (Some(born), None) => format!("primary from {born} ({})", relative(born, now)),
        (None, _) => "age unknown".to_owned(),
    };
    format!("{}  {epoch}, {age}", key.fingerprint)
}

impl Section for AgentSection {
    fn write_text(&self, now: UnixTime, out: &mut dyn Write) -> io::Result<()> {
        let Some(agent) = &self.agent else { return writeln!(out, "agent        none found") };
        let state = agent.state.map_or("not started since boot; below is what it recorded before", State::as_str);
        writeln!(out, "agent        {state}; source {}", agent.source)?;
        if agent.pool.is_some() || agent.generation.is_some() {
            let pool = agent.pool.as_ref().map_or("unknown", PoolName::as_str);
            let generation = agent.generation.map_or_else(|| "none".to_owned(), |generation| generation.to_string());
            writeln!(out, "pool         {pool}, generation {generation}")?;
        }
        let next_change = when(agent.next_change_at, now, "not planned");
        writeln!(out, "phase        {}, next change {next_change}", agent.phase.as_str())?;
        writeln!(out, "primary      {}", slot_line(agent.primary.as_ref(), now))?;
        writeln!(out, "backup       {}", slot_line(agent.backup.as_ref(), now))?;
        writeln!(out, "installed    {}", when(agent.installed_at, now, "never"))?;
        if agent.state.is_some() {
            let repairs = agent.drift_repairs.map_or_else(|| "unknown".to_owned(), |repairs| repairs.to_string());
            writeln!(out, "verified     {}; drift repairs {repairs}", when(agent.verified_at, now, "not now"))?;
            match &agent.contact {
                None => writeln!(out, "contact      none: this source asks no coordinator")?,
                Some(contact) => {
                    let last = when(agent.last_contact_at, now, "never in this run");
                    writeln!(out, "contact      {}, last answer {last}", contact.as_str())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_relative_to_now() {
        let at = UnixTime::from_secs;
        assert_eq!(relative(at(0), at(90_061)), "1d 1h ago");
        assert_eq!(relative(at(65), at(0)), "in 1m 5s");
        assert_eq!(relative(at(5), at(5)), "0s ago");
    }
}
