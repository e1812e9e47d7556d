//! How a call is refused.

use weir_sdk::{Reply, Verdict};

/// Why a call may not pass. The caller is told; a reason therefore names no key, claim value or configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// There is no token.
    Missing,
    /// There is one, and it does not count.
    Invalid(&'static str),
    /// It counts, and does not reach so far.
    Forbidden(&'static str),
}

impl Denial {
    /// The rules could be read past: what they call one path may be another to the service.
    pub const AMBIGUOUS: Self = Self::Forbidden("the path can be read in more than one way");
}

impl From<Denial> for Verdict {
    fn from(denial: Denial) -> Self {
        // RFC 6750, section 3: no error code where there were no credentials at all.
        let (status, kind, reason, challenge) = match denial {
            Denial::Missing => (401, "token", "a token is needed", "Bearer"),
            Denial::Invalid(reason) => (401, "token", reason, "Bearer error=\"invalid_token\""),
            Denial::Forbidden(reason) => (403, "forbidden", reason, "Bearer error=\"insufficient_scope\""),
        };
        Reply::error(status, kind, reason).header("www-authenticate", challenge).into()
    }
}
