//! What a scripted upstream does with a request.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::record::Received;
use super::reply::Reply;

type Script = dyn Fn(&Received) -> Answer + Send + Sync;

/// Decides the answer to each request.
///
/// Built from a fixed [`Reply`], a bare status, or a function of the request, and then wrapped:
/// `Behaviour::echo().fail_first(2, 503)` fails twice and then echoes.
#[derive(Clone)]
pub struct Behaviour {
    script: Arc<Script>,
    before_body: bool,
}

impl Behaviour {
    pub fn new(script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), before_body: false }
    }

    /// Answers 200 with what arrived, as JSON: `version`, `method`, `target`, `authority`, `headers` (a list
    /// of name and value pairs, as received), `trailers`, `body-length` and `connection`.
    pub fn echo() -> Self {
        Self::new(|request| Reply::new(200).json(&describe(request)).into())
    }

    /// Answers 200 with the body of the request and its content type.
    pub fn mirror() -> Self {
        Self::new(|request| {
            let kind = request.header("content-type").unwrap_or("application/octet-stream");
            Reply::new(200).header("content-type", kind).body(request.body.clone()).into()
        })
    }

    /// Gives the first `times` requests `failure`; later ones are answered as before.
    pub fn fail_first(self, times: u64, failure: impl Into<Answer>) -> Self {
        let (failure, seen) = (failure.into(), AtomicU64::new(0));
        self.wrap(
            move |inner, request| {
                if seen.fetch_add(1, Ordering::Relaxed) < times { failure.clone() } else { inner(request) }
            },
        )
    }

    /// Gives a share of the requests, from 0.0 to 1.0 and chosen at random, `failure`.
    pub fn fail_randomly(self, share: f64, failure: impl Into<Answer>) -> Self {
        let (failure, share) = (failure.into(), share.clamp(0.0, 1.0));
        self.wrap(move |inner, request| if rand::random_bool(share) { failure.clone() } else { inner(request) })
    }

    /// Waits before every answer, on top of what the answer itself waits.
    pub fn delayed(self, delay: Duration) -> Self {
        self.wrap(move |inner, request| {
            let answer = inner(request);
            let total = answer.delay + delay;
            answer.after(total)
        })
    }

    /// Answers when the head has arrived: the script sees an empty body, `100 Continue` is never sent, and the
    /// body is read only after the answer was written (never, if the answer is to hang).
    pub fn before_body(mut self) -> Self {
        self.before_body = true;
        self
    }

    pub(super) fn answers_before_body(&self) -> bool {
        self.before_body
    }

    pub(super) fn answer(&self, request: &Received) -> Answer {
        (self.script)(request)
    }

    fn wrap(self, layer: impl Fn(&Script, &Received) -> Answer + Send + Sync + 'static) -> Self {
        let Self { script, before_body } = self;
        Self { script: Arc::new(move |request| layer(script.as_ref(), request)), before_body }
    }
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Behaviour").field("before_body", &self.before_body).finish_non_exhaustive()
    }
}

impl From<Answer> for Behaviour {
    fn from(answer: Answer) -> Self {
        Self::new(move |_| answer.clone())
    }
}

impl From<Reply> for Behaviour {
    fn from(reply: Reply) -> Self {
        Answer::from(reply).into()
    }
}

impl From<u16> for Behaviour {
    fn from(status: u16) -> Self {
        Reply::new(status).into()
    }
}

/// One answer: what to do, and how long to wait before doing it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub(super) delay: Duration,
    pub(super) action: Action,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    Reply(Box<Reply>),
    Hang,
    Reset,
    Close,
    Refuse,
    Raw(Bytes),
}

impl Answer {
    /// Never answers; ends when the peer leaves.
    pub fn hang() -> Self {
        Action::Hang.into()
    }

    /// Aborts the TCP connection with RST, and with it every stream of an HTTP/2 connection.
    pub fn reset() -> Self {
        Action::Reset.into()
    }

    /// Closes the connection in the ordinary way, without having answered.
    pub fn close() -> Self {
        Action::Close.into()
    }

    /// Resets the stream with REFUSED_STREAM, which promises that nothing was processed (RFC 9113 section 8.7).
    /// HTTP/1.1 has no such promise: there the connection is closed.
    pub fn refuse() -> Self {
        Action::Refuse.into()
    }

    /// Writes these bytes as they are and closes: for answers that are not HTTP. HTTP/1.1 only; an
    /// HTTP/2 stream is reset instead.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Action::Raw(bytes.into()).into()
    }

    /// Sets how long to wait before answering.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

impl From<Action> for Answer {
    fn from(action: Action) -> Self {
        Self { delay: Duration::ZERO, action }
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Action::Reply(Box::new(reply)).into()
    }
}

impl From<u16> for Answer {
    fn from(status: u16) -> Self {
        Reply::new(status).into()
    }
}

fn describe(request: &Received) -> Value {
    let pairs = |fields: &[(String, Bytes)]| -> Vec<Value> {
        fields.iter().map(|(name, value)| json!([name, String::from_utf8_lossy(value)])).collect()
    };
    json!({
        "version": format!("{:?}", request.version),
        "method": request.method,
        "target": request.target,
        "authority": request.authority,
        "headers": pairs(&request.headers),
        "trailers": pairs(&request.trailers),
        "body-length": request.body.len(),
        "connection": request.connection,
    })
}
