//! Messages over HTTP: what publishers and consumers ask of the node itself.
//!
//! `POST /v1/publish/{channel}`, `POST /v1/publish/{channel}/batch`, `GET /v1/subscriptions/{name}/next`,
//! `POST /v1/deliveries/{id}/ack` and `…/nack`, and the gRPC services (`message/grpc.rs`), on every listener. A host that
//! some route names is that route's, whatever the path: `/v1/publish` of a service stays within reach.

use super::batch;
use super::deliver::Pulled;
use super::draft::Draft;
use super::publish::{Published, Publisher, publish, refused};
use crate::call::body::{CallerBody, ResponseBody};
use crate::call::request::{Target, duration};
use crate::listener::{Connection, Terms};
use crate::node::Node;
use crate::response::{self, Caller, ErrorKind, ProxyError, REQUEST_ID};
use crate::snapshot::Snapshot;
use crate::telemetry::metrics::Metrics;
use crate::worker::{Current, Worker};
use bytes::Bytes;
use http::header::{ALLOW, HeaderName};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// The id by which a consumer names a delivery that it has come for.
pub const DELIVERY_ID: HeaderName = HeaderName::from_static("x-weir-delivery-id");
/// Bytes of a whole batch.
const MAX_BATCH: usize = 32 * 1024 * 1024;
/// The longest that a consumer may wait for a message.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What a request asks of the node itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// To a channel.
    Publish(String),
    Batch(String),
    /// Of a subscription.
    Next(String),
    /// Of a delivery, by its id: whether it is done.
    Settle(String, bool),
    /// The path of a gRPC method.
    Grpc,
}

/// Whether a request is for the node itself, and what for. Cheap for the many that are not.
pub fn asked(snapshot: &Snapshot, parts: &Parts) -> Option<Asked> {
    let path = parts.uri.path();
    if snapshot.messages.is_empty() {
        return None;
    }
    let asked = match path.strip_prefix("/v1/") {
        Some(path) => by_path(snapshot, path)?,
        None if super::grpc::serves(path) => Asked::Grpc,
        None => return None,
    };
    let host = Target::of(parts).ok()?;
    (!snapshot.routes_host(host.host())).then_some(asked)
}

fn by_path(snapshot: &Snapshot, path: &str) -> Option<Asked> {
    let name = |text: &str| percent_decode_str(text).decode_utf8().ok().map(|name| name.into_owned());
    let (what, rest) = path.split_once('/')?;
    match what {
        "publish" => {
            let channel = name(rest)?;
            match channel.strip_suffix("/batch") {
                Some(batch) if !snapshot.messages.channels.contains_key(&channel) => Some(Asked::Batch(batch.into())),
                _ => Some(Asked::Publish(channel)),
            }
        }
        "subscriptions" => Some(Asked::Next(name(rest.strip_suffix("/next")?)?)),
        "deliveries" => match rest.rsplit_once('/')? {
            (id, "ack") => Some(Asked::Settle(name(id)?, true)),
            (id, "nack") => Some(Asked::Settle(name(id)?, false)),
            _ => None,
        },
        _ => None,
    }
}

/// Who asks, and with what.
pub struct Request<'a> {
    pub worker: &'a Rc<Worker>,
    pub current: &'a Rc<Current>,
    pub connection: &'a Connection,
    pub terms: &'a Terms,
    pub caller: Caller,
}

