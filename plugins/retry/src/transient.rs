use weir_sdk::{Failure, prelude::*};

/// The names of gRPC's codes, in their order from 1 (0 is OK).
const CODES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Outcomes that pass by themselves, so that another attempt makes sense. A list that is left out keeps its default; an
/// empty one holds nothing.
#[derive(Deserialize, JsonSchema)]
#[serde(default)]
pub struct Transient {
    /// HTTP statuses.
    #[schemars(inner(range(min = 400, max = 599)))]
    statuses: Vec<u16>,
    /// gRPC statuses by name, as in "UNAVAILABLE".
    #[schemars(extend("items" = { "enum": CODES }))]
    grpc: Vec<String>,
    /// Failures without an answer.
    failures: Vec<Kind>,
    /// The bits of `grpc`.
    #[serde(skip)]
    codes: u32,
}

/// A kind of failure.
#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq)]
enum Kind {
    /// No connection came about.
    Connect,
    /// The connection broke.
    Reset,
    /// The time of the attempt passed.
    Timeout,
    /// The answer broke the protocol.
    Protocol,
}

impl Default for Transient {
    fn default() -> Self {
        Self {
            statuses: vec![502, 503, 504],
            grpc: vec!["UNAVAILABLE".into(), "RESOURCE_EXHAUSTED".into()],
            failures: vec![Kind::Connect, Kind::Reset, Kind::Timeout],
            codes: 0,
        }
    }
}

impl Transient {
    /// Checks the lists, and looks the names up.
    pub fn check(&mut self) -> Result<()> {
        for (at, status) in self.statuses.iter().enumerate() {
            if !(400..600).contains(status) {
                let message = format!("{status} is not a status of an error: 400 to 599");
                return Err(Error::at(format!("/retry-on/statuses/{at}"), message));
            }
        }
        for (at, name) in self.grpc.iter().enumerate() {
            let Some(code) = CODES.iter().position(|known| known == name) else {
                let message = format!("no gRPC error is named {name:?}: one of {}", CODES.join(", "));
                return Err(Error::at(format!("/retry-on/grpc/{at}"), message));
            };
            self.codes |= 2 << code;
        }
        Ok(())
    }

    pub fn includes(&self, outcome: &Outcome) -> bool {
        let kind = match outcome.failure {
            Failure::None => return self.includes_answer(outcome),
            Failure::Connect => Kind::Connect,
            Failure::Reset => Kind::Reset,
            Failure::Timeout => Kind::Timeout,
            Failure::Protocol => Kind::Protocol,
            // Not the endpoint's doing, so another one would make no difference.
            Failure::Rejected | Failure::Cancelled | Failure::Overload => return false,
        };
        self.failures.contains(&kind)
    }

    fn includes_answer(&self, outcome: &Outcome) -> bool {
        let code = outcome.grpc_status.filter(|code| *code < u32::BITS).unwrap_or(0);
        self.codes >> code & 1 == 1 || self.statuses.contains(&outcome.status)
    }
}
