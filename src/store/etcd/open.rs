//! Opening a store in etcd: the first coordinator makes `meta`, all others find it; every transaction compares it, so that an
//! old program cannot write into what a newer one has made of it.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::client::{Client, EtcdSettings};
use super::keys::Keys;
use super::reader::EtcdReader;
use super::value;
use super::wire::{Compare, Operation, Range, Transaction};
use crate::error::{Cause, StoreError};
use tfo_crypto::random;
use tfo_crypto::seal::{KeyEncryptionKey, SealedKey};

/// The layout that this release writes.
const SCHEMA: i64 = 1;
/// Releases of etcd whose members can differ from each other after a crash, without a word
/// (etcd.io/blog/2022/postmortem-inconsistency).
const LOSES_DATA: [&str; 3] = ["3.5.0", "3.5.1", "3.5.2"];
/// The first release that has every request that we make, under these paths.
const OLDEST: [u32; 2] = [3, 4];

/// `meta`.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    schema: i64,
    /// Identity of the store, hex.
    store_id: String,
    /// Tells whether a key-encryption key is that of the store; base64.
    key_check: String,
}

/// What can be read of every `meta`, also of a later release.
#[derive(Debug, Deserialize)]
struct Schema {
    schema: i64,
}

impl EtcdReader {
    /// Connects, and looks at nothing yet.
    pub(super) fn connect(settings: EtcdSettings, key: KeyEncryptionKey) -> Result<Self, StoreError> {
        let keys = Keys::new(settings.prefix.clone());
        let names = |client: &Client| format!("etcd at {}, {}", client.members(), keys.prefix());
        let client = Client::new(settings).map_err(|failure| failure.at("use", "etcd"))?;
        let place = names(&client);
        Ok(Self { client: Arc::new(client), keys, place, key, meta: Vec::new() })
    }

    /// Takes `meta` over.  False: there is none.
    pub(super) fn take_meta(&mut self) -> Result<bool, StoreError> {
        let range = Range::one(&self.keys.meta());
        let mut read = self.client.read([range]).map_err(self.unread())?;
        self.check_release()?;
        let Some(pair) = read.take_ranges().next().and_then(|mut range| range.kvs.pop()) else { return Ok(false) };
        let Schema { schema } = self.parse(&pair).map_err(|_| self.foreign("\"meta\" is not of this program"))?;
        if schema > SCHEMA {
            return Err(StoreError::Newer { place: self.place.clone(), found: schema, known: SCHEMA });
        }
        let Meta { store_id, key_check, .. } = self.parse(&pair)?;
        let id = u128::from_str_radix(&store_id, 16).map(u128::to_be_bytes);
        let check = STANDARD.decode(key_check).ok().and_then(|bytes| bytes.try_into().ok());
        let (Ok(id), Some(check)) = (id, check) else { return Err(self.damaged("\"meta\" has no identity")) };
        if !self.key.opens_check(&id, &SealedKey::from_bytes(check)) {
            return Err(StoreError::WrongKey { place: self.place.clone() });
        }
        self.meta = pair.value.0;
        Ok(true)
    }

    /// Makes `meta`, unless another coordinator was faster.
    pub(super) fn make_meta(&self) -> Result<(), StoreError> {
        let failed = |source: Cause| StoreError::Failed { step: "make", place: self.place.clone(), source };
        let mut id = [0; 16];
        random::fill(&mut id).map_err(|error| failed(error.into()))?;
        let check = self.key.seal_check(&id).map_err(|error| failed(error.into()))?;
        let store_id = format!("{:032x}", u128::from_be_bytes(id));
        let made = Meta { schema: SCHEMA, store_id, key_check: STANDARD.encode(check.as_bytes()) };
        let key = self.keys.meta();
        let put = Transaction {
            compare: vec![Compare::is_absent(&key)],
            success: vec![Operation::put(&key, value::print(&key, &made))],
            failure: Vec::new(),
        };
        self.client.write(&put).map(drop).map_err(self.failed("write"))
    }

    fn foreign(&self, what: &str) -> StoreError {
        StoreError::Foreign { place: self.place.clone(), what: what.to_owned() }
    }

    fn check_release(&self) -> Result<(), StoreError> {
        let version = self.client.version().map_err(self.unread())?;
        refusal_of(&version).map_or(Ok(()), |why| {
            Err(StoreError::Rejected {
                place: self.place.clone(),
                source: Cause::from(format!("etcd {version} {why}")),
            })
        })
    }
}

/// Why this release of etcd is not used.
fn refusal_of(version: &str) -> Option<&'static str> {
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let release = [numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()];
    if LOSES_DATA.contains(&version) {
        Some("can lose data when a member crashes; install 3.5.6 or later")
    } else if release < OLDEST {
        Some("is too old; install 3.4 or later")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_that_lose_data_are_refused() {
        for (version, refused) in [
            ("3.3.27", true),
            ("3.4.23", false),
            ("3.4.0+git", false),
            ("3.5.0", true),
            ("3.5.2", true),
            ("3.5.21", false),
            ("3.6.0-rc.1", false),
            ("nonsense", true),
        ] {
            assert_eq!(refusal_of(version).is_some(), refused, "{version}");
        }
    }
}
