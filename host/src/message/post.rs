//! A message as the POST that a consumer gets.

use super::{Sent, Walk};
use crate::broker::Message;
use crate::broker::message::millis;
use crate::call::body::{CallerBody, Read, RequestBody, Upload};
use crate::call::forward::{Hop, to_upstream};
use crate::call::read_on;
use crate::call::request::Target;
use crate::outcome::FailureKind;
use crate::response::REQUEST_ID;
use crate::service::Service;
use crate::service::client::SendFailure;
use crate::service::endpoint::Endpoint;
use crate::snapshot::messages::Subscription;
use bytes::Bytes;
use http::header::{HOST, HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request};
use std::time::Duration;

impl Walk<'_> {
    pub(super) fn request(
        &self,
        subscription: &Subscription,
        service: &Service,
        endpoint: &Endpoint,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<RequestBody>, String> {
        let mut parts = Request::new(()).into_parts().0;
        parts.method = Method::POST;
        parts.uri = subscription.path().parse().map_err(|error| format!("the path cannot be sent: {error}"))?;
        parts.headers = headers;
        parts.headers.insert(HOST, HeaderValue::from_str(&service.name).map_err(|error| error.to_string())?);
        let target = Target::of(&parts).map_err(|error| error.message)?;
        let protocol = service.options.load().protocol;
        let left = Some(subscription.config.timeout);
        let hop = Hop { protocol, address: &endpoint.address, target: &target, strip_prefix: None, left };
        let upload = Upload::new(CallerBody::from(body), Some(0), None);
        Ok(Request::from_parts(to_upstream(parts, &hop), upload.attempt(protocol)))
    }

    /// Posts a message to a consumer.
    pub(super) async fn post(
        &self,
        service: &Service,
        endpoint: &Endpoint,
        request: Result<Request<RequestBody>, String>,
    ) -> Sent {
        let request = match request {
            Ok(request) => request,
            Err(why) => return Sent::failed(FailureKind::Protocol, why),
        };
        let options = **service.options.load();
        match self.worker.clients.send(&service.name, endpoint, &options, request).await {
            Ok(response) => {
                let (parts, rest) = response.into_parts();
                read_on(Read::from(rest));
                let message = format!("{} answered {}", endpoint.address, parts.status.as_u16());
                Sent { status: parts.status.as_u16(), failure: None, headers: parts.headers, message }
            }
            Err(error) => {
                let failure = match error.failure {
                    SendFailure::Connect | SendFailure::ConnectTimeout => FailureKind::Connect,
                    SendFailure::Reset | SendFailure::Upload => FailureKind::Reset,
                    SendFailure::Protocol => FailureKind::Protocol,
                    SendFailure::Overload => FailureKind::Overload,
                };
                Sent::failed(failure, error.message)
            }
        }
    }
}

/// How long a consumer wants to be left alone (RFC 9110, section 10.2.3), where it says so in seconds.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The fields that a consumer gets: the message's, and what the node knows of it.
pub fn headers(message: &Message, subscription: &Subscription, attempt: u32, id: HeaderValue) -> HeaderMap {
    const ID: HeaderName = HeaderName::from_static("x-weir-message-id");
    const KEY: HeaderName = HeaderName::from_static("x-weir-key");
    const CHANNEL: HeaderName = HeaderName::from_static("x-weir-channel");
    const SUBSCRIPTION: HeaderName = HeaderName::from_static("x-weir-subscription");
    const ATTEMPT: HeaderName = HeaderName::from_static("x-weir-attempt");
    const PUBLISHED: HeaderName = HeaderName::from_static("x-weir-published");
    let mut headers = message.headers.clone();
    // What others have published may have any fields.
    for framing in ["connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect"] {
        headers.remove(framing);
    }
    let mut set = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.insert(name, value);
        }
    };
    set(ID, &message.id);
    message.key.iter().for_each(|key| set(KEY, key));
    set(CHANNEL, &subscription.channel.name);
    set(SUBSCRIPTION, &subscription.name);
    set(ATTEMPT, &attempt.to_string());
    set(PUBLISHED, &millis(message.published).to_string());
    headers.insert(REQUEST_ID, id);
    headers
}
