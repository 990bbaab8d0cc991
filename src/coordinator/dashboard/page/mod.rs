//! The pages as HTML: the frame that all have, and what they share.  Each part is a file.
//!
//! A page is whole without its script.  It loads nothing from elsewhere: style and script are in it, and its policy names
//! them by their hashes.  Must not know: sockets, the pool's driver, when it was asked.

pub(super) mod act;
pub(super) mod audit;
pub(super) mod certificates;
pub(super) mod cookies;
mod coordinators;
pub(super) mod docs;
pub(super) mod nodes;
pub(super) mod overview;
pub(super) mod pool;
mod rotation;
mod words;

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::routes::Reader;
use tfo_crypto::checksum::sha256;
use tfo_model::fleet::Severity;
use tfo_model::ids::PoolName;
use tfo_model::named::Named;
use tfo_model::time::UnixTime;
use tfo_wire::v1::fleet::Verdict;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// What a browser may do with a page: run our script, use our style, and ask this listener.  The form is the search.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| STANDARD.encode(sha256(text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src 'self'; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// Where a page stands among the others.
pub(super) struct Frame<'a> {
    /// Of the browser's tab.
    pub(super) title: String,
    /// The worst of what it shows; none if it shows no verdict.
    pub(super) severity: Option<&'a str>,
    /// All pools.
    pub(super) pools: &'a [PoolName],
    /// The pool that it is about.
    pub(super) pool: Option<&'a PoolName>,
    /// Where its changes are told, and what it shows now; none if it does not change.
    pub(super) live: Option<(String, u64)>,
    /// By whose certificate it is read; none on the plain listener.
    pub(super) reader: Option<&'a Reader>,
    pub(super) now: UnixTime,
}

impl Frame<'_> {
    /// The whole page around its main part.
    pub(super) fn around(&self, main: &Markup) -> Markup {
        let severity = self.severity.unwrap_or("none");
        let (events, stamp) = self.live.clone().unzip();
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) }
                    link rel="icon" href={ "/icon/" (severity) };
                    style { (PreEscaped(STYLE)) }
                }
                body data-events=[events] data-stamp=[stamp.map(|stamp| format!("{stamp:016x}"))] {
                    a.skip href="#main" { "Skip to content" }
                    header {
                        nav #pools aria-label="Pages" { (self.navigation()) }
                        p { span #asof { "As of " (words::instant(self.now, self.now)) } " " span #controls {} }
                    }
                    main #main tabindex="-1" { (main) }
                    footer {
                        p { "tfo-coordinator " (env!("CARGO_PKG_VERSION")) ". All times are UTC. " (self.rights()) }
                    }
                    @if self.live.is_some() { script { (PreEscaped(SCRIPT)) } }
                }
            }
        }
    }

    /// What the reader may do.
    fn rights(&self) -> Markup {
        html! {
            @match self.reader {
                None => { "This page only shows; " code { "tfoctl" } " changes, and " code { "tfoctl console" }
                    " has this page with buttons. " a href="/metrics" { "Metrics" } }
                Some(Reader { name, is_operator: true }) => { "You act as " (name) ". " }
                Some(Reader { name, .. }) => { (name) " is a viewer, and may only look. " }
            }
        }
    }

    fn navigation(&self) -> Markup {
        html! {
            ul {
                @if self.pools.len() > 1 {
                    li { a href="/" aria-current=[self.pool.is_none().then_some("page")] { "All pools" } }
                }
                @for pool in self.pools.iter().filter(|pool| self.pools.len() < 8 || self.pool == Some(pool)) {
                    @let is_here = self.pool == Some(pool);
                    li { a href={ "/pools/" (pool) } aria-current=[is_here.then_some("true")] { "Pool " (pool) } }
                }
                @if let Some(pool) = self.pool {
                    li { a href={ "/pools/" (pool) "/nodes" } { "Nodes" } }
                    li { a href={ "/pools/" (pool) "/audit" } { "Audit log" } }
                }
            }
        }
    }
}

/// A colour for the browser's tab.
pub(super) fn icon(severity: &str) -> Option<String> {
    let (colour, shape) = match severity {
        "ok" => ("#1a7a37", "<path d=\"M4 8l3 3 5-6\" fill=\"none\" stroke=\"#fff\" stroke-width=\"2\"/>"),
        "notice" => ("#1559b3", "<path d=\"M8 4v1m0 2v5\" stroke=\"#fff\" stroke-width=\"2\"/>"),
        "warning" => ("#b36b00", "<path d=\"M8 3v6m0 2v2\" stroke=\"#fff\" stroke-width=\"2\"/>"),
        "critical" => ("#b3001b", "<path d=\"M4 4l8 8m0-8l-8 8\" stroke=\"#fff\" stroke-width=\"2\"/>"),
        "none" => ("#57606a", ""),
        _ => return None,
    };
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 16 16\"><rect width=\"16\" height=\"16\" rx=\"3\" \
         fill=\"{colour}\"/>{shape}</svg>"
    ))
}

/// How bad a verdict is, among others.
pub(super) fn rank(severity: &Named<Severity>) -> usize {
    Severity::ALL.into_iter().position(|known| *severity == known).unwrap_or(Severity::ALL.len())
}

/// The title of a page about a verdict, so that a tab in the background shows it.
pub(super) fn title(pool: &PoolName, verdict: &Verdict) -> String {
    let severity = verdict.severity.as_str().to_uppercase();
    format!("{severity}: {pool} {} - tfo-coordinator", verdict.kind.as_str().replace('_', " "))
}

/// The verdict: severity as text and colour, sentence, next command, nodes, and the page that says more.
///
/// The part that a screen reader is told by itself has nothing that changes with the time alone.
pub(super) fn verdict(pool: &PoolName, verdict: &Verdict, now: UnixTime) -> Markup {
    html! {
        div class={ "verdict " (verdict.severity) } {
            div #verdict role="status" {
                p #lost {}
                p { strong { (verdict.severity) } ": " (verdict.sentence) }
                @if let Some(next) = &verdict.next { p { "Next: " code.cmd { (next) } } }
            }
            @if !verdict.nodes.is_empty() {
                p { "Nodes: " (nodes::links(pool, &verdict.nodes, verdict.more)) }
            }
            p.soft {
                @if let Some(since) = verdict.since { "Since " (words::when(since, now)) ". " }
                @if let Some(docs) = &verdict.docs { a href={ "/docs/" (docs) } { "What this means, and what to do" } }
            }
        }
    }
}

/// A page that is only a message.
pub(super) fn message(heading: &str, text: &str) -> Markup {
    html! { h1 { (heading) } p { (text) } p { a href="/" { "Back to the start" } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most bytes of our own style and script.
    const OWN_BYTES_MAX: usize = 30 << 10;

    #[test]
    fn style_and_script_are_small_and_end_no_element() {
        assert!(STYLE.len() + SCRIPT.len() <= OWN_BYTES_MAX, "{}", STYLE.len() + SCRIPT.len());
        for text in [STYLE, SCRIPT] {
            assert!(!text.contains("</") && !text.contains("<!--") && !text.contains("://"), "{text}");
        }
    }

    #[test]
    fn each_severity_has_an_icon() {
        for severity in Severity::ALL {
            assert!(icon(severity.as_str()).is_some_and(|icon| icon.starts_with("<svg ")), "{severity}");
        }
        assert!(icon("none").is_some());
        assert_eq!(icon("<script>"), None);
    }
}
