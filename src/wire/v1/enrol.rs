//! Certificates of nodes: `POST /v1/enrol` on the enrolment port, with a token, and `POST /v1/pools/{pool}/certificate` on the
//! API port, with the certificate in use (docs/how-to/enrol_nodes.md).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use tfo_model::ids::{NodeId, PoolName, TokenId};

/// Longest request body in bytes: a request of P-256 has 500.
pub const REQUEST_BYTES_MAX: usize = 8_192;

/// Longest answer body in bytes that a node reads: a certificate, its authority's, and addresses.
pub const ANSWER_BYTES_MAX: usize = 65_536;

/// A node without a certificate asks for its first one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// Which token it has.
    pub token_id: TokenId,
    /// The token's secret, as the token has it.
    pub secret: TokenText,
    /// The name that it wants.
    pub name: NodeId,
    /// Its certificate request, PEM.
    pub csr: String,
}

/// A node asks for its next certificate, under the name of the one that it shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// Its certificate request, PEM, for a new key.
    pub csr: String,
}

/// A certificate, and what a node needs beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certified {
    /// The certificate of the node, PEM.
    pub certificate: String,
    /// The certificates of the authority, PEM: what the node trusts from now on (ca.crt).
    pub chain: String,
    /// The pools that take a node of this name, in name order; the token's pool first.
    pub pools: Vec<PoolName>,
    /// Where the coordinators' API is: `https://HOST:PORT`.
    pub urls: Vec<String>,
}

/// The secret of a token as text; wiped on drop, and `Debug` shows nothing of it.
pub struct TokenText(Zeroizing<String>);

impl TokenText {
    /// Takes the text.
    #[must_use]
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// The text, to compare its hash.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText")
    }
}

impl Serialize for TokenText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TokenText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}
