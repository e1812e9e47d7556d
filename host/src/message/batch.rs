//! Several messages in one request, each with a result of its own.

use super::cloudevents::{self, CONTENT_TYPE_OF_EVENT};
use super::draft::{DELAY, Draft, IDEMPOTENCY_KEY, KEY, PRIORITY, TTL};
use super::publish::{Published, Publisher, publish as publish_one, refused};
use crate::response::{ErrorKind, ProxyError, REQUEST_ID};
use crate::worker::{Current, Worker};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Messages of one batch.
const MAX_ITEMS: usize = 10_000;
/// Messages of one batch that are on their way to the broker at a time.
const AT_A_TIME: usize = 256;

/// A message in a batch that is not one of CloudEvents.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    id: Option<String>,
    key: Option<String>,
    priority: Option<u8>,
    ttl: Option<String>,
    delay: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The body as JSON.
    data: Option<Value>,
    /// The body as bytes, in base64 (RFC 4648, section 4).
    data_base64: Option<String>,
    datacontenttype: Option<String>,
}

/// The messages of a batch; each may be wrong in itself.
///
/// # Errors
/// The batch is none.
pub fn drafts(headers: &HeaderMap, body: &[u8]) -> Result<Vec<Result<Draft, ProxyError>>, ProxyError> {
    let items: Vec<Value> = serde_json::from_slice(body)
        .map_err(|error| bad(format!("a batch is a JSON array of messages, and this is not: {error}")))?;
    if items.len() > MAX_ITEMS {
        return Err(bad(format!("a batch has at most {MAX_ITEMS} messages, and this one {}", items.len())));
    }
    let of_events = cloudevents::is_batch(headers);
    // What goes for all: who publishes, and for how long that waits.
    let common: HeaderMap = headers
        .iter()
        .filter(|(name, _)| **name != CONTENT_TYPE && **name != IDEMPOTENCY_KEY)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Ok(items.into_iter().map(|item| if of_events { event(&common, item) } else { message(&common, item) }).collect())
}

fn event(common: &HeaderMap, event: Value) -> Result<Draft, ProxyError> {
    let mut headers = common.clone();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE_OF_EVENT));
    Ok(Draft { headers, body: event.to_string().into() })
}

fn message(common: &HeaderMap, item: Value) -> Result<Draft, ProxyError> {
    let item: Item = serde_json::from_value(item).map_err(|error| bad(error.to_string()))?;
    let mut headers = common.clone();
    let (body, content_type) = match (item.data, item.data_base64) {
        (Some(_), Some(_)) => return Err(bad("it has both \"data\" and \"data_base64\"".into())),
        (Some(data), None) => (data.to_string().into(), "application/json"),
        (None, Some(data)) => {
            let bytes = STANDARD.decode(data).map_err(|error| bad(format!("\"data_base64\": {error}")))?;
            (Bytes::from(bytes), "application/octet-stream")
        }
        (None, None) => (Bytes::new(), "application/octet-stream"),
    };
    let content_type = item.datacontenttype.as_deref().unwrap_or(content_type);
    let own = [
        (CONTENT_TYPE, Some(content_type.to_owned())),
        (IDEMPOTENCY_KEY, item.id),
        (KEY, item.key),
        (PRIORITY, item.priority.map(|priority| priority.to_string())),
        (TTL, item.ttl),
        (DELAY, item.delay),
    ];
    let own = own.into_iter().filter_map(|(name, value)| Some((Ok(name), value?)));
    let given = item
        .headers
        .into_iter()
        .map(|(name, value)| (HeaderName::from_bytes(name.as_bytes()).map_err(|_| name), value));
    for (name, value) in given.chain(own) {
        let name = name.map_err(|name| bad(format!("{name:?} is no name of a field")))?;
        if name == AUTHORIZATION {
            return Err(bad("\"authorization\" is of the request, and not of a message in it".into()));
        }
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| bad(format!("the value of field {:?} has control characters", name.as_str())))?;
        headers.insert(name, value);
    }
    Ok(Draft { headers, body })
}

/// Publishes them, in their order as far as nothing has to be tried again. 200 only if the broker has all of them; else the
/// first that failed gives its status, and every message has its result either way.
pub async fn publish(
    worker: &Worker,
    current: &Current,
    publisher: &Publisher,
    channel: &str,
    drafts: Vec<Result<Draft, ProxyError>>,
) -> Response<Bytes> {
    let one = async |draft: Result<Draft, ProxyError>| match draft {
        Ok(draft) => {
            let Published { response, exchange } = publish_one(worker, current, publisher, channel, draft).await;
            drop(exchange);
            response
        }
        Err(error) => refused(worker, publisher, &error),
    };
    let results: Vec<_> = stream::iter(drafts).map(one).buffered(AT_A_TIME).collect().await;
    let failed = results.iter().find(|response| !response.status().is_success());
    let (status, kind) = match failed {
        None => (StatusCode::OK, None),
        Some(failed) => (failed.status(), failed.headers().get("x-weir-error").cloned()),
    };
    let items: Vec<Value> = results.iter().map(result).collect();
    let mut response = Response::new(Bytes::from(json!({ "results": items }).to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(REQUEST_ID, publisher.caller.id.clone());
    if let Some(kind) = kind {
        headers.insert("x-weir-error", kind);
    }
    response
}

/// What one message's publisher would have been answered.
fn result(response: &Response<Bytes>) -> Value {
    let status = response.status().as_u16();
    let body: Value = serde_json::from_slice(response.body()).unwrap_or_default();
    match response.status().is_success() {
        true => json!({ "status": status, "id": body.get("id") }),
        false => json!({ "status": status, "error": body.get("error"), "message": body.get("message") }),
    }
}

fn bad(message: String) -> ProxyError {
    ProxyError::new(ErrorKind::BadRequest, message)
}
