//! Watching: the changes of a collection as they happen.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::query::{Form, Selection};
use crate::api::request::Request;
use crate::api::respond::{self, Body};
use crate::api::{Endpoint, table};
use crate::json::{Sent, TypeMeta, child};
use crate::status::{Result, Status, forbidden};
use crate::store::Change;
use crate::{Shared, convert};

/// How often a watch that asked for bookmarks gets one while nothing happens.
const BOOKMARKS: Duration = Duration::from_mins(1);
/// How long a watch lasts when its client does not say.
const LIFETIME: Duration = Duration::from_mins(40);

struct Watch {
    shared: Arc<Shared>,
    news: tokio::sync::watch::Receiver<u64>,
    endpoint: Endpoint,
    selection: Selection,
    form: Form,
    request: Request,
    /// The last revision that was looked at.
    position: u64,
    /// Bytes that go out first: the objects that are there.
    first: Option<Bytes>,
    bookmarks: bool,
    deadline: Instant,
    ended: bool,
    /// A table carries its column definitions once.
    sent_columns: bool,
}

pub(crate) fn answer(shared: &Arc<Shared>, request: &Request, endpoint: &Endpoint) -> Result<Response<Body>> {
    let form = Form::of(request, endpoint.resource.is_custom())?;
    // Clients that want a list by way of a watch (KEP-3157) ask with this, and list where it is refused.
    if request
        .query
        .get("resourceVersionMatch")
        .is_some_and(|wanted| !wanted.is_empty())
    {
        const FIELD: &str = "resourceVersionMatch";
        let mut causes = vec![forbidden(FIELD, "resourceVersionMatch is forbidden for watch")];
        if request
            .query
            .get("resourceVersion")
            .unwrap_or_default()
            .is_empty()
        {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            causes.push(forbidden(FIELD, why));
        }
        return Err(Status::invalid("meta.k8s.io", "ListOptions", "", &causes));
    }
    let mut selection = Selection::of(request, endpoint)?;
    if !endpoint.target.name.is_empty() {
        let selector = format!("metadata.name={}", endpoint.target.name);
        selection.fields = crate::selector::Fields::parse(&selector, &endpoint.resource, endpoint.version())?;
    }
    if !endpoint.target.name.is_empty() && !endpoint.target.watch {
        // One object is not watched this way: it is read.
        super::query::find(endpoint, &shared.state())?;
    }
    let namespace = &endpoint.target.namespace;
    let state = shared.state();
    if state
        .objects_of(&endpoint.resource)
        .range(namespace, None)
        .next()
        .is_some()
    {
        convert::check(&state, &endpoint.resource, endpoint.version())?;
    }
    let lifetime = request
        .query
        .get("timeoutSeconds")
        .and_then(|seconds| seconds.parse().ok())
        .filter(|seconds| *seconds > 0)
        .map_or(LIFETIME, Duration::from_secs);
    // Subscribed before the state is read, so that nothing falls between.
    let news = shared.subscribe();
    let state = shared.state();
    let collection = state.objects_of(&endpoint.resource);
    let mut watch = Watch {
        shared: Arc::clone(shared),
        news,
        endpoint: endpoint.clone(),
        selection,
        form,
        request: Request {
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            headers: http::HeaderMap::new(),
            body: Bytes::new(),
            warnings: std::cell::RefCell::default(),
            user: request.user.clone(),
        },
        position: state.revision,
        first: None,
        bookmarks: request.query.flag("allowWatchBookmarks"),
        deadline: Instant::now() + lifetime,
        ended: false,
        sent_columns: false,
    };
    match request.query.get("resourceVersion").unwrap_or_default() {
        "" | "0" => {
            let mut bytes = Vec::new();
            for (_, object) in collection.range(&endpoint.target.namespace, None) {
                if watch.selection.matches(object) {
                    watch.event(&mut bytes, "ADDED", object);
                }
            }
            watch.first = Some(bytes.into());
        }
        version => {
            let from: u64 = version.parse().map_err(|_| {
                let why = format!("strconv.ParseUint: parsing {version:?}: invalid syntax");
                Status::new(
                    500,
                    "",
                    format!("resourceVersion: Invalid value: {version:?}: {why}"),
                )
            })?;
            watch.position = from;
            // Changes that are forgotten already: the client has to list again.
            if collection.since(from).is_none() {
                let mut bytes = Vec::new();
                watch.too_old(&mut bytes);
                watch.first = Some(bytes.into());
                watch.ended = true;
            }
        }
    }
    let stream = futures::stream::unfold(watch, |mut watch| async move {
        let bytes = watch.next().await?;
        Some((bytes, watch))
    });
    Ok(respond::respond(200, "application/json", Body::stream(stream)))
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
            return Some(first);
        }
        let mut next_bookmark = Instant::now() + BOOKMARKS;
        while !self.ended {
            self.news.borrow_and_update();
            let bytes = self.catch_up();
            if !bytes.is_empty() {
                return Some(bytes);
            }
            tokio::select! {
                changed = self.news.changed() => {
                    if changed.is_err() {
                        self.ended = true;
                    }
                }
                () = tokio::time::sleep_until(next_bookmark.min(self.deadline)) => {
                    let mut bytes = Vec::new();
                    if self.bookmarks {
                        self.bookmark(&mut bytes);
                    }
                    if Instant::now() >= self.deadline {
                        self.ended = true;
                    }
                    next_bookmark = Instant::now() + BOOKMARKS;
                    if !bytes.is_empty() {
                        return Some(bytes.into());
                    }
                }
            }
        }
        None
    }

    /// What happened since the position.
    fn catch_up(&mut self) -> Bytes {
        let state = self.shared.state();
        if state.revision <= self.position {
            return Bytes::new();
        }
        let collection = state.objects_of(&self.endpoint.resource);
        let mut bytes = Vec::new();
        if let Some(changes) = collection.since(self.position) {
            for change in changes {
                self.change(&mut bytes, change);
            }
            self.position = state.revision;
        } else {
            self.too_old(&mut bytes);
            self.ended = true;
        }
        bytes.into()
    }

    fn change(&mut self, bytes: &mut Vec<u8>, change: &Change) {
        let namespace = &self.endpoint.target.namespace;
        if !namespace.is_empty()
            && change
                .path
                .split_once('/')
                .is_none_or(|(found, _)| found != namespace.as_str())
        {
            return;
        }
        let selected =
            |object: &Option<Arc<Value>>| object.as_deref().is_some_and(|one| self.selection.matches(one));
        match (selected(&change.old), selected(&change.new)) {
            (false, true) => self.write(bytes, "ADDED", change.new.as_deref(), None),
            (true, true) => self.write(bytes, "MODIFIED", change.new.as_deref(), None),
            // The last state of what is gone (or no longer selected) carries the version of the change.
            (true, false) => self.write(bytes, "DELETED", change.old.as_deref(), Some(change.revision)),
            (false, false) => {}
        }
    }

    fn write(&mut self, bytes: &mut Vec<u8>, kind: &str, object: Option<&Value>, revision: Option<u64>) {
        let Some(object) = object else { return };
        match revision {
            None => self.event(bytes, kind, object),
            Some(revision) => {
                let mut last = object.clone();
                child(&mut last, "metadata").insert("resourceVersion".into(), revision.to_string().into());
                self.event(bytes, kind, &last);
            }
        }
    }

    fn event(&mut self, bytes: &mut Vec<u8>, kind: &str, object: &Value) {
        let object = &*convert::shown(&self.endpoint.resource, self.endpoint.version(), object);
        match self.form {
            Form::Object => {
                let api_version = self.endpoint.api_version();
                line(
                    bytes,
                    kind,
                    &Sent {
                        object,
                        types: TypeMeta::Version(&api_version),
                    },
                );
            }
            Form::Metadata => line(bytes, kind, &super::partial(object)),
            Form::Table => {
                let columns = !std::mem::replace(&mut self.sent_columns, true);
                let metadata =
                    json!({ "resourceVersion": crate::json::text_at(object, "/metadata/resourceVersion") });
                let table = table::of(
                    &self.endpoint,
                    std::iter::once(object),
                    (self.shared.config.clock)(),
                    &self.request,
                    &metadata,
                    columns,
                );
                line(bytes, kind, &table);
            }
        }
    }

    fn bookmark(&mut self, bytes: &mut Vec<u8>) {
        let mark = json!({
            "kind": self.endpoint.resource.kind,
            "apiVersion": self.endpoint.api_version(),
            "metadata": { "resourceVersion": self.position.to_string(), "creationTimestamp": null },
        });
        self.event(bytes, "BOOKMARK", &mark);
    }

    fn too_old(&self, bytes: &mut Vec<u8>) {
        let status = Status::expired(format!("too old resource version: {}", self.position));
        line(bytes, "ERROR", &status.body());
    }
}

fn line(bytes: &mut Vec<u8>, kind: &str, object: &impl Serialize) {
    #[derive(Serialize)]
    struct Event<'a, T> {
        r#type: &'a str,
        object: &'a T,
    }
    let length = bytes.len();
    if let Err(error) = serde_json::to_writer(&mut *bytes, &Event { r#type: kind, object }) {
        tracing::error!(%error, "an event could not be written");
        bytes.truncate(length);
        return;
    }
    bytes.push(b'\n');
}
