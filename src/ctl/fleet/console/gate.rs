//! Who gets in: the one browser that opened the address, and only from our own pages.
//!
//! Other programs of this host can reach the port, and so can web pages that the browser shows: those of other origins, and
//! those whose name leads to loopback (DNS rebinding).  Must not know: coordinators, what is asked for.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::header::{COOKIE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use subtle::ConstantTimeEq;

use tfo_crypto::random::{self, NoRandomness};

/// Where the address leads that opens the console.
const OPEN: &str = "/open/";

/// From where a browser says that a request comes (w3.org/TR/fetch-metadata).
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What a browser sends with a request that no user has made yet.
const PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");

/// See the module.
pub(super) struct Gate {
    at: SocketAddr,
    /// What a Host header may say.
    hosts: [String; 3],
    /// What opens the console, once.
    key: String,
    is_used: AtomicBool,
    /// Name and value of the cookie of the browser that has opened it.
    cookie: (String, String),
    /// What our forms carry.
    form_token: String,
    /// The first page.
    start: String,
}

/// A request that gets in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// It has opened the console; the cookie, unless the browser has it.
    Opened { cookie: Option<HeaderValue> },
    /// It is for the coordinators.
    On,
}

/// Why a request does not get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It is for another host.
    ForeignHost,
    /// It is neither a read nor a form.
    Method,
    /// Another page has made it.
    ForeignPage,
    /// A form that is not from this origin.
    ForeignOrigin,
    /// A form that is not from one of our pages.
    ForeignForm,
    /// It is a guess of the browser, which would use the key up.
    Early,
    /// The address is not that of this console.
    WrongKey,
    /// The address was opened already.
    UsedKey,
    /// The browser has not opened the address.
    NoSession,
}

