//! What the user sees: a screen on a terminal, appended lines elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use owo_colors::{AnsiColors, OwoColorize};

use super::judge::{Outcome, Totals, sum};
use super::network::{CLIENT_NAMESPACES, SOURCES_PER_NAMESPACE, VIP_V4, VIP_V6};
use tfo_cli::plain::count_of_nodes;
use tfo_cli::report::Format;
use tfo_cli::screen::Screen as Terminal;
use tfo_cli::terminal::Terminal as Stdout;
use tfo_host::kernel::netstat::TfoCounters;
use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::time::UnixTime;
use tfo_wire::status::Status;
use tfo_wire::v1::fleet::{AuditLine, PoolStatus};

/// Without a change, a line is appended this often.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Colours of fingerprints: readable on dark and on light terminals, which yellow and the bright ones are not.  At most three
/// keys are on the screen at once: the one before, the present one, and the next.
const KEY_COLOURS: [AnsiColors; 4] = [AnsiColors::Magenta, AnsiColors::Cyan, AnsiColors::Blue, AnsiColors::Green];
/// What the figures mean.
const LEGEND: &str = "\
rejected     a client presented a cookie, and it fits neither key of the node
others       connections without a cookie: a first visit asks for one, and after
             a lost packet the kernel tries again without
PassiveFail  rejected cookies, as the nodes' kernels count them
by backup    cookies of the key before, accepted: it is the backup still
";

/// The demo's fixed parameters.
pub(super) struct Title {
    pub(super) nodes: usize,
    pub(super) source: &'static str,
    /// None: until the user ends it.
    pub(super) rotations_wanted: Option<u16>,
    /// Where a browser finds the coordinator's page.
    pub(super) page: Option<String>,
}

/// The fleet at one moment.
pub(super) struct View<'a> {
    pub(super) elapsed: Duration,
    pub(super) now: UnixTime,
    pub(super) statuses: &'a [Status],
    pub(super) counters: &'a [TfoCounters],
    pub(super) totals: Totals,
    pub(super) rotations: u16,
    /// The coordinator's pool; none before its first answer, or without a coordinator.
    pub(super) pool: Option<&'a PoolStatus>,
    /// Commits of the coordinator since the last view.
    pub(super) news: &'a [AuditLine],
    /// What has happened to coordinators since the last view.
    pub(super) events: &'a [String],
    /// Which of several coordinators has how many nodes.
    pub(super) crew: Option<String>,
}

/// The output: a screen or lines.
pub(super) struct Screen {
    title: Title,
    /// None: lines.
    picture: Option<Terminal>,
    /// Nothing: a program reads the last line.
    is_silent: bool,
    /// Whether to use colours (see [`Stdout`]).
    colours: bool,
    last_line: Option<(String, Duration)>,
    /// The colour of each key that is on the screen, by its place in [`KEY_COLOURS`].
    painted: BTreeMap<KeyFingerprint, usize>,
}

impl Screen {
    /// A screen if standard output is a terminal.
    pub(super) fn new(title: Title, format: Format) -> Self {
        let is_silent = format == Format::Json;
        let picture = if is_silent { None } else { Terminal::on_terminal() };
        let colours = picture.is_some() && Stdout::of_stdout().colours;
        Self { title, picture, is_silent, colours, last_line: None, painted: BTreeMap::new() }
    }

    /// Shows a step of the start, before there is a fleet to show.
    ///
    /// # Errors
    /// Fails if stdout cannot be written.
    pub(super) fn step(&mut self, text: &str) -> io::Result<()> {
        match &self.picture {
            None if self.is_silent => Ok(()),
            Some(picture) => {
                picture.draw(format!("{}\n{text} ...", self.headline()));
                Ok(())
            }
            None => writeln!(io::stdout(), "{text} ..."),
        }
    }

