//! Bodies on their way: the caller's, kept for another attempt as far as the limit goes, and the answer's, which carries
//! its exchange to the end.

use crate::config::Protocol;
use crate::exchange::Exchange;
use crate::leash::Owed;
use crate::outcome::FailureKind;
use crate::response;
use crate::service::InFlight;
use crate::service::client::UpstreamBody;
use crate::telemetry::record::End;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};
use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep_until};

/// Why a body broke off.
#[derive(Debug, Error)]
pub enum BodyError {
    #[error("the deadline passed")]
    Deadline,
    #[error("another attempt has taken over the body")]
    Superseded,
    #[error(transparent)]
    Peer(#[from] hyper::Error),
}

/// The caller's body, shared by the attempts that send it, for as long as the exchange lasts.
#[derive(Clone)]
pub struct Upload(Rc<Lent>);

/// The body, of which the attempts have a share as well: dropped with the exchange.
struct Lent(Rc<RefCell<Source>>);

struct Source {
    incoming: Incoming,
    size: SizeHint,
    /// What was read so far, while it is within the limit.
    kept: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// Bytes that may still be kept; `None` once there were more, or if nothing needs to be kept.
    room: Option<usize>,
    ended: bool,
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
        let mut source = self.0.borrow_mut();
        source.over = true;
        source.let_go();
    }
}

impl Upload {
    /// Keeps up to `keep` bytes for another attempt.
    pub fn new(incoming: Incoming, keep: Option<usize>) -> Self {
        let (size, ended) = (incoming.size_hint(), incoming.is_end_stream());
        let source = Source {
            incoming,
            size,
            kept: Vec::new(),
            trailers: None,
            room: keep,
            ended,
            bytes: 0,
            reader: 0,
            owed: Weak::new(),
            over: false,
        };
        Self(Rc::new(Lent(Rc::new(RefCell::new(source)))))
    }

