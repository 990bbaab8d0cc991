//! Buttons, the page on which each says what it will do and asks, and what became of it.
//!
//! A button is a link to that page, and the page has a form: both work without a script and with the keyboard.

use maud::{Markup, html};

use super::{nodes, words};
use crate::dashboard::act::{Act, SPANS};
use crate::dashboard::log::operator;
use crate::server::Refusal;
use tfo_cli::plain::count_of_nodes;
use tfo_cli::plan::Plan;
use tfo_engine::rollout::document::AuditEntry;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::time::UnixTime;
use tfo_wire::error::ErrorKind;
use tfo_wire::page::FORM_TOKEN_FIELD;
use tfo_wire::v1::fleet::REASON_BYTES_MAX;

/// Heading of the page on a pool that is not as its operator saw it.
pub(in crate::dashboard) const MOVED: &str = "The pool has moved on";

/// What a button says.
fn verb(act: Act) -> &'static str {
    match act {
        Act::Pause => "Pause",
        Act::Resume => "Resume",
        Act::Abort => "Abort",
        Act::Advance => "Advance",
        Act::Rotate => "Rotate",
        Act::Revoke => "Revoke",
        Act::Exclude => "Exclude",
        Act::Include => "Include",
        Act::Forget => "Forget",
    }
}

/// What the button is for, in a few words.
fn purpose(act: Act, is_of_node: bool) -> &'static str {
    match act {
        Act::Pause => "stop the pool where it is",
        Act::Resume => "continue",
        Act::Abort => "turn the rotation back, then hold",
        Act::Advance => "pass the barrier without the nodes that are behind",
        Act::Rotate => "start a rotation to a new key",
        Act::Revoke if is_of_node => "drive out the keys that the node has, and give it no more",
        Act::Revoke => "drive out the present keys",
        Act::Exclude => "no barrier waits for it, for a time",
        Act::Include => "end its exclusion",
        Act::Forget => "keep no record of it",
    }
}

fn address(act: Act, pool: &PoolName, node: Option<&NodeId>) -> String {
    let about = node.map_or_else(String::new, |node| format!("?node={}", words::encoded(node.as_str())));
    format!("/pools/{pool}/act/{}{about}", act.name())
}

/// Where an operator came from.
fn back(pool: &PoolName, node: Option<&NodeId>) -> String {
    node.map_or_else(|| format!("/pools/{pool}"), |node| nodes::address(pool, node))
}

/// The buttons for a pool, or for one of its nodes; nothing for a reader that can do nothing.
pub(super) fn buttons(pool: &PoolName, node: Option<&NodeId>, acts: &[Act]) -> Markup {
    html! {
        @if !acts.is_empty() {
            section #acts aria-labelledby="act" {
                h2 #act { "What you can do" }
                ul.acts {
                    @for act in acts {
                        li id={ "act-" (act.name()) } {
                            a.button href=(address(*act, pool, node)) { (verb(*act)) } " " (purpose(*act, node.is_some()))
                            " " code { (act.line(pool, node, SPANS[0])) }
                        }
                    }
                }
            }
        }
    }
}

/// An order that is asked for.
pub(in crate::dashboard) struct Asked<'a> {
    pub(in crate::dashboard) act: Act,
    pub(in crate::dashboard) pool: &'a PoolName,
    pub(in crate::dashboard) node: Option<&'a NodeId>,
    pub(in crate::dashboard) plan: &'a Plan,
    pub(in crate::dashboard) operator: &'a NodeId,
    pub(in crate::dashboard) span: &'static str,
    pub(in crate::dashboard) until: UnixTime,
    /// What the form carries of what its page was made from.
    pub(in crate::dashboard) seen: String,
    pub(in crate::dashboard) token: Option<&'a str>,
    /// What the operator has to type.
    pub(in crate::dashboard) to_type: Option<&'a str>,
    pub(in crate::dashboard) may_lower_expected: bool,
}

impl Asked<'_> {
    pub(in crate::dashboard) fn heading(&self) -> String {
        let verb = verb(self.act);
        match (self.act, self.node) {
            (Act::Revoke, Some(node)) => format!("{verb} the keys of pool {}, and deny {node}", self.pool),
            (Act::Revoke, None) => format!("{verb} the keys of pool {}", self.pool),
            (_, Some(node)) => format!("{verb} {node}"),
            (_, None) => format!("{verb} pool {}", self.pool),
        }
    }
}

