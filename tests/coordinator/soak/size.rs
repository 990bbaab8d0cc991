//! What a coordinator and an agent take at a moment, and how much more that may become.

use std::fs;

use tfo_testbed::coordinator::World;

/// How far the peak of a later part may be above that of an earlier one: what an allocator keeps, and noise.
const RESIDENT_SLACK_KIB: u64 = 2 << 10;
/// The same in a run so short that the fleet is still coming back when it is measured.
const RESIDENT_SLACK_SHORT_KIB: u64 = 8 << 10;
/// Descriptors besides connections: listeners, database, certificates.
const OTHER_FILES: u64 = 64;
/// Descriptors of an agent: more would be one for each connection or generation.
const AGENT_FILES_MAX: u64 = 32;
/// The WAL is copied at 16 MiB (src/store/sqlite/open.rs); one transaction may come on top.
const WAL_BYTES_MAX: u64 = 24 << 20;
/// Database for each audit entry, which is kept.
const ENTRY_BYTES_MAX: u64 = 2 << 10;
/// Database besides that: it grows by whole pages, and the store rewrites node records.
const DATABASE_SLACK_BYTES: u64 = 256 << 10;

/// Memory and descriptors of a process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Taken {
    pub(crate) resident_kib: u64,
    pub(crate) files: u64,
}

impl Taken {
    /// By a process that runs.
    pub(crate) fn by(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Self {
            resident_kib: resident.split_whitespace().next().unwrap().parse().unwrap(),
            files: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64,
        }
    }

    fn peak(self, other: Self) -> Self {
        Self { resident_kib: self.resident_kib.max(other.resident_kib), files: self.files.max(other.files) }
    }
}

/// The coordinator, its files, and an agent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Size {
    pub(crate) coordinator: Taken,
    pub(crate) agent: Taken,
    pub(crate) database: u64,
    pub(crate) wal: u64,
    /// Of the document: so many entries the audit log has.
    pub(crate) revision: u64,
}

impl Size {
    /// As it is now.
    pub(crate) fn of(world: &World, agent: Taken, revision: u64) -> Self {
        let bytes = |name| fs::metadata(world.path(name)).map_or(0, |metadata| metadata.len());
        let coordinator = Taken::by(world.pid());
        Self { coordinator, agent, database: bytes("state.db"), wal: bytes("state.db-wal"), revision }
    }

    /// The greater of each.
    pub(crate) fn peak(self, other: Self) -> Self {
        Self {
            coordinator: self.coordinator.peak(other.coordinator),
            agent: self.agent.peak(other.agent),
            database: self.database.max(other.database),
            wal: self.wal.max(other.wal),
            revision: self.revision.max(other.revision),
        }
    }
}

/// What has grown from one part of a life to a later one, or is above its limit.
pub(crate) fn grown(parts: &[Size], agents: u64, long: bool) -> Vec<&'static str> {
    let (early, late) = (parts[1], parts[parts.len() - 1]);
    let slack = if long { RESIDENT_SLACK_KIB } else { RESIDENT_SLACK_SHORT_KIB };
    let is_larger = |early: Taken, late: Taken| late.resident_kib > early.resident_kib + early.resident_kib / 8 + slack;
    let entries = late.revision.checked_sub(early.revision).expect("revisions only rise");
    let database = late.database.saturating_sub(early.database);
    let any = |limit: fn(&Size) -> u64, most: u64| parts.iter().any(|part| limit(part) > most);
    [
        ("the coordinator's memory", is_larger(early.coordinator, late.coordinator)),
        ("an agent's memory", is_larger(early.agent, late.agent)),
        // An agent that was cut and came back may hold two for a moment.
        ("the coordinator's descriptors", any(|part| part.coordinator.files, 2 * agents + OTHER_FILES)),
        ("an agent's descriptors", any(|part| part.agent.files, AGENT_FILES_MAX)),
        ("the WAL", any(|part| part.wal, WAL_BYTES_MAX)),
        ("the database", database > DATABASE_SLACK_BYTES + ENTRY_BYTES_MAX * entries),
    ]
    .into_iter()
    .filter_map(|(what, has_grown)| has_grown.then_some(what))
    .collect()
}

#[test]
fn each_growth_is_seen() {
    let taken = |resident_kib, files| Taken { resident_kib, files };
    let size = Size {
        coordinator: taken(32 << 10, 220),
        agent: taken(6 << 10, 16),
        database: 2 << 20,
        wal: 4 << 20,
        revision: 100,
    };
    let late = |change: fn(&mut Size)| {
        let mut late = Size { revision: 200, ..size };
        change(&mut late);
        grown(&[size, size, size, late], 200, true)
    };
    assert_eq!(late(|late| late.database += 300 << 10), Vec::<&str>::new(), "what a hundred entries take");
    assert_eq!(late(|late| late.coordinator.resident_kib += 7 << 10), ["the coordinator's memory"]);
    assert_eq!(late(|late| late.agent.resident_kib += 3 << 10), ["an agent's memory"]);
    assert_eq!(late(|late| late.coordinator.files = 500), ["the coordinator's descriptors"]);
    assert_eq!(late(|late| late.agent.files = 33), ["an agent's descriptors"]);
    assert_eq!(late(|late| late.wal = 25 << 20), ["the WAL"]);
    assert_eq!(late(|late| late.database += 500 << 10), ["the database"]);
}
