//! The body of an answer, which gives its connection back at the end.

use super::http2::Stream;
use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// The body of an endpoint's answer. Its connection, or stream, is free again when the body has been read; dropping it
/// before closes the connection, or resets the stream.
pub struct UpstreamBody {
    incoming: Incoming,
    hold: Option<Hold>,
}

/// What is in use until the body ends.
pub(super) enum Hold {
    Http1(Rc<dyn Recycle>),
    Http2(Stream),
}

/// A connection that can serve another exchange.
pub(super) trait Recycle {
    fn recycle(self: Rc<Self>);
}

impl Hold {
    /// The body has been read to its end.
    fn release(self) {
        match self {
            Self::Http1(connection) => connection.recycle(),
            Self::Http2(stream) => drop(stream),
        }
    }
}

impl UpstreamBody {
    /// Puts the hold into the body of an answer that needs it.
    pub(super) fn wrap(response: Response<Incoming>, hold: Hold) -> Response<Self> {
        response.map(|incoming| {
            let mut body = Self { incoming, hold: Some(hold) };
            body.release_at_end();
            body
        })
    }

    /// An answer that needs nothing any more.
    pub(super) fn free(response: Response<Incoming>) -> Response<Self> {
        response.map(|incoming| Self { incoming, hold: None })
    }

    fn release_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(hold) = self.hold.take() {
            hold.release();
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.incoming).poll_frame(context));
        match &frame {
            None => this.release(),
            // Nobody asks for more after the trailers, or once the length that was announced is there.
            Some(Ok(frame)) if frame.is_trailers() => this.release(),
            Some(Ok(_)) => this.release_at_end(),
            Some(Err(_)) => this.hold = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
