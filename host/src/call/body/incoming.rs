//! A caller's body as the walk gets it.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Bytes that are read ahead, about.
const AHEAD: usize = 16 * 1024;

/// A caller's body, of which something may have been read already.
pub struct CallerBody {
    first: VecDeque<Result<Frame<Bytes>, hyper::Error>>,
    /// Absent once it was read to its end.
    rest: Option<Incoming>,
    /// Of the whole.
    size: SizeHint,
}

impl From<Incoming> for CallerBody {
    fn from(incoming: Incoming) -> Self {
        let size = incoming.size_hint();
        Self { first: VecDeque::new(), rest: Some(incoming), size }
    }
}

impl From<Bytes> for CallerBody {
    /// A body that nobody sends any more: it is there.
    fn from(whole: Bytes) -> Self {
        let size = SizeHint::with_exact(whole.len() as u64);
        let first = Some(whole).filter(|whole| !whole.is_empty()).map(|whole| Ok(Frame::data(whole)));
        Self { first: first.into_iter().collect(), rest: None, size }
    }
}

impl CallerBody {
    /// Takes what has come. What is left after it belongs to the caller's connection: over HTTP/2 each look at it takes a
    /// lock, which the worker that writes the frames holds meanwhile.
    pub fn read_ahead(&mut self, context: &mut Context<'_>) {
        let mut length = 0;
        while let Some(rest) = &mut self.rest
            && length < AHEAD
        {
            let next = if rest.is_end_stream() { Poll::Ready(None) } else { Pin::new(rest).poll_frame(context) };
            match next {
                Poll::Pending => return,
                Poll::Ready(None) => self.rest = None,
                Poll::Ready(Some(piece)) => {
                    length += piece.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
                    // After trailers, or an error, there is nothing.
                    if !piece.as_ref().is_ok_and(Frame::is_data) {
                        self.rest = None;
                    }
                    self.first.push_back(piece);
                }
            }
        }
    }
}

impl Body for CallerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        match (this.first.pop_front(), &mut this.rest) {
            (Some(piece), _) => Poll::Ready(Some(piece)),
            (None, Some(rest)) => Pin::new(rest).poll_frame(context),
            (None, None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    /// Of the whole body: it is asked for before the first frame.
    fn size_hint(&self) -> SizeHint {
        self.size
    }
}
