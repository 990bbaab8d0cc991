//! What etcd's JSON gateway takes and gives (`/v3/kv/…`): keys and values are base64, 64-bit numbers are strings.
//!
//! The same for etcd 3.4 to 3.6.  Fields that are zero are left out of answers.  Must not know: what is stored.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes, base64 in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(|_| D::Error::custom("not base64"))
    }
}

/// A number that may be a string.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Number(i64),
    }
    match Either::deserialize(deserializer)? {
        Either::Text(text) => text.parse().map_err(|_| D::Error::custom("not a number")),
        Either::Number(number) => Ok(number),
    }
}

/// The keys of a range: from the first to before the second, or the first alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Range {
    key: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    range_end: Option<Bytes>,
    #[serde(skip_serializing_if = "is_zero")]
    limit: i64,
    #[serde(skip_serializing_if = "is_zero")]
    revision: i64,
    #[serde(skip_serializing_if = "is_false")]
    keys_only: bool,
    #[serde(skip_serializing_if = "is_false")]
    count_only: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(is: &bool) -> bool {
    !is
}

impl Range {
    /// One key.
    pub(super) fn one(key: &str) -> Self {
        Self { key: key.into(), range_end: None, limit: 0, revision: 0, keys_only: false, count_only: false }
    }

    /// All keys with this prefix.
    pub(super) fn under(prefix: &str) -> Self {
        Self::from(prefix, prefix)
    }

    /// The keys from `first` on that have this prefix.
    pub(super) fn from(first: &str, prefix: &str) -> Self {
        Self { range_end: Some(Bytes(end_of(prefix))), ..Self::one(first) }
    }

    /// The keys from the first to before the other.
    pub(super) fn between(first: &str, end: &str) -> Self {
        Self { range_end: Some(end.into()), ..Self::one(first) }
    }

    /// At most so many.
    pub(super) fn limit(self, limit: i64) -> Self {
        Self { limit, ..self }
    }

    /// As they were at this revision.
    pub(super) fn at(self, revision: i64) -> Self {
        Self { revision, ..self }
    }

    /// Without the values.
    pub(super) fn keys_only(self) -> Self {
        Self { keys_only: true, ..self }
    }

    /// Only how many there are.
    pub(super) fn count_only(self) -> Self {
        Self { count_only: true, ..self }
    }
}

/// The first key after all that have this prefix.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        // Prefixes are ASCII.
        *last += 1;
    }
    end
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Compare {
    key: Bytes,
    result: &'static str,
    #[serde(flatten)]
    target: Target,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "target")]
enum Target {
    #[serde(rename = "VALUE")]
    Value { value: Bytes },
    #[serde(rename = "CREATE")]
    Created { create_revision: i64 },
    #[serde(rename = "MOD")]
    Modified { mod_revision: i64 },
}

impl Compare {
    /// The key is not there.
    pub(super) fn is_absent(key: &str) -> Self {
        Self { key: key.into(), result: "EQUAL", target: Target::Created { create_revision: 0 } }
    }

    /// The key is there.
    pub(super) fn is_there(key: &str) -> Self {
        Self { key: key.into(), result: "GREATER", target: Target::Created { create_revision: 0 } }
    }

    /// The key was last written at this revision; 0: it is not there.
    pub(super) fn is_of(key: &str, mod_revision: i64) -> Self {
        Self { key: key.into(), result: "EQUAL", target: Target::Modified { mod_revision } }
    }

    /// The key has this value.
    pub(super) fn is(key: &str, value: &[u8]) -> Self {
        Self { key: key.into(), result: "EQUAL", target: Target::Value { value: Bytes(value.to_vec()) } }
    }
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) enum Operation {
    /// Read.
    #[serde(rename = "request_range")]
    Range(Range),
    /// Write.
    #[serde(rename = "request_put")]
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// Remove.
    #[serde(rename = "request_delete_range")]
    Delete {
        /// The first key.
        key: Bytes,
        /// The key after the last; none for one key.
        #[serde(skip_serializing_if = "Option::is_none")]
        range_end: Option<Bytes>,
    },
}

impl Operation {
    pub(super) fn put(key: &str, value: Vec<u8>) -> Self {
        Self::Put { key: key.into(), value: Bytes(value) }
    }

    pub(super) fn delete(key: &str) -> Self {
        Self::Delete { key: key.into(), range_end: None }
    }

    /// Removes the keys from the first to before the other.
    pub(super) fn delete_between(first: &str, end: &str) -> Self {
        Self::Delete { key: first.into(), range_end: Some(end.into()) }
    }

    pub(super) fn delete_under(prefix: &str) -> Self {
        Self::Delete { key: prefix.into(), range_end: Some(Bytes(end_of(prefix))) }
    }

    /// About as many bytes as it has in a request.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value } => key.0.len() + value.0.len(),
            Self::Range(_) | Self::Delete { .. } => 0,
        }
    }
}

/// A transaction: one list of operations or the other, at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Transaction {
    /// All of them hold: `success` is done, otherwise `failure`.
    pub(super) compare: Vec<Compare>,
    /// What is done if so.
    pub(super) success: Vec<Operation>,
    /// What is done if not.
    pub(super) failure: Vec<Operation>,
}

impl Transaction {
    /// Reads only, all at one revision.
    pub(super) fn reading(ranges: impl IntoIterator<Item = Range>) -> Self {
        Self { success: ranges.into_iter().map(Operation::Range).collect(), ..Self::default() }
    }
}