    /// Shows the fleet as it is now.
    ///
    /// # Errors
    /// Fails if stdout cannot be written.
    pub(super) fn show(&mut self, view: &View<'_>) -> io::Result<()> {
        self.paint(view.statuses);
        if let Some(picture) = &self.picture {
            picture.draw(self.text(view));
            return Ok(());
        }
        if self.is_silent {
            return Ok(());
        }
        if self.last_line.is_none() {
            write!(io::stdout(), "{}\n{LEGEND}", self.headline())?;
        }
        for event in view.events {
            writeln!(io::stdout(), "{:6.1} s  {event}", view.elapsed.as_secs_f64())?;
        }
        for entry in view.news {
            writeln!(io::stdout(), "{:6.1} s  {}", view.elapsed.as_secs_f64(), news_line(entry))?;
        }
        let slots = slots_line(view);
        if let Some((last, at)) = &self.last_line
            && *last == slots
            && view.elapsed.saturating_sub(*at) < LINE_EVERY
        {
            return Ok(());
        }
        let line = format!("{:6.1} s  {slots}; {}", view.elapsed.as_secs_f64(), self.counts_line(view));
        self.last_line = Some((slots, view.elapsed));
        writeln!(io::stdout(), "{line}")
    }

    /// Leaves the last picture on the screen, and starts a new line.
    ///
    /// # Errors
    /// Fails if stdout cannot be written.
    pub(super) fn close(&self) -> io::Result<()> {
        self.picture.as_ref().map_or(Ok(()), Terminal::close)
    }

    fn headline(&self) -> String {
        let clients = u32::from(CLIENT_NAMESPACES) * u32::from(SOURCES_PER_NAMESPACE) * 2;
        let Title { nodes, source, page, .. } = &self.title;
        let page = page.as_ref().map_or_else(String::new, |page| format!("\nThe coordinator's page: {page}"));
        format!("tfo-demo: {nodes} nodes behind {VIP_V4} and {VIP_V6}, keys: {source}, {clients} clients{page}")
    }

    fn rotations(&self, view: &View<'_>) -> String {
        match self.title.rotations_wanted {
            Some(wanted) => format!("{} of {wanted}", view.rotations),
            None => format!("{} (Ctrl-C ends)", view.rotations),
        }
    }

    fn counts_line(&self, view: &View<'_>) -> String {
        format!(
            "rotations {}; {} connections, accepted {}, rejected {}, PassiveFail {}",
            self.rotations(view),
            view.totals.connections(),
            share(&view.totals),
            view.totals.of(Outcome::Rejected),
            count(sum(view.counters, |node| node.passive_fail)),
        )
    }

