//! Enrolment tokens: `tfo1.ID.SECRET.PIN.URL[,URL]`, one line that lets a node ask for its first certificate.
//!
//! Must not know: which tokens exist, what one allows.  Invariants: the secret is wiped on drop, is in no error and in no
//! `Debug`; a store keeps its hash alone.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use rustls_pki_types::CertificateDer;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::authority::AuthorityError;
use tfo_crypto::random::{self, NoRandomness};
use tfo_model::ids::TokenId;
use tfo_wire::base_url::BaseUrl;
use tfo_wire::v1::enrol::TokenText;

/// Version and kind, at the start: secret scanners and people know it by that.
const PREFIX: &str = "tfo1";
/// Most addresses of a token.
pub const URLS_MAX: usize = 8;
/// Longest token in bytes: eight long addresses fit.
pub const TOKEN_BYTES_MAX: usize = 4_096;

/// What a token holds.  There is no `Display`: [`Token::reveal`] prints it where it is made.
#[derive(Debug)]
pub struct Token {
    /// Which one it is; public.
    pub id: TokenId,
    /// What proves it.
    pub secret: TokenSecret,
    /// The authority of the fleet.
    pub pin: AuthorityPin,
    /// Where to enrol, 1 to [`URLS_MAX`].
    pub urls: Vec<BaseUrl>,
}

/// 128 random bits; wiped on drop.
pub struct TokenSecret(Zeroizing<[u8; 16]>);

/// SHA-256 of a secret, what a store keeps: 128 random bits cannot be searched, so nothing slower is needed.
#[derive(Debug, Clone, Copy)]
pub struct SecretHash([u8; 32]);

/// The first 16 bytes of the SHA-256 of an authority's `SubjectPublicKeyInfo`: its key, whatever its certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorityPin([u8; 16]);

/// Why a text is not a token.  It quotes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Empty, or something else altogether.
    #[error("this is not an enrolment token: one begins with {PREFIX}.")]
    NotAToken,
    /// `tfo2.`, or another version.
    #[error("this token is of another release: one of this release begins with {PREFIX}.")]
    Version,
    /// A part is missing: a line break, or a copy that ends early.
    #[error("the token is cut off: it has five parts, {PREFIX}.ID.SECRET.PIN.URL")]
    CutOff,
    /// The second part.
    #[error("the token's id, its second part, is damaged")]
    Id,
    /// The third part.
    #[error("the token's secret, its third part, is damaged")]
    Secret,
    /// The fourth part.
    #[error("the token's pin, its fourth part, is damaged")]
    Pin,
    /// The last part.
    #[error(
        "the token's addresses, its last part, are damaged: 1 to {URLS_MAX} of https://HOST:PORT, separated by commas"
    )]
    Urls,
    /// White space or another character that no token has.
    #[error("the token has a space or line end within it, or a character that no token has")]
    Character,
    /// More than [`TOKEN_BYTES_MAX`].
    #[error("the text is longer than {TOKEN_BYTES_MAX} bytes: it is not one token")]
    TooLong,
}

impl Token {
    /// A new token for the authority with this pin.
    ///
    /// # Errors
    /// Fails if the system gives no randomness.
    ///
    /// # Panics
    /// Without addresses, or with more than [`URLS_MAX`]: the caller checks its configuration.
    pub fn fresh(pin: AuthorityPin, urls: Vec<BaseUrl>) -> Result<Self, NoRandomness> {
        assert!((1..=URLS_MAX).contains(&urls.len()), "a token has 1 to {URLS_MAX} addresses");
        let id = format!("{:012x}", random::fresh_u64()? >> 16);
        let mut secret = Zeroizing::new([0; 16]);
        random::fill(secret.as_mut())?;
        Ok(Self { id: id.parse().expect("twelve hex digits"), secret: TokenSecret(secret), pin, urls })
    }

    /// Reads a token; white space around it does not count, because files end in a line end.
    ///
    /// # Errors
    /// Fails with the part that is damaged, quoting nothing.
    pub fn parse(text: &str) -> Result<Self, BadToken> {
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
        if text.len() > TOKEN_BYTES_MAX {
            return Err(BadToken::TooLong);
        }
        let (prefix, rest) = text.split_once('.').ok_or(BadToken::NotAToken)?;
        match prefix {
            PREFIX => {}
            other if other.starts_with("tfo") && other[3..].bytes().all(|b| b.is_ascii_digit()) => {
                return Err(BadToken::Version);
            }
            _ => return Err(BadToken::NotAToken),
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(BadToken::Character);
        }
        let mut parts = rest.splitn(4, '.');
        let mut part = || parts.next().filter(|part| !part.is_empty()).ok_or(BadToken::CutOff);
        let (id, secret, pin, urls) = (part()?, part()?, part()?, part()?);
        let urls = urls.split(',').map(|url| url.parse().map_err(|_| BadToken::Urls));
        let urls = urls.take(URLS_MAX + 1).collect::<Result<Vec<BaseUrl>, _>>()?;
        if urls.len() > URLS_MAX {
            return Err(BadToken::Urls);
        }
        Ok(Self {
            id: id.parse().map_err(|_| BadToken::Id)?,
            secret: TokenSecret::parse(secret).ok_or(BadToken::Secret)?,
            pin: AuthorityPin::parse(pin).ok_or(BadToken::Pin)?,
            urls,
        })
    }

    /// The whole token, with its secret: for the one answer of the command that made it.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let urls: Vec<String> = self.urls.iter().map(ToString::to_string).collect();
        let secret = self.secret.text();
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_BYTES_MAX));
        for part in [PREFIX, ".", self.id.as_str(), ".", secret.expose(), ".", &self.pin.to_string(), "."] {
            text.push_str(part);
        }
        text.push_str(&urls.join(","));
        text
    }
}

