//! The errors of the API, as JSON with a status.

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::page;
use crate::error::chain;
use crate::operator::change::UnknownWebhook;
use crate::operator::select::FindError;
use crate::store::{Fault, OpenError, StoreError};

/// The content type of a JSON answer.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How many seconds a client should wait if the daemon cannot answer now.
const RETRY_SECONDS: u64 = 10;

/// Makes the answer for a refused request: a page for a browser, else JSON.
pub(super) fn refuse(is_page: bool, error: ApiError) -> Response {
    if is_page {
        page::refused(&error)
    } else {
        error.into_response()
    }
}

/// Why a request is refused or failed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ApiError {
    #[serde(skip)]
    pub(super) status: StatusCode,
    /// After how many seconds the client may try again.
    #[serde(skip)]
    retry_after: Option<u64>,
    /// The reason, as a text for people.
    pub(super) error: String,
    /// The number of items selected now, if it is not the expected number.
    #[serde(skip_serializing_if = "Option::is_none")]
    matched: Option<u64>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            retry_after: None,
            error: error.into(),
            matched: None,
        }
    }

    /// Asks the client to wait this many seconds.
    pub(super) fn retry_after(self, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    /// Adds the header `Retry-After` to an answer, if the error has one.
    pub(super) fn with_headers(&self, mut response: Response) -> Response {
        if let Some(seconds) = self.retry_after {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// The request is not valid.
    pub(super) fn invalid(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// Nothing has this id or name.
    pub(super) fn absent(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    /// The present state does not allow the request.
    pub(super) fn conflict(error: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, error)
    }

    /// The daemon cannot answer now.
    pub(super) fn unavailable(error: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error).retry_after(RETRY_SECONDS)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.with_headers((self.status, Json(&self)).into_response())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error.fault() {
            fault @ Fault::OtherNumber { selected, .. } => Self {
                matched: Some(*selected),
                ..Self::conflict(fault.to_string())
            },
            _ => Self::unavailable(chain(&error)),
        }
    }
}

impl From<OpenError> for ApiError {
    fn from(error: OpenError) -> Self {
        Self::unavailable(chain(&error))
    }
}

impl From<UnknownWebhook> for ApiError {
    fn from(error: UnknownWebhook) -> Self {
        Self::absent(error.to_string())
    }
}

impl From<FindError> for ApiError {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Absent(_) => Self::absent(error.to_string()),
            FindError::Invalid | FindError::Several(..) => Self::invalid(error.to_string()),
            FindError::Store(error) => error.into(),
        }
    }
}

/// The answer of a handler.
pub(super) type Answer<T> = Result<Json<T>, ApiError>;

/// A JSON answer.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(CONTENT_TYPE, JSON)], body).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

/// The filters in the query of a URL. Unknown filters are an error.
pub(super) struct Filters<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Filters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(filters)) => Ok(Self(filters)),
            Err(rejection) => Err(ApiError::invalid(rejection.body_text())),
        }
    }
}

/// The id or name in the path of a URL.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(rejection) => Err(ApiError::invalid(rejection.body_text())),
        }
    }
}

/// A JSON body. An empty body is read as `{}`.
///
/// Other content types are refused, because a page of another site can make a browser send a form,
/// but not JSON.
pub(super) struct Options<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Options<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let is_json = is_json(request.headers());
        let has_type = request.headers().contains_key(CONTENT_TYPE);
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
        if !is_json && (has_type || !body.is_empty()) {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the body must have the content type application/json",
            ));
        }
        let body = if body.is_empty() { b"{}" } else { &*body };
        // Serde would also accept an array with the values of the fields.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(ApiError::invalid("the body must be a JSON object"));
        }
        let options = serde_json::from_slice(body);
        options
            .map(Self)
            .map_err(|error| ApiError::invalid(format!("the body is not valid: {error}")))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    content_type.is_some_and(|content_type| {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    })
}