    fn text(&self, view: &View<'_>) -> String {
        let totals = &view.totals;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            writeln!(text, "{name:<12}{value}").expect("a String takes everything");
        };
        match view.pool {
            Some(pool) => {
                line("verdict", format!("{}: {}", pool.verdict.severity, pool.verdict.sentence));
                line("pool", pool_line(pool));
                line("waits for", waits_line(pool));
                if let Some(crew) = &view.crew {
                    line("driven by", crew.clone());
                }
            }
            None => line("phase", format!("{}{}", phases(view.statuses), countdown(view))),
        }
        for (pair, nodes) in groups(view.statuses) {
            let slots = pair.map_or_else(|| "no keys".to_owned(), |pair| self.slots(&pair));
            line(&count_of_nodes(nodes), slots);
        }
        line("rotations", self.rotations(view));
        let (accepted, rejected) = (totals.of(Outcome::Accepted), totals.of(Outcome::Rejected));
        line("clients", format!("{} connections in {:.0} s", totals.connections(), view.elapsed.as_secs_f64()));
        line("accepted", self.verdict(format!("{accepted}  {}", share(totals)), Judged::by(rejected == 0)));
        line("rejected", self.verdict(rejected.to_string(), Judged::by(rejected == 0)));
        let others =
            [Outcome::Asked, Outcome::Lost, Outcome::Untried, Outcome::Failed].map(|outcome| totals.of(outcome));
        let [asked, lost, untried, failed] = others;
        line("others", format!("{asked} asked for a cookie, {lost} lost, {untried} without TFO, {failed} failed"));
        let passive_fail = sum(view.counters, |node| node.passive_fail);
        line("PassiveFail", self.verdict(count(passive_fail), Judged::by(passive_fail == Some(0))));
        let by_backup = count(sum(view.counters, |node| node.passive_alt_key));
        line("by backup", format!("{by_backup} (PassiveAltKey)"));
        format!("{}\n\n{text}\n{LEGEND}", self.headline())
    }

    /// Gives each key that comes to the screen a colour that no other key on it has.
    fn paint(&mut self, statuses: &[Status]) {
        let pairs = statuses.iter().filter_map(Status::slots);
        let shown: BTreeSet<KeyFingerprint> =
            pairs.flat_map(|pair| [Some(pair.primary), pair.backup]).flatten().collect();
        self.painted.retain(|print, _| shown.contains(print));
        for print in shown {
            if self.painted.contains_key(&print) {
                continue;
            }
            let is_free = |colour: &usize| !self.painted.values().any(|taken| taken == colour);
            let free = (0..KEY_COLOURS.len()).find(is_free).unwrap_or_default();
            self.painted.insert(print, free);
        }
    }

    fn slots(&self, pair: &PairPrint) -> String {
        let backup = pair.backup.map_or_else(|| "none".to_owned(), |print| self.fingerprint(print));
        format!("primary {}  backup {backup}", self.fingerprint(pair.primary))
    }

    fn fingerprint(&self, print: KeyFingerprint) -> String {
        match self.painted.get(&print) {
            Some(colour) if self.colours => print.color(KEY_COLOURS[*colour]).to_string(),
            _ => print.to_string(),
        }
    }

    fn verdict(&self, text: String, judged: Judged) -> String {
        match (self.colours, judged) {
            (false, _) => text,
            (true, Judged::Good) => text.green().to_string(),
            (true, Judged::Bad) => text.red().bold().to_string(),
        }
    }
}

/// Whether a figure is good or bad.
#[derive(Clone, Copy)]
enum Judged {
    Good,
    Bad,
}

impl Judged {
    fn by(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}

/// Slots and how many nodes hold them, most nodes first.
fn groups(statuses: &[Status]) -> Vec<(Option<PairPrint>, usize)> {
    let mut nodes_by_pair = BTreeMap::new();
    for status in statuses {
        *nodes_by_pair.entry(status.slots()).or_insert(0) += 1;
    }
    let mut groups: Vec<_> = nodes_by_pair.into_iter().collect();
    groups.sort_by_key(|(_, nodes)| std::cmp::Reverse(*nodes));
    groups
}

/// `steady`, or `3 steady, 5 staged` while the nodes differ.
fn phases(statuses: &[Status]) -> String {
    let mut nodes_by_phase: Vec<(&str, usize)> = Vec::new();
    for status in statuses {
        let phase = status.phase.as_str();
        match nodes_by_phase.iter_mut().find(|(found, _)| *found == phase) {
            Some((_, nodes)) => *nodes += 1,
            None => nodes_by_phase.push((phase, 1)),
        }
    }
    match nodes_by_phase.as_slice() {
        [(phase, _)] => (*phase).to_owned(),
        several => several.iter().map(|(phase, nodes)| format!("{nodes} {phase}")).collect::<Vec<_>>().join(", "),
    }
}

/// Phase, generation, waves, and how far the nodes are.
fn pool_line(pool: &PoolStatus) -> String {
    let PoolStatus { phase, generation, required, converged, .. } = pool;
    let waves = pool.waves.map_or_else(String::new, |waves| format!(", wave {} of {}", waves.opened, waves.of));
    let hold = pool.hold.as_ref().map_or_else(String::new, |hold| format!(", held: {hold}"));
    format!("{} g{generation}{waves}{hold}, {converged} of {required} nodes have it", phase.as_str())
}

/// What the rollout waits for: nodes, or a closed gate.
fn waits_line(pool: &PoolStatus) -> String {
    if !pool.waiting_for.is_empty() {
        return pool.waiting_for.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    }
    pool.blocked_by.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string)
}

