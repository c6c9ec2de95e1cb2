//! What can go wrong between us and an API server, by what is to be done about it.

use std::time::Duration;

use http::StatusCode;
use kube::core::Status;
use object::ObjectKey;

/// What an error means for whoever met it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The object is not what it was when it was read.
    Conflict,
    /// Others own fields that an apply without force would take.
    FieldConflict,
    AlreadyExists,
    NotFound,
    /// The caller is known, but must not do this.
    Forbidden,
    /// The caller is not known: wrong or expired credentials.
    Unauthorized,
    /// The server does not accept the object.
    Invalid,
    /// The server asks for a pause.
    Throttled {
        retry_after: Option<Duration>,
    },
    /// No connection, no answer in time, or a server error.
    Unavailable,
    /// A webhook that the server must ask does not answer.
    WebhookRefused {
        webhook: String,
    },
    /// A webhook was asked and said no.
    WebhookDenied {
        webhook: String,
    },
    /// The API server does not serve the kind.
    NotServed,
    /// The API server does not know the path. It answers so (with a text, not with a Status) for the kinds of
    /// CustomResourceDefinitions that it has not read yet, just after its start, and for those of definitions that are gone.
    Unknown,
    /// A list took so long that its continue token expired.
    Expired,
    Other,
}

impl ErrorClass {
    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Throttled { .. } | Self::Unavailable | Self::Unknown | Self::WebhookRefused { .. }
        )
    }
}

/// What has an [`ErrorClass`].
pub trait Classified {
    fn class(&self) -> &ErrorClass;
}

/// Why a request failed. Holds the server's words, never a body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub class: ErrorClass,
    pub message: String,
    /// The HTTP status; `None` when there was no answer at all.
    pub status: Option<u16>,
}

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {what}: {failure}")]
pub struct ReadError {
    /// The object or the resource.
    pub what: String,
    pub failure: Failure,
}

/// Why an object could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {verb} {object}: {failure}")]
pub struct WriteError {
    pub verb: &'static str,
    pub object: ObjectKey,
    pub failure: Failure,
}

impl Classified for Failure {
    fn class(&self) -> &ErrorClass {
        &self.class
    }
}

impl Classified for ReadError {
    fn class(&self) -> &ErrorClass {
        &self.failure.class
    }
}

impl Classified for WriteError {
    fn class(&self) -> &ErrorClass {
        &self.failure.class
    }
}

impl ReadError {
    pub fn class(&self) -> &ErrorClass {
        &self.failure.class
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        self.failure.hint()
    }
}

impl WriteError {
    pub fn class(&self) -> &ErrorClass {
        &self.failure.class
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        self.failure.hint()
    }
}

