//! `console`: the coordinator's pages in a browser of this host, with the operator's certificate behind them.
//!
//! The coordinator makes the pages, decides what the certificate may do, and does it.  This lets one browser of this host
//! in, and passes its requests on: `gate` is who gets in, `relay` asks the coordinators, `page` is what is said where they do
//! not answer, `opener` starts a browser.
//!
//! Invariants: it listens on loopback alone; nothing secret is logged, is an argument, or stays in an address.

mod gate;
mod opener;
mod page;
mod relay;

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Form, FromRequest, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, LOCATION, REFERRER_POLICY, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use clap::Args;
use futures_util::stream;
use serde::Serialize;
use tokio::net::TcpListener;

use self::gate::{Gate, Pass, Stop};
use self::opener::Opener;
use self::relay::Asked;
pub(super) use self::relay::Relay;
use super::connect::{ConnectArgs, block_on};
use super::ends::signals;
use tfo_cli::output::while_read;
use tfo_cli::report::{Failure, Format, Outcome, Report, deliver};
use tfo_model::problem::Problem;
use tfo_wire::error::ErrorBody;
use tfo_wire::page::{FORM_TOKEN_FIELD, FORM_TOKEN_HEADER};

/// Longest form in bytes: what the coordinator takes.
const FORM_BYTES_MAX: usize = 64 << 10;
/// Longest refusal of a coordinator in bytes.
const REFUSAL_BYTES_MAX: usize = 16 << 10;

/// What a page may do is told by the coordinator; the rest of its head is between it and this program.
const PASSED_ON: [HeaderName; 5] =
    [CONTENT_TYPE, CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS, LOCATION, RETRY_AFTER];

/// Arguments of `console`.
#[derive(Debug, Args)]
pub(crate) struct ConsoleArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Port of this host's loopback address; 0 for any free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// Open the address in this desktop's browser
    #[arg(long)]
    open: bool,
}

/// What a browser is to open.
#[derive(Debug, Serialize)]
struct Address {
    address: String,
}

impl Report for Address {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.address)
    }
}

/// The server.
struct Console {
    gate: Gate,
    relay: Relay,
}

/// Serves the pages until it is interrupted, or stdout has no reader any more.
///
/// # Errors
/// Fails with its problems and the exit code if no coordinator answers at the start, or the port is taken.
pub(crate) fn console(arguments: &ConsoleArgs, format: Format) -> Result<Outcome, Failure> {
    let connection = arguments.connect.open(format)?;
    block_on(async {
        let ends = signals().map_err(Failure::undelivered)?;
        // A wrong address or certificate is told here, not in the browser.
        connection.looked_at().await?;
        let listener = listen(arguments.port).await.map_err(|error| port_taken(arguments.port, &error))?;
        let at = listener.local_addr().map_err(|error| port_taken(arguments.port, &error))?;
        let start = connection.argument.as_ref().map_or_else(|| "/".to_owned(), |pool| format!("/pools/{pool}"));
        let gate = Gate::new(at, start).map_err(|error| {
            let remedy = "check that the kernel's getrandom works here";
            Failure::new(Outcome::Failed, Problem::error("no_randomness", error.to_string(), remedy))
        })?;
        let address = gate.address();
        let console = Arc::new(Console { gate, relay: connection.fleet.relay() });
        let router = Router::new().fallback(serve).with_state(console);
        if format == Format::Text {
            let told = "open this address once, in a browser of this host; Ctrl-C ends the console";
            // If stderr is closed, the address is enough.
            drop(writeln!(io::stderr(), "{told}"));
        }
        deliver(&Address { address: address.clone() }, format)?;
        let _opener = if arguments.open { Some(Opener::open(&address)?) } else { None };
        let serving = async { axum::serve(listener, router).await.map_err(Failure::undelivered) };
        tokio::select! {
            ended = while_read(serving) => ended.map(|()| Outcome::Done),
            () = ends => Ok(Outcome::Done),
        }
    })
}

/// Listens on loopback, which only programs of this host reach.
async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        // A host without IPv4.
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await
        }
        bound => bound,
    }
}

fn port_taken(port: u16, error: &io::Error) -> Failure {
    let message = format!("cannot listen on port {port} of the loopback address: {error}");
    let remedy = "choose another port with --port, or none for any free one";
    Failure::new(Outcome::Failed, Problem::error("listen", message, remedy))
}

