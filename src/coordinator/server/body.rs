//! Bodies of requests: bounded, then JSON.  The connection bounds their time.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::answer::Refusal;
use tfo_model::problem::printable;
use tfo_wire::error::ErrorKind;

/// Longest part of serde's message that is passed on, in characters.
const MESSAGE_CHARS_MAX: usize = 200;

/// A body has more bytes than the server takes.
#[derive(Debug, thiserror::Error)]
#[error("the body is too large")]
pub(super) struct TooLarge;

/// Extracts a JSON body of at most `BYTES_MAX` bytes; refuses anything else as `too_large` or `bad_request`.
#[derive(Debug)]
pub struct JsonBody<T, const BYTES_MAX: usize>(pub T);

impl<S: Sync, T: DeserializeOwned, const BYTES_MAX: usize> FromRequest<S> for JsonBody<T, BYTES_MAX> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Refusal> {
        let bytes = read(request.into_body(), BYTES_MAX).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| Refusal::new(ErrorKind::BadRequest, misfit(&error)))
    }
}

/// The whole body, if it has at most `bytes_max` bytes.  Wiped when dropped: it may hold keys to import.
///
/// # Errors
/// Refuses a body that is larger, or that ends early.
async fn read(mut body: Body, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let too_large = || Refusal::new(ErrorKind::TooLarge, format!("this body may have at most {bytes_max} bytes"));
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    let announced = body.size_hint().exact().and_then(|exact| usize::try_from(exact).ok());
    // All of it at once: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(bytes_max)));
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| match error.source().is_some_and(<dyn Error>::is::<TooLarge>) {
            true => too_large(),
            false => Refusal::new(ErrorKind::BadRequest, "the body ended early"),
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > bytes_max - bytes.len() {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Why a body does not fit, without quoting a value, which may be a key.
fn misfit(error: &serde_json::Error) -> String {
    let place = format!("line {}, column {}", error.line(), error.column());
    if !error.is_data() {
        return format!("the body is not JSON ({place})");
    }
    let message = error.to_string();
    // These name a field; all other messages quote a value.
    if ["unknown field ", "missing field ", "duplicate field "].iter().any(|prefix| message.starts_with(prefix)) {
        let message: String = printable(&message).chars().take(MESSAGE_CHARS_MAX).collect();
        return format!("the body does not fit: {message}");
    }
    format!("the body does not fit: a value is of the wrong type or out of its range ({place})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Import {
        #[expect(dead_code, reason = "only its parsing is tested")]
        key: u64,
    }

    #[tokio::test]
    async fn bodies_are_bounded_whether_announced_or_not() {
        assert_eq!(**read(Body::from("1234"), 4).await.unwrap(), *b"1234");
        assert_eq!(read(Body::from("12345"), 4).await.unwrap_err().kind(), ErrorKind::TooLarge);
        let chunks = |chunks: [&'static str; 2]| {
            Body::from_stream(futures_util::stream::iter(chunks.map(Ok::<_, std::io::Error>)))
        };
        assert_eq!(**read(chunks(["12", "34"]), 4).await.unwrap(), *b"1234");
        assert_eq!(read(chunks(["12", "345"]), 4).await.unwrap_err().kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn what_does_not_fit_is_said_without_the_value() {
        let misfit = |text: &str| misfit(&serde_json::from_str::<Import>(text).unwrap_err());
        assert!(misfit(r#"{"key": 1, "other": 2}"#).contains("unknown field `other`"));
        assert!(misfit("{}").contains("missing field `key`"));
        let forged = misfit(r#"{"x\n<2>ERROR \u001b[2J": 1}"#);
        assert!(!forged.contains(char::is_control) && forged.contains(r"x\n<2>ERROR \u{1b}[2J"), "{forged}");
        assert!(misfit("{").contains("not JSON (line 1"));
        let secret = misfit(r#"{"key": "c0ffee00-c0ffee00"}"#);
        assert!(!secret.contains("c0ffee") && secret.contains("line 1, column "), "{secret}");
        let long = format!(r#"{{"{}": 1}}"#, "x".repeat(5000));
        assert!(misfit(&long).len() < 300);
    }
}
