//! An answer's body before it is passed on: policies may want to see it first.

use super::BodyError;
use crate::service::client::UpstreamBody;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

/// An answer's body, as far as it was read.
pub struct Read {
    pub(super) first: VecDeque<Frame<Bytes>>,
    pub(super) rest: Option<UpstreamBody>,
}

impl From<UpstreamBody> for Read {
    fn from(body: UpstreamBody) -> Self {
        Self { first: VecDeque::new(), rest: Some(body) }
    }
}

impl Read {
    /// A body without anything in it.
    pub fn empty() -> Self {
        Self { first: VecDeque::new(), rest: None }
    }

    /// Reads on to the end, if that comes within `limit` bytes, and tells of each piece.
    pub async fn whole(&mut self, limit: usize, moved: impl Fn()) -> Result<Option<Bytes>, BodyError> {
        let mut length = 0;
        while let Some(rest) = &mut self.rest {
            if length > limit || rest.size_hint().lower() > limit as u64 {
                return Ok(None);
            }
            let frame = poll_fn(|context| Pin::new(&mut *rest).poll_frame(context)).await;
            moved();
            match frame.transpose()? {
                None => self.rest = None,
                Some(frame) => {
                    length += frame.data_ref().map_or(0, Bytes::len);
                    self.first.push_back(frame);
                }
            }
        }
        let chunks: Vec<&[u8]> = self.first.iter().filter_map(Frame::data_ref).map(|chunk| &chunk[..]).collect();
        Ok(Some(chunks.concat().into()))
    }

    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    /// Takes what has come together with the head: a gRPC answer without a message may have its status there.
    pub fn peek(&mut self, context: &mut Context<'_>) -> Result<(), hyper::Error> {
        let Some(rest) = &mut self.rest else { return Ok(()) };
        match Pin::new(rest).poll_frame(context) {
            Poll::Ready(Some(frame)) => self.first.push_back(frame?),
            Poll::Ready(None) => self.rest = None,
            Poll::Pending => {}
        }
        Ok(())
    }

    /// The trailers, where nothing comes before them.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.first.front().and_then(Frame::trailers_ref)
    }

    /// Passes these bytes on instead. Trailers stay.
    pub fn replace(&mut self, body: Bytes) {
        self.first.retain(Frame::is_trailers);
        self.first.push_front(Frame::data(body));
    }
}