/// 128 bits that cannot be guessed, in hexadecimal digits.
fn secret() -> Result<String, NoRandomness> {
    let mut bytes = [0; 16];
    random::fill(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

fn is_same(given: &str, secret: &str) -> bool {
    given.as_bytes().ct_eq(secret.as_bytes()).into()
}

impl Gate {
    /// A gate with secrets of its own.
    pub(super) fn new(at: SocketAddr, start: String) -> Result<Self, NoRandomness> {
        let port = at.port();
        Ok(Self {
            at,
            hosts: ["127.0.0.1", "localhost", "[::1]"].map(|host| match port {
                // A browser does not say the port of http.
                80 => host.to_owned(),
                _ => format!("{host}:{port}"),
            }),
            key: secret()?,
            is_used: AtomicBool::new(false),
            // Cookies do not know ports: another console of this host has another name.
            cookie: (format!("tfo-console-{port}"), secret()?),
            form_token: secret()?,
            start,
        })
    }

    /// What a browser is to open.
    pub(super) fn address(&self) -> String {
        format!("http://{}{OPEN}{}", self.at, self.key)
    }

    /// The first page.
    pub(super) fn start(&self) -> &str {
        &self.start
    }

    /// What our forms carry.
    pub(super) fn form_token(&self) -> HeaderValue {
        HeaderValue::from_str(&self.form_token).expect("digits")
    }

    pub(super) fn is_form_token(&self, token: &str) -> bool {
        is_same(token, &self.form_token)
    }

    /// Lets a request in, or says why not.
    pub(super) fn judge(&self, head: &Parts) -> Result<Pass, Stop> {
        let text = |name: &HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(&HOST).map(str::to_ascii_lowercase).ok_or(Stop::ForeignHost)?;
        if !self.hosts.contains(&host) || head.headers.get_all(HOST).iter().count() != 1 {
            return Err(Stop::ForeignHost);
        }
        if head.method != Method::GET && head.method != Method::POST {
            return Err(Stop::Method);
        }
        if let Some(key) = head.uri.path().strip_prefix(OPEN).filter(|_| head.method == Method::GET) {
            return self.open(key, &head.headers);
        }
        if !self.has_session(&head.headers) {
            return Err(Stop::NoSession);
        }
        // A browser sends the cookie also to a page of another port, because cookies do not know ports.
        if text(&FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none") {
            return Err(Stop::ForeignPage);
        }
        let is_ours = text(&ORIGIN).is_some_and(|origin| origin.strip_prefix("http://") == Some(&host));
        match (&head.method, head.headers.contains_key(ORIGIN)) {
            (&Method::POST, _) | (_, true) if !is_ours => Err(Stop::ForeignOrigin),
            _ => Ok(Pass::On),
        }
    }

    fn open(&self, key: &str, headers: &HeaderMap) -> Result<Pass, Stop> {
        if !is_same(key, &self.key) {
            return Err(Stop::WrongKey);
        }
        if headers.contains_key(PURPOSE) {
            return Err(Stop::Early);
        }
        if !self.is_used.swap(true, Ordering::Relaxed) {
            let (name, value) = &self.cookie;
            let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict");
            return Ok(Pass::Opened { cookie: Some(HeaderValue::from_str(&cookie).expect("digits and letters")) });
        }
        // The same browser once more.
        if self.has_session(headers) { Ok(Pass::Opened { cookie: None }) } else { Err(Stop::UsedKey) }
    }

    fn has_session(&self, headers: &HeaderMap) -> bool {
        let (name, secret) = &self.cookie;
        let cookies = headers.get_all(COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
        let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(own, value)| own == name && is_same(value, secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn gate() -> Gate {
        Gate::new("127.0.0.1:4711".parse().unwrap(), "/".to_owned()).unwrap()
    }

    fn head(method: Method, path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_a_browser_that_opened_it_gets_in_and_only_from_our_pages() {
        let gate = gate();
        let (name, value) = &gate.cookie;
        let cookie = &format!("other=1; {name}={value}")[..];
        let own = ("host", "127.0.0.1:4711");
        let origin = ("origin", "http://127.0.0.1:4711");
        let with = ("cookie", cookie);
        type Case<'a> = (Method, &'a [(&'a str, &'a str)], Result<Pass, Stop>);
        let cases: &[Case<'_>] = &[
            (Method::GET, &[own, with], Ok(Pass::On)),
            (Method::GET, &[("host", "localhost:4711"), with], Ok(Pass::On)),
            (Method::GET, &[("host", "[::1]:4711"), with], Ok(Pass::On)),
            (Method::GET, &[own, with, ("sec-fetch-site", "none")], Ok(Pass::On)),
            (Method::GET, &[own, with, ("sec-fetch-site", "same-origin"), origin], Ok(Pass::On)),
            (Method::POST, &[own, with, ("sec-fetch-site", "same-origin"), origin], Ok(Pass::On)),
            (Method::POST, &[("host", "LOCALHOST:4711"), with, ("origin", "http://localhost:4711")], Ok(Pass::On)),
            // Another name for loopback, another port, none.
            (Method::GET, &[("host", "evil.example:4711"), with], Err(Stop::ForeignHost)),
            (Method::GET, &[("host", "127.0.0.1"), with], Err(Stop::ForeignHost)),
            (Method::GET, &[("host", "127.0.0.1:4712"), with], Err(Stop::ForeignHost)),
            (Method::GET, &[own, own, with], Err(Stop::ForeignHost)),
            (Method::GET, &[with], Err(Stop::ForeignHost)),
            // No cookie, a wrong one, that of another console.
            (Method::GET, &[own], Err(Stop::NoSession)),
            (Method::POST, &[own, origin], Err(Stop::NoSession)),
            (Method::GET, &[own, ("cookie", &format!("{name}={}", gate.key))], Err(Stop::NoSession)),
            (Method::GET, &[own, ("cookie", &format!("tfo-console-1={value}"))], Err(Stop::NoSession)),
            (Method::GET, &[own, ("cookie", &format!("{name}="))], Err(Stop::NoSession)),
            // Another page, although the browser sends the cookie.
            (Method::GET, &[own, with, ("sec-fetch-site", "same-site")], Err(Stop::ForeignPage)),
            (Method::GET, &[own, with, ("sec-fetch-site", "cross-site")], Err(Stop::ForeignPage)),
            (Method::GET, &[own, with, ("origin", "http://127.0.0.1:80")], Err(Stop::ForeignOrigin)),
            (Method::POST, &[own, with], Err(Stop::ForeignOrigin)),
            (Method::POST, &[own, with, ("origin", "null")], Err(Stop::ForeignOrigin)),
            (Method::POST, &[own, with, ("origin", "http://localhost:4711")], Err(Stop::ForeignOrigin)),
            (Method::POST, &[own, with, ("origin", "https://127.0.0.1:4711")], Err(Stop::ForeignOrigin)),
            (Method::POST, &[own, with, ("origin", "http://127.0.0.1:4711.evil.example")], Err(Stop::ForeignOrigin)),
            (Method::PUT, &[own, with, origin], Err(Stop::Method)),
            (Method::HEAD, &[own, with], Err(Stop::Method)),
        ];
        for (method, headers, wanted) in cases {
            assert_eq!(gate.judge(&head(method.clone(), "/pools/edge", headers)), *wanted, "{method} {headers:?}");
        }
    }

    #[test]
    fn the_address_opens_it_once() {
        let gate = gate();
        let own = ("host", "127.0.0.1:4711");
        let path = gate.address().strip_prefix("http://127.0.0.1:4711").unwrap().to_owned();
        let open = |path: &str, headers: &[_]| gate.judge(&head(Method::GET, path, headers));
        assert_eq!(open("/open/", &[own]), Err(Stop::WrongKey));
        assert_eq!(open(&format!("{path}0"), &[own]), Err(Stop::WrongKey));
        assert_eq!(open(&path, &[("host", "evil.example:4711")]), Err(Stop::ForeignHost));
        assert_eq!(open(&path, &[own, ("sec-purpose", "prefetch;prerender")]), Err(Stop::Early));
        assert_eq!(gate.judge(&head(Method::HEAD, &path, &[own])), Err(Stop::Method));
        let Ok(Pass::Opened { cookie: Some(cookie) }) = open(&path, &[own]) else { panic!("it does not open") };
        let cookie = cookie.to_str().unwrap();
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
        assert_eq!(open(&path, &[own]), Err(Stop::UsedKey));
        let session = cookie.split(';').next().unwrap();
        assert_eq!(open(&path, &[own, ("cookie", session)]), Ok(Pass::Opened { cookie: None }));
    }

    #[test]
    fn no_two_secrets_are_the_same() {
        let (one, other) = (gate(), gate());
        let all = [one.key, one.cookie.1, one.form_token, other.key, other.cookie.1, other.form_token];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert!(all.iter().all(|secret| secret.len() == 32));
    }
}
