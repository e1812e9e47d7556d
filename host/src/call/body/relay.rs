//! An answer's body on its way, with its exchange, which ends with it.

use super::super::progress::Late;
use super::{BodyError, Read, Upload};
use crate::exchange::Exchange;
use crate::leash::Owed;
use crate::outcome::FailureKind;
use crate::response;
use crate::service::InFlight;
use crate::service::client::UpstreamBody;
use crate::telemetry::record::End;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::time::{Sleep, sleep_until};

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
    /// The endpoint was asked for more, and there is nothing yet.
    waiting: bool,
    ended: bool,
}

impl Relay {
    pub fn new(body: Read, exchange: Exchange, in_flight: Option<InFlight>, upload: Upload, grpc: bool) -> Self {
        let Read { first, rest } = body;
        let owed = Owed::here();
        owed.given(exchange.deadline);
        Self { first, rest, exchange, in_flight, upload, grpc, owed, timer: None, waiting: false, ended: false }
    }

    /// Whether there is nothing more to pass on.
    pub(super) fn is_over(&self) -> bool {
        self.ended || (self.first.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream))
    }

    pub(super) fn size_hint(&self) -> SizeHint {
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

    /// By when the caller has to take what it is given, unless it is told that this is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.exchange.deadline.filter(|_| self.exchange.failure.is_none())
    }

    /// Nobody asks for more: the caller has everything, or has left, or has slept over what it was given.
    pub(super) fn left(&mut self, is_whole: bool, is_late: bool) {
        // Why it broke off is known.
        if self.exchange.failure.is_some() {
            return;
        }
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

    fn fail(&mut self, failure: FailureKind, error: &BodyError) {
        self.exchange.failure = Some(failure);
        self.exchange.recording.record.error = Some(failure.as_str());
        self.exchange.recording.record.message = Some(error.to_string());
        self.end(End::Truncated);
        // What is said of it may still be taken.
        self.owed.given(None);
    }

    fn is_overdue(&self) -> bool {
        self.exchange.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// The body cannot go on. A gRPC caller is told so in trailers, any other by a connection or stream that breaks.
    fn break_off(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let failure = error.of_answer();
        self.fail(failure, &error);
        if !self.grpc {
            return Poll::Ready(Some(Err(error)));
        }
        let (status, trailers) = response::grpc_trailers(failure, &error.to_string());
        self.exchange.recording.record.grpc_status = Some(status);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // A caller that reads slowly finds the next piece ready each time, so the timer below would never run.
        if self.is_overdue() && !self.is_over() {
            return self.break_off(BodyError::Deadline);
        }
        let next = match (self.first.pop_front(), &mut self.rest) {
            (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
            (None, Some(rest)) => Pin::new(rest).poll_frame(context),
            (None, None) => Poll::Ready(None),
        };
        // To be asked anew says that the caller has taken what it was given.
        if next.is_ready() || !self.waiting {
            self.upload.progress().moved();
        }
        self.waiting = next.is_pending();
        match next {
            Poll::Ready(None) => {
                self.end(End::Ok);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => self.break_off(error.into()),
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
                let late = ready!(self.poll_late(context));
                self.break_off(late.into())
            }
        }
    }

    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<Late> {
        loop {
            let Some((when, late)) = self.upload.progress().next(self.exchange.deadline) else { return Poll::Pending };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(when.into())));
            ready!(timer.as_mut().poll(context));
            if when <= Instant::now() {
                return Poll::Ready(late);
            }
            // Something has moved since it was set.
            timer.as_mut().reset(when.into());
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The server does not ask for what it knows to be over, nor for more than the length that was announced.
        let is_whole = self.ended || self.is_over() || self.size_hint().exact() == Some(0);
        self.left(is_whole, self.owed.is_late());
    }
}