/// A commit of the coordinator.
fn news_line(entry: &AuditLine) -> String {
    let AuditLine { action, generation, phase, nodes, more, reason, .. } = entry;
    let mut text = format!("coordinator: {action} -> {} g{generation}", phase.as_str());
    if !nodes.is_empty() {
        text += ": ";
        text += &nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if *more > 0 {
            text += &format!(" and {more} more");
        }
    }
    if !reason.is_empty() {
        text += &format!(" ({reason})");
    }
    text
}

fn slots_line(view: &View<'_>) -> String {
    let groups = groups(view.statuses).into_iter().map(|(pair, nodes)| {
        let slots = pair.map(|pair| (pair.primary.to_string(), pair.backup.map(|print| print.to_string())));
        let nodes = count_of_nodes(nodes);
        match slots {
            None => format!("{nodes} without keys"),
            Some((primary, None)) => format!("{nodes} [{primary}]"),
            Some((primary, Some(backup))) => format!("{nodes} [{primary},{backup}]"),
        }
    });
    // Prefer the coordinator's phase: agents do not learn that a promotion has settled.
    let phases = match view.pool {
        Some(pool) => format!("{} g{}", pool.phase.as_str(), pool.generation),
        None => phases(view.statuses),
    };
    format!("{phases}: {}", groups.collect::<Vec<_>>().join(", "))
}

fn countdown(view: &View<'_>) -> String {
    let next = view.statuses.iter().filter_map(|status| status.next_change_at).min();
    next.map_or_else(String::new, |at| format!(", next change in {} s", at.secs_since(view.now)))
}

/// The accepted share of the connections that presented a cookie.  Rounded down, so that 100 % means all of them.
fn share(totals: &Totals) -> String {
    totals.accepted_share().map_or_else(|| "-".to_owned(), |share| format!("{:.2} %", (share * 1e4).floor() / 1e2))
}