impl Request<'_> {
    /// Answers. Never fails: what goes wrong is an answer too.
    pub async fn answer(self, asked: Asked, parts: Parts, body: CallerBody) -> Response<ResponseBody> {
        let wanted = if matches!(asked, Asked::Next(_)) { Method::GET } else { Method::POST };
        if parts.method != wanted {
            return self.method_not_allowed(&wanted);
        }
        match asked {
            Asked::Publish(channel) => {
                let publisher = self.publisher(&parts);
                let answer = self.publish(&channel, &publisher, parts, body).await;
                answer.unwrap_or_else(|error| refused(self.worker, &publisher, &error).map(own))
            }
            Asked::Batch(channel) => {
                let publisher = self.publisher(&parts);
                let answer = self.batch(&channel, &publisher, &parts, body).await;
                answer.unwrap_or_else(|error| refused(self.worker, &publisher, &error).map(own))
            }
            Asked::Next(subscription) => {
                self.next(&subscription, &parts).await.unwrap_or_else(|error| self.refuse(&error))
            }
            Asked::Settle(id, done) => self.settle(&id, done, &parts).await.unwrap_or_else(|error| self.refuse(&error)),
            Asked::Grpc => super::grpc::answer(&self, parts, body).await,
        }
    }

    async fn publish(
        &self,
        channel: &str,
        publisher: &Publisher,
        parts: Parts,
        body: CallerBody,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let limit = self.limit(channel)?;
        let body = self
            .read(body, limit, || format!("channel {channel:?}: more than the {limit} bytes of max-message"))
            .await?;
        let draft = Draft { headers: parts.headers, body };
        Ok(respond(publish(self.worker, self.current, publisher, channel, draft).await))
    }

    async fn batch(
        &self,
        channel: &str,
        publisher: &Publisher,
        parts: &Parts,
        body: CallerBody,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        self.limit(channel)?;
        let body = self.read(body, MAX_BATCH, || format!("a batch has at most {MAX_BATCH} bytes")).await?;
        let drafts = batch::drafts(&parts.headers, &body)?;
        let answer = batch::publish(self.worker, self.current, publisher, channel, drafts).await;
        Ok(answer.map(own))
    }

    /// Bytes of a body for the channel, if there is one by that name.
    fn limit(&self, channel: &str) -> Result<usize, ProxyError> {
        let channels = &self.current.snapshot.messages.channels;
        let found = channels.get(channel).map(|channel| channel.max_message);
        found.ok_or_else(|| ProxyError::new(ErrorKind::NoChannel, format!("there is no channel {channel:?}")))
    }

    async fn read(&self, body: CallerBody, limit: usize, too_large: impl Fn() -> String) -> Result<Bytes, ProxyError> {
        let patience = self.current.snapshot.config.limits.stream_idle_timeout.unwrap_or(Duration::from_secs(60));
        let body = timeout(patience, Limited::new(body, limit).collect()).await.map_err(|_| {
            ProxyError::new(ErrorKind::RequestTimeout, "the request's body did not come to its end in time")
        })?;
        match body {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(ProxyError::new(ErrorKind::TooLarge, too_large())),
            Err(error) => Err(ProxyError::new(
                ErrorKind::BadRequest,
                format!("the request's body did not come to its end: {error}"),
            )),
        }
    }

    pub fn publisher(&self, parts: &Parts) -> Publisher {
        Publisher {
            caller: self.caller.clone(),
            listener: self.connection.listener.sockets.name.clone(),
            identity: self.terms.listener.identity.clone(),
            client: self.connection.client.clone(),
            peer: self.connection.peer.to_string(),
            authority: Target::of(parts).map_or_else(|_| String::new(), |target| target.authority().to_owned()),
        }
    }

    /// Waits for a message, for as long as the consumer says.
    async fn next(&self, subscription: &str, parts: &Parts) -> Result<Response<ResponseBody>, ProxyError> {
        let wait = wait(parts)?;
        let pulled = pull(&self.worker.node, subscription, wait).await?;
        let Some(Pulled { headers, body, settle }) = pulled else {
            return Ok(self.own(StatusCode::NO_CONTENT));
        };
        let id = self.worker.node.desk.hand_out(settle);
        let mut response = Response::new(ResponseBody::own(body, None));
        *response.headers_mut() = headers;
        response.headers_mut().insert(REQUEST_ID, self.caller.id.clone());
        if let Ok(id) = HeaderValue::try_from(id) {
            response.headers_mut().insert(DELIVERY_ID, id);
        }
        Ok(response)
    }

    async fn settle(&self, id: &str, done: bool, parts: &Parts) -> Result<Response<ResponseBody>, ProxyError> {
        const DELAY: HeaderName = HeaderName::from_static("x-weir-delay");
        let after = duration(&parts.headers, &DELAY)?;
        settle(&self.worker.node, id, done, after).await?;
        Ok(self.own(StatusCode::NO_CONTENT))
    }

    fn own(&self, status: StatusCode) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::Empty);
        *response.status_mut() = status;
        response.headers_mut().insert(REQUEST_ID, self.caller.id.clone());
        response
    }

    pub fn refuse(&self, error: &ProxyError) -> Response<ResponseBody> {
        self.metrics().error(error.kind.as_str());
        response::respond(error, &self.caller).map(own)
    }

    fn method_not_allowed(&self, wanted: &Method) -> Response<ResponseBody> {
        let error = ProxyError::new(ErrorKind::MethodNotAllowed, format!("this is asked for with {wanted}"));
        let mut response = self.refuse(&error);
        if let Ok(wanted) = HeaderValue::from_str(wanted.as_str()) {
            response.headers_mut().insert(ALLOW, wanted);
        }
        response
    }

    fn metrics(&self) -> &Metrics {
        &self.worker.node.telemetry.metrics
    }
}

