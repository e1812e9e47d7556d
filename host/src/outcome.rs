//! How an attempt ended, and what should follow. The same for calls and messages.

use std::fmt;
use std::time::Duration;

/// How an attempt failed without an answer that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No connection came about: nothing reached the endpoint.
    Connect,
    /// The connection broke, or the endpoint reset the stream.
    Reset,
    /// The attempt's time or the exchange's deadline passed.
    Timeout,
    /// The endpoint's answer broke the protocol.
    Protocol,
    /// A policy refused the endpoint; nothing was sent.
    Rejected,
    /// The caller left first.
    Cancelled,
    /// The host had no room for the attempt; nothing was sent.
    Overload,
}

impl FailureKind {
    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Overload => "overload",
        }
    }

    /// Whether it says something about the endpoint, rather than about the caller or this node.
    pub fn is_endpoints(self) -> bool {
        match self {
            Self::Connect | Self::Reset | Self::Timeout | Self::Protocol => true,
            Self::Rejected | Self::Cancelled | Self::Overload => false,
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub endpoint: u32,
    /// Of the answer; 0 when there was none.
    pub status: u16,
    /// `None` when the answer's head carried none: a streamed answer has it in its trailers.
    pub grpc_status: Option<u32>,
    pub failure: Option<FailureKind>,
    /// From sending to the answer's head, or to the failure.
    pub latency: Duration,
    /// Whether the host could repeat the exchange.
    pub repeatable: bool,
}

impl Outcome {
    /// A policy refused the endpoint before anything was sent.
    pub fn rejected(endpoint: u32) -> Self {
        Self {
            endpoint,
            status: 0,
            grpc_status: None,
            failure: Some(FailureKind::Rejected),
            latency: Duration::ZERO,
            repeatable: true,
        }
    }

    /// An answer below 400 that gRPC, where it is spoken, does not call an error.
    pub fn is_success(&self) -> bool {
        self.failure.is_none() && (100..400).contains(&self.status) && matches!(self.grpc_status, None | Some(0))
    }
}

/// As the record says why an attempt was repeated.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.failure, self.grpc_status) {
            (Some(failure), _) => write!(f, "{failure}"),
            (None, Some(code @ 1..)) => write!(f, "grpc-status {code}"),
            (None, _) => write!(f, "status {}", self.status),
        }
    }
}

/// What should follow an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Pass the answer, or the failure, on.
    Accept,
    /// Try again after a wait; `elsewhere` prefers an endpoint that was not tried.
    Retry { after: Duration, elsewhere: bool },
    /// Messages only: give up, and keep the message with this reason.
    DeadLetter(String),
}

impl Decision {
    /// The word for the record.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Retry { .. } => "retry",
            Self::DeadLetter(_) => "dead-letter",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, grpc_status: Option<u32>) -> Outcome {
        Outcome { status, grpc_status, failure: None, ..Outcome::rejected(1) }
    }

    #[test]
    fn an_answer_below_400_is_a_success() {
        for status in [101, 200, 204, 304, 399] {
            assert!(answered(status, None).is_success(), "{status}");
        }
        for status in [400, 404, 429, 500, 503] {
            assert!(!answered(status, None).is_success(), "{status}");
        }
    }

    #[test]
    fn a_grpc_error_is_no_success_whatever_the_status() {
        assert!(answered(200, Some(0)).is_success());
        assert!((1..=16).all(|code| !answered(200, Some(code)).is_success()));
    }

    #[test]
    fn no_answer_is_no_success() {
        assert!(!answered(0, None).is_success());
        assert!(!Outcome::rejected(1).is_success());
        let reset_after_head = Outcome { failure: Some(FailureKind::Reset), ..answered(200, None) };
        assert!(!reset_after_head.is_success());
    }

    #[test]
    fn only_failures_at_the_endpoint_count_against_it() {
        use FailureKind::*;
        assert!([Connect, Reset, Timeout, Protocol].map(FailureKind::is_endpoints) == [true; 4]);
        assert!([Rejected, Cancelled, Overload].map(FailureKind::is_endpoints) == [false; 3]);
    }
}