impl TokenSecret {
    /// Reads the text of a secret: 22 characters of base64url.  None for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        sixteen(text).map(Self)
    }

    /// The text that goes over the network.
    #[must_use]
    pub fn text(&self) -> TokenText {
        TokenText::new(Zeroizing::new(URL_SAFE_NO_PAD.encode(*self.0)))
    }

    /// What a store keeps.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        let digest = digest::digest(&digest::SHA256, self.0.as_ref());
        SecretHash(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret")
    }
}

impl SecretHash {
    /// SHA-256 of something public, such as a key: a store keeps both.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, bytes);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// One that a store has kept.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To be kept.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

impl PartialEq for SecretHash {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretHash {}

impl AuthorityPin {
    /// The pin of an authority by its certificate.
    ///
    /// # Errors
    /// Fails if that cannot be parsed.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, AuthorityError> {
        let parsed = x509_parser::parse_x509_certificate(certificate);
        let (_, parsed) = parsed.map_err(|_| AuthorityError::Certificate)?;
        Ok(Self::of_public_key(parsed.public_key().raw))
    }

    /// The pin of a `SubjectPublicKeyInfo`, DER.
    #[must_use]
    pub fn of_public_key(info: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, info);
        Self(digest.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes"))
    }

    fn parse(text: &str) -> Option<Self> {
        sixteen(text).map(|bytes| Self(*bytes))
    }
}

impl fmt::Display for AuthorityPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// Sixteen bytes of base64url; one text for each value.
fn sixteen(text: &str) -> Option<Zeroizing<[u8; 16]>> {
    let mut bytes = Zeroizing::new([0; 16]);
    // The decoder asks for room by the length of the text, before it knows the padding.
    let mut room = Zeroizing::new([0; 18]);
    let is_long = text.len() != 22;
    let count = if is_long { None } else { URL_SAFE_NO_PAD.decode_slice(text, room.as_mut()).ok() };
    (count == Some(bytes.len())).then(|| {
        bytes.copy_from_slice(&room[..16]);
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let urls = ["https://c1.example.org:9444", "https://[2001:db8::1]:9444"].map(|url| url.parse().unwrap());
        Token::fresh(AuthorityPin::of_public_key(b"a key"), urls.to_vec()).unwrap()
    }

    #[test]
    fn a_token_reads_back_and_shows_its_secret_nowhere_else() {
        let token = token();
        let text = token.reveal();
        for shown in [text.as_str(), &format!("  {}\n", *text)] {
            let back = Token::parse(shown).unwrap();
            assert_eq!((&back.id, back.pin, &back.urls), (&token.id, token.pin, &token.urls));
            assert_eq!(back.secret.hash(), token.secret.hash());
            assert_eq!(back.reveal(), text);
        }
        let secret = token.secret.text();
        assert!(secret.expose().len() == 22 && text.contains(secret.expose()));
        assert!(!format!("{token:?} {secret:?}").contains(secret.expose()));
        assert_ne!(self::token().secret.hash(), token.secret.hash(), "random");
        assert_ne!(self::token().id, token.id);
    }

    #[test]
    fn each_damage_is_named_and_the_secret_is_not() {
        let good = token().reveal();
        let secret = good.split('.').nth(2).unwrap().to_owned();
        let part = |index: usize, new: &str| {
            let mut parts: Vec<&str> = good.splitn(5, '.').collect();
            parts[index] = new;
            parts.join(".")
        };
        let many = ["https://a"; URLS_MAX + 1].join(",");
        // 22 characters have 132 bits, of which 128 count: the last one must not have others.
        let second_text = format!("{}B", &secret[..21]);
        for (bad, why) in [
            (String::new(), BadToken::NotAToken),
            ("hello".to_owned(), BadToken::NotAToken),
            (part(0, "tfo"), BadToken::Version),
            (part(0, "tfo2"), BadToken::Version),
            (part(0, "TFO1"), BadToken::NotAToken),
            (good[..20].to_owned(), BadToken::CutOff),
            (good[..45].to_owned(), BadToken::CutOff),
            (part(4, ""), BadToken::CutOff),
            (part(1, "0123456789AB"), BadToken::Id),
            (part(2, &secret[..21]), BadToken::Secret),
            (part(2, &second_text), BadToken::Secret),
            (part(2, &format!("{secret}A")), BadToken::Secret),
            (part(3, "AAAA"), BadToken::Pin),
            (part(4, "http://c1"), BadToken::Urls),
            (part(4, "https://c1/v1"), BadToken::Urls),
            (part(4, "https://c1,"), BadToken::Urls),
            (part(4, &many), BadToken::Urls),
            (good.replacen("https", "\nhttps", 1), BadToken::Character),
            (format!("{}{}", *good, "a".repeat(TOKEN_BYTES_MAX)), BadToken::TooLong),
        ] {
            let found = Token::parse(&bad).unwrap_err();
            assert_eq!(found, why, "{bad}");
            assert!(!found.to_string().contains(&secret[..8]));
        }
    }

    #[test]
    fn a_pin_is_the_key_and_not_the_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = |name: &str| {
            rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap().der().clone()
        };
        let pin = AuthorityPin::of(&certificate("a")).unwrap();
        assert_eq!(pin, AuthorityPin::of(&certificate("b")).unwrap());
        assert_eq!(pin, AuthorityPin::of_public_key(&rcgen::PublicKeyData::subject_public_key_info(&key)));
        assert_eq!(pin.to_string().len(), 22);
        AuthorityPin::of(&CertificateDer::from(vec![1, 2])).unwrap_err();
    }
}