impl Failure {
    pub(crate) fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            status: None,
        }
    }

    /// Whether there was no answer at all, so that asking for something else is useless too.
    pub fn is_unreachable(&self) -> bool {
        self.class == ErrorClass::Unavailable && self.status.is_none()
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match &self.class {
            ErrorClass::Conflict => "somebody changed it at the same moment: run the command again",
            ErrorClass::FieldConflict => {
                "another tool owns these fields: find out which, and whether it is still in use"
            }
            ErrorClass::Forbidden => {
                "ask an administrator of the cluster for this permission, or use another --context"
            }
            ErrorClass::Unauthorized => {
                "the credentials may have expired: log in again, or use another --kubeconfig or --context"
            }
            ErrorClass::Throttled { .. } => "the API server is overloaded: run the command again later",
            ErrorClass::Unavailable | ErrorClass::Unknown => {
                "check the API server with: kubectl get --raw /readyz"
            }
            ErrorClass::NotServed => "check that the CustomResourceDefinition is installed and established",
            ErrorClass::WebhookRefused { webhook } => {
                return Some(format!(
                    "bring the service behind webhook {webhook} up; if it is gone for good, delete the webhook's configuration"
                ));
            }
            ErrorClass::WebhookDenied { webhook } => {
                return Some(format!(
                    "a policy of this cluster forbids it: ask whoever runs webhook {webhook}"
                ));
            }
            ErrorClass::Other if self.message.contains("certificate") => {
                "check certificate-authority and server in the kubeconfig, and that the API server's certificate is valid"
            }
            ErrorClass::Expired => "run the command again",
            ErrorClass::AlreadyExists | ErrorClass::NotFound | ErrorClass::Invalid | ErrorClass::Other => {
                return None;
            }
        };
        Some(hint.to_owned())
    }

    /// From an answer that is not a success. `secret` says that the request was about a Secret, whose contents
    /// must not come back in words.
    pub(crate) fn from_answer(
        status: StatusCode,
        retry_after: Option<Duration>,
        body: &[u8],
        secret: bool,
    ) -> Self {
        let code = status.as_u16();
        let answer = serde_json::from_slice::<Status>(body)
            .ok()
            .filter(|s| !s.message.is_empty() || !s.reason.is_empty());
        let class = classify(code, retry_after, answer.as_ref());
        let message = match &answer {
            // What is not a Status comes from something in between, and may be a whole web page.
            None => match status.canonical_reason() {
                Some(reason) => format!("the server answered {code} {reason}"),
                None => format!("the server answered {code}"),
            },
            Some(answer) => words(answer, &class, secret),
        };
        Self {
            class,
            message,
            status: Some(code),
        }
    }

    /// From a request that got no answer.
    pub(crate) fn from_transport(error: &kube::Error) -> Self {
        let chain = chain(error);
        if let Some(auth) = chain
            .iter()
            .find_map(|e| e.downcast_ref::<kube::client::AuthError>())
        {
            return Self::new(ErrorClass::Unauthorized, auth_words(auth));
        }
        if let kube::Error::Auth(auth) = error {
            return Self::new(ErrorClass::Unauthorized, auth_words(auth));
        }
        let deepest = chain
            .last()
            .map_or_else(|| error.to_string(), ToString::to_string);
        let class =
            if deepest.contains("received fatal alert") && deepest.to_lowercase().contains("certificate") {
                ErrorClass::Unauthorized
            } else if deepest.contains("invalid peer certificate") {
                ErrorClass::Other
            } else {
                ErrorClass::Unavailable
            };
        Self::new(class, shorten(&deepest))
    }
}

fn classify(code: u16, retry_after: Option<Duration>, answer: Option<&Status>) -> ErrorClass {
    let message = answer.map_or("", |a| a.message.as_str());
    let reason = answer.map_or("", |a| a.reason.as_str());
    let details = answer.and_then(|a| a.details.as_ref());
    if let Some(webhook) = quoted_after(message, "failed calling webhook ") {
        return ErrorClass::WebhookRefused { webhook };
    }
    if let Some((what, _)) = message
        .strip_prefix("conversion webhook for ")
        .and_then(|rest| rest.split_once(" failed"))
    {
        return ErrorClass::WebhookRefused {
            webhook: format!("for the conversion of {what}"),
        };
    }
    if let Some(webhook) = quoted_after(message, "admission webhook ") {
        return ErrorClass::WebhookDenied { webhook };
    }
    if message.starts_with("failed to create typed ") || message.starts_with("failed to convert new object ")
    {
        // Older API servers say so with a status of 500, as if it were their fault.
        return ErrorClass::Invalid;
    }
    match code {
        401 => ErrorClass::Unauthorized,
        403 => ErrorClass::Forbidden,
        // Of an object that is absent the server says its name; of a resource that is absent it says nothing.
        404 if details.is_some_and(|d| !d.name.is_empty()) || message.contains("\" not found") => {
            ErrorClass::NotFound
        }
        404 if answer.is_none() => ErrorClass::Unknown,
        404 | 405 => ErrorClass::NotServed,
        409 if reason == "AlreadyExists" => ErrorClass::AlreadyExists,
        409 if details.is_some_and(|d| d.causes.iter().any(|c| c.reason == "FieldManagerConflict")) => {
            ErrorClass::FieldConflict
        }
        409 => ErrorClass::Conflict,
        410 => ErrorClass::Expired,
        400 | 413 | 415 | 422 => ErrorClass::Invalid,
        429 => ErrorClass::Throttled {
            retry_after: retry_after.or_else(|| {
                let seconds = details.map(|d| d.retry_after_seconds).filter(|s| *s > 0)?;
                Some(Duration::from_secs(seconds.into()))
            }),
        },
        500..=599 if retry_after.is_some() => ErrorClass::Throttled { retry_after },
        500..=599 | 408 => ErrorClass::Unavailable,
        _ => ErrorClass::Other,
    }
}

