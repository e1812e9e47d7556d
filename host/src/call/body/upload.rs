//! The caller's body, on its way to one endpoint or to several in turn.

use super::super::progress::Progress;
use super::{BodyError, CallerBody};
use crate::config::Protocol;
use crate::leash::Owed;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// The caller's body, shared by the attempts that send it, for as long as the exchange lasts.
#[derive(Clone)]
pub struct Upload(Rc<Lent>);

/// The body, of which the attempts have a share as well: dropped with the exchange.
struct Lent(Rc<Shared>);

struct Shared {
    source: RefCell<Source>,
    progress: Progress,
}

struct Source {
    incoming: CallerBody,
    size: SizeHint,
    /// What was read so far, while it is within the limit.
    kept: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// Bytes that may still be kept; `None` once there were more, or if nothing needs to be kept.
    room: Option<usize>,
    ended: bool,
    /// The caller was asked for more, and there is nothing yet.
    waiting: bool,
    bytes: u64,
    /// The attempt that reads now. An earlier one may linger in its connection's task.
    reader: u32,
    /// What that attempt's endpoint is still to take.
    owed: Weak<Owed>,
    /// The exchange has ended.
    over: bool,
}

impl Source {
    /// An endpoint that has answered, or that nobody waits for any more, has little time to take what is left: it might
    /// keep the connection, and the caller's, by reading nothing.
    fn let_go(&self) {
        if let Some(owed) = self.owed.upgrade() {
            owed.last();
        }
    }

    fn lend(&mut self, owed: &Rc<Owed>, reader: u32) {
        if self.over || self.reader != reader {
            owed.last();
        } else {
            self.owed = Rc::downgrade(owed);
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut source = self.0.source.borrow_mut();
        source.over = true;
        source.let_go();
    }
}

impl Upload {
    /// Keeps up to `keep` bytes for another attempt. `idle` is how long nothing may move in the exchange.
    pub fn new(incoming: CallerBody, keep: Option<usize>, idle: Option<Duration>) -> Self {
        let (size, ended) = (incoming.size_hint(), incoming.is_end_stream());
        let source = Source {
            incoming,
            size,
            kept: Vec::new(),
            trailers: None,
            room: keep,
            ended,
            waiting: false,
            bytes: 0,
            reader: 0,
            owed: Weak::new(),
            over: false,
        };
        let shared = Shared { source: RefCell::new(source), progress: Progress::new(idle) };
        Self(Rc::new(Lent(Rc::new(shared))))
    }

    fn source(&self) -> &RefCell<Source> {
        &self.0.0.source
    }

    /// Of the whole exchange, to which what becomes of the answer adds.
    pub fn progress(&self) -> &Progress {
        &self.0.0.progress
    }

    /// Whether it is the caller that is waited for.
    pub fn is_awaited(&self) -> bool {
        self.source().borrow().waiting
    }

    /// Whether the body could be sent from its beginning once more.
    pub fn is_replayable(&self) -> bool {
        let source = self.source().borrow();
        source.room.is_some() || source.bytes == 0
    }

    pub fn is_empty(&self) -> bool {
        let source = self.source().borrow();
        source.ended && source.kept.is_empty()
    }

    /// Bytes read from the caller.
    pub fn bytes(&self) -> u64 {
        self.source().borrow().bytes
    }

    /// Reads the body to its end, if that comes within `limit` bytes. What was read is there for the attempts either way.
    pub async fn whole(&self, limit: usize) -> Result<Option<Bytes>, BodyError> {
        let mut length = 0;
        loop {
            if self.source().borrow().ended {
                let mut source = self.source().borrow_mut();
                source.room = source.room.or(Some(0));
                return Ok(Some(source.kept.concat().into()));
            }
            if length > limit || self.source().borrow().size.lower() > limit as u64 {
                return Ok(None);
            }
            let frame = poll_fn(|context| Pin::new(&mut self.source().borrow_mut().incoming).poll_frame(context)).await;
            self.progress().moved();
            let mut source = self.source().borrow_mut();
            match frame.transpose()? {
                None => source.ended = true,
                Some(frame) => {
                    if let Some(chunk) = frame.data_ref() {
                        length += chunk.len();
                        source.bytes += chunk.len() as u64;
                        source.room = source.room.and_then(|room| room.checked_sub(chunk.len()));
                        source.kept.push(chunk.clone());
                    } else if let Some(trailers) = frame.trailers_ref() {
                        source.trailers = Some(trailers.clone());
                        source.ended = true;
                    }
                }
            }
        }
    }

