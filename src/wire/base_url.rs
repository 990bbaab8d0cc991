//! The URL of a coordinator, as configurations, tokens and command lines give it.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

/// Where a coordinator is: `https://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(pub(super) Url);

/// The text is not a base URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the URL of a coordinator: write https://HOST or https://HOST:PORT, without a path, user or query")]
pub struct BadBaseUrl;

impl FromStr for BaseUrl {
    type Err = BadBaseUrl;

    fn from_str(text: &str) -> Result<Self, BadBaseUrl> {
        let url: Url = text.parse().map_err(|_| BadBaseUrl)?;
        let plain = url.scheme() == "https"
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if plain { Ok(Self(url)) } else { Err(BadBaseUrl) }
    }
}

impl BaseUrl {
    /// The port that is connected to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(443)
    }

    /// Whether a name is to be looked up.
    #[must_use]
    pub fn has_name(&self) -> bool {
        self.0.domain().is_some()
    }

    /// What an operator may have forgotten, for errors of a connection.
    pub(super) fn hint(&self) -> &'static str {
        match self.0.port() {
            Some(_) => "",
            None => "; this was port 443, because the URL names none: a coordinator usually listens on 9443",
        }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_port_is_suspected_of_lacking_it() {
        let hint = |url: &str| url.parse::<BaseUrl>().unwrap().hint();
        assert!(hint("https://c1.example.org").contains("443") && hint("https://c1").contains("9443"));
        assert_eq!(hint("https://c1.example.org:9443"), "");
    }

    #[test]
    fn a_base_url_is_https_and_a_host() {
        for good in
            ["https://c1.example.org", "https://c1.example.org:9443", "https://c1.example.org/", "https://[::1]:1"]
        {
            assert!(good.parse::<BaseUrl>().is_ok(), "{good}");
        }
        assert_eq!(
            "https://c1.example.org:9443/".parse::<BaseUrl>().unwrap().to_string(),
            "https://c1.example.org:9443"
        );
        for bad in [
            "",
            "c1.example.org",
            "http://c1.example.org",
            "https://",
            "https://c1/v1",
            "https://u@c1",
            "https://u:p@c1",
            "https://c1?a",
            "https://c1#a",
        ] {
            assert_eq!(bad.parse::<BaseUrl>(), Err(BadBaseUrl), "{bad}");
        }
    }
}
