//! Key bytes on the wire: in the answer to a sync, and in an operator's import or recover; nowhere else.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use tfo_model::key::{KeyPair, TfoKey};
use tfo_model::key_text::{self, KeyText, TextError};

/// Kernel text, one key or `primary,backup`; wiped on drop, and `Debug` shows nothing of it.
///
/// A caller serialises it into a buffer that is wiped, and wipes the buffer that it is read from.
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// The text of one key.
    #[must_use]
    pub fn of_key(key: &TfoKey) -> Self {
        Self::of_text(&KeyText::of_key(key))
    }

    /// The text of both slots.
    #[must_use]
    pub fn of_pair(keys: &KeyPair) -> Self {
        Self::of_text(&KeyText::of(keys))
    }

    /// The keys.
    ///
    /// # Errors
    /// Fails if it is not exactly kernel text (docs/kernel.md#the-key-file).
    pub fn parse(&self) -> Result<KeyPair, TextError> {
        key_text::parse(self.0.as_bytes())
    }

    fn of_text(text: &KeyText) -> Self {
        Self(Zeroizing::new(String::from_utf8_lossy(text.expose()).into_owned()))
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText")
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}
