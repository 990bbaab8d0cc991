//! The cookies of the last day by what became of them, and the waves of a rotation beside the health gate's limit.
//!
//! The pictures are made here, with their numbers beside them: no colour and no script is needed to read them.

use std::fmt::Write;

use maud::{Markup, html};

use super::words;
use crate::dashboard::history::{History, SLOT_SECS, SLOTS_MAX, Slot};
use tfo_engine::rollout::ahead::WaveCookies;
use tfo_engine::rollout::policy::Share;
use tfo_model::node::Counters;
use tfo_model::time::UnixTime;

/// Height of a picture in its own units: parts of a thousand.
const HEIGHT: u64 = 1_000;
/// The least that the scale of rejected cookies goes up to: noise must not look like a mountain.
const SCALE_PPM_MIN: u32 = 10_000;

/// What is shown of a history.
#[derive(Debug, Clone, Default)]
pub(in crate::dashboard) struct Counted {
    since: Option<UnixTime>,
    slots: Vec<Slot>,
    waves: Vec<WaveCookies>,
    total: Counters,
}

impl Counted {
    pub(in crate::dashboard) fn of(history: &History) -> Self {
        let slots = history.slots().copied().collect();
        Self { since: history.since(), slots, waves: history.waves().to_vec(), total: history.total() }
    }
}

fn by_primary(counted: &Counters) -> u64 {
    counted.passive.saturating_sub(counted.passive_alt_key)
}

/// So many parts of the whole, in units of the picture.
fn height(part: u64, whole: u64) -> u64 {
    u64::from(Share::of(part, whole).ppm()) * HEIGHT / u64::from(Share::ALL.ppm())
}

/// The places of the slots that are on the picture, whose right end is now.
fn placed(slots: &[Slot], now: UnixTime) -> impl Iterator<Item = (u64, &Counters)> {
    let first = (now.secs() / SLOT_SECS + 1).saturating_sub(SLOTS_MAX as u64);
    let place = move |slot: &Slot| slot.number.checked_sub(first).filter(|at| *at < SLOTS_MAX as u64);
    slots
        .iter()
        .filter_map(move |slot| Some((place(slot)?, &slot.counted)))
        .filter(|(_, counted)| counted.cookies() > 0)
}

/// A column for each slot, from `begin` up, both in units of the picture.
fn columns<'a>(
    slots: impl Iterator<Item = (u64, &'a Counters)>,
    begin_and_height: impl Fn(&Counters) -> (u64, u64),
) -> String {
    let mut path = String::new();
    for (at, counted) in slots {
        let (begin, height) = begin_and_height(counted);
        if height > 0 {
            let top = HEIGHT.saturating_sub(begin + height);
            write!(path, "M{at} {top}h1v{height}h-1z").expect("a string takes everything");
        }
    }
    path
}

/// The whole section.
pub(super) fn cookies(of: &Counted, now: UnixTime) -> Markup {
    html! {
        h2 #cookies { "Cookies over the last day" }
        @match of.since {
            Some(since) if of.total.cookies() > 0 => { (shares(of, since, now)) (rejected(of, now)) }
            Some(since) => p { "The nodes have reported no cookie since " (words::when(since, now)) ", when this coordinator \
                began to count." },
            None => p { "Nothing was counted yet." },
        }
        @if !of.waves.is_empty() { (waves(&of.waves, now)) }
    }
}

/// What became of all cookies.
fn shares(of: &Counted, since: UnixTime, now: UnixTime) -> Markup {
    let total = &of.total;
    let (primary, backup, fail) = (by_primary(total), total.passive_alt_key, total.passive_fail);
    let share = |part| Share::of(part, total.cookies());
    let text = format!(
        "Of {} cookies {} were accepted by the primary key, {} by the backup key, and {} were rejected",
        total.cookies(),
        share(primary),
        share(backup),
        share(fail)
    );
    let backups = |counted: &Counters| height(counted.passive_alt_key, counted.cookies());
    let fails = |counted: &Counters| height(counted.passive_fail, counted.cookies());
    let rest = |counted: &Counters| HEIGHT.saturating_sub(backups(counted) + fails(counted));
    html! {
        figure {
            svg.chart role="img" aria-label=(text) viewBox={ "0 0 " (SLOTS_MAX) " " (HEIGHT) } preserveAspectRatio="none" {
                path.f1 d=(columns(placed(&of.slots, now), |counted| (0, rest(counted)))) {}
                path.f3 d=(columns(placed(&of.slots, now), |counted| (rest(counted), backups(counted)))) {}
                path.f4 d=(columns(placed(&of.slots, now), |counted| (HEIGHT - fails(counted), fails(counted)))) {}
            }
            figcaption {
                span.key.c1 { "accepted by the primary " (share(primary)) }
                span.key.c3 { "by the backup " (share(backup)) }
                span.key.c4 { "rejected " (share(fail)) }
                span { (total.cookies()) " cookies since " (words::when(since, now)) "; the left end is 24 hours ago, the right end now" }
            }
        }
    }
}

