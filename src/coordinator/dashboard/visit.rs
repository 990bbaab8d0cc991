//! Who reads a page: any client of the plain listener, or an operator or a viewer by the certificate of the API's one.
//!
//! Only an operator of the API's listener is shown what it can do.  Must not know: HTML.

use std::convert::Infallible;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Dashboard;
use crate::routes::Reader;
use crate::server::Refusal;
use tfo_model::ids::NodeId;
use tfo_tls::identity::Peer;
use tfo_wire::error::ErrorKind;
use tfo_wire::page::FORM_TOKEN_HEADER;

/// Longest token of a form.
const TOKEN_CHARS_MAX: usize = 64;

/// A request for a page.
pub(super) struct Visit {
    pub(super) dashboard: Arc<Dashboard>,
    /// None: the plain listener, which knows no names.
    pub(super) reader: Option<Reader>,
    /// What the forms of the page carry, so that `tfoctl console` knows them for its own.
    pub(super) token: Option<String>,
}

impl Visit {
    /// The operator that reads.
    pub(super) fn operator(&self) -> Option<&NodeId> {
        self.reader.as_ref().filter(|reader| reader.is_operator).map(|reader| &reader.name)
    }
}

impl Deref for Visit {
    type Target = Dashboard;

    fn deref(&self) -> &Dashboard {
        &self.dashboard
    }
}

impl FromRequestParts<Arc<Dashboard>> for Visit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, dashboard: &Arc<Dashboard>) -> Result<Self, Infallible> {
        let token = parts.headers.get(FORM_TOKEN_HEADER).and_then(|token| token.to_str().ok());
        let is_token =
            |token: &&str| token.len() <= TOKEN_CHARS_MAX && token.bytes().all(|byte| byte.is_ascii_hexdigit());
        Ok(Self {
            dashboard: Arc::clone(dashboard),
            reader: parts.extensions.get().cloned(),
            token: token.filter(is_token).map(str::to_owned),
        })
    }
}

/// Refuses certificates that name neither an operator nor a viewer, and notes whom the others name.
pub(super) async fn only_readers(
    State(dashboard): State<Arc<Dashboard>>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Arc<Peer>>();
    let Some(reader) = peer.and_then(|peer| dashboard.observed.api.reader(peer)) else {
        let message = "your certificate names neither an operator nor a viewer";
        return Refusal::new(ErrorKind::NotAllowed, message).into_response();
    };
    request.extensions_mut().insert(reader);
    next.run(request).await
}
