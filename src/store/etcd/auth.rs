//! The token of an etcd user: one for the process, made again when a member does not accept it.
//!
//! A token of etcd's default kind lives five minutes in the memory of each member, and a member that restarts has lost it.
//! Making one costs etcd 70 ms of bcrypt, so callers that find it refused at once make one between them.  Must not know:
//! what is asked with it.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A user of etcd, with the password.
pub struct EtcdUser {
    /// The name.
    pub name: String,
    /// The password, as text.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The request for a token.
#[derive(Serialize)]
pub(super) struct Asked<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

/// The answer.
#[derive(Deserialize)]
pub(super) struct Given {
    pub(super) token: String,
}

/// The token of the moment.
#[derive(Default)]
pub(super) struct Token(tokio::sync::Mutex<Held>);

#[derive(Default, Clone)]
struct Held {
    /// Rises with every token.
    number: u64,
    text: Zeroizing<String>,
}

/// A copy of the token, which knows whether another one was made since.
#[derive(Clone)]
pub(super) struct Shown(Held);

impl Shown {
    /// For the header `Authorization`, without "Bearer".
    pub(super) fn text(&self) -> &str {
        &self.0.text
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// The token, if there is one that differs from `refused`; otherwise one from `make`.
    pub(super) async fn get<E>(
        &self,
        refused: Option<&Shown>,
        make: impl AsyncFnOnce() -> Result<Zeroizing<String>, E>,
    ) -> Result<Shown, E> {
        let mut held = self.0.lock().await;
        let refused = refused.map_or(0, |shown| shown.0.number);
        if held.number <= refused {
            let text = make().await?;
            *held = Held { number: held.number + 1, text };
        }
        Ok(Shown(held.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_token_is_made_again_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let token = Token::default();
            let made = std::cell::Cell::new(0);
            let make = async || {
                made.set(made.get() + 1);
                Ok::<_, ()>(Zeroizing::new(format!("t{}", made.get())))
            };
            let first = token.get(None, make).await.unwrap();
            let again = token.get(None, make).await.unwrap();
            assert_eq!((first.text(), again.text(), made.get()), ("t1", "t1", 1));
            let second = token.get(Some(&first), make).await.unwrap();
            // Another caller that was refused with the old one.
            let shared = token.get(Some(&again), make).await.unwrap();
            assert_eq!((second.text(), shared.text(), made.get()), ("t2", "t2", 2));
            let failed = token.get(Some(&second), async || Err("down")).await;
            assert!(failed.is_err());
            assert_eq!(token.get(None, make).await.unwrap().text(), "t2", "a failure keeps what is there");
        });
    }
}
