//! Streams of one HTTP/2 connection on several workers.
//!
//! A connection stays on the worker that accepted it, which reads and writes all its frames. A caller with one connection
//! for everything, as gRPC clients are, would keep that worker busy and leave the others idle. So a stream may be handed
//! over: another worker runs its exchange, from the walk to the record, with its own instances and connections to
//! endpoints, and what the caller is answered comes back over a [`line`].
//!
//! That costs wake-ups of other threads, so it is done only where it helps: the connection has several streams in
//! progress, this worker distinctly more exchanges than another, and all it can do, while the other has not. One that
//! mostly waits for endpoints gains nothing by company, and two that compute all the time only trade; until there are so
//! many exchanges that it is a matter of fairness.
//!
//! Exchanges in progress are counted by each worker for itself, with a plain store. They tell of a stream at once, where a
//! share of CPU time alone would tell late, and let all that begin together follow each other to the same worker. Who is
//! slow keeps its exchanges for longer, and so is given fewer.

mod effort;
mod line;
mod seat;

use super::idle::Streams;
use super::sockets::Sockets;
use super::{Connection, Terms};
use crate::call;
use crate::call::body::{CallerBody, ResponseBody};
use crate::node::Node;
use crate::worker::Worker;
use bytes::Bytes;
use effort::Effort;
use http::{Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
pub use line::{Broken, Lost};
use line::{Elsewhere, Told, WorkerEnd};
pub use seat::Seat;
use std::cell::Cell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Streams of a connection in progress from which on they are spread.
const SEVERAL: usize = 4;
/// Exchanges by which a worker that has all it can do is ahead of one that has not, beside an eighth of what that one has:
/// less is chance.
const AHEAD: u64 = 8;
/// Exchanges by which any worker is. As many as clients commonly allow themselves on one connection.
const FAR_AHEAD: u64 = 100;

/// Where the streams that begin on one worker may go.
pub struct Spread {
    others: Vec<(Arc<Seat>, Effort)>,
    own: Option<Arc<Seat>>,
    effort: Effort,
    turn: Cell<usize>,
}

impl Spread {
    pub fn new(node: &Node, number: usize) -> Self {
        let others = node.seats.iter().enumerate().filter(|(other, _)| *other != number);
        Self {
            others: others.map(|(_, seat)| (seat.clone(), Effort::new())).collect(),
            own: node.seats.get(number).cloned(),
            effort: Effort::new(),
            turn: Cell::new(number),
        }
    }

    /// The worker that is to run a stream of a connection which has so many in progress, if that is not this one.
    ///
    /// Of two others, which take turns: the less busy of two is nearly as good as the least busy of all, and costs the same
    /// with any number of workers.
    fn elsewhere(&self, streams: usize) -> Option<&Arc<Seat>> {
        if streams < SEVERAL || self.others.is_empty() {
            return None;
        }
        let turn = self.turn.replace(self.turn.get().wrapping_add(1));
        let other = |at: usize| self.others.get(at % self.others.len());
        let two = other(turn).into_iter().chain(other(turn.wrapping_add(1)));
        let (seat, effort) = two.min_by_key(|(seat, _)| seat.busy())?;
        let (own, theirs) = (self.own.as_ref()?.busy(), seat.busy());
        let helps = || {
            // Both are measured, whatever the one is.
            let (is_full, other_is) = (self.effort.is_full(0), effort.is_full(seat.thread()));
            is_full && !other_is
        };
        (own > theirs + FAR_AHEAD || (own > theirs + theirs / 8 + AHEAD && helps())).then_some(seat)
    }
}

/// Answers a request of an HTTP/2 connection, here or on another worker.
///
/// # Errors
/// The other worker has ended, or panicked: the stream is reset, as it is where that happens here.
pub async fn answer(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    streams: Rc<Streams>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Lost> {
    let request = request.map(CallerBody::from);
    let request = match worker.spread.elsewhere(streams.open()) {
        // A tunnel needs the stream itself.
        Some(seat) if request.method() != Method::CONNECT => match hand_over(seat, &connection, request).await? {
            Told::Answer(response) => return Ok(response.map(|body| Answer::Elsewhere(Box::new(body)))),
            Told::GivenBack(request) => *request,
        },
        _ => request,
    };
    Ok(call::call(worker, connection, request).await.map(Answer::Here))
}

async fn hand_over(seat: &Arc<Seat>, connection: &Connection, mut request: Request<CallerBody>) -> Result<Told, Lost> {
    let (caller, line) = line::new();
    poll_fn(|context| {
        request.body_mut().read_ahead(context);
        Poll::Ready(())
    })
    .await;
    seat.leave(Stream { waiting: Some((request, connection.guest())), line, seat: seat.clone() });
    caller.told().await
}

/// What another worker has to know of the connection of a stream.
pub struct Guest {
    pub sockets: Arc<Sockets>,
    pub peer: IpAddr,
    pub client: Arc<str>,
    pub terms: Arc<Terms>,
}

/// A stream that is handed over. Dropped before it was begun, it is given back.
pub struct Stream {
    /// The request, until it is begun, and where it came from.
    waiting: Option<(Request<CallerBody>, Guest)>,
    line: WorkerEnd,
    seat: Arc<Seat>,
}

impl Stream {
    /// Without a request, so that nothing comes of it.
    #[cfg(test)]
    fn empty(seat: &Arc<Seat>) -> Self {
        Self { waiting: None, line: line::new().1, seat: seat.clone() }
    }

    /// Runs the exchange on the worker that has taken the stream.
    async fn run(mut self, worker: Rc<Worker>) {
        worker.current();
        let listener = self.waiting.as_ref().and_then(|(_, guest)| worker.listeners.of(&guest.sockets));
        // Where the listener has left, only the worker with the connection still knows what the exchange goes by.
        let Some(listener) = listener else { return };
        let Some((request, guest)) = self.waiting.take() else { return };
        self.seat.begun();
        self.seat.metrics.take_over();
        let call = call::call(worker, Connection::of_guest(listener, guest), request);
        if let Some(response) = self.line.unless_left(call).await {
            self.line.answer(response).await;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some((request, _)) = self.waiting.take() {
            self.line.give_back(request);
            self.seat.begun();
        }
    }
}

/// Takes the streams that other workers leave, until dropped.
pub async fn take(worker: Rc<Worker>) {
    let Some(open) = worker.spread.own.clone().map(Seat::open) else { return };
    loop {
        for stream in open.next().await {
            tokio::task::spawn_local(stream.run(worker.clone()));
        }
    }
}

/// The body of what a caller is answered.
pub enum Answer {
    Here(ResponseBody),
    Elsewhere(Box<Elsewhere>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Here(body) => Pin::new(body).poll_frame(context).map_err(Broken::from),
            Self::Elsewhere(body) => body.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Here(body) => body.is_end_stream(),
            Self::Elsewhere(body) => body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Here(body) => body.size_hint(),
            Self::Elsewhere(body) => body.size_hint(),
        }
    }
}
