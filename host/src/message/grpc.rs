//! Messages over gRPC (`proto/weir/v1/messages.proto`), with the standard services for health and reflection.

#[allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
pub mod proto {
    tonic::include_proto!("weir.v1");
}

use super::deliver::Pulled;
use super::draft::{DELAY, Draft, IDEMPOTENCY_KEY, KEY, PRIORITY, TTL};
use super::http::{Request as Asked, is_pulled, pull, settle};
use super::publish::{Published, Publisher, publish, refused};
use crate::call::body::{CallerBody, ResponseBody};
use crate::node::Node;
use crate::response::{ErrorKind, ProxyError};
use crate::worker::Worker;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message as _;
use proto::messages_server::{Messages, MessagesServer};
use proto::{
    Delivery, PublishManyResponse, PublishRequest, PublishResponse, PublishResult, PullRequest, SettleRequest,
    SettleResponse,
};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tonic::codegen::Service;
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic::{Code, Status, Streaming};

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
const MESSAGES: &str = "/weir.v1.Messages/";
/// Beside it: health (its own protocol), and reflection in both versions that clients use.
const STANDARD: [&str; 3] =
    ["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];
/// Messages of one call of `PublishMany`, and those of them that are on their way to the broker at a time.
const MAX_ITEMS: usize = 10_000;
const AT_A_TIME: usize = 256;
/// How long a stream of messages waits before it looks whether its subscription is still there.
const LOOK: Duration = Duration::from_secs(30);

/// Whether a path is a method of one of the services.
pub fn serves(path: &str) -> bool {
    path.starts_with(MESSAGES) || STANDARD.iter().any(|service| path.starts_with(service))
}

/// Answers a gRPC call.
pub async fn answer(asked: &Asked<'_>, parts: Parts, body: CallerBody) -> Response<ResponseBody> {
    let is_messages = parts.uri.path().starts_with(MESSAGES);
    let publisher = Publisher { caller: asked.caller.over_http(), ..asked.publisher(&parts) };
    let request = Request::from_parts(parts, body);
    let answered: Result<_, Infallible> = match is_messages {
        true => {
            let largest = asked.current.snapshot.messages.channels.values().map(|channel| channel.max_message).max();
            let node = asked.worker.node.clone();
            MessagesServer::new(Server { node, publisher })
                // Beside the body a message has fields.
                .max_decoding_message_size(largest.unwrap_or(0).saturating_add(256 * 1024))
                .call(request)
                .await
        }
        false => standard().call(request.map(tonic::body::Body::new)).await,
    };
    match answered {
        Ok(response) => response.map(ResponseBody::stream),
        Err(never) => match never {},
    }
}

/// The standard services, which are made once.
fn standard() -> Routes {
    static STANDARD: OnceLock<Routes> = OnceLock::new();
    let make = || {
        let (_, health) = tonic_health::server::health_reporter();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let mut routes = Routes::new(health);
        if let (Ok(v1), Ok(v1alpha)) = (reflection().build_v1(), reflection().build_v1alpha()) {
            routes = routes.add_service(v1).add_service(v1alpha);
        }
        routes
    };
    STANDARD.get_or_init(make).clone()
}

/// The service as one caller has it.
struct Server {
    node: Arc<Node>,
    publisher: Publisher,
}

/// What became of a publish.
struct Answered {
    status: Status,
    result: PublishResult,
}

impl Server {
    /// Publishes on one of the workers, where the policies are.
    async fn publish(&self, metadata: &HeaderMap, request: PublishRequest) -> Answered {
        let draft = draft(metadata, &request);
        let channel = request.channel;
        let publisher = self.publisher.clone();
        let errand = async move |worker: Rc<Worker>| match draft {
            Ok(draft) => {
                let Published { response, exchange } =
                    publish(&worker, &worker.current(), &publisher, &channel, draft).await;
                drop(exchange);
                response
            }
            Err(error) => refused(&worker, &publisher, &error),
        };
        match self.node.errands.run(errand).await {
            Some(response) => Answered::of(&response),
            None => {
                let error = ProxyError::new(ErrorKind::Draining, "the node is being stopped");
                Answered::of(&crate::response::respond(&error, &self.publisher.caller))
            }
        }
    }
}

impl Answered {
    fn of(response: &Response<Bytes>) -> Self {
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap_or_default();
        let text = |name: &str| body.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        if response.status().is_success() {
            let result = PublishResult { id: text("id"), ..PublishResult::default() };
            return Self { status: Status::ok(""), result };
        }
        let result = PublishResult { id: String::new(), error: text("error"), message: text("message") };
        let code = crate::response::grpc_status_for(response.status());
        let code = i32::try_from(code).map_or(Code::Unknown, Code::from_i32);
        let mut status = Status::new(code, result.message.clone());
        if let Ok(kind) = result.error.parse() {
            status.metadata_mut().insert("x-weir-error", kind);
        }
        Self { status, result }
    }
}

/// The draft that the same message would be over HTTP. The call's metadata are the request's fields.
fn draft(metadata: &HeaderMap, request: &PublishRequest) -> Result<Draft, ProxyError> {
    let bad = |message: String| ProxyError::new(ErrorKind::BadRequest, message);
    let mut headers = metadata.clone();
    headers.remove(CONTENT_TYPE);
    let millis = |millis: u64| (millis > 0).then(|| format!("{millis}ms"));
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let own = [
        (CONTENT_TYPE, given(&request.content_type)),
        (IDEMPOTENCY_KEY, given(&request.id)),
        (KEY, given(&request.key)),
        (PRIORITY, (request.priority > 0).then(|| request.priority.to_string())),
        (TTL, millis(request.ttl_ms)),
        (DELAY, millis(request.delay_ms)),
    ];
    let own = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let fields = request.headers.iter().map(|(name, value)| {
        let name = HeaderName::from_lowercase(name.as_bytes()).ok().filter(|name| *name != AUTHORIZATION);
        (name.ok_or_else(|| bad("a field of the message has a name that it cannot have".into())), value.clone())
    });
    for (name, value) in fields.chain(own.map(|(name, value)| (Ok(name), value))) {
        let name = name?;
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| bad(format!("the value of field {:?} has control characters", name.as_str())))?;
        headers.insert(name, value);
    }
    Ok(Draft { headers, body: request.body.clone().into() })
}

