//! Which outcomes are failures.

use weir_sdk::{Failure, prelude::*};

/// Outcomes that count as failures. A list that is left out keeps its default. Never counted, whatever is written here:
/// attempts that a policy refused, that the caller left, or that the proxy had no room for.
#[derive(Deserialize, JsonSchema)]
#[serde(default)]
pub struct FailuresOn {
    /// HTTP statuses. By default all from 500 to 599. Every other status is a success.
    #[schemars(inner(range(min = 100, max = 599)))]
    statuses: Option<Vec<u16>>,
    /// gRPC statuses by name. By default UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE and
    /// DATA_LOSS. Every other status is a success.
    grpc: Vec<GrpcStatus>,
    /// Ways to fail without an answer. By default all. One that is not listed does not count at all.
    failures: Vec<Kind>,
}

/// A way to fail without an answer.
#[derive(Deserialize, JsonSchema, PartialEq)]
enum Kind {
    /// No connection came about.
    Connect,
    /// The connection broke, or the stream was reset.
    Reset,
    /// The attempt's time passed.
    Timeout,
    /// The answer broke the protocol.
    Protocol,
}

/// gRPC's statuses, by their numbers.
#[derive(Deserialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum GrpcStatus {
    Cancelled = 1,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

impl Default for FailuresOn {
    fn default() -> Self {
        use GrpcStatus::{DataLoss, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown};
        Self {
            statuses: None,
            grpc: vec![Unknown, DeadlineExceeded, ResourceExhausted, Internal, Unavailable, DataLoss],
            failures: vec![Kind::Connect, Kind::Reset, Kind::Timeout, Kind::Protocol],
        }
    }
}

impl FailuresOn {
    /// Whether an attempt failed. `None`: it says nothing about the endpoint.
    pub fn judge(&self, outcome: &Outcome) -> Option<bool> {
        let kind = match outcome.failure {
            Failure::None => return Some(self.is_failed_answer(outcome)),
            Failure::Connect => Kind::Connect,
            Failure::Reset => Kind::Reset,
            Failure::Timeout => Kind::Timeout,
            Failure::Protocol => Kind::Protocol,
            Failure::Rejected | Failure::Cancelled | Failure::Overload => return None,
        };
        self.failures.contains(&kind).then_some(true)
    }

    fn is_failed_answer(&self, outcome: &Outcome) -> bool {
        let status = match &self.statuses {
            None => outcome.status >= 500,
            Some(statuses) => statuses.contains(&outcome.status),
        };
        status || outcome.grpc_status.is_some_and(|code| self.grpc.iter().any(|listed| *listed as u32 == code))
    }
}