/// Rejected cookies alone, on a scale of their own.
fn rejected(of: &Counted, now: UnixTime) -> Markup {
    let share = |counted: &Counters| Share::of(counted.passive_fail, counted.cookies());
    let highest = placed(&of.slots, now).map(|(_, counted)| share(counted)).max().unwrap_or(Share::of(0, 1));
    let scale = u64::from(highest.ppm().max(SCALE_PPM_MIN));
    let top = Share::of(scale, u64::from(Share::ALL.ppm()));
    let text = format!("Rejected cookies in ten minutes: at most {highest}");
    html! {
        figure {
            svg.low role="img" aria-label=(text) viewBox={ "0 0 " (SLOTS_MAX) " " (HEIGHT) } preserveAspectRatio="none" {
                path.f4 d=(columns(placed(&of.slots, now), |counted| (0, u64::from(share(counted).ppm()) * HEIGHT / scale))) {}
            }
            figcaption { "Rejected, on a scale from 0 to " (top) "; the worst ten minutes: " (highest) }
        }
    }
}

/// A share on a scale, in units of the picture.
fn scaled(share: Share, scale: u64) -> u64 {
    u64::from(share.ppm()) * HEIGHT / scale
}

/// Each wave of the latest rotation beside its limit.
fn waves(waves: &[WaveCookies], now: UnixTime) -> Markup {
    let most = waves.iter().flat_map(|wave| [wave.rejected, wave.baseline, wave.limit]).max();
    let scale = u64::from(most.map_or(1, Share::ppm).max(1)) * 5 / 4;
    html! {
        h3 { "Rejected in the waves of the latest rotation" }
        div.scroll tabindex="0" role="group" aria-label="Waves" {
            table {
                caption { "The nodes of the open waves, since they make cookies with the new key, beside themselves before. The \
                    health gate stops the rotation at the line." }
                thead { tr { th scope="col" { "Wave" } th.num scope="col" { "Rejected" } th.num scope="col" { "Before" }
                    th.num scope="col" { "Limit" } th scope="col" { "Beside the limit" } th.wide.num scope="col" { "Cookies" } } }
                tbody {
                    @for wave in waves {
                        @let is_bad = wave.rejected > wave.limit;
                        tr {
                            th scope="row" { (wave.wave) " of " (wave.of) ", " (words::instant(wave.opened_at, now)) }
                            td.num { span class=[is_bad.then_some("sev critical")] { (wave.rejected) } }
                            td.num { (wave.baseline) }
                            td.num { (wave.limit) }
                            td {
                                svg.wave role="img" viewBox={ "0 0 " (HEIGHT) " 4" } preserveAspectRatio="none"
                                    aria-label={ @if is_bad { "above the limit" } @else { "below the limit" } } {
                                    rect.f0 width=(scaled(wave.baseline, scale)) height="4" {}
                                    rect class={ @if is_bad { "f4" } @else { "f2" } } y="1" height="2"
                                        width=(scaled(wave.rejected, scale)) {}
                                    line.limit x1=(scaled(wave.limit, scale)) x2=(scaled(wave.limit, scale)) y1="0" y2="4" {}
                                }
                            }
                            td.wide.num { (wave.cookies)
                                @if wave.cookies < wave.evidence_min { ": too few, the gate judges from " (wave.evidence_min) } }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_stacked_to_the_full_height_and_stay_on_the_picture() {
        let counted = Counters { passive: 900, passive_alt_key: 300, passive_fail: 100 };
        let now = UnixTime::from_secs(1_000 * SLOT_SECS + 5);
        let slot = |number| Slot { number, counted };
        let none = Slot { number: 999, counted: Counters::default() };
        let slots = [slot(800), slot(857), none, slot(1_000), slot(1_001)];
        let at: Vec<u64> = placed(&slots, now).map(|(at, _)| at).collect();
        assert_eq!(at, [0, 143], "a day old, and now; not older, not empty, not from the future");
        let path = columns(placed(&slots, now), |_| (0, 600));
        assert_eq!(path, "M0 400h1v600h-1zM143 400h1v600h-1z");
        assert_eq!(columns(placed(&slots, now), |_| (600, 0)), "");
        let of = Counted { since: Some(now), slots: slots.to_vec(), waves: Vec::new(), total: counted };
        let shown = cookies(&of, now).into_string();
        let text = "Of 1000 cookies 60% were accepted by the primary key, 30% by the backup key, and 10% were rejected";
        assert!(shown.contains(text), "{shown}");
        for (class, column) in [("f1", "M143 400h1v600h-1z"), ("f3", "M143 100h1v300h-1z"), ("f4", "M143 0h1v100h-1z")]
        {
            assert!(
                shown.contains(&format!("class=\"{class}\" d=\"M0 ")) && shown.contains(column),
                "{class}: {shown}"
            );
        }
    }

    #[test]
    fn a_wave_above_its_limit_is_told_in_words_too() {
        let share = |ppm| Share::from_ppm(ppm).unwrap();
        let wave = |rejected| WaveCookies {
            epoch: tfo_model::count::Epoch::FIRST,
            wave: 1,
            of: 4,
            opened_at: UnixTime::from_secs(0),
            rejected: share(rejected),
            baseline: share(1_000),
            limit: share(21_000),
            cookies: 50,
            evidence_min: 100,
        };
        let shown = |rejected| waves(&[wave(rejected)], UnixTime::from_secs(9)).into_string();
        let (good, bad) = (shown(20_999), shown(21_001));
        assert!(good.contains("below the limit") && !good.contains("critical"), "{good}");
        assert!(bad.contains("above the limit") && bad.contains("critical"), "{bad}");
        assert!(good.contains("too few, the gate judges from 100") && good.contains(">1 of 4, "), "{good}");
        // The line is where the limit is on the same scale as the bars: four fifths, because it is the most.
        assert!(good.contains("x1=\"800\"") && good.contains("width=\"38\""), "{good}");
    }
}
