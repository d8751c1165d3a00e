//! An API server for tests: keeps objects by their path, refuses what it is told to refuse, and remembers what was
//! written. Of server-side apply it knows what the operator relies on: fields and list entries of others stay.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use kube::{Client, Config};
use serde_json::{Value, json};

#[derive(Clone, Default)]
pub(super) struct FakeApi(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, Value>,
    /// Methods, and parts of paths, that are forbidden.
    refused: Vec<(Method, String)>,
    /// Methods and paths of what was written since it was asked last.
    writes: Vec<String>,
    version: u64,
}

impl FakeApi {
    /// Serves on loopback for as long as the test runs.
    pub(super) async fn client(&self) -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Client::try_from(Config::new(format!("http://{address}").parse().unwrap())).unwrap()
    }

    pub(super) fn put(&self, path: &str, mut object: Value) {
        let mut kept = self.kept();
        kept.version += 1;
        object["metadata"]["resourceVersion"] = json!(kept.version.to_string());
        kept.objects.insert(path.to_owned(), object);
    }

    pub(super) fn object(&self, path: &str) -> Value {
        self.kept().objects.get(path).cloned().unwrap_or_default()
    }

    pub(super) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.object(path);
        change(&mut object);
        self.put(path, object);
    }

    pub(super) fn refuse(&self, method: Method, part_of_path: &str) {
        self.kept().refused.push((method, part_of_path.to_owned()));
    }

    pub(super) fn refuse_nothing(&self) {
        self.kept().refused.clear();
    }

    pub(super) fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.kept().writes)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }
}

async fn answer(State(api): State<FakeApi>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
    let (status, answer) = api.kept().answer(&parts.method, &path, &query, body);
    (status, [("content-type", "application/json")], answer.to_string()).into_response()
}

impl Kept {
    fn answer(&mut self, method: &Method, path: &str, query: &str, body: Value) -> (StatusCode, Value) {
        if self.refused.iter().any(|(refused, part)| refused == method && path.contains(part)) {
            return failure(StatusCode::FORBIDDEN, "Forbidden", "exceeded quota: small");
        }
        if method != Method::GET {
            self.writes.push(format!("{method} {path}"));
        }
        match *method {
            Method::GET if is_collection(path) => (StatusCode::OK, self.list(path, query)),
            Method::GET => match self.objects.get(path) {
                Some(object) => (StatusCode::OK, object.clone()),
                None => failure(StatusCode::NOT_FOUND, "NotFound", "no such object"),
            },
            Method::POST => self.create(path, body),
            Method::PATCH => self.apply(path, &body),
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not known here"),
        }
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let query = query.replace("%2F", "/").replace("%3D", "=").replace("%2C", ",");
        let selector = query.split('&').find_map(|part| part.strip_prefix("labelSelector=")).unwrap_or_default();
        let wanted: Vec<(&str, &str)> = selector.split(',').filter_map(|label| label.split_once('=')).collect();
        let fits = |object: &Value| wanted.iter().all(|(key, value)| object["metadata"]["labels"][*key] == *value);
        let of_path = |key: &String| key.strip_prefix(path).is_some_and(|rest| rest.matches('/').count() == 1);
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(key, object)| of_path(key) && fits(object))
            .map(|(_, object)| object)
            .collect();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})
    }

    fn create(&mut self, path: &str, mut object: Value) -> (StatusCode, Value) {
        self.version += 1;
        let name = object["metadata"]["name"].as_str().map_or_else(|| self.version.to_string(), str::to_owned);
        let path = format!("{path}/{name}");
        if self.objects.contains_key(&path) {
            return failure(StatusCode::CONFLICT, "AlreadyExists", "there is one");
        }
        object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path, object.clone());
        (StatusCode::CREATED, object)
    }

    fn apply(&mut self, path: &str, wanted: &Value) -> (StatusCode, Value) {
        let path = path.trim_end_matches("/status");
        let before = self.objects.get(path).cloned().unwrap_or_else(|| json!({"metadata": {}}));
        let mut after = before.clone();
        merge(&mut after, wanted);
        if after != before {
            self.version += 1;
            after["metadata"]["resourceVersion"] = json!(self.version.to_string());
        }
        self.objects.insert(path.to_owned(), after.clone());
        (StatusCode::OK, after)
    }
}

/// Entries of a list are told apart by these; other lists are replaced as a whole.
const KEYS: [&str; 3] = ["port", "uid", "type"];

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.iter().for_each(|(key, from)| merge(into.entry(key.clone()).or_insert(Value::Null), from));
        }
        (Value::Array(into), Value::Array(from)) if from.iter().all(|entry| entry_key(entry).is_some()) => {
            for entry in from {
                match into.iter_mut().find(|present| entry_key(present) == entry_key(entry)) {
                    Some(present) => merge(present, entry),
                    None => into.push(entry.clone()),
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn entry_key(entry: &Value) -> Option<&Value> {
    KEYS.iter().find_map(|key| entry.get(key))
}

/// Whether a path names a kind of objects rather than one object.
fn is_collection(path: &str) -> bool {
    let rest: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let rest = if rest.first() == Some(&"api") { &rest[2..] } else { &rest[3..] };
    if rest.first() == Some(&"namespaces") { rest.len() == 3 } else { rest.len() == 1 }
}

fn failure(status: StatusCode, reason: &str, message: &str) -> (StatusCode, Value) {
    let answer = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "code": status.as_u16(), "reason": reason, "message": message,
    });
    (status, answer)
}