/// `x` of `… PREFIX"x" …`
fn quoted_after(message: &str, prefix: &str) -> Option<String> {
    let rest = message.split_once(prefix)?.1.strip_prefix('"')?;
    rest.split_once('"').map(|(name, _)| name.to_owned())
}

/// The server's words without anything that repeats the body.
fn words(answer: &Status, class: &ErrorClass, secret: bool) -> String {
    let message = answer.message.as_str();
    match class {
        ErrorClass::Invalid if secret => {
            let details = answer.details.iter().flat_map(|d| &d.causes);
            let fields: Vec<_> = details
                .map(|c| c.field.as_str())
                .filter(|f| !f.is_empty())
                .collect();
            let fields = if fields.is_empty() {
                "its contents".to_owned()
            } else {
                fields.join(", ")
            };
            return format!("the server does not accept {fields}");
        }
        ErrorClass::WebhookDenied { webhook } if secret => {
            return format!("admission webhook \"{webhook}\" denied the request");
        }
        _ => {}
    }
    // Readers of older API servers repeat what they read around the place where they stopped.
    let end = [
        "error found in #",
        ", bigger context",
        "|...",
        "...|",
        ", got &{",
        ", got &[",
    ]
    .iter()
    .filter_map(|mark| message.find(mark))
    .min()
    .unwrap_or(message.len());
    let message = message[..end].trim_end_matches([' ', ',', ':']);
    if message.is_empty() {
        answer.reason.clone()
    } else {
        shorten(message)
    }
}

fn auth_words(error: &kube::client::AuthError) -> String {
    match error {
        // Its text repeats what the plugin printed, which may be a token.
        kube::client::AuthError::AuthExecRun { cmd, out } => {
            format!(
                "the login command \"{cmd}\" of the kubeconfig failed with {}",
                out.status
            )
        }
        other => shorten(&other.to_string()),
    }
}

