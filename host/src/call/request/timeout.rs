//! How long the caller is willing to wait, and telling the service how much of that is left.

use crate::response::{ErrorKind, ProxyError};
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;
use std::time::Duration;

/// As gRPC has it: at most eight digits and a unit.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// For all others: a duration as in the configuration, `250ms` or `1m 30s`; a bare number counts milliseconds.
pub const WEIR_TIMEOUT: HeaderName = HeaderName::from_static("x-weir-timeout");

/// The most digits of a `grpc-timeout`.
const GRPC_DIGITS: usize = 8;

/// The units of a `grpc-timeout`, and their nanoseconds.
const GRPC_UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60 * 1_000_000_000),
    (b'H', 3600 * 1_000_000_000),
];

/// The shortest `grpc-timeout` of a request.
///
/// # Errors
/// Bad request, where one is malformed: a caller that believes in its deadline should not wait without one. gRPC's own
/// servers answer the same, INTERNAL.
pub fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, ProxyError> {
    shortest(headers, &GRPC_TIMEOUT, parse_grpc, "1 to 8 digits and one of H M S m u n")
}

/// The shortest `x-weir-timeout` of a request.
///
/// # Errors
/// Bad request, where one is malformed.
pub fn weir_timeout(headers: &HeaderMap) -> Result<Option<Duration>, ProxyError> {
    duration(headers, &WEIR_TIMEOUT)
}