#[tonic::async_trait]
impl Messages for Server {
    async fn publish(
        &self,
        request: tonic::Request<PublishRequest>,
    ) -> Result<tonic::Response<PublishResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let Answered { status, result } = self.publish(&metadata.into_headers(), request).await;
        match status.code() {
            Code::Ok => Ok(tonic::Response::new(PublishResponse { id: result.id })),
            _ => Err(status),
        }
    }

    async fn publish_many(
        &self,
        request: tonic::Request<Streaming<PublishRequest>>,
    ) -> Result<tonic::Response<PublishManyResponse>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let metadata = metadata.into_headers();
        let publish = async |request: Result<PublishRequest, Status>| Ok(self.publish(&metadata, request?).await);
        // One more than is allowed, so that it is seen.
        let results: Vec<Result<Answered, Status>> =
            requests.take(MAX_ITEMS + 1).map(publish).buffered(AT_A_TIME).collect().await;
        let results: Vec<Answered> = results.into_iter().collect::<Result<_, _>>()?;
        if results.len() > MAX_ITEMS {
            return Err(Status::out_of_range(format!("more than {MAX_ITEMS} messages in one call: begin another one")));
        }
        let failed = results.iter().find(|result| result.status.code() != Code::Ok).map(|result| result.status.clone());
        let response = PublishManyResponse { results: results.into_iter().map(|result| result.result).collect() };
        let Some(mut status) = failed else { return Ok(tonic::Response::new(response)) };
        let results = MetadataValue::from_bytes(&response.encode_to_vec());
        status.metadata_mut().insert_bin("weir-results-bin", results);
        Err(status)
    }

    type PullStream = Pin<Box<dyn Stream<Item = Result<Delivery, Status>> + Send>>;

    async fn pull(&self, request: tonic::Request<PullRequest>) -> Result<tonic::Response<Self::PullStream>, Status> {
        let subscription = request.into_inner().subscription;
        if !is_pulled(&self.node, &subscription) {
            return Err(Status::not_found(format!("there is no subscription {subscription:?} without a service")));
        }
        let node = self.node.clone();
        let deliveries = stream::unfold((node, subscription), async |(node, subscription)| {
            loop {
                match pull(&node, &subscription, LOOK).await {
                    Ok(None) => {}
                    Ok(Some(pulled)) => {
                        let delivery = delivery(&node, pulled);
                        return Some((Ok(delivery), (node, subscription)));
                    }
                    Err(error) => return Some((Err(Status::unavailable(error.message)), (node, subscription))),
                }
            }
        });
        Ok(tonic::Response::new(Box::pin(deliveries)))
    }

    async fn settle(&self, request: tonic::Request<SettleRequest>) -> Result<tonic::Response<SettleResponse>, Status> {
        let SettleRequest { delivery_id, done, retry_after_seconds } = request.into_inner();
        let after = (retry_after_seconds > 0).then(|| Duration::from_secs(retry_after_seconds.into()));
        let settled = settle(&self.node, &delivery_id, done, after).await;
        settled.map_err(|error| Status::not_found(error.message))?;
        Ok(tonic::Response::new(SettleResponse {}))
    }
}

fn delivery(node: &Node, pulled: Pulled) -> Delivery {
    let Pulled { mut headers, body, settle } = pulled;
    let mut take = |name: &str| {
        let value = headers.remove(name);
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
    };
    let (message_id, channel, key) = (take("x-weir-message-id"), take("x-weir-channel"), take("x-weir-key"));
    let (attempt, content_type) = (take("x-weir-attempt").parse().unwrap_or(0), take("content-type"));
    take("content-length");
    let field = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let fields = headers.iter().map(field).collect();
    let delivery_id = node.desk.hand_out(settle);
    Delivery { delivery_id, message_id, channel, key, attempt, content_type, headers: fields, body: body.to_vec() }
}