fn chain(error: &kube::Error) -> Vec<&(dyn std::error::Error + 'static)> {
    let mut chain: Vec<&(dyn std::error::Error + 'static)> = vec![error];
    while let Some(source) = chain.last().and_then(|e| e.source()) {
        chain.push(source);
    }
    chain
}

/// Messages are for people: what is longer than this is a dump of something.
fn shorten(message: &str) -> String {
    const LONGEST: usize = 1000;
    match message.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer(code: u16, status: Value) -> Failure {
        let mut status = status;
        status["kind"] = "Status".into();
        status["code"] = code.into();
        Failure::from_answer(
            StatusCode::from_u16(code).unwrap(),
            None,
            &serde_json::to_vec(&status).unwrap(),
            false,
        )
    }

    #[test]
    fn answers_are_told_apart() {
        let check =
            |code: u16, status: Value, expect: ErrorClass| assert_eq!(answer(code, status).class, expect);
        check(
            401,
            json!({"message": "Unauthorized", "reason": "Unauthorized"}),
            ErrorClass::Unauthorized,
        );
        check(
            403,
            json!({"message": "users is forbidden", "reason": "Forbidden"}),
            ErrorClass::Forbidden,
        );
        check(
            404,
            json!({"message": "pods \"a\" not found", "reason": "NotFound", "details": {"name": "a", "kind": "pods"}}),
            ErrorClass::NotFound,
        );
        check(
            404,
            json!({"message": "the server could not find the requested resource", "reason": "NotFound", "details": {}}),
            ErrorClass::NotServed,
        );
        check(
            409,
            json!({"message": "the object has been modified", "reason": "Conflict"}),
            ErrorClass::Conflict,
        );
        check(
            409,
            json!({"message": "a exists", "reason": "AlreadyExists"}),
            ErrorClass::AlreadyExists,
        );
        check(
            409,
            json!({"message": "Apply failed with 1 conflict", "reason": "Conflict",
                   "details": {"causes": [{"reason": "FieldManagerConflict", "message": "conflict with \"helm\"", "field": ".spec.replicas"}]}}),
            ErrorClass::FieldConflict,
        );
        check(
            410,
            json!({"message": "too old", "reason": "Expired"}),
            ErrorClass::Expired,
        );
        check(
            500,
            json!({"message": "failed to convert new object to proper version: illegal base64 data"}),
            ErrorClass::Invalid,
        );
        check(
            500,
            json!({"message": "failed to create typed patch object: .data: expected map, got &{a}"}),
            ErrorClass::Invalid,
        );
        check(
            422,
            json!({"message": "x is invalid", "reason": "Invalid"}),
            ErrorClass::Invalid,
        );
        check(
            429,
            json!({"message": "slow down", "reason": "TooManyRequests", "details": {"retryAfterSeconds": 3}}),
            ErrorClass::Throttled {
                retry_after: Some(Duration::from_secs(3)),
            },
        );
        check(
            500,
            json!({"message": "etcdserver: leader changed", "reason": "InternalError"}),
            ErrorClass::Unavailable,
        );
        check(
            500,
            json!({"message": "Internal error occurred: failed calling webhook \"users.iam.kubesphere.io\": Post \"https://ks\": dial tcp: refused", "reason": "InternalError"}),
            ErrorClass::WebhookRefused {
                webhook: "users.iam.kubesphere.io".into(),
            },
        );
        check(
            500,
            json!({"message": "conversion webhook for notification.kubesphere.io/v2beta1, Kind=Config failed: Post", "reason": "InternalError"}),
            ErrorClass::WebhookRefused {
                webhook: "for the conversion of notification.kubesphere.io/v2beta1, Kind=Config".into(),
            },
        );
        check(
            400,
            json!({"message": "admission webhook \"policy.example.org\" denied the request: no", "reason": "BadRequest"}),
            ErrorClass::WebhookDenied {
                webhook: "policy.example.org".into(),
            },
        );
    }

    #[test]
    fn a_pause_that_the_server_asks_for_is_kept() {
        let seconds = Some(Duration::from_secs(7));
        let failure = Failure::from_answer(StatusCode::SERVICE_UNAVAILABLE, seconds, b"", false);
        assert_eq!(failure.class, ErrorClass::Throttled { retry_after: seconds });
    }

    #[test]
    fn what_is_no_status_is_not_repeated() {
        let failure = Failure::from_answer(StatusCode::BAD_GATEWAY, None, b"<html>hunter2</html>", false);
        assert_eq!(
            (failure.message.as_str(), failure.class),
            ("the server answered 502 Bad Gateway", ErrorClass::Unavailable)
        );
        // An API server that has just started, of an object of a definition that it has not read yet.
        let failure = Failure::from_answer(StatusCode::NOT_FOUND, None, b"404 page not found\n", false);
        assert_eq!(failure.class, ErrorClass::Unknown);
        assert!(failure.class.is_transient());
    }

    #[test]
    fn words_of_the_server_never_repeat_contents() {
        let check = |message: &str, secret: bool| {
            let body = json!({"kind": "Status", "code": 422, "reason": "Invalid", "message": message,
                "details": {"causes": [{"field": "data[password]", "message": "Invalid value: \"hunter2\""}]}});
            let failure = Failure::from_answer(
                StatusCode::UNPROCESSABLE_ENTITY,
                None,
                &serde_json::to_vec(&body).unwrap(),
                secret,
            );
            assert!(!failure.message.contains("hunter2"), "{}", failure.message);
            assert!(!failure.message.is_empty());
            failure.message
        };
        let told = check(
            "Secret \"a\" is invalid: data[password]: Invalid value: \"hunter2\"",
            true,
        );
        assert_eq!(told, "the server does not accept data[password]");
        check(
            "v1.Secret.ObjectMeta: error found in #10 byte of ...|hunter2|..., bigger context ...|hunter2|...",
            false,
        );
        check(
            "illegal base64, error found in #3 byte of ...|:\"hunter2\"|...",
            false,
        );
    }

    #[test]
    fn every_error_names_its_object_and_what_to_do() {
        let error = WriteError {
            verb: "apply",
            object: ObjectKey::cluster("iam.kubesphere.io", "User", "admin"),
            failure: answer(
                500,
                json!({"message": "failed calling webhook \"users.iam.kubesphere.io\": no endpoints", "reason": "InternalError"}),
            ),
        };
        assert_eq!(
            error.to_string(),
            "cannot apply User admin: failed calling webhook \"users.iam.kubesphere.io\": no endpoints"
        );
        assert!(error.hint().unwrap().contains("users.iam.kubesphere.io"));
    }
}
