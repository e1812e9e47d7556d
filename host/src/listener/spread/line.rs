//! What an exchange on one worker and its stream on another have in common: the answer on its way, and how either ended.
//!
//! One allocation and one lock for each stream, which nobody holds while anything else happens. The body is asked for more
//! only while little of it waits for the caller, so a caller that reads nothing holds up the endpoint as it does where
//! both are on one worker. The exchange lasts until the stream has ended: what became of it is in the record.

use crate::call::body::{BodyError, CallerBody, ResponseBody};
use crate::leash::Owed;
use bytes::Bytes;
use http::response::Parts;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use thiserror::Error;

/// Of one answer, bytes and pieces that wait for its caller from which on no more is asked for.
const ENOUGH_BYTES: usize = 64 * 1024;
const ENOUGH_PIECES: usize = 8;

/// The worker that ran the exchange has ended, or panicked.
#[derive(Debug, Error)]
#[error("the exchange was lost with its worker")]
pub struct Lost;

/// Why an answer's body broke off.
#[derive(Debug, Error)]
pub enum Broken {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Lost(#[from] Lost),
}

struct Line(Mutex<State>);

#[derive(Default)]
struct State {
    told: Option<Given>,
    pieces: VecDeque<Result<Frame<Bytes>, BodyError>>,
    /// Of the pieces.
    bytes: usize,
    /// No further piece comes.
    over: bool,
    /// Because there is nobody any more who could give one.
    lost: bool,
    /// The worker waits for room.
    full: bool,
    /// By when the caller has to take what it is given.
    deadline: Option<Instant>,
    /// The deadline found the caller with something to take: nothing but what is said of that comes next.
    overdue: bool,
    left: Option<Left>,
    /// Who waits for the other end.
    caller: Option<Waker>,
    worker: Option<Waker>,
}

/// What a worker says of the stream that it was given.
enum Given {
    /// The head, and what is known of the body's size.
    Head(Box<Parts>, SizeHint),
    /// It does not run the exchange.
    Back(Box<Request<CallerBody>>),
}

/// How the stream ended.
#[derive(Debug, Clone, Copy)]
pub struct Left {
    /// Nothing is left of the answer.
    pub whole: bool,
    /// The caller has taken nothing for too long.
    pub late: bool,
}

impl State {
    /// Whether there is room for more, or the worker is told once there is.
    fn wants_more(&mut self) -> bool {
        self.full = self.bytes >= ENOUGH_BYTES || self.pieces.len() >= ENOUGH_PIECES;
        !self.over && !self.full
    }

    fn push(&mut self, piece: Option<Result<Frame<Bytes>, BodyError>>, deadline: Option<Instant>) {
        self.deadline = deadline;
        self.over = piece.as_ref().is_none_or(Result::is_err);
        // Data that was read before the deadline has no place behind what was dropped then.
        let is_in_place = |piece: &Result<Frame<Bytes>, _>| !self.overdue || !piece.as_ref().is_ok_and(Frame::is_data);
        if let Some(piece) = piece.filter(is_in_place) {
            self.bytes += length(&piece);
            self.pieces.push_back(piece);
        }
    }
}

fn length(piece: &Result<Frame<Bytes>, BodyError>) -> usize {
    piece.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len)
}