/// The head of every answer.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Header {
    /// Identity of the cluster, as a number of 64 bits.
    #[serde(default, deserialize_with = "unsigned")]
    pub(super) cluster_id: u64,
    /// The revision of the store.
    #[serde(default, deserialize_with = "number")]
    pub(super) revision: i64,
}

fn unsigned<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Number(u64),
    }
    match Either::deserialize(deserializer)? {
        Either::Text(text) => text.parse().map_err(|_| D::Error::custom("not a number")),
        Either::Number(number) => Ok(number),
    }
}

/// A key with its value.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Pair {
    pub(super) key: Bytes,
    #[serde(default)]
    pub(super) value: Bytes,
    /// The revision that wrote it last.
    #[serde(default, deserialize_with = "number")]
    pub(super) mod_revision: i64,
    /// How often it was written since it was made.
    #[serde(default, deserialize_with = "number")]
    pub(super) version: i64,
}

impl Pair {
    /// The key; ours are ASCII.
    pub(super) fn name(&self) -> &str {
        std::str::from_utf8(&self.key.0).unwrap_or_default()
    }
}

/// The answer to a [`Range`].
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Ranged {
    #[serde(default)]
    pub(super) kvs: Vec<Pair>,
    /// Whether there are more than the limit.
    #[serde(default)]
    pub(super) more: bool,
    /// How many there are.
    #[serde(default, deserialize_with = "number")]
    pub(super) count: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Operated {
    response_range: Option<Ranged>,
}

/// The answer to a [`Transaction`].
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Transacted {
    #[serde(default)]
    pub(super) header: Header,
    /// Whether the conditions held.
    #[serde(default)]
    pub(super) succeeded: bool,
    #[serde(default)]
    responses: Vec<Operated>,
}

impl Transacted {
    /// What was read, in the order of the operations; each range once.
    pub(super) fn take_ranges(&mut self) -> impl Iterator<Item = Ranged> + use<> {
        std::mem::take(&mut self.responses).into_iter().filter_map(|operated| operated.response_range)
    }
}

/// What etcd says of a request that it does not do.  etcd 3.6 leaves `error` out, and has it as an object in streams.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Complaint {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

impl Complaint {
    /// The text of a body, whatever its form.
    pub(super) fn text_of(body: &[u8]) -> String {
        let complaint: Self = serde_json::from_slice(body).unwrap_or_default();
        let within = complaint.error.as_ref().map(|error| match error {
            serde_json::Value::String(text) => text.clone(),
            other => other.get("message").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned(),
        });
        complaint.message.or(within).unwrap_or_else(|| String::from_utf8_lossy(body).trim().chars().take(200).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_the_gateway_wants_them() {
        let transaction = Transaction {
            compare: vec![
                Compare::is_absent("a"),
                Compare::is_of("b", 7),
                Compare::is("c", b"x"),
                Compare::is_there("d"),
            ],
            success: vec![Operation::put("a", b"1".to_vec()), Operation::Range(Range::under("p/").limit(2).at(9))],
            failure: vec![Operation::delete("a"), Operation::delete_between("a", "b")],
        };
        assert_eq!(
            serde_json::to_string(&transaction).unwrap(),
            r#"{"compare":[{"key":"YQ==","result":"EQUAL","target":"CREATE","create_revision":0},{"key":"Yg==","result":"EQUAL","target":"MOD","mod_revision":7},{"key":"Yw==","result":"EQUAL","target":"VALUE","value":"eA=="},{"key":"ZA==","result":"GREATER","target":"CREATE","create_revision":0}],"success":[{"request_put":{"key":"YQ==","value":"MQ=="}},{"request_range":{"key":"cC8=","range_end":"cDA=","limit":2,"revision":9}}],"failure":[{"request_delete_range":{"key":"YQ=="}},{"request_delete_range":{"key":"YQ==","range_end":"Yg=="}}]}"#
        );
    }

    #[test]
    fn answers_of_every_release_are_read() {
        let answer = r#"{"header":{"cluster_id":"14841639068965178418","revision":"5"},"succeeded":true,"responses":
            [{"response_put":{"header":{"revision":"5"}}},{"response_range":{"kvs":[{"key":"YQ==","value":"MQ==",
            "mod_revision":"4","version":"2"}],"count":"1"}}]}"#;
        let mut read: Transacted = serde_json::from_str(answer).unwrap();
        assert_eq!(
            (read.header.cluster_id, read.header.revision, read.succeeded),
            (14_841_639_068_965_178_418, 5, true)
        );
        let ranges: Vec<Ranged> = read.take_ranges().collect();
        let pair = &ranges[0].kvs[0];
        assert_eq!((pair.name(), &pair.value.0[..], pair.mod_revision, pair.version), ("a", &b"1"[..], 4, 2));
        for (body, text) in [
            (r#"{"error":"etcdserver: x","message":"etcdserver: x","code":3}"#, "etcdserver: x"),
            (r#"{"code":3,"message":"etcdserver: y"}"#, "etcdserver: y"),
            (r#"{"error":{"grpc_code":16,"message":"etcdserver: z"}}"#, "etcdserver: z"),
            ("404 page not found\n", "404 page not found"),
        ] {
            assert_eq!(Complaint::text_of(body.as_bytes()), text);
        }
    }
}
