//! The pages of the documentation to which verdicts and alerts lead, from this build: a person who is woken up may have no other copy.
//!
//! Headings become places that a link can name; the rest is shown as it was written.

use maud::{Markup, html};

macro_rules! pages {
    ($($path:literal),+ $(,)?) => {
        /// By their paths below docs.
        const PAGES: &[(&str, &str)] = &[$(($path, include_str!(concat!("../../../../docs/", $path)))),+];
    };
}

pages![
    "explanation/how-a-rotation-works.md",
    "explanation/three-ways.md",
    "how-to/change-the-policy.md",
    "how-to/coordinator_unreachable.md",
    "how-to/enrol_nodes.md",
    "how-to/expected_nodes.md",
    "how-to/from-timer-script.md",
    "how-to/monitoring.md",
    "how-to/no_pool_keys.md",
    "how-to/nodes_behind.md",
    "how-to/paused_or_held.md",
    "how-to/pool_frozen.md",
    "how-to/split.md",
    "how-to/stopped_by_health.md",
    "how-to/three_coordinators.md",
    "how-to/troubleshooting.md",
];

/// The text of a page.
pub(in crate::dashboard) fn find(path: &str) -> Option<&'static str> {
    PAGES.iter().find(|(known, _)| *known == path).map(|(_, text)| *text)
}

/// The name of a heading in an address, as GitHub and mdBook make it.
fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

/// A heading with its level, and the text below it.
fn sections(text: &str) -> Vec<(usize, &str, String)> {
    let (mut sections, mut fenced): (Vec<(usize, &str, String)>, bool) = (Vec::new(), false);
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        let level = line.bytes().take_while(|byte| *byte == b'#').count();
        match sections.last_mut() {
            _ if level > 0 && !fenced => sections.push((level, line[level..].trim(), String::new())),
            Some((_, _, text)) => {
                text.push_str(line);
                text.push('\n');
            }
            None => {}
        }
    }
    sections
}

/// The main part of the page.
pub(in crate::dashboard) fn main(path: &str, text: &str) -> Markup {
    html! {
        @for (level, heading, text) in sections(text) {
            @match level {
                1 => h1 id=(slug(heading)) { (heading) },
                2 => h2 id=(slug(heading)) { (heading) },
                _ => h3 id=(slug(heading)) { (heading) },
            }
            pre { (text.trim_matches('\n')) }
        }
        p.soft { "docs/" (path) " of tfo-fleet " (env!("CARGO_PKG_VERSION")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfo_engine::rollout::verdict::page;
    use tfo_model::fleet::VerdictKind;

    #[test]
    fn each_verdict_leads_to_a_page_and_a_place_on_it() {
        let of_policy = Some("how-to/change-the-policy.md");
        for link in VerdictKind::ALL.into_iter().filter_map(page).chain(of_policy) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let shown = main(path, find(path).unwrap_or_else(|| panic!("{path} is not here"))).into_string();
            assert!(shown.starts_with("<h1 id="), "{path}: {shown}");
            assert!(anchor.is_empty() || shown.contains(&format!(" id=\"{anchor}\">")), "{link}");
        }
    }

    #[test]
    fn each_alert_leads_to_a_page() {
        let rules = include_str!("../../../../config/prometheus/tfo-fleet.rules.yml");
        let links: Vec<_> = rules.split("runbook_url: https://tfo.example.org/docs/").skip(1).collect();
        assert_eq!(links.len(), rules.matches("- alert: ").count(), "an alert without a page");
        for link in links.iter().filter_map(|link| link.lines().next()) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let shown = main(path, find(path).unwrap_or_else(|| panic!("{path} is not here"))).into_string();
            assert!(anchor.is_empty() || shown.contains(&format!(" id=\"{anchor}\">")), "{link}");
        }
    }

    #[test]
    fn a_fenced_block_has_no_headings() {
        let found = sections("# A b\none\n\n```\n# x\n```\n### C\n<b>\n");
        assert_eq!(found, [(1, "A b", "one\n\n```\n# x\n```\n".to_owned()), (3, "C", "<b>\n".to_owned())]);
        let shown = main("how-to/x.md", "## C `d`\n<b>\n").into_string();
        assert!(shown.starts_with("<h2 id=\"c-d\">C `d`</h2><pre>&lt;b&gt;</pre>"), "{shown}");
    }
}
