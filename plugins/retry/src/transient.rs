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
    /// HTTP statuses. By default 502, 503 and 504, and of a delivery 408, 425, 429 and all from 500 to 599.
    #[schemars(inner(range(min = 400, max = 599)))]
    statuses: Option<Vec<u16>>,
    /// gRPC statuses by name, as in "UNAVAILABLE".
    #[schemars(extend("items" = { "enum": CODES }))]
    grpc: Vec<String>,
    /// Failures without an answer. By default connect, reset and timeout, and of a delivery all.
    failures: Option<Vec<Kind>>,
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
        Self { statuses: None, grpc: vec!["UNAVAILABLE".into(), "RESOURCE_EXHAUSTED".into()], failures: None, codes: 0 }
    }
}

impl Transient {
    /// Checks the lists, and looks the names up.
    pub fn check(&mut self) -> Result<()> {
        for (at, status) in self.statuses.iter().flatten().enumerate() {
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

    pub fn includes(&self, of: ExchangeKind, outcome: &Outcome) -> bool {
        let kind = match outcome.failure {
            Failure::None => return self.includes_answer(of, outcome),
            Failure::Connect => Kind::Connect,
            Failure::Reset => Kind::Reset,
            Failure::Timeout => Kind::Timeout,
            Failure::Protocol => Kind::Protocol,
            // Not the endpoint's doing, so another one would make no difference.
            Failure::Rejected | Failure::Cancelled | Failure::Overload => return false,
        };
        match &self.failures {
            Some(failures) => failures.contains(&kind),
            None => of == ExchangeKind::Delivery || kind != Kind::Protocol,
        }
    }

    fn includes_answer(&self, of: ExchangeKind, outcome: &Outcome) -> bool {
        let code = outcome.grpc_status.filter(|code| *code < u32::BITS).unwrap_or(0);
        let status = match (&self.statuses, outcome.status) {
            (Some(statuses), status) => statuses.contains(&status),
            // What a caller should hear of at once, a message has time to outlast: nobody waits for it, and its consumer
            // has to bear duplicates anyway.
            (None, 408 | 425 | 429 | 500..600) if of == ExchangeKind::Delivery => true,
            (None, status) => matches!(status, 502..=504),
        };
        self.codes >> code & 1 == 1 || status
    }
}