    /// Sends these bytes instead.
    pub fn replace(&self, body: Bytes) {
        let mut source = self.source().borrow_mut();
        source.size = SizeHint::with_exact(body.len() as u64);
        source.kept = vec![body];
        (source.ended, source.room) = (true, Some(0));
    }

    /// The body for the next attempt, from its beginning.
    pub fn attempt(&self, protocol: Protocol) -> RequestBody {
        let mut source = self.source().borrow_mut();
        source.let_go();
        (source.reader, source.waiting) = (source.reader + 1, false);
        self.progress().moved();
        RequestBody {
            shared: self.0.0.clone(),
            reader: source.reader,
            position: 0,
            trailers_sent: false,
            taking: match protocol {
                Protocol::Http1 => Taking::Watched { _owed: None },
                Protocol::Http2 => Taking::Unasked,
            },
        }
    }
}

/// The caller's body as one attempt sends it.
pub struct RequestBody {
    shared: Rc<Shared>,
    reader: u32,
    position: usize,
    trailers_sent: bool,
    taking: Taking,
}

/// Who looks after an endpoint that does not take the body. An HTTP/1 connection is closed if it has not after the answer
/// (`service/client/http1.rs`); an HTTP/2 stream has a task of its own, which can be ended.
enum Taking {
    /// hyper asks for a first piece in the task of the whole connection, and starts the stream's own if that has to wait.
    Unasked,
    Asked,
    Watched {
        _owed: Option<Rc<Owed>>,
    },
}

impl RequestBody {
    /// Whether the body is in the task that is to send it.
    fn is_in_place(&mut self, context: &Context<'_>) -> bool {
        if matches!(self.taking, Taking::Watched { .. }) {
            return true;
        }
        if let Some(owed) = Owed::watched() {
            let owed = Rc::new(owed);
            self.shared.source.borrow_mut().lend(&owed, self.reader);
            self.taking = Taking::Watched { _owed: Some(owed) };
            return true;
        }
        let was_asked = matches!(self.taking, Taking::Asked);
        if !was_asked {
            self.taking = Taking::Asked;
            context.waker().wake_by_ref();
        }
        was_asked
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if !this.is_in_place(context) {
            return Poll::Pending;
        }
        let Shared { source, progress } = &*this.shared;
        let mut source = source.borrow_mut();
        if source.reader != this.reader {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(chunk) = source.kept.get(this.position) {
            this.position += 1;
            progress.moved();
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if source.ended {
            let trailers = source.trailers.clone().filter(|_| !this.trailers_sent);
            this.trailers_sent = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let next = Pin::new(&mut source.incoming).poll_frame(context);
        // To be asked anew says that the endpoint has taken what it was given.
        if next.is_ready() || !source.waiting {
            progress.moved();
        }
        source.waiting = next.is_pending();
        let frame = match ready!(next) {
            None => {
                source.ended = true;
                return Poll::Ready(None);
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => frame,
        };
        if let Some(chunk) = frame.data_ref() {
            source.bytes += chunk.len() as u64;
            match source.room.and_then(|room| room.checked_sub(chunk.len())) {
                Some(room) => {
                    source.room = Some(room);
                    source.kept.push(chunk.clone());
                    this.position += 1;
                }
                None => (source.room, source.kept) = (None, Vec::new()),
            }
            // The end then goes with the last piece, where each frame that is not the last costs the endpoint a place: one
            // with many small bodies to read would call that a flood.
            source.ended = source.incoming.is_end_stream();
        } else if let Some(trailers) = frame.trailers_ref() {
            source.trailers = Some(trailers.clone());
            source.ended = true;
            this.trailers_sent = true;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let source = self.shared.source.borrow();
        source.ended && self.position >= source.kept.len() && (self.trailers_sent || source.trailers.is_none())
    }

    /// Of the whole body: it is asked for before the first frame.
    fn size_hint(&self) -> SizeHint {
        self.shared.source.borrow().size
    }
}
