//! Bodies on their way: the caller's, kept for another attempt as far as the limit goes, and the answer's, which carries
//! its exchange to the end.

mod incoming;
mod read;
mod relay;
mod upload;

use super::progress::Late;
use crate::exchange::Exchange;
use crate::leash::Owed;
use crate::outcome::FailureKind;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use humantime::format_duration;
pub use incoming::CallerBody;
pub use read::Read;
pub use relay::Relay;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use thiserror::Error;
pub use upload::{RequestBody, Upload};

/// Why a body broke off.
#[derive(Debug, Error)]
pub enum BodyError {
    #[error("the deadline passed")]
    Deadline,
    #[error("nothing moved for {}, as long as stream-idle-timeout allows", format_duration(*.0))]
    Idle(Duration),
    #[error("another attempt has taken over the body")]
    Superseded,
    #[error(transparent)]
    Peer(#[from] hyper::Error),
    /// The node's own gRPC services end a stream with trailers, and never so.
    #[error(transparent)]
    Service(#[from] tonic::Status),
}

impl From<Late> for BodyError {
    fn from(late: Late) -> Self {
        match late {
            Late::Deadline => Self::Deadline,
            Late::Idle(limit) => Self::Idle(limit),
        }
    }
}

impl BodyError {
    /// What has failed, where this is what ends an answer's body.
    pub fn of_answer(&self) -> FailureKind {
        match self {
            Self::Deadline | Self::Idle(_) => FailureKind::Timeout,
            Self::Superseded | Self::Peer(_) | Self::Service(_) => FailureKind::Reset,
        }
    }
}

/// The body of what the caller is answered.
pub enum ResponseBody {
    /// The proxy's or a policy's own answer. The exchange ends when it has been written, or dropped.
    Own(Option<Bytes>, Option<Box<Exchange>>, Owed),
    Relay(Box<Relay>),
    /// What the node's own gRPC services answer.
    Stream(Pin<Box<tonic::body::Body>>),
    Empty,
}

impl ResponseBody {
    /// An own answer, of which the caller is to take the body without delay.
    pub fn own(body: Bytes, exchange: Option<Box<Exchange>>) -> Self {
        let owed = Owed::here();
        owed.given(None);
        Self::Own(Some(body), exchange, owed)
    }

    pub fn stream(body: tonic::body::Body) -> Self {
        Self::Stream(Box::pin(body))
    }

    /// By when the caller has to take what it is given.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Relay(relay) => relay.deadline(),
            Self::Own(..) | Self::Stream(_) | Self::Empty => None,
        }
    }

    /// Says how the caller's stream has ended, where that is known on another worker alone.
    pub fn left(&mut self, is_whole: bool, is_late: bool) {
        if let Self::Relay(relay) = self {
            relay.left(is_whole, is_late);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(bytes, exchange, _) => {
                let frame = bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes)));
                if frame.is_none() {
                    exchange.take();
                }
                Poll::Ready(frame)
            }
            Self::Relay(relay) => relay.poll(context),
            Self::Stream(body) => body.as_mut().poll_frame(context).map_err(BodyError::from),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes, ..) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Relay(relay) => relay.is_over(),
            Self::Stream(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes, ..) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Relay(relay) => relay.size_hint(),
            Self::Stream(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}
