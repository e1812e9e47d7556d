use std::time::SystemTime;
use weir_sdk::prelude::*;

/// What the service says about another attempt.
#[derive(Debug, PartialEq)]
pub enum Advice {
    /// Do not try again.
    Never,
    /// Try again after this time, whatever the backoff is.
    Exactly(Duration),
    /// Do not try again sooner than this. Zero if the service says nothing.
    AtLeast(Duration),
}

impl Advice {
    pub fn of(outcome: &Outcome) -> Self {
        if let Some(pushback) = outcome.field("grpc-retry-pushback-ms") {
            return Self::of_pushback(pushback);
        }
        Self::AtLeast(outcome.text("retry-after").and_then(retry_after).unwrap_or_default())
    }

    /// A 32-bit number of milliseconds; everything else, a negative number included, asks for no retry (gRFC A6,
    /// "Pushback").
    fn of_pushback(value: &[u8]) -> Self {
        let text =
            std::str::from_utf8(value).ok().filter(|text| text.starts_with(|first: char| first.is_ascii_digit()));
        match text.and_then(|text| text.parse::<i32>().ok()) {
            Some(milliseconds) => Self::Exactly(Duration::from_millis(u64::from(milliseconds.unsigned_abs()))),
            None => Self::Never,
        }
    }
}

/// Seconds, or a date in any of the three forms of HTTP (RFC 9110, sections 10.2.3 and 5.6.7). A date that has passed is
/// no wait at all. `None` for anything else, which is as if the field were not there.
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim_matches([' ', '\t']);
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that are too many for a number are a long time all the same.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(clock::unix()))
}
