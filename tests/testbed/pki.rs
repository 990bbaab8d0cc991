//! A throw-away PKI: CAs, certificates good and bad, revocation lists.  Files are written as an operator would.

use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tfo_host::runtime::clock;

/// One day in seconds.
pub const DAY: i64 = 86_400;

/// A CA with its key.
pub struct Ca {
    /// Its certificate.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, and the intermediate ones after it.
    pub cert_pem: String,
    pub key_pem: String,
    serial: u64,
}

/// What a certificate says.  Seconds are counted from now.
pub struct Leaf<'a> {
    /// Subject alternative names: DNS names, and addresses for a server.
    pub names: &'a [&'a str],
    pub common_name: &'a str,
    pub from_secs: i64,
    pub until_secs: i64,
    pub usage: ExtendedKeyUsagePurpose,
}

impl<'a> Leaf<'a> {
    /// A client's, valid since yesterday and for a month.
    pub fn client(names: &'a [&'a str]) -> Self {
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        Self { names, common_name: "a client", from_secs: -DAY, until_secs: 30 * DAY, usage }
    }

    /// A server's, for 127.0.0.1 and localhost.
    pub fn server() -> Self {
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        Self { usage, common_name: "a server", ..Leaf::client(&["localhost", "127.0.0.1"]) }
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
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A CA below this one, and its certificate in `pem`.
    pub fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("ring makes keys");
        let params = ca_params(name, 365 * DAY);
        let pem = params.signed_by(&key, &self.issuer).expect("the parameters are whole").pem();
        Self { pem, issuer: Issuer::new(params, key) }
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
                Err(_) => SanType::DnsName((*name).try_into().expect("an ASCII name")),
            })
            .collect();
        params.extended_key_usages = vec![leaf.usage.clone()];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let cert = params.signed_by(&key, &self.issuer).expect("the parameters are whole");
        Identity { cert_pem: cert.pem(), key_pem: key.serialize_pem(), serial }
    }

    /// A client's certificate with these names.
    pub fn client(&self, names: &[&str]) -> Identity {
        self.issue(&Leaf::client(names))
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

    /// Writes NAME.crt and, for its owner only, NAME.key.
    pub fn write(&self, dir: &Path, name: &str) {
        put(&dir.join(format!("{name}.crt")), &self.cert_pem);
        put(&dir.join(format!("{name}.key")), &self.key_pem);
    }
}

/// Replaces a file as a renewal does: a new one, 0600, renamed over the old.
pub fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    drop(std::fs::remove_file(&new));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).expect("a new file");
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("the scratch directory takes it");
    std::fs::rename(&new, path).expect("a rename in one directory");
}
