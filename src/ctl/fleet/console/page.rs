//! What the console itself says: that it was opened, why a request does not get in, that no coordinator answers.
//!
//! These pages have neither style nor script: the coordinator's have.

use axum::http::header::{REFERRER_POLICY, SET_COOKIE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use maud::{DOCTYPE, Markup, html};

use super::gate::Stop;
use super::relay::Failed;
use super::response;
use tfo_wire::error::ErrorBody;

fn page(status: StatusCode, heading: &str, head: &Markup, main: &Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (heading) " - tfoctl console" }
                (head)
            }
            body { main { h1 { (heading) } (main) } }
        }
    };
    response(status, page.into_string())
}

/// The console was opened.  A browser that comes from elsewhere sends the cookie only with what this page asks for.
pub(super) fn opened(start: &str, cookie: Option<HeaderValue>) -> Response {
    let head = html! { meta http-equiv="refresh" content={ "0; url=" (start) }; };
    let mut answer = page(StatusCode::OK, "Opened", &head, &html! { p { a href=(start) { "Continue" } } });
    // Its address has the key, although it is used up.
    answer.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Some(cookie) = cookie {
        answer.headers_mut().insert(SET_COOKIE, cookie);
    }
    answer
}

/// A request that does not get in.
pub(super) fn stopped(stop: Stop) -> Response {
    let again = "Stop tfoctl console with Ctrl-C, start it again, and open the address that it prints.";
    let (status, heading, text) = match stop {
        Stop::ForeignHost => {
            (StatusCode::FORBIDDEN, "Another host", "Use the address that tfoctl console has printed.")
        }
        Stop::Method => (StatusCode::METHOD_NOT_ALLOWED, "Not supported", "The console supports GET and POST."),
        Stop::ForeignPage | Stop::ForeignOrigin => (
            StatusCode::FORBIDDEN,
            "Another page",
            "A page that is not of this console has made this request. Nothing was done.",
        ),
        Stop::ForeignForm => (
            StatusCode::FORBIDDEN,
            "Another form",
            "The form is not from a page of this console as it runs now. Nothing was done: load the page again.",
        ),
        Stop::Early => (StatusCode::SERVICE_UNAVAILABLE, "Too early", "The address is to be opened by you, once."),
        Stop::WrongKey => (StatusCode::FORBIDDEN, "Another address", again),
        Stop::UsedKey => (StatusCode::GONE, "Used up", again),
        Stop::NoSession => (StatusCode::UNAUTHORIZED, "Not opened here", again),
    };
    page(status, heading, &html! {}, &html! { p { (text) } })
}

/// A coordinator refuses, in the form for programs.
pub(super) fn refused(status: StatusCode, refusal: Option<&ErrorBody>) -> Response {
    let main = html! {
        @match refusal {
            Some(ErrorBody { message, remedy, request_id, .. }) => {
                p { (message) }
                @if let Some(remedy) = remedy { p { "What to do: " (remedy) } }
                p { "The coordinator's log has it as request " (request_id) "." }
            }
            None => p { "The coordinator answered " (status.as_u16()) "." },
        }
        p { a href="/" { "Back to the start" } }
    };
    page(status, "The coordinator refuses", &html! {}, &main)
}

/// No coordinator answers.
pub(super) fn no_answer(failed: &Failed, path: &str) -> Response {
    let reasons = html! { ul { @for error in &failed.errors { li { (error) } } } };
    if failed.may_be_done {
        let pool = path.strip_prefix("/pools/").and_then(|rest| rest.split('/').next());
        let main = html! {
            p { "The coordinator did not answer in time. What you asked for may have been done, or not." }
            (reasons)
            p { "Look before you repeat it: "
                @if let Some(pool) = pool { a href={ "/pools/" (pool) "/audit" } { "the audit log" } }
                @else { a href="/" { "the first page" } } }
        };
        return page(StatusCode::GATEWAY_TIMEOUT, "Its outcome is not known", &html! {}, &main);
    }
    let main = html! {
        p { "Nothing was done. Load the page again when a coordinator runs." }
        (reasons)
        p { a href=(path) { "Again" } }
    };
    page(StatusCode::BAD_GATEWAY, "No coordinator answers", &html! {}, &main)
}
