//! Whether a node gets a certificate: one decision for every kind of store, over what is recorded of token, name and key.

use subtle::ConstantTimeEq;

use super::{Certificate, Claim, Digest, EnrolRefused, OUTLIVED_KEPT_SECS, PER_NODE_MAX, Token, TokenFault, Wish};
use tfo_model::time::UnixTime;

/// What is recorded.
pub(crate) struct Recorded<'a> {
    /// The token of the claim.
    pub(crate) token: Option<&'a Token>,
    /// The certificates of the node.
    pub(crate) own: &'a [Certificate],
    /// Whether the public key has a certificate, of whatever name.
    pub(crate) key_used: bool,
    /// Whether a plan is there to revoke the certificates of the node.
    pub(crate) is_cut_off: bool,
}

/// Judges a wish.
pub(crate) fn judge(wish: &Wish<'_>, recorded: &Recorded<'_>, now: UnixTime) -> Result<(), EnrolRefused> {
    let live = recorded.own.iter().filter(|one| one.is_live(now)).count();
    match wish.claim {
        Claim::Token { hash, known, .. } => {
            let token = usable(recorded.token, hash, now).map_err(EnrolRefused::Token)?;
            if !token.nodes.iter().any(|pattern| pattern.matches(wish.node)) {
                return Err(EnrolRefused::Name);
            }
            // A node that has no certificate that is recorded, and is known, has one of another program: its name is not free.
            let is_taken = live > 0 || (known && recorded.own.is_empty());
            if is_taken && !token.replace {
                return Err(EnrolRefused::Taken);
            }
        }
        Claim::Renewal { asked_at, .. } => {
            let is_late = |one: &Certificate| one.revoked_at.is_some_and(|at| at >= asked_at);
            if recorded.own.iter().any(is_late) {
                return Err(EnrolRefused::CutOff);
            }
            if live >= PER_NODE_MAX {
                return Err(EnrolRefused::TooMany);
            }
        }
    }
    if recorded.is_cut_off {
        return Err(EnrolRefused::CutOff);
    }
    if recorded.key_used { Err(EnrolRefused::KeyUsed) } else { Ok(()) }
}

/// The token, if it may be used.  The secret is compared first, in constant time, also where there is none to compare with:
/// a client that does not know it learns neither from the answer nor from its time whether there is such a token.
fn usable<'a>(token: Option<&'a Token>, hash: &Digest, now: UnixTime) -> Result<&'a Token, TokenFault> {
    let stored = token.map_or(Digest([0; 32]), |token| token.hash);
    let is_right: bool = stored.0.ct_eq(&hash.0).into();
    let token = token.ok_or(TokenFault::Unknown)?;
    if !is_right {
        return Err(TokenFault::Wrong);
    }
    if token.revoked.is_some() {
        return Err(TokenFault::Revoked);
    }
    if token.expires_at <= now {
        return Err(TokenFault::Expired);
    }
    if token.used >= token.uses { Err(TokenFault::UsedUp) } else { Ok(token) }
}

