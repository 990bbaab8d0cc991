//! The authority of a fleet whose nodes enrol by themselves: who gets a certificate, and who loses it.
//!
//! The store decides by tokens and what was issued before (`tfo_store::enrolment`); names are judged by the pools.  Here is
//! what is signed, and in which order: a certificate is recorded before anybody gets it.  Every call blocks.  Must not know:
//! HTTP, the engine.
//!
//! A coordinator without the authority's key makes and ends tokens as every other does; it signs nothing, and says so.

mod cutting;
mod keeper;
mod meeting;
mod open;
mod refused;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

pub use self::cutting::{InHand, Left};
pub(crate) use self::keeper::LIST_DAYS;
pub use self::open::{OpenedAuthority, check, open};
use self::refused::Refused;
pub use self::refused::{Attempt, News};
use tfo_host::runtime::clock;
use tfo_model::ids::{CoordinatorName, NodeId, PoolName, TokenId};
use tfo_model::pattern::NamePattern;
use tfo_model::time::UnixTime;
use tfo_pki::authority::{Authority, AuthorityError, Lifetime, Subject};
use tfo_pki::request::{self, BadRequest};
use tfo_pki::role::Role;
use tfo_pki::serial;
use tfo_pki::token::{AuthorityPin, SecretHash, Token, URLS_MAX};
use tfo_store::Enrolments;
use tfo_store::enrolment::{
    self as stored, Certificate, Claim, Digest, EnrolError, EnrolRefused, TokenEnd, TokenError, Wish,
};
use tfo_tls::server::ServerTls;
use tfo_wire::base_url::BaseUrl;

/// What a coordinator needs that enrols nodes.
pub struct Enrolment {
    /// The authority, if its key is here.
    signer: Option<Authority>,
    certificate: CertificateDer<'static>,
    /// The authority's name, DER.
    subject: Vec<u8>,
    /// What nodes trust, PEM: the authority's certificate first, then those that follow or precede it.
    chain: ArcSwap<String>,
    pin: AuthorityPin,
    store: Arc<dyn Enrolments>,
    tls: Arc<ServerTls>,
    node_lifetime_secs: AtomicU64,
    ports: Ports,
    files: Files,
    /// Held while the revocation list is read and written.
    writing: Mutex<()>,
    /// The name under which this process writes into the store.
    by: CoordinatorName,
    /// Plans that an operator's request has in hand here.
    in_hand: Arc<Mutex<BTreeSet<u64>>>,
    /// Certificates that were looked up.
    met: Mutex<meeting::Met>,
    /// Plans of other coordinators.
    seen_plans: Mutex<cutting::SeenPlans>,
    refused: Mutex<Refused>,
}

/// Where nodes connect.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Of the API.
    pub api: u16,
    /// Of enrolment.
    pub enrolment: u16,
}

/// Files that the coordinator renews by itself.
#[derive(Debug, Clone)]
pub struct Files {
    /// Its revocation list.
    pub list: PathBuf,
    /// Its own certificate.
    pub certificate: PathBuf,
    /// The authority's certificate, which an operator may put others beside.
    pub authority: PathBuf,
}