async fn serve(State(console): State<Arc<Console>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let mut answer = match console.gate.judge(&head) {
        Ok(Pass::Opened { cookie }) => page::opened(console.gate.start(), cookie),
        Ok(Pass::On) => console.pass(head, body).await.unwrap_or_else(page::stopped),
        Err(stop) => page::stopped(stop),
    };
    let headers = answer.headers_mut();
    // With no referrer at all a browser would not say the origin of a form either.
    headers.entry(REFERRER_POLICY).or_insert(HeaderValue::from_static("same-origin"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for name in ["cross-origin-opener-policy", "cross-origin-resource-policy"] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static("same-origin"));
    }
    answer
}

impl Console {
    /// Passes a request on to the coordinators.
    async fn pass(&self, head: Parts, body: Body) -> Result<Response, Stop> {
        let body = if head.method == Method::POST { self.form(&head, body).await? } else { Bytes::new() };
        let mut headers = HeaderMap::new();
        headers.insert(FORM_TOKEN_HEADER, self.gate.form_token());
        if let (Some(kind), false) = (head.headers.get(CONTENT_TYPE), body.is_empty()) {
            headers.insert(CONTENT_TYPE, kind.clone());
        }
        let path = match (head.uri.path(), head.uri.query()) {
            ("/", None) => String::new(),
            ("/", Some(query)) => format!("?{query}"),
            (path, None) => path.to_owned(),
            (path, Some(query)) => format!("{path}?{query}"),
        };
        let asked = Asked { method: &head.method, path: &path, headers, body };
        Ok(match self.relay.ask(&asked).await {
            Ok(answer) => passed_on(answer).await,
            Err(failed) => page::no_answer(&failed, head.uri.path()),
        })
    }

    /// The body of a form of one of our pages.
    async fn form(&self, head: &Parts, body: Body) -> Result<Bytes, Stop> {
        let bytes = to_bytes(body, FORM_BYTES_MAX).await.map_err(|_| Stop::ForeignForm)?;
        let mut request = Request::new(Body::from(bytes.clone()));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = head.headers.clone();
        let fields = Form::<Vec<(String, String)>>::from_request(request, &()).await;
        let Form(fields) = fields.map_err(|_| Stop::ForeignForm)?;
        let mut tokens = fields.iter().filter(|(name, _)| name == FORM_TOKEN_FIELD).map(|(_, token)| token);
        match (tokens.next(), tokens.next()) {
            (Some(token), None) if self.gate.is_form_token(token) => Ok(bytes),
            _ => Err(Stop::ForeignForm),
        }
    }
}

/// A coordinator's answer for the browser.
async fn passed_on(mut answer: reqwest::Response) -> Response {
    let status = answer.status();
    let is_page = |kind: &HeaderValue| !kind.as_bytes().starts_with(b"application/json");
    // The API's refusals are for programs.
    if !status.is_success() && !answer.headers().get(CONTENT_TYPE).is_some_and(is_page) && !status.is_redirection() {
        return page::refused(status, refusal(&mut answer).await.as_ref());
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    for name in PASSED_ON {
        let value = answer.headers().get(&name).filter(|value| name != LOCATION || is_here(value));
        if let Some(value) = value {
            response.headers_mut().insert(name, value.clone());
        }
    }
    let parts = stream::unfold(answer, |mut answer| async {
        let part = answer.chunk().await.transpose()?;
        Some((part, answer))
    });
    *response.body_mut() = Body::from_stream(parts);
    response
}

/// Whether an address stays on this console.
fn is_here(address: &HeaderValue) -> bool {
    let address = address.as_bytes();
    address.starts_with(b"/") && !address.starts_with(b"//") && !address.contains(&b'\\')
}

async fn refusal(answer: &mut reqwest::Response) -> Option<ErrorBody> {
    let mut bytes = Vec::new();
    while let Ok(Some(part)) = answer.chunk().await {
        if bytes.len() + part.len() > REFUSAL_BYTES_MAX {
            return None;
        }
        bytes.extend_from_slice(&part);
    }
    serde_json::from_slice(&bytes).ok()
}

/// An answer of this program itself.
fn response(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_leads_to_no_other_place() {
        for (address, is) in [
            ("/pools/edge/done/7", true),
            ("//evil.example", false),
            ("/\\evil.example", false),
            ("https://evil.example", false),
            ("evil", false),
        ] {
            assert_eq!(is_here(&HeaderValue::from_static(address)), is, "{address}");
        }
    }
}