/// What it will do, and the form that does it.
pub(in crate::dashboard) fn confirm(asked: &Asked<'_>) -> Markup {
    let Asked { act, pool, node, plan, .. } = *asked;
    let address = address(act, pool, node);
    html! {
        h1 { (asked.heading()) }
        p { "As " (asked.operator) ", the same as " code.cmd { (act.line(pool, node, asked.span)) } }
        @if act == Act::Exclude {
            p { "For " @for (index, span) in SPANS.iter().enumerate() {
                @if index > 0 { ", " }
                @if *span == asked.span { strong { (span) } } @else { a href={ (address) "&for=" (span) } { (span) } }
            } }
        }
        h2 #plan { "What it will do to " (count_of_nodes(plan.nodes())) }
        ul aria-labelledby="plan" { @for line in plan.lines() { li { (line) } } }
        form.confirm method="post" action=(address) {
            @if let Some(token) = asked.token { input type="hidden" name=(FORM_TOKEN_FIELD) value=(token); }
            input type="hidden" name="seen" value=(asked.seen);
            @if act == Act::Exclude { input type="hidden" name="until" value=(asked.until); }
            label { "Reason, for the audit log" input name="reason" maxlength=(REASON_BYTES_MAX) autocomplete="off"; }
            @if asked.may_lower_expected {
                label.tick { input type="checkbox" name="lower_expected" value="yes";
                    " Expect only the nodes that are left, in the same step" }
            }
            @if let Some(name) = asked.to_type {
                label { span { "Type " code { (name) } " to confirm" }
                    input name="typed" autocomplete="off" spellcheck="false" required; }
            }
            p { button class=[plan.is_harmful().then_some("harm")] { (verb(act)) } " "
                a href=(back(pool, node)) { "Do nothing" } }
        }
        p.soft { "If the pool moves on before you press the button, nothing is done, and you are told." }
    }
}

/// Nothing was done, and this is why.
pub(in crate::dashboard) fn nothing(pool: &PoolName, heading: &str, text: &str) -> Markup {
    html! {
        h1 { (heading) }
        p role="status" { (text) }
        p { a href={ "/pools/" (pool) } { "Back to pool " (pool) } }
    }
}

/// The pool is not as the operator saw it.
pub(in crate::dashboard) fn moved(act: Act, pool: &PoolName, node: Option<&NodeId>, why: &str) -> Markup {
    html! {
        h1 { (MOVED) }
        p role="status" { "Nothing was done: the pool is not as your page showed it. " (why) }
        p { "Look at " a href=(back(pool, node)) { "how it is now" } " and at "
            a href={ "/pools/" (pool) "/audit" } { "what was done" } ", then decide: "
            a.button href=(address(act, pool, node)) { (verb(act)) } }
    }
}

/// The heading for a refusal.
pub(in crate::dashboard) fn heading_of(refusal: &Refusal) -> &'static str {
    match refusal.kind() {
        ErrorKind::Moved => MOVED,
        _ => "Refused",
    }
}

/// The coordinator refuses it.
pub(in crate::dashboard) fn refused(pool: &PoolName, refusal: &Refusal) -> Markup {
    html! {
        h1 { (heading_of(refusal)) }
        p role="status" { (refusal.message()) }
        @if let Some(remedy) = refusal.remedy() { p { "What to do: " (remedy) } }
        p { a href={ "/pools/" (pool) } { "Back to pool " (pool) } }
    }
}

/// An order that was done, as the audit log has it.
pub(in crate::dashboard) fn done(entry: &AuditEntry, pool: &PoolName, now: UnixTime) -> Markup {
    let named: Vec<NodeId> = entry.nodes.iter().take(10).cloned().collect();
    let more = entry.nodes.len() - named.len() + entry.more;
    html! {
        h1 { "Done: " (entry.action) }
        p role="status" { "The audit log of pool " (pool) " has it." }
        dl {
            dt { "By" } dd { @if let Some(operator) = operator(entry) { (operator) } @else { "coordinator" } }
            dt { "When" } dd { (words::when(entry.at, now)) }
            @if !named.is_empty() || more > 0 { dt { "Nodes" } dd { (nodes::links(pool, &named, more)) } }
            dt { "Reason" } dd { @if entry.reason.is_empty() { "none" } @else { (entry.reason) } }
            dt { "Phase after it" } dd { (entry.phase.as_str()) ", generation " (entry.generation) ", revision " (entry.revision) }
        }
        p { a href={ "/pools/" (pool) } { "Back to pool " (pool) } }
    }
}
