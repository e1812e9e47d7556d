use crate::exchange::ServiceId;
use std::time::Duration;

/// What a policy says before the work is done.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Carry on.
    Proceed,
    /// Carry on with these changes.
    Amend(Amendment),
    /// Stop here and answer this.
    Reply(Reply),
}

impl Verdict {
    /// An error answered by the policy itself. `message` is for the reader of the answer; the kind of error, which the
    /// caller finds in `x-weir-error`, follows from the status. [`Reply::error`] sets another one.
    pub fn reply(status: u16, message: impl Into<String>) -> Self {
        let kind = match status {
            400 => "bad-request",
            401 => "token",
            403 => "forbidden",
            413 => "too-large",
            429 => "limited",
            _ => "policy",
        };
        Self::Reply(Reply::error(status, kind, message))
    }
}

impl From<Amendment> for Verdict {
    fn from(amendment: Amendment) -> Self {
        if amendment == Amendment::default() { Self::Proceed } else { Self::Amend(amendment) }
    }
}

impl From<Reply> for Verdict {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

/// A change to one header or metadata field. Names are lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Replaces all values.
    Set(String, Vec<u8>),
    /// Adds one more value.
    Append(String, Vec<u8>),
    Remove(String),
}

/// Changes to an exchange. Built up as in `Amendment::new().set("x-user", subject).attribute("subject", subject)`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Amendment {
    pub edits: Vec<Edit>,
    /// Facts for later policies, which read the field `@name`, and for the record.
    pub attributes: Vec<(String, String)>,
    /// Let the exchange end sooner, this long from now.
    pub timeout: Option<Duration>,
    /// Let each attempt take at most this long.
    pub attempt_timeout: Option<Duration>,
    /// Send the exchange to another service. Only in `on_request`.
    pub service: Option<ServiceId>,
}

impl Amendment {
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces all values of a field by this one.
    pub fn set(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.edits.push(Edit::Set(name.into(), value.into()));
        self
    }

    /// Adds one more value to a field.
    pub fn append(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.edits.push(Edit::Append(name.into(), value.into()));
        self
    }

    pub fn remove(mut self, name: impl Into<String>) -> Self {
        self.edits.push(Edit::Remove(name.into()));
        self
    }

    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }
}

/// An answer given by the policy itself instead of the service's. Of a publish it is for the publisher. Of a delivery it
/// says what becomes of the message: 2xx acknowledges it; with 408, 425, 429 and 5xx it is tried again in a while, without
/// counting that as an attempt; anything else makes it a dead letter, with the reply's message as the reason. In
/// `on_response` it stands for the consumer's answer, of which the outcome was judged.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reply {
    /// 200 to 599.
    pub status: u16,
    /// The kind of error for `x-weir-error`, as in `"token"`. Empty: not an error.
    pub error: String,
    /// For the reader of the answer. Ignored where there is a body.
    pub message: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Option<Vec<u8>>,
    /// For gRPC callers. `None`: derived from the status.
    pub grpc_status: Option<u32>,
}

impl Reply {
    pub fn error(status: u16, kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, error: kind.into(), message: message.into(), ..Self::default() }
    }

    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }
}

/// What a policy says to one attempt at one endpoint.
#[derive(Debug, Clone, PartialEq)]
pub enum Attempt {
    Proceed,
    /// These edits hold for this attempt only.
    Amend(Vec<Edit>),
    /// Not this endpoint: another is picked at once, and no attempt is spent.
    Refuse(Refusal),
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Refusal {
    /// For the record and the caller.
    pub reason: String,
    /// The kind of error if no endpoint is left, as in `"breaker-open"`.
    pub error: String,
    /// When trying again may make sense.
    pub retry_after: Option<Duration>,
    /// No other endpoint of the service would do either.
    pub every_endpoint: bool,
}

/// What should follow an attempt. Of several policies the last of the chain that says other than `Accept` decides.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Pass the answer, or the failure, on. Of a delivery it says nothing: a 2xx has acknowledged the message, and with any
    /// other outcome it is tried again after the subscription's own `backoff`, until its `max-attempts` are made.
    Accept,
    /// Try again after a wait, on an endpoint that was not tried if `elsewhere` is set and there is one. The host refuses
    /// where that is not safe, not before the deadline, or over the retry budget. Of a delivery only the subscription's
    /// `max-attempts` count: it waits as a message, and not as an exchange.
    Retry { after: Duration, elsewhere: bool },
    /// Of a delivery: give up. The message goes where the subscription's `dead-letter` says, with this reason, or is
    /// dropped if that says nothing. Of a call and a publish it is as `Accept`.
    DeadLetter(String),
}

/// What becomes of a body.
#[derive(Debug, Clone, PartialEq)]
pub enum BodyVerdict {
    Proceed,
    /// Use these bytes instead.
    Replace(Vec<u8>),
    Reply(Reply),
}
