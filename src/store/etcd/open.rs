//! Opening a store in etcd: the first coordinator makes `meta`, all others find it; every transaction compares it, so that an
//! old program cannot write into what a newer one has made of it (`schema`).

use std::sync::{Arc, Mutex, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::client::{Client, EtcdSettings};
use super::keys::Keys;
use super::reader::{EtcdReader, Sealing};
use super::schema::{Meta, Schema};
use super::value;
use super::wire::{Bytes, Compare, Operation, Pair, Range, Transaction};
use crate::error::{Cause, StoreError};
use tfo_crypto::random;
use tfo_crypto::seal::{KekId, KeyEncryptionKey, KeyEncryptionKeys, SealedKey};

/// Releases of etcd whose members can differ from each other after a crash, without a word
/// (etcd.io/blog/2022/postmortem-inconsistency).
const LOSES_DATA: [&str; 3] = ["3.5.0", "3.5.1", "3.5.2"];
/// The first release that has every request that we make, under these paths.
const OLDEST: [u32; 2] = [3, 4];

/// `kek`.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kek {
    /// Tells whether a key-encryption key is that of the store; base64.
    check: String,
}

impl EtcdReader {
    /// Connects, and looks at nothing yet.
    pub(super) fn connect(settings: EtcdSettings, keks: KeyEncryptionKeys) -> Result<Self, StoreError> {
        let (keys, newest) = (Keys::new(settings.prefix.clone()), settings.newest_schema);
        let names = |client: &Client| format!("etcd at {}, {}", client.members(), keys.prefix());
        let client = Client::new(settings).map_err(|failure| failure.at("use", "etcd"))?;
        let place = names(&client);
        let sealing = RwLock::new(Sealing { keks, value: Vec::new() });
        let client = Arc::new(client);
        Ok(Self { client, keys, place, sealing, store_id: [0; 16], newest, held_meta: Mutex::default() })
    }

    /// Takes `meta` and `kek` over.  False: there is none.
    pub(super) fn take_meta(&mut self) -> Result<bool, StoreError> {
        let ranges = [Range::one(&self.keys.meta()), Range::one(&self.keys.kek())];
        let mut read = self.client.read(ranges).map_err(self.unread())?;
        self.check_release()?;
        let mut ranges = read.take_ranges();
        let Some(pair) = ranges.next().and_then(|mut range| range.kvs.pop()) else { return Ok(false) };
        let Schema { schema } = self.parse(&pair).map_err(|_| self.foreign("\"meta\" is not of this program"))?;
        self.can_write(schema)?;
        let Meta { store_id, .. } = self.parse(&pair)?;
        let id = u128::from_str_radix(&store_id, 16).map(u128::to_be_bytes);
        self.store_id = id.map_err(|_| self.damaged("\"meta\" has no identity"))?;
        let kek = ranges.next().and_then(|mut range| range.kvs.pop());
        let kek = kek.ok_or_else(|| self.damaged("\"kek\" is missing"))?;
        let keks = self.sealing().keks;
        self.sealer_of(&kek, &keks)?;
        self.set_sealing(Sealing { keks, value: kek.value.0 });
        self.hold_meta(pair.value.0);
        Ok(true)
    }

    /// The one of these keys that `kek` names.
    fn sealer_of<'k>(&self, kek: &Pair, keks: &'k KeyEncryptionKeys) -> Result<&'k KeyEncryptionKey, StoreError> {
        let Kek { check } = self.parse(kek)?;
        let check = STANDARD.decode(check).ok().and_then(|bytes| bytes.try_into().ok());
        let check = check.ok_or_else(|| self.damaged("\"kek\" has no check"))?;
        let sealer = keks.of_check(&self.store_id, &SealedKey::from_bytes(check));
        sealer.ok_or_else(|| StoreError::WrongKey { place: self.place.clone() })
    }

    /// The key that seals.
    pub(super) fn sealer<'k>(&self, sealing: &'k Sealing) -> Result<&'k KeyEncryptionKey, StoreError> {
        let key = self.keys.kek().as_str().into();
        let pair = Pair { key, value: Bytes(sealing.value.clone()), ..Pair::default() };
        self.sealer_of(&pair, &sealing.keks)
    }

    /// Reads `kek` again: a rekey may have changed it.
    pub(super) fn read_kek(&self) -> Result<Pair, StoreError> {
        let mut read = self.client.read([Range::one(&self.keys.kek())]).map_err(self.unread())?;
        let found = read.take_ranges().next().and_then(|mut range| range.kvs.pop());
        found.ok_or_else(|| self.damaged("\"kek\" is missing"))
    }

    /// Takes `kek` over as it is now, if one of these keys is the one that it names.
    pub(super) fn take_kek(&self, keks: KeyEncryptionKeys) -> Result<KekId, StoreError> {
        let kek = self.read_kek()?;
        let id = self.sealer_of(&kek, &keks)?.id().clone();
        self.set_sealing(Sealing { keks, value: kek.value.0 });
        Ok(id)
    }

    /// A value of `kek` that names this key.
    pub(super) fn kek_value(&self, kek: &KeyEncryptionKey, store_id: &[u8; 16]) -> Result<Vec<u8>, StoreError> {
        let check = kek.seal_check(store_id).map_err(|error| self.unmade(error.into()))?;
        Ok(value::print(&self.keys.kek(), &Kek { check: STANDARD.encode(check.as_bytes()) }))
    }

    fn unmade(&self, source: Cause) -> StoreError {
        StoreError::Failed { step: "make", place: self.place.clone(), source }
    }

    /// Makes `meta` and `kek`, unless another coordinator was faster.
    pub(super) fn make_meta(&self) -> Result<(), StoreError> {
        let mut id = [0; 16];
        random::fill(&mut id).map_err(|error| self.unmade(error.into()))?;
        let made = Meta { schema: self.newest, store_id: format!("{:032x}", u128::from_be_bytes(id)) };
        let (meta, kek) = (self.keys.meta(), self.keys.kek());
        let sealer = self.kek_value(self.sealing().keks.present(), &id)?;
        let put = Transaction {
            compare: vec![Compare::is_absent(&meta)],
            success: vec![Operation::put(&meta, value::print(&meta, &made)), Operation::put(&kek, sealer)],
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