/// Whether a certificate need not be recorded any more, beside a newer one of its name.
pub(crate) fn is_outlived(one: &Certificate, now: UnixTime) -> bool {
    one.not_after.plus(OUTLIVED_KEPT_SECS) <= now
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrolment::{LastUse, TokenEnd};
    use tfo_model::serial::SerialNumber;

    const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);

    fn token() -> Token {
        Token {
            id: "0123456789ab".parse().unwrap(),
            hash: Digest([7; 32]),
            pool: "edge".parse().unwrap(),
            nodes: vec!["*.cache.example.org".parse().unwrap()],
            uses: 2,
            used: 1,
            expires_at: NOW.plus(1),
            replace: false,
            made_by: "ops1.example.org".parse().unwrap(),
            made_at: NOW.minus(100),
            revoked: None,
            last_use: None,
            expiry_logged: false,
        }
    }

    fn certificate(not_after: UnixTime, revoked_at: Option<UnixTime>) -> Certificate {
        Certificate {
            serial: SerialNumber::of_random([1; 16]),
            node: "a.cache.example.org".parse().unwrap(),
            key: Digest([1; 32]),
            issued_at: NOW.minus(50),
            not_after,
            token: None,
            revoked_at,
        }
    }

    #[test]
    fn each_claim_holds_or_is_refused_for_its_own_reason() {
        let (node, other): (tfo_model::ids::NodeId, _) =
            ("a.cache.example.org".parse().unwrap(), "a.dns.example.org".parse().unwrap());
        let (right, wrong, key) = (Digest([7; 32]), Digest([8; 32]), Digest([9; 32]));
        let id = token().id;
        let claim = |hash, known| Claim::Token { id: &id, hash, known };
        let by = |change: fn(&mut Token)| {
            let mut changed = token();
            change(&mut changed);
            Some(changed)
        };
        let end = TokenEnd { by: "ops1.example.org".parse().ok(), at: NOW };
        let revoked = Some(Token { revoked: Some(end), ..token() });
        let (live, ended) = (certificate(NOW.plus(1), None), certificate(NOW, None));
        let cut = certificate(NOW.plus(9), Some(NOW));
        let fault = |fault| Err(EnrolRefused::Token(fault));
        let pool = token().pool;
        let renewal = |asked_at| Claim::Renewal { pool: Some(&pool), asked_at };
        let same = || Some(token());
        let replaces = || by(|token| token.replace = true);
        let (none, many) = (Vec::new(), vec![live.clone(); PER_NODE_MAX]);
        let almost = many[1..].to_vec();
        let cases = [
            ("good", &node, claim(&right, false), same(), &none, false, Ok(())),
            ("unknown token", &node, claim(&right, false), None, &none, false, fault(TokenFault::Unknown)),
            ("wrong secret", &node, claim(&wrong, false), same(), &none, false, fault(TokenFault::Wrong)),
            ("wrong and revoked", &node, claim(&wrong, false), revoked.clone(), &none, false, fault(TokenFault::Wrong)),
            ("revoked", &node, claim(&right, false), revoked, &none, false, fault(TokenFault::Revoked)),
            (
                "expired",
                &node,
                claim(&right, false),
                by(|t| t.expires_at = NOW),
                &none,
                false,
                fault(TokenFault::Expired),
            ),
            ("used up", &node, claim(&right, false), by(|t| t.used = 2), &none, false, fault(TokenFault::UsedUp)),
            ("other name", &other, claim(&right, false), same(), &none, false, Err(EnrolRefused::Name)),
            ("other name, replaces", &other, claim(&right, false), replaces(), &none, false, Err(EnrolRefused::Name)),
            ("has one", &node, claim(&right, true), same(), &vec![live.clone()], false, Err(EnrolRefused::Taken)),
            ("has one, replaced", &node, claim(&right, true), replaces(), &vec![live], false, Ok(())),
            ("has ended", &node, claim(&right, true), same(), &vec![ended], false, Ok(())),
            ("was revoked", &node, claim(&right, true), same(), &vec![cut.clone()], false, Ok(())),
            ("of another program", &node, claim(&right, true), same(), &none, false, Err(EnrolRefused::Taken)),
            ("of another, replaced", &node, claim(&right, true), replaces(), &none, false, Ok(())),
            ("key used", &node, claim(&right, false), same(), &none, true, Err(EnrolRefused::KeyUsed)),
            ("renewal", &node, renewal(NOW), None, &almost, false, Ok(())),
            ("renewal, key used", &node, renewal(NOW), None, &almost, true, Err(EnrolRefused::KeyUsed)),
            ("renewals in a loop", &node, renewal(NOW), None, &many, false, Err(EnrolRefused::TooMany)),
            ("revoked since it asked", &node, renewal(NOW), None, &vec![cut.clone()], false, Err(EnrolRefused::CutOff)),
            ("revoked before it asked", &node, renewal(NOW.plus(1)), None, &vec![cut], false, Ok(())),
        ];
        for (name, node, claim, token, own, key_used, expected) in cases {
            let recorded = Recorded { token: token.as_ref(), own, key_used, is_cut_off: false };
            assert_eq!(judge(&Wish { node, key: Some(&key), claim }, &recorded, NOW), expected, "{name}");
            // Beside a plan to cut it off, no claim holds, and who has no good token learns nothing of it.
            let recorded = Recorded { is_cut_off: true, ..recorded };
            let beside = match expected {
                Ok(()) | Err(EnrolRefused::KeyUsed) => Err(EnrolRefused::CutOff),
                refused => refused,
            };
            assert_eq!(judge(&Wish { node, key: Some(&key), claim }, &recorded, NOW), beside, "{name}, cut off");
        }
    }

    #[test]
    fn an_ended_token_is_listed_for_a_week() {
        let week = 7 * 86_400;
        let end = TokenEnd { by: "ops1.example.org".parse().ok(), at: NOW.plus(1) };
        let last = LastUse { node: "a.cache.example.org".parse().unwrap(), at: NOW.plus(1) };
        let late = Token { expires_at: NOW.plus(1_000_000_000), ..token() };
        for ended in [
            token(),
            Token { revoked: Some(end), ..late.clone() },
            Token { used: 2, last_use: Some(last.clone()), ..late.clone() },
        ] {
            assert!(!ended.is_forgotten(NOW.plus(week)) && ended.is_forgotten(NOW.plus(week + 1)), "{ended:?}");
        }
        assert!(!Token { last_use: Some(last), ..late }.is_forgotten(NOW.plus(week + 1)), "it can still be used");
    }
}