/// The shortest duration in fields of one name, written as `x-weir-timeout` is.
///
/// # Errors
/// Bad request, where one is malformed.
pub fn duration(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Duration>, ProxyError> {
    shortest(headers, name, parse_duration, "a duration such as \"250ms\" or \"5s\", or a number of milliseconds")
}

fn shortest(
    headers: &HeaderMap,
    name: &HeaderName,
    parse: fn(&str) -> Option<Duration>,
    expected: &str,
) -> Result<Option<Duration>, ProxyError> {
    let mut shortest = None;
    for value in headers.get_all(name) {
        let Some(timeout) = value.to_str().ok().and_then(parse) else {
            return Err(ProxyError::new(
                ErrorKind::BadRequest,
                format!("field {:?} has to be {expected}", name.as_str()),
            ));
        };
        shortest = Some(shortest.map_or(timeout, |shortest: Duration| shortest.min(timeout)));
    }
    Ok(shortest)
}

fn parse_grpc(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let (_, nanos) = GRPC_UNITS.iter().find(|(name, _)| unit.as_bytes() == [*name])?;
    let number = number(digits, GRPC_DIGITS)?;
    // 99999999 hours in nanoseconds are more than 64 bits hold.
    Some(Duration::from_nanos_u128(u128::from(number) * u128::from(*nanos)))
}

/// A duration as `x-weir-timeout` has it.
pub fn parse_duration(text: &str) -> Option<Duration> {
    // humantime panics when a sum ends exactly at the limit of `Duration`. So few digits cannot come near.
    const MAX_DIGITS: usize = 9;
    let small = text.split(|c: char| !c.is_ascii_digit()).all(|digits| digits.len() <= MAX_DIGITS);
    if text.len() > 64 || !small {
        return None;
    }
    match number(text, MAX_DIGITS) {
        Some(millis) => Some(Duration::from_millis(millis)),
        None => humantime::parse_duration(text).ok(),
    }
}

fn number(digits: &str, at_most: usize) -> Option<u64> {
    let valid = (1..=at_most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| valid)
}

/// The `grpc-timeout` for what is left: in the finest unit that eight digits can hold, rounded down but never to
/// nothing, which some servers take for malformed.
pub fn encode_grpc_timeout(left: Duration) -> HeaderValue {
    const MOST: u128 = 10_u128.pow(GRPC_DIGITS as u32) - 1;
    let nanos = left.as_nanos().max(1);
    let fitting =
        GRPC_UNITS.iter().map(|(unit, size)| (nanos / u128::from(*size), *unit)).find(|(number, _)| *number <= MOST);
    let (number, unit) = fitting.unwrap_or((MOST, b'H'));
    value(number, &[unit])
}

/// The `x-weir-timeout` for what is left, rounded down to milliseconds but never to nothing.
pub fn encode_weir_timeout(left: Duration) -> HeaderValue {
    value(left.as_millis().max(1), b"ms")
}

/// Put together on the stack, so that the value's own memory is the only that is asked for.
fn value(number: u128, unit: &[u8]) -> HeaderValue {
    let mut digits = itoa::Buffer::new();
    let text: SmallVec<[u8; 48]> = digits.format(number).bytes().chain(unit.iter().copied()).collect();
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    fn with(name: &HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn grpc(values: &[&str]) -> Result<Option<Duration>, ProxyError> {
        grpc_timeout(&with(&GRPC_TIMEOUT, values))
    }

    fn weir(values: &[&str]) -> Result<Option<Duration>, ProxyError> {
        weir_timeout(&with(&WEIR_TIMEOUT, values))
    }

    #[test]
    fn every_grpc_unit_is_understood() {
        let hour = Duration::from_secs(3600);
        let table = [
            ("1H", hour),
            ("2M", hour / 30),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("0m", Duration::ZERO),
            ("00000001S", Duration::from_secs(1)),
            ("99999999H", hour * 99_999_999),
        ];
        for (text, expected) in table {
            assert_eq!(grpc(&[text]), Ok(Some(expected)), "{text}");
        }
        assert_eq!(grpc(&[]), Ok(None));
    }

    #[test]
    fn a_malformed_grpc_timeout_is_a_bad_request() {
        for text in ["", "m", "1", "1s", "1h", "-1m", "+1m", "1.5S", "1 m", " 1m", "123456789n", "1mm", "0x1m"] {
            let error = grpc(&[text]).unwrap_err();
            assert_eq!(error.kind, ErrorKind::BadRequest);
            assert!(error.message.contains("grpc-timeout"), "{error}");
        }
        let not_text = HeaderValue::from_bytes(b"1\xff").unwrap();
        assert!(grpc_timeout(&[(GRPC_TIMEOUT, not_text)].into_iter().collect()).is_err());
    }

    #[test]
    fn a_weir_timeout_is_a_duration_or_milliseconds() {
        let table = [
            ("250ms", 250),
            ("5s", 5_000),
            ("1m 30s", 90_000),
            ("1m30s", 90_000),
            ("1500", 1_500),
            ("0", 0),
            ("0s", 0),
        ];
        for (text, millis) in table {
            assert_eq!(weir(&[text]), Ok(Some(Duration::from_millis(millis))), "{text}");
        }
        assert_eq!(weir(&[]), Ok(None));
    }

    #[test]
    fn a_malformed_weir_timeout_is_a_bad_request() {
        let zeros = "0s ".repeat(30);
        for text in ["", "s", "-1s", "1 parsec", "1.5", "9999999999", "18446744073709551615s 1ns", &zeros] {
            let error = weir(&[text]).unwrap_err();
            assert_eq!(error.kind, ErrorKind::BadRequest);
            assert!(error.message.contains("x-weir-timeout"), "{error}");
        }
    }

    #[test]
    fn of_several_timeouts_the_shortest_holds() {
        assert_eq!(grpc(&["2S", "1S", "3S"]), Ok(Some(Duration::from_secs(1))));
        assert_eq!(weir(&["2s", "1s"]), Ok(Some(Duration::from_secs(1))));
        assert!(weir(&["2s", "x"]).is_err());
    }

    #[test]
    fn what_is_left_is_never_lengthened_and_never_nothing() {
        let mut rng = rand::rng();
        let random = (0..10_000).map(|_| Duration::from_nanos(rng.random::<u64>() >> rng.random_range(0..64)));
        let edges = [99_999_999, 100_000_000, 100_000_999, 99_999_999_999].map(Duration::from_nanos);
        for left in random.chain(edges).chain([Duration::from_millis(1), Duration::MAX]) {
            let encoded = encode_grpc_timeout(left);
            assert!(encoded.len() <= GRPC_DIGITS + 1, "{encoded:?}");
            let decoded = parse_grpc(encoded.to_str().unwrap()).unwrap();
            assert!(decoded > Duration::ZERO && decoded <= left.max(Duration::from_nanos(1)));
            // Eight digits: no more than a hundred-thousandth is lost, or a sixtieth at the step from one unit to the next.
            assert!(
                left > Duration::from_secs(3600) * 99_999_999 || decoded >= left - left / 10_000,
                "{left:?} as {encoded:?}"
            );
            if left < Duration::from_secs(900_000) {
                let decoded = parse_duration(encode_weir_timeout(left).to_str().unwrap()).unwrap();
                assert!(decoded > Duration::ZERO && decoded <= left.max(Duration::from_millis(1)));
                assert!(left - decoded.min(left) < Duration::from_millis(1));
            }
        }
        assert_eq!(encode_grpc_timeout(Duration::ZERO), "1n");
        assert_eq!(encode_weir_timeout(Duration::ZERO), "1ms");
        assert_eq!(encode_weir_timeout(Duration::from_micros(4_999_999)), "4999ms");
    }
}