fn wait(place: &mut Option<Waker>, context: &Context<'_>) {
    match place {
        Some(known) => known.clone_from(context.waker()),
        None => *place = Some(context.waker().clone()),
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

pub fn new() -> (CallerEnd, WorkerEnd) {
    let line = Arc::new(Line(Mutex::default()));
    (CallerEnd(line.clone()), WorkerEnd(line))
}

/// The stream's end of the line.
pub struct CallerEnd(Arc<Line>);

/// What became of a stream that was handed over.
pub enum Told {
    Answer(Response<Elsewhere>),
    GivenBack(Box<Request<CallerBody>>),
}

impl CallerEnd {
    /// Waits for the other worker.
    pub async fn told(self) -> Result<Told, Lost> {
        let (told, deadline, over) = poll_fn(|context| {
            let mut state = self.0.state();
            if let Some(told) = state.told.take() {
                return Poll::Ready(Ok((told, state.deadline, state.over && state.pieces.is_empty())));
            }
            if state.lost {
                return Poll::Ready(Err(Lost));
            }
            wait(&mut state.caller, context);
            Poll::Pending
        })
        .await?;
        Ok(match told {
            Given::Back(request) => Told::GivenBack(request),
            Given::Head(head, size) => {
                let owed = Owed::here();
                owed.given(deadline);
                Told::Answer(Response::from_parts(*head, Elsewhere { line: self, size, over, broken: false, owed }))
            }
        })
    }
}

impl Drop for CallerEnd {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.left.get_or_insert(Left { whole: false, late: false });
        let worker = state.worker.take();
        drop(state);
        wake(worker);
    }
}

/// The body of an answer that another worker gives.
pub struct Elsewhere {
    line: CallerEnd,
    size: SizeHint,
    over: bool,
    /// What comes next is why it broke off.
    broken: bool,
    owed: Owed,
}

impl Elsewhere {
    pub fn is_over(&self) -> bool {
        self.over
    }

    pub fn size_hint(&self) -> SizeHint {
        self.size
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let mut state = self.line.0.state();
        let in_time = state.deadline.filter(|deadline| *deadline > Instant::now());
        if in_time.is_none() && state.deadline.is_some() && !state.over && !state.overdue {
            // The exchange finds out when it is asked for more, and has something to say of it.
            (state.overdue, state.full, state.bytes) = (true, false, 0);
            state.pieces.clear();
            wake(state.worker.take());
        }
        if matches!(state.pieces.front(), Some(Err(_))) && !std::mem::replace(&mut self.broken, true) {
            // A reset takes with it what was not sent yet, so the connection comes first: it has been woken before.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(piece) = state.pieces.pop_front() else {
            if state.lost || state.over {
                self.over = true;
                return Poll::Ready(state.lost.then_some(Err(Lost.into())));
            }
            wait(&mut state.caller, context);
            self.owed.taken();
            return Poll::Pending;
        };
        state.bytes -= length(&piece);
        let is_last = state.pieces.is_empty();
        let worker = if is_last && std::mem::take(&mut state.full) { state.worker.take() } else { None };
        self.over = is_last && state.over && !state.lost;
        drop(state);
        wake(worker);
        self.size = SizeHint::default();
        self.owed.given(in_time);
        Poll::Ready(Some(piece.map_err(Broken::from)))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.line.0.state().left = Some(Left { whole: self.over, late: self.owed.is_late() });
    }
}

/// The exchange's end of the line. Dropped before the answer is over, it breaks the stream off.
pub struct WorkerEnd(Arc<Line>);

impl WorkerEnd {
    pub fn give_back(&self, request: Request<CallerBody>) {
        let mut state = self.0.state();
        (state.told, state.over) = (Some(Given::Back(Box::new(request))), true);
        let caller = state.caller.take();
        drop(state);
        wake(caller);
    }

    /// Works on, as long as the stream is there.
    pub async fn unless_left<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        poll_fn(|context| match self.wait(context) {
            Ok(()) => work.as_mut().poll(context).map(Some),
            Err(_) => Poll::Ready(None),
        })
        .await
    }

    /// Passes the answer on, and ends it as the stream does.
    pub async fn answer(&self, response: Response<ResponseBody>) {
        let (head, mut body) = response.into_parts();
        let mut head = Some(Given::Head(Box::new(head), body.size_hint()));
        let left = poll_fn(|context| {
            if let Err(left) = self.wait(context) {
                return Poll::Ready(left);
            }
            self.pour(context, &mut head, &mut body);
            Poll::Pending
        })
        .await;
        body.left(left.whole, left.late);
    }

    fn wait(&self, context: &Context<'_>) -> Result<(), Left> {
        let mut state = self.0.state();
        wait(&mut state.worker, context);
        state.left.map_or(Ok(()), Err)
    }

    /// Passes on what there is, as far as there is room: head and body at once where they have come together.
    fn pour(&self, context: &mut Context<'_>, head: &mut Option<Given>, body: &mut ResponseBody) {
        let mut is_news = head.is_some();
        while self.0.state().wants_more() {
            let piece = match body.is_end_stream() {
                true => Poll::Ready(None),
                false => Pin::new(&mut *body).poll_frame(context),
            };
            let Poll::Ready(piece) = piece else { break };
            self.0.state().push(piece, body.deadline());
            is_news = true;
        }
        if is_news {
            let mut state = self.0.state();
            if let Some(head) = head.take() {
                (state.told, state.deadline) = (Some(head), body.deadline());
            }
            let caller = state.caller.take();
            drop(state);
            wake(caller);
        }
    }
}

impl Drop for WorkerEnd {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if !state.over {
            (state.over, state.lost) = (true, true);
        }
        let caller = state.caller.take();
        drop(state);
        wake(caller);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn next(body: &mut Elsewhere) -> Option<Result<Frame<Bytes>, Broken>> {
        poll_fn(|context| body.poll(context)).await
    }

    /// What a line carries once the worker has worked on it for a moment.
    async fn answered(body: ResponseBody) -> (Elsewhere, WorkerEnd) {
        let (caller, worker) = new();
        let work = worker.answer(Response::new(body));
        drop(tokio::time::timeout(Duration::from_millis(1), work).await);
        let Ok(Told::Answer(response)) = caller.told().await else { panic!("there is an answer") };
        (response.into_body(), worker)
    }

    #[tokio::test]
    async fn a_stream_whose_worker_ends_before_the_answer_is_lost() {
        let (caller, worker) = new();
        drop(worker);
        assert!(matches!(caller.told().await, Err(Lost)));
    }

    #[tokio::test]
    async fn an_answer_that_is_over_survives_its_worker() {
        let (mut body, worker) = answered(ResponseBody::own(Bytes::from_static(b"all"), None)).await;
        drop(worker);
        assert!(next(&mut body).await.unwrap().unwrap().into_data().unwrap() == "all");
        assert!(body.is_over() && next(&mut body).await.is_none());
    }

    #[tokio::test]
    async fn an_answer_whose_worker_ends_breaks_off() {
        let (mut body, worker) = answered(ResponseBody::Empty).await;
        // As if more were to come.
        worker.0.state().over = false;
        body.over = false;
        drop(worker);
        assert!(matches!(next(&mut body).await, Some(Err(Broken::Lost(_)))));
        assert!(next(&mut body).await.is_none());
    }

    #[tokio::test]
    async fn an_exchange_whose_stream_has_left_ends() {
        let (caller, worker) = new();
        let work = tokio::spawn(async move { worker.unless_left(std::future::pending::<()>()).await });
        tokio::task::yield_now().await;
        drop(caller);
        assert_eq!(work.await.unwrap(), None);
    }
}
