//! Sending the requests of a case, one after another.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request};
use regex::Regex;
use serde_json::{Value, json};

use super::case::{Case, Step};
use super::{Answers, Error, normalise};

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Raw {
    /// The status code.
    pub code: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Sends a request to the server in question; the URI has no host.
pub trait Send: std::marker::Send + Sync {
    /// Answers, or says why there is no answer.
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Raw, String>>;
}

/// How long a step asks again, and how often.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);

/// Replays a case in a namespace of its own, and returns its normalised answers.
///
/// # Errors
///
/// When a request is not answered, or what a step waits for does not come.
pub async fn replay(server: &dyn Send, case: &Case) -> Result<Answers, Error> {
    let namespace = case.namespace();
    let refuse = |why: String| Error::Replay {
        case: case.name.clone(),
        why,
    };
    begin(server, &namespace).await.map_err(refuse)?;
    let answered = ask_all(server, case, &namespace).await;
    // Nobody waits for it to be gone.
    let path = format!("/api/v1/namespaces/{namespace}");
    send(server, "DELETE", &path, &[], "").await.map_err(refuse)?;
    let mut answers = answered.map_err(refuse)?;
    normalise::normalise(&mut answers, &case.steps);
    Ok(answers)
}

async fn ask_all(server: &dyn Send, case: &Case, namespace: &str) -> Result<Answers, String> {
    let mut answers = Answers::new();
    for (number, step) in (1..).zip(&case.steps) {
        let answer = ask(server, step, namespace, &answers)
            .await
            .map_err(|why| format!("step {number}: {why}"))?;
        answers.push(answer);
    }
    Ok(answers)
}

/// Makes the namespace and waits until it has what every namespace gets.
async fn begin(server: &dyn Send, namespace: &str) -> Result<(), String> {
    let body =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }).to_string();
    let json = [("content-type".to_owned(), "application/json".to_owned())];
    let made = send(server, "POST", "/api/v1/namespaces", &json, &body).await?;
    if made.code != 201 {
        return Err(format!("no namespace: {}", String::from_utf8_lossy(&made.body)));
    }
    for (path, part) in [
        ("serviceaccounts/default", "/secrets/0"),
        ("configmaps/kube-root-ca.crt", "/data"),
    ] {
        let path = format!("/api/v1/namespaces/{namespace}/{path}");
        wait(async || {
            let raw = send(server, "GET", &path, &[], "").await?;
            let body: Value = serde_json::from_slice(&raw.body).unwrap_or_default();
            Ok(body.pointer(part).is_some().then_some(()))
        })
        .await?
        .ok_or_else(|| format!("there is no {path}"))?;
    }
    Ok(())
}

/// Tries until there is something, or patience ends.
async fn wait<T>(attempt: impl AsyncFn() -> Result<Option<T>, String>) -> Result<Option<T>, String> {
    let begin = tokio::time::Instant::now();
    loop {
        if let Some(found) = attempt().await? {
            return Ok(Some(found));
        }
        if begin.elapsed() > PATIENCE {
            return Ok(None);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

pub(super) async fn send(
    server: &dyn Send,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: &str,
) -> Result<Raw, String> {
    let mut request = Request::builder().method(method).uri(encode(path));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request
        .body(Bytes::from(body.to_owned()))
        .map_err(|error| format!("{method} {path}: {error}"))?;
    server
        .send(request)
        .await
        .map_err(|why| format!("{method} {path}: {why}"))
}

/// Encodes what may not stand in a URI.
fn encode(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => {
                encoded.push_str(&format!("%{byte:02X}"));
            }
            _ => encoded.push(char::from(byte)),
        }
    }
    encoded
}

async fn ask(server: &dyn Send, step: &Step, namespace: &str, before: &[Value]) -> Result<Value, String> {
    let path = insert(&step.path, namespace, before)?;
    let body = insert(&step.body, namespace, before)?;
    let mut headers = step.headers.clone();
    for (_, value) in &mut headers {
        *value = insert(value, namespace, before)?;
    }
    let attempt = async || -> Result<Value, String> {
        let raw = send(server, &step.method, &path, &headers, &body).await?;
        Ok(describe(&raw, &path))
    };
    let Some(until) = &step.until else {
        return attempt().await;
    };
    let until: Value = serde_json::from_str(&insert(&until.to_string(), namespace, before)?)
        .map_err(|error| format!("until: {error}"))?;
    let last = std::sync::Mutex::new(Value::Null);
    let found = wait(async || {
        let answer = attempt().await?;
        let fits = match &until {
            Value::Number(code) => answer.get("code") == Some(&Value::Number(code.clone())),
            part => answer.get("body").is_some_and(|body| contains(body, part)),
        };
        if let Ok(mut last) = last.lock() {
            last.clone_from(&answer);
        }
        Ok(fits.then_some(answer))
    })
    .await?;
    found.ok_or_else(|| {
        let last = last.lock().map(|last| last.to_string()).unwrap_or_default();
        format!("{path} never was {until}: {last}")
    })
}

/// Whether a value has all of a part. An absent field is null.
fn contains(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::Object(value), Value::Object(part)) => part
            .iter()
            .all(|(key, part)| contains(value.get(key).unwrap_or(&Value::Null), part)),
        (Value::Array(values), Value::Array(parts)) => parts
            .iter()
            .all(|part| values.iter().any(|value| contains(value, part))),
        (value, part) => value == part,
    }
}

/// `$NS` is the namespace; `${/pointer}` a part of the last answer's body, `${2/pointer}` of the second one's.
fn insert(text: &str, namespace: &str, before: &[Value]) -> Result<String, String> {
    let mut out = text.replace("$NS", namespace);
    while let Some(start) = out.find("${") {
        let length = out[start..].find('}').ok_or("a ${ without an end")?;
        let inside = &out[start + 2..start + length];
        let slash = inside.find('/').ok_or("a ${ without a pointer")?;
        let answer = match inside[..slash].parse::<usize>() {
            Ok(number) => before.get(number.wrapping_sub(1)),
            Err(_) => before.last(),
        };
        let found = answer
            .and_then(|answer| answer.get("body"))
            .and_then(|body| body.pointer(&inside[slash..]))
            .ok_or_else(|| format!("nothing at {inside}"))?;
        let found = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        out.replace_range(start..=start + length, &found);
    }
    // `$NS` in an answer has been put in for the namespace already.
    Ok(out)
}

/// An answer as a value: code, body or text or events, warnings.
fn describe(raw: &Raw, path: &str) -> Value {
    let mut answer = json!({ "code": raw.code });
    let text = String::from_utf8_lossy(&raw.body).into_owned();
    let warnings: Vec<_> = raw
        .headers
        .get_all("warning")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    if !warnings.is_empty() {
        answer["warnings"] = json!(warnings);
    }
    let is_watch = Regex::new("[?&/]watch(=(true|1))?([&/]|$)").is_ok_and(|watch| watch.is_match(path));
    if is_watch && raw.code == 200 {
        let events: Vec<Value> = serde_json::Deserializer::from_str(&text)
            .into_iter::<Value>()
            .map_while(Result::ok)
            .collect();
        answer["events"] = events.into();
        return answer;
    }
    match serde_json::from_str::<Value>(&text) {
        Ok(body) => answer["body"] = body,
        Err(_) => answer["text"] = text.into(),
    }
    answer
}
