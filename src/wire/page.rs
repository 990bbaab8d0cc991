//! What `tfoctl console` and the coordinator agree on for the pages: where they are, and what a form carries
//! (docs/reference/api.md#pages).

/// Where the API's listener has the pages: `/page/pools/edge` is what a browser asks for as `/pools/edge`.
pub const ROOT: &str = "/page";

/// Header of a request for a page: what its forms are to carry in the field [`FORM_TOKEN_FIELD`].
pub const FORM_TOKEN_HEADER: &str = "tfo-form-token";

/// The field of each form, by which a console knows it for one of its own pages.
pub const FORM_TOKEN_FIELD: &str = "token";
