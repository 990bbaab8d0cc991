//! A throw-away PKI: CAs, certificates good and bad, revocation lists.  Files are written as an operator would.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tfo_host::runtime::clock;

use crate::host::{Host, replace};

/// One day in seconds.
pub const DAY: i64 = 86_400;

/// A CA with its key.
pub struct Ca {
    /// Its certificate.
    pub pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, and the intermediate ones after it.
    pub cert_pem: String,
    pub key_pem: String,
    pub serial: u64,
}

/// What a certificate says.  Seconds are counted from now.
pub struct Leaf<'a> {
    /// Subject alternative names: DNS names, addresses for a server, and SPIFFE IDs.
    pub names: &'a [&'a str],
    pub common_name: &'a str,
    pub from_secs: i64,
    pub until_secs: i64,
    pub usages: Vec<ExtendedKeyUsagePurpose>,
}

impl<'a> Leaf<'a> {
    /// A client's, valid since yesterday and for a month.
    pub fn client(names: &'a [&'a str]) -> Self {
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Self { names, common_name: "a client", from_secs: -DAY, until_secs: 30 * DAY, usages }
    }

    /// A server's, for 127.0.0.1 and localhost.
    pub fn server() -> Self {
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Self { usages, common_name: "a server", ..Leaf::client(&["localhost", "127.0.0.1"]) }
    }

    /// For a server and a client alike, valid for so many days; fewer than 0: expired.
    pub fn both(names: &'a [&'a str], days: i64) -> Self {
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Self { names, common_name: "both", from_secs: -365 * DAY, until_secs: days * DAY, usages }
    }
}

/// An instant so many seconds from now, in the type of rcgen, which does not export its name.
macro_rules! at {
    ($secs_from_now:expr) => {
        date_time_ymd(1970, 1, 1)
            + Duration::from_secs(clock::now().secs().checked_add_signed($secs_from_now).expect("a time after 1970"))
    };
}

impl Ca {
    /// A root that is valid for ten years.
    pub fn new(name: &str) -> Self {
        Self::until(name, 3650 * DAY)
    }

    /// A root that expires so many seconds from now.
    pub fn until(name: &str, until_secs: i64) -> Self {
        let key = KeyPair::generate().expect("ring makes keys");
        let params = ca_params(name, until_secs);
        let pem = params.self_signed(&key).expect("the parameters are whole").pem();
        Self { pem, key_pem: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    /// A CA below this one, and its certificate in `pem`.
    pub fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("ring makes keys");
        let params = ca_params(name, 365 * DAY);
        let pem = params.signed_by(&key, &self.issuer).expect("the parameters are whole").pem();
        Self { pem, key_pem: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    /// The same once more.
    pub fn duplicate(&self) -> Self {
        Self::of(&self.pem, &self.key_pem)
    }

    fn of(pem: &str, key_pem: &str) -> Self {
        let key = KeyPair::from_pem(key_pem).expect("our own key");
        let issuer = Issuer::from_ca_cert_pem(pem, key).expect("our own certificate");
        Self { issuer, pem: pem.to_owned(), key_pem: key_pem.to_owned() }
    }

    /// For another process: certificate and key, PEM.
    pub fn save(&self, path: &Path) {
        put(path, &format!("{}{}", self.pem, self.key_pem));
    }

    /// What [`Self::save`] wrote.
    pub fn load(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("the other process wrote it");
        let (pem, key_pem) = text.split_at(text.find("-----BEGIN PRIVATE KEY").expect("both are in it"));
        Self::of(pem, key_pem)
    }

    /// A certificate of this CA.
    pub fn issue(&self, leaf: &Leaf<'_>) -> Identity {
        static SERIAL: AtomicU64 = AtomicU64::new(0x1000);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let key = KeyPair::generate().expect("ring makes keys");
        let mut params = CertificateParams::default();
        params.not_before = at!(leaf.from_secs);
        params.not_after = at!(leaf.until_secs);
        params.serial_number = Some(SerialNumber::from(serial));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, leaf.common_name);
        params.subject_alt_names = leaf
            .names
            .iter()
            .map(|name| match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if name.to_ascii_lowercase().starts_with("spiffe:") => {
                    SanType::URI((*name).try_into().expect("an ASCII URI"))
                }
                Err(_) => SanType::DnsName((*name).try_into().expect("an ASCII name")),
            })
            .collect();
        params.extended_key_usages.clone_from(&leaf.usages);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let cert = params.signed_by(&key, &self.issuer).expect("the parameters are whole");
        Identity { cert_pem: cert.pem(), key_pem: key.serialize_pem(), serial }
    }

    /// A client's certificate with these names.
    pub fn client(&self, names: &[&str]) -> Identity {
        self.issue(&Leaf::client(names))
    }

    /// A certificate for these names, for a server and a client alike.
    pub fn both(&self, names: &[&str]) -> Identity {
        self.issue(&Leaf::both(names, 90))
    }

    /// Puts ca.crt, node.crt and node.key into a host's directory; the certificate is valid for so many days.
    pub fn equip(&self, host: &Host, name: &str, days: i64) {
        let identity = self.issue(&Leaf::both(&[name], days));
        host.write("ca.crt", &self.pem, 0o644);
        host.write("node.crt", &identity.cert_pem, 0o644);
        host.write("node.key", &identity.key_pem, 0o400);
    }

    /// Puts ca.crt, and node.pem with certificate and key in one file, into a host's directory: valid from and until so many
    /// seconds from now.
    pub fn equip_pair(&self, host: &Host, name: &str, from_secs: i64, until_secs: i64) {
        let identity = self.issue(&Leaf { from_secs, until_secs, ..Leaf::client(&[name]) });
        host.write("ca.crt", &self.pem, 0o644);
        host.write("node.pem", format!("{}{}", identity.cert_pem, identity.key_pem), 0o400);
    }

    /// What certifies requests as a coordinator does: a certificate request, PEM, to a certificate of a node that is valid
    /// for so many seconds, and was dated back by an hour.
    pub fn signer(&self, until_secs: i64) -> impl Fn(&str) -> String + Send + Sync + 'static {
        let key = KeyPair::from_pem(&self.key_pem).expect("our own key");
        let issuer = Issuer::from_ca_cert_pem(&self.pem, key).expect("our own certificate");
        move |csr| {
            let mut request = CertificateSigningRequestParams::from_pem(csr).expect("a certificate request");
            request.params.not_before = at!(-3_600);
            request.params.not_after = at!(until_secs);
            request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            request.signed_by(&issuer).expect("the parameters are whole").pem()
        }
    }