fn count(value: Option<u64>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::judge::Tally;
    use tfo_model::node::KeySource;
    use tfo_model::state::{Phase, SlotPrint};
    use tfo_wire::status::{State, VERSION};

    fn status(phase: Phase, primary: u8, backup: Option<u8>) -> Status {
        let slot = |byte| SlotPrint { epoch: None, fingerprint: KeyFingerprint::from_bytes([byte; 8]) };
        let (primary, backup) = (Some(slot(primary)), backup.map(slot));
        Status {
            version: VERSION,
            state: State::Ok,
            source: KeySource::Derive.into(),
            pool: None,
            generation: None,
            phase,
            primary,
            backup,
            installed_at: None,
            next_change_at: Some(UnixTime::from_secs(107)),
            drift_repairs: 0,
            clock_synchronised: None,
            last_contact_at: None,
            contact: None,
            error: None,
            namespaces: Vec::new(),
            landlock: None,
        }
    }

    fn view<'a>(statuses: &'a [Status], counters: &'a [TfoCounters], totals: Totals) -> View<'a> {
        let (elapsed, now) = (Duration::from_millis(12_300), UnixTime::from_secs(100));
        View { elapsed, now, statuses, counters, totals, rotations: 1, pool: None, news: &[], events: &[], crew: None }
    }

    fn pool() -> PoolStatus {
        let text = r#"{"pool":"demo","pool_id":"0123456789abcdef0123456789abcdef","revision":7,"generation":3,
            "phase":"promoted","primary":null,"backup":null,"verdict":{"severity":"ok","kind":"agree","since":null,"sentence":"all is well","nodes":[],"more":0,"numbers":{},"next":null,"docs":null},"paused":null,"hold":null,"required":3,"converged":2,
            "reporting":0,"waiting_for":["node2"],"next_at":null,"blocked_by":"barrier","since":"2026-12-01T00:00:00Z",
            "waves":{"opened":1,"of":2},"revoking":[],"recoverable":[]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_coordinator_is_shown_with_whom_it_waits_for() {
        let pool = pool();
        let view = View { pool: Some(&pool), ..view(&[], &[], Totals::default()) };
        let picture = screen(false).text(&view);
        assert!(picture.contains("verdict     ok: all is well\n"), "{picture}");
        assert!(picture.contains("promoted g3, wave 1 of 2, 2 of 3 nodes have it"), "{picture}");
        assert!(picture.contains("waits for   node2\n"), "{picture}");
        assert!(slots_line(&view).starts_with("promoted g3: "));
    }

    fn screen(colours: bool) -> Screen {
        let title = Title { nodes: 3, source: "derive", rotations_wanted: Some(2), page: None };
        Screen { title, picture: None, is_silent: false, colours, last_line: None, painted: BTreeMap::new() }
    }

    #[test]
    fn keys_on_the_screen_together_differ_in_colour_and_keep_theirs() {
        // Fingerprints that begin alike.
        let status = |primary: u8, backup: u8| {
            let mut status = status(Phase::Staged, 1, Some(2));
            let print = |last| KeyFingerprint::from_bytes([7, 7, 7, 7, 7, 7, 7, last]);
            status.primary.as_mut().unwrap().fingerprint = print(primary);
            status.backup.as_mut().unwrap().fingerprint = print(backup);
            status
        };
        let mut screen = screen(true);
        let mut before: BTreeMap<KeyFingerprint, usize> = BTreeMap::new();
        for statuses in [vec![status(2, 1)], vec![status(2, 1), status(2, 3)], vec![status(3, 2), status(2, 3)]] {
            screen.paint(&statuses);
            let colours: BTreeSet<usize> = screen.painted.values().copied().collect();
            assert_eq!(colours.len(), screen.painted.len(), "{:?}", screen.painted);
            assert!(before.iter().all(|(print, colour)| screen.painted.get(print).is_none_or(|now| now == colour)));
            before.clone_from(&screen.painted);
        }
        assert_eq!(before.len(), 2, "a key that has gone gives its colour back");
    }

    #[test]
    fn nodes_are_counted_by_the_slots_that_they_hold() {
        let statuses =
            [status(Phase::Steady, 1, None), status(Phase::Staged, 1, Some(2)), status(Phase::Staged, 1, Some(2))];
        let expected = "1 steady, 2 staged: 2 nodes [0101010101010101,0202020202020202], 1 node [0101010101010101]";
        assert_eq!(slots_line(&view(&statuses, &[], Totals::default())), expected);
    }

    #[test]
    fn the_picture_has_everything_that_the_verdict_rests_on() {
        let tally = Tally::default();
        for outcome in [Outcome::Accepted, Outcome::Accepted, Outcome::Rejected, Outcome::Asked] {
            tally.count(IpAddr::V4(Ipv4Addr::LOCALHOST), outcome);
        }
        let counters = TfoCounters { passive_fail: Some(7), passive_alt_key: None, ..TfoCounters::default() };
        let (statuses, counters) = ([status(Phase::Staged, 1, Some(2))], [counters]);
        let view = view(&statuses, &counters, tally.totals());
        let picture = screen(false).text(&view);
        for part in [
            "staged, next change in 7 s",
            "primary 0101010101010101  backup 0202020202020202",
            "rotations   1 of 2",
            "accepted    2  66.66 %",
            "rejected    1\n",
            "PassiveFail 7\n",
            "by backup   unknown",
        ] {
            assert!(picture.contains(part), "{part}: {picture}");
        }
        assert!(!picture.contains('\u{1b}') && screen(true).text(&view).contains('\u{1b}'));
        let lines = picture.lines().skip(2);
        let is_explained = |name: &str| lines.clone().filter(|line| line.starts_with(name)).count() == 2;
        assert!(["rejected ", "others ", "PassiveFail ", "by backup "].into_iter().all(is_explained), "{picture}");
        assert!(LEGEND.lines().all(|line| line.len() <= 80));
    }

    #[test]
    fn one_rejection_in_a_million_is_not_rounded_away() {
        let tally = Tally::default();
        let target = IpAddr::V4(Ipv4Addr::LOCALHOST);
        (0..1_000_000).for_each(|_| tally.count(target, Outcome::Accepted));
        assert_eq!(share(&tally.totals()), "100.00 %");
        tally.count(target, Outcome::Rejected);
        assert_eq!(share(&tally.totals()), "99.99 %");
    }
}