    fn source(&self) -> &RefCell<Source> {
        &self.0.0
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
        source.reader += 1;
        RequestBody {
            source: self.0.0.clone(),
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
    source: Rc<RefCell<Source>>,
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
            self.source.borrow_mut().lend(&owed, self.reader);
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
        let mut source = this.source.borrow_mut();
        if source.reader != this.reader {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(chunk) = source.kept.get(this.position) {
            this.position += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if source.ended {
            let trailers = source.trailers.clone().filter(|_| !this.trailers_sent);
            this.trailers_sent = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = match ready!(Pin::new(&mut source.incoming).poll_frame(context)) {
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
        } else if let Some(trailers) = frame.trailers_ref() {
            source.trailers = Some(trailers.clone());
            source.ended = true;
            this.trailers_sent = true;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.borrow();
        source.ended && self.position >= source.kept.len() && (self.trailers_sent || source.trailers.is_none())
    }

    /// Of the whole body: it is asked for before the first frame.
    fn size_hint(&self) -> SizeHint {
        self.source.borrow().size
    }
}

/// The body of what the caller is answered.
pub enum ResponseBody {
    /// The proxy's or a policy's own answer. The exchange ends when it has been written, or dropped.
    Own(Option<Bytes>, Option<Box<Exchange>>, Owed),
    Relay(Box<Relay>),
    Empty,
}

impl ResponseBody {
    /// An own answer, of which the caller is to take the body without delay.
    pub fn own(body: Bytes, exchange: Option<Box<Exchange>>) -> Self {
        let owed = Owed::here();
        owed.given(None);
        Self::Own(Some(body), exchange, owed)
    }
}

/// An answer's body, as far as it was read.
pub struct Read {
    first: VecDeque<Frame<Bytes>>,
    rest: Option<UpstreamBody>,
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

    /// Reads on to the end, if that comes within `limit` bytes.
    pub async fn whole(&mut self, limit: usize) -> Result<Option<Bytes>, BodyError> {
        let mut length = 0;
        while let Some(rest) = &mut self.rest {
            if length > limit || rest.size_hint().lower() > limit as u64 {
                return Ok(None);
            }
            match poll_fn(|context| Pin::new(&mut *rest).poll_frame(context)).await.transpose()? {
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

/// An answer's body on its way from the endpoint to the caller.
pub struct Relay {
    /// What comes before the rest: already read, or put in its place.
    first: VecDeque<Frame<Bytes>>,
    /// Absent where nothing of the endpoint's is left to pass on.
    rest: Option<UpstreamBody>,
    pub exchange: Exchange,
    /// The endpoint is busy with the exchange until here.
    pub in_flight: Option<InFlight>,
    pub upload: Upload,
    pub grpc: bool,
    owed: Owed,
    timer: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl Relay {
    pub fn new(body: Read, exchange: Exchange, in_flight: Option<InFlight>, upload: Upload, grpc: bool) -> Self {
        let Read { first, rest } = body;
        let owed = Owed::here();
        owed.given(exchange.deadline);
        Self { first, rest, exchange, in_flight, upload, grpc, owed, timer: None, ended: false }
    }

    /// Whether there is nothing more to pass on.
    fn is_over(&self) -> bool {
        self.ended || (self.first.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream))
    }

    fn size_hint(&self) -> SizeHint {
        let first: u64 = self.first.iter().filter_map(Frame::data_ref).map(|chunk| chunk.len() as u64).sum();
        let rest = self.rest.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(first + upper);
        }
        hint.set_lower(first + rest.lower());
        hint
    }

    fn end(&mut self, end: End) {
        self.ended = true;
        self.exchange.end = end;
        self.exchange.recording.record.request_bytes = self.upload.bytes();
    }

    fn fail(&mut self, failure: FailureKind, error: &BodyError) {
        self.exchange.failure = Some(failure);
        self.exchange.recording.record.error = Some(failure.as_str());
        self.exchange.recording.record.message = Some(error.to_string());
        self.end(End::Truncated);
        // What is said of it may still be taken.
        self.owed.given(None);
    }

    fn is_overdue(&self) -> bool {
        self.exchange.deadline.is_some_and(|deadline| deadline <= std::time::Instant::now())
    }

    /// The body cannot go on. A gRPC caller is told so in trailers, any other by a connection or stream that breaks.
    fn break_off(&mut self, failure: FailureKind, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.fail(failure, &error);
        if !self.grpc {
            return Poll::Ready(Some(Err(error)));
        }
        let (status, trailers) = response::grpc_trailers(failure, &error.to_string());
        self.exchange.recording.record.grpc_status = Some(status);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // A caller that reads slowly finds the next piece ready each time, so the timer below would never run.
        if self.is_overdue() && !self.is_over() {
            return self.break_off(FailureKind::Timeout, BodyError::Deadline);
        }
        let next = match (self.first.pop_front(), &mut self.rest) {
            (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
            (None, Some(rest)) => Pin::new(rest).poll_frame(context),
            (None, None) => Poll::Ready(None),
        };
        match next {
            Poll::Ready(None) => {
                self.end(End::Ok);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => self.break_off(FailureKind::Reset, error.into()),
            Poll::Ready(Some(Ok(frame))) => {
                let record = &mut self.exchange.recording.record;
                if let Some(chunk) = frame.data_ref() {
                    record.response_bytes += chunk.len() as u64;
                } else if let Some(trailers) = frame.trailers_ref() {
                    record.grpc_status = response::grpc_status(trailers).or(record.grpc_status);
                    self.end(End::Ok);
                }
                self.owed.given(self.exchange.deadline);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending => {
                self.owed.taken();
                let Some(deadline) = self.exchange.deadline else { return Poll::Pending };
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::from_std(deadline))));
                ready!(timer.as_mut().poll(context));
                self.break_off(FailureKind::Timeout, BodyError::Deadline)
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Why it broke off is known.
        if self.exchange.failure.is_some() {
            return;
        }
        let is_late = self.owed.is_late();
        // The server does not ask for what it knows to be over, nor for more than the length that was announced.
        let is_whole = self.ended || self.is_over() || self.size_hint().exact() == Some(0);
        if is_whole && !is_late {
            if !self.ended {
                self.end(End::Ok);
            }
        } else if self.is_overdue() {
            // The caller took nothing, so that nobody asked for more until then.
            self.fail(FailureKind::Timeout, &BodyError::Deadline);
        } else {
            if is_late {
                let message = "the caller took nothing for as long as [limits] write-timeout allows";
                self.exchange.recording.record.message = Some(message.to_owned());
            }
            self.end(End::ClientLeft);
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
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes, ..) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Relay(relay) => relay.is_over(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes, ..) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Relay(relay) => relay.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}