/// Waits for the next message of a subscription. `None`: there was none in time.
pub async fn pull(node: &Node, subscription: &str, wait: Duration) -> Result<Option<Pulled>, ProxyError> {
    /// For a subscription that the configuration has, and that does not work yet.
    const BEGINNING: Duration = Duration::from_secs(1);
    let way = timeout(BEGINNING.max(wait), async {
        loop {
            match node.desk.way(subscription) {
                None if is_pulled(node, subscription) => tokio::time::sleep(Duration::from_millis(5)).await,
                way => return way,
            }
        }
    });
    let Some(way) = way.await.ok().flatten() else {
        let message = format!("there is no subscription {subscription:?} without a service, whose messages can be had");
        return Err(ProxyError::new(ErrorKind::NoSubscription, message));
    };
    let (puller, pulled) = oneshot::channel();
    if way.try_send(puller).is_err() {
        let message = format!("subscription {subscription:?}: too many consumers wait, or it is being stopped");
        return Err(ProxyError::new(ErrorKind::Overload, message));
    }
    Ok(timeout(wait, pulled).await.ok().and_then(Result::ok))
}

/// Whether the configuration has such a subscription, without a service.
pub fn is_pulled(node: &Node, subscription: &str) -> bool {
    node.snapshot().messages.subscriptions.get(subscription).is_some_and(|known| known.is_pulled())
}

/// Tells what became of a delivery, and waits until the broker knows.
pub async fn settle(node: &Node, id: &str, done: bool, after: Option<Duration>) -> Result<(), ProxyError> {
    // What a service answers that cannot do it now.
    let status = if done { 200 } else { 503 };
    match node.desk.settle(id, status, after).await {
        true => Ok(()),
        false => {
            let message =
                format!("delivery {id:?} is settled already, or its time has passed: the message comes again");
            Err(ProxyError::new(ErrorKind::NoDelivery, message))
        }
    }
}

/// How long a consumer waits: `?wait=10s`; not at all if it does not say.
fn wait(parts: &Parts) -> Result<Duration, ProxyError> {
    let query = parts.uri.query().unwrap_or_default();
    let given = query.split('&').find_map(|pair| pair.strip_prefix("wait="));
    let Some(given) = given else { return Ok(Duration::ZERO) };
    let bad = || {
        let most = MAX_WAIT.as_secs();
        ProxyError::new(ErrorKind::BadRequest, format!("wait={given} is no duration up to {most}s, such as \"10s\""))
    };
    let parsed = crate::call::request::parse_duration(given).filter(|wait| *wait <= MAX_WAIT);
    parsed.ok_or_else(bad)
}

fn own(body: Bytes) -> ResponseBody {
    ResponseBody::own(body, None)
}

fn respond(published: Published) -> Response<ResponseBody> {
    let Published { response, exchange } = published;
    response.map(|body| ResponseBody::own(body, exchange))
}