/// Why there is no certificate; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum NotCertified {
    /// The store refuses the claim, or cannot be used.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The request is not one that is signed.
    #[error(transparent)]
    Request(#[from] BadRequest),
    /// The authority issues only names in these domains.
    #[error("the authority issues only names in {0}")]
    Domain(String),
    /// This coordinator does not have the authority's key.
    #[error("this coordinator does not have the authority's key")]
    NoKey,
    /// The authority's own certificate has ended.
    #[error("the authority's own certificate ended at {0}")]
    Ended(UnixTime),
    /// Nothing can be signed.
    #[error("cannot sign")]
    Sign(#[from] AuthorityError),
}

/// A token to make.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// The pool.
    pub pool: PoolName,
    /// The names that may join.
    pub nodes: Vec<NamePattern>,
    /// How many nodes.
    pub uses: u32,
    /// Until when.
    pub expires_at: UnixTime,
    /// Whether it may take the names of nodes that have a certificate.
    pub replace: bool,
    /// Who makes it.
    pub by: NodeId,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum NoToken {
    /// See [`TokenError`].
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No randomness.
    #[error(transparent)]
    NoRandomness(#[from] tfo_crypto::random::NoRandomness),
    /// The coordinator's certificate names no host that nodes could connect to.
    #[error("the coordinator's own certificate has no name and no address for nodes to connect to")]
    NoAddress,
}

impl Enrolment {
    /// With what was opened.
    #[must_use]
    pub fn new(
        opened: OpenedAuthority,
        (store, by): (Arc<dyn Enrolments>, CoordinatorName),
        tls: Arc<ServerTls>,
    ) -> Self {
        let OpenedAuthority { signer, certificate, chain, pin, node_lifetime, ports, files } = opened;
        let subject = X509Certificate::from_der(&certificate).map(|(_, own)| own.subject().as_raw().to_vec());
        Self {
            signer,
            certificate,
            // It was read as one before.
            subject: subject.unwrap_or_default(),
            chain: ArcSwap::from_pointee(chain),
            pin,
            store,
            tls,
            node_lifetime_secs: AtomicU64::new(node_lifetime.as_secs()),
            ports,
            files,
            writing: Mutex::default(),
            by,
            in_hand: Arc::default(),
            seen_plans: Mutex::default(),
            met: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// The lifetime of certificates from now on.
    pub fn set_node_lifetime(&self, lifetime: Duration) {
        self.node_lifetime_secs.store(lifetime.as_secs(), Ordering::Relaxed);
    }

    /// The authority's certificate.
    #[must_use]
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What nodes trust, PEM.
    #[must_use]
    pub fn chain(&self) -> String {
        self.chain.load().to_string()
    }

    fn signer(&self) -> Result<&Authority, NotCertified> {
        self.signer.as_ref().ok_or(NotCertified::NoKey)
    }

    /// Tokens and certificates.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Enrolments> {
        &self.store
    }

    /// Where nodes reach the API, by the names and addresses of the coordinator's own certificate.
    #[must_use]
    pub fn api_urls(&self) -> Vec<String> {
        self.urls(self.ports.api)
    }

    fn urls(&self, port: u16) -> Vec<String> {
        let (names, addresses) = self.tls.own_hosts();
        let names = names.iter().map(|name| format!("https://{name}:{port}"));
        let addresses = addresses.iter().map(|address| match address {
            IpAddr::V4(address) => format!("https://{address}:{port}"),
            IpAddr::V6(address) => format!("https://[{address}]:{port}"),
        });
        names.chain(addresses).take(URLS_MAX).collect()
    }

    /// Makes a token, and records its hash.
    ///
    /// # Errors
    /// Fails if it cannot be recorded.
    pub fn make_token(&self, wanted: NewToken, now: UnixTime) -> Result<(Token, stored::Token), NoToken> {
        let urls: Vec<BaseUrl> = self.urls(self.ports.enrolment).iter().filter_map(|url| url.parse().ok()).collect();
        if urls.is_empty() {
            return Err(NoToken::NoAddress);
        }
        let made = Token::fresh(self.pin, urls)?;
        let NewToken { pool, nodes, uses, expires_at, replace, by } = wanted;
        let kept = stored::Token {
            id: made.id.clone(),
            hash: digest(made.secret.hash()),
            pool,
            nodes,
            uses,
            used: 0,
            expires_at,
            replace,
            made_by: by,
            made_at: now,
            revoked: None,
            last_use: None,
            expiry_logged: false,
        };
        self.store.add_token(&kept, now)?;
        Ok((made, kept))
    }

    /// Revokes a token; none if there is none with this id.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    pub fn revoke_token(
        &self,
        id: &TokenId,
        by: NodeId,
        at: UnixTime,
    ) -> Result<Option<stored::Token>, tfo_store::StoreError> {
        self.store.revoke_token(id, &TokenEnd { by: Some(by), at })
    }

    /// The pool of a token, if this node may use it, as far as tokens and certificates say.
    ///
    /// # Errors
    /// Fails if it may not.
    pub fn pool_of(
        &self,
        (id, hash): (&TokenId, &Digest),
        node: &NodeId,
        now: UnixTime,
    ) -> Result<PoolName, NotCertified> {
        self.signer()?;
        let claim = Claim::Token { id, hash, known: false };
        let pool = self.store.judge(&Wish { node, key: None, claim }, now)?;
        pool.ok_or_else(|| EnrolError::from(EnrolRefused::Token(stored::TokenFault::Unknown)).into())
    }

    /// Certifies the key of a request for a node whose claim holds, and records it.  Gives the certificate, PEM.
    ///
    /// # Errors
    /// Fails without a change if the request or the claim is refused.
    pub fn certify(
        &self,
        (node, csr): (&NodeId, &str),
        claim: Claim<'_>,
        from: Option<IpAddr>,
        now: UnixTime,
    ) -> Result<String, NotCertified> {
        self.certify_as((Role::Node, node, csr), claim, from, now)
    }

    /// The same for a person, whose connection shows a certificate of the same name.
    ///
    /// # Errors
    /// As [`Self::certify`].
    pub fn renew(
        &self,
        role: Role,
        (name, csr): (&NodeId, &str),
        from: Option<IpAddr>,
        asked_at: UnixTime,
    ) -> Result<String, NotCertified> {
        self.certify_as((role, name, csr), Claim::Renewal { pool: None, asked_at }, from, clock::now())
    }

    /// Whether a certificate by an issuer of this name, DER, may be one of the authority.
    #[must_use]
    pub fn is_issuer(&self, name: &[u8]) -> bool {
        self.subject == name
    }

    fn certify_as(
        &self,
        (role, node, csr): (Role, &NodeId, &str),
        claim: Claim<'_>,
        from: Option<IpAddr>,
        now: UnixTime,
    ) -> Result<String, NotCertified> {
        let authority = self.signer()?;
        let public_key = request::check(csr, node)?;
        if !authority.may_name(node) {
            return Err(NotCertified::Domain(authority.domains().join(", ")));
        }
        let lifetime = match role {
            Role::Node => Lifetime::seconds(now, self.node_lifetime_secs.load(Ordering::Relaxed)),
            Role::Operator | Role::Viewer | Role::Coordinator => Lifetime::days(now, role.days()),
        };
        let lifetime = lifetime.within(authority.lifetime());
        if lifetime.not_after <= now {
            return Err(NotCertified::Ended(authority.lifetime().not_after));
        }
        let serial = serial::fresh().map_err(AuthorityError::from)?;
        let subject = Subject { role, name: node, addresses: &[], serial, lifetime };
        let text = authority.certify(&subject, &public_key)?;
        let token = match claim {
            Claim::Token { id, .. } => Some(id.clone()),
            Claim::Renewal { .. } => None,
        };
        let certificate = Certificate {
            serial,
            node: node.clone(),
            key: digest(SecretHash::of(&public_key)),
            issued_at: now,
            not_after: lifetime.not_after,
            token,
            revoked_at: None,
        };
        if self.store.record(&certificate, claim, from)?
            && let Err(problem) = self.keep_list(now)
        {
            // The keeper tries again.
            tfo_host::runtime::log::problem(&problem);
        }
        Ok(text)
    }
}

/// As a store keeps it.
#[must_use]
pub fn digest(hash: SecretHash) -> Digest {
    Digest(hash.to_bytes())
}