    /// A revocation list that is good for a week.
    pub fn crl(&self, revoked: &[&Identity]) -> String {
        self.crl_until(revoked, 7 * DAY)
    }

    /// A revocation list that was made so many seconds from now.
    pub fn crl_of(&self, made_secs: i64, revoked: &[&Identity]) -> String {
        self.list(revoked, made_secs, 7 * DAY)
    }

    /// A revocation list that is good for so many seconds from now.
    pub fn crl_until(&self, revoked: &[&Identity], until_secs: i64) -> String {
        self.list(revoked, -2 * DAY, until_secs)
    }

    /// A revocation list that revokes nothing, with the seconds from now at which it begins and ends.
    pub fn crl_long(&self, made_secs: i64, until_secs: i64) -> String {
        self.list(&[], made_secs, until_secs)
    }

    fn list(&self, revoked: &[&Identity], made_secs: i64, until_secs: i64) -> String {
        let revoked = revoked.iter().map(|one| RevokedCertParams {
            serial_number: SerialNumber::from(one.serial),
            revocation_time: at!(-DAY),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: at!(made_secs),
            next_update: at!(until_secs),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("the CA may sign lists").pem().expect("PEM")
    }
}

fn ca_params(name: &str, until_secs: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = at!(-2 * DAY);
    params.not_after = at!(until_secs);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Identity {
    /// The same, with the certificate of an intermediate CA after it.
    pub fn below(mut self, intermediate: &Ca) -> Self {
        self.cert_pem.push_str(&intermediate.pem);
        self
    }

    /// The certificates, own first.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.cert_pem.as_bytes()).map(|one| one.expect("our own PEM")).collect()
    }

    /// The key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("our own PEM")
    }

    /// ROLE.crt and ROLE.key of a directory of `tfoctl pki`, given as `NAME/ROLE`.
    pub fn read(dir: &Path, name: &str) -> Self {
        let read = |kind: &str| std::fs::read_to_string(dir.join(format!("{name}.{kind}"))).expect("it was issued");
        Self { cert_pem: read("crt"), key_pem: read("key"), serial: 0 }
    }

    /// Writes NAME.crt and, for its owner only, NAME.key.
    pub fn write(&self, dir: &Path, name: &str) {
        put(&dir.join(format!("{name}.crt")), &self.cert_pem);
        put(&dir.join(format!("{name}.key")), &self.key_pem);
    }
}

/// Replaces a file as a renewal does: a new one, 0600, renamed over the old.
pub fn put(path: &Path, text: &str) {
    replace(path, text.as_bytes(), 0o600);
}

/// All certificates of a PEM text, as authorities.
pub fn roots(ca_pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.expect("our own PEM")).expect("our own CA");
    }
    roots
}

/// A client of servers of this authority, with a certificate or without, that speaks TLS 1.3.
pub fn client_config(ca_pem: &str, identity: Option<&Identity>) -> ClientConfig {
    client_config_of(&[&TLS13], ca_pem, identity)
}

/// The same with these versions of TLS.
pub fn client_config_of(
    versions: &[&'static SupportedProtocolVersion],
    ca_pem: &str,
    identity: Option<&Identity>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_protocol_versions(versions).expect("ring has them");
    let builder = builder.with_root_certificates(roots(ca_pem));
    match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.key()).expect("a pair"),
        None => builder.with_no_client_auth(),
    }
}

/// A server that asks for no client's certificate, and shows the certificate of its authority, too.
pub fn open_server_config(ca_pem: &str, identity: &Identity) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).expect("ring has it");
    let mut chain = identity.chain();
    chain.extend(CertificateDer::pem_slice_iter(ca_pem.as_bytes()).map(|one| one.expect("our own PEM")));
    builder.with_no_client_auth().with_single_cert(chain, identity.key()).expect("a pair")
}

/// A server that takes clients of this authority, apart from those on its revocation list.
pub fn server_config(ca_pem: &str, crl_pem: Option<&str>, identity: &Identity) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let lists = crl_pem.map(|pem| CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).expect("our own PEM"));
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca_pem)), Arc::clone(&provider))
        .with_crls(lists)
        .build()
        .expect("there is an authority");
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).expect("ring has it");
    builder.with_client_cert_verifier(clients).with_single_cert(identity.chain(), identity.key()).expect("a pair")
}
