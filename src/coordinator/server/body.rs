//! Bodies of requests: bounded in bytes and time, then JSON.

use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use super::answer::Refusal;
use crate::wire::error::ErrorKind;

/// Extracts a JSON body of at most `BYTES_MAX` bytes; refuses anything else as `too_large` or `bad_request`.
#[derive(Debug)]
pub struct JsonBody<T, const BYTES_MAX: usize>(pub T);

impl<S: Sync, T: DeserializeOwned, const BYTES_MAX: usize> FromRequest<S> for JsonBody<T, BYTES_MAX> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Refusal> {
        let bytes = axum::body::to_bytes(request.into_body(), BYTES_MAX)
            .await
            .map_err(|_| Refusal::new(ErrorKind::TooLarge, format!("the body may have {BYTES_MAX} bytes")))?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| Refusal::new(ErrorKind::BadRequest, format!("the body does not fit: {error}")))?;
        Ok(Self(value))
    }
}
