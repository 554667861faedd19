//! What a backend is told: statuses, and errors as JSON.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use serde::Serialize;
use serde_json::json;

/// An answer to a call.
#[derive(Debug)]
pub(super) struct Reply {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Reply {
    /// The status alone.
    pub(super) fn empty(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    pub(super) fn text(status: StatusCode, text: &'static str) -> Self {
        let mut reply = Self::empty(status)
            .with(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        reply.body = Bytes::from_static(text.as_bytes());
        reply
    }

    pub(super) fn page(page: String, content_type: &'static str) -> Self {
        let content_type = HeaderValue::from_static(content_type);
        let mut reply = Self::empty(StatusCode::OK).with(header::CONTENT_TYPE, content_type);
        reply.body = page.into();
        reply
    }

    pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Self {
        let mut reply = Self::empty(status)
            .with(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // What we print are strings, numbers and lists of them: that cannot fail.
        reply.body = serde_json::to_vec(value).unwrap_or_default().into();
        reply
    }

    pub(super) fn with(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        let fixed =
            [(header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
        let fixed = fixed.map(|(name, value)| (name, HeaderValue::from_static(value)));
        response.headers_mut().extend(fixed);
        response
    }
}

/// A call that is not carried out.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    allow: Option<String>,
}

impl Problem {
    /// `message` names the field and the rule, and never repeats a credential.
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), allow: None }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub(super) fn unavailable(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// There is an answer, to something else.
    pub(super) fn unanswered() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "there is no answer")
    }

    /// These methods would do.
    pub(super) fn method(allow: String) -> Self {
        let message = format!("the method must be {allow}");
        let problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message);
        Self { allow: Some(allow), ..problem }
    }

    pub(super) fn into_reply(self) -> Reply {
        let body = json!({"error": {"code": self.code, "message": self.message}});
        // The answer to a HEAD has no body to look into.
        let code = HeaderName::from_static("x-ms-error-code");
        let mut reply =
            Reply::json(self.status, &body).with(code, HeaderValue::from_static(self.code));
        if self.status == StatusCode::UNAUTHORIZED {
            reply = reply.with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let allow = self.allow.and_then(|allow| HeaderValue::from_str(&allow).ok());
        match allow {
            Some(allow) => reply.with(header::ALLOW, allow),
            None => reply,
        }
    }
}
