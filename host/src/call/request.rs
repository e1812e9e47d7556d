//! What a received request says: where it wants to go, how long it may take, and what may be done with it.

mod edit;
mod target;
mod timeout;

pub use edit::{editable_name, editable_value};
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
pub use target::Target;
pub use timeout::{
    GRPC_TIMEOUT, WEIR_TIMEOUT, duration, encode_grpc_timeout, encode_weir_timeout, grpc_timeout, parse_duration,
    weir_timeout,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Whether repeating it does no harm, by its method (RFC 9110, section 9.2.2) or because the service can tell that it is
/// a repetition.
pub fn is_repeatable(method: &Method, headers: &HeaderMap) -> bool {
    method.is_idempotent() || headers.contains_key(IDEMPOTENCY_KEY)
}

/// The protocol that the caller wants to switch to (RFC 9110, section 7.8).
///
/// Never `h2c`: the proxy could not follow what is then said, and so neither route nor check it. Such a request is
/// answered as if it had not asked, as RFC 9113 (section 3.1) wants.
pub fn upgrade_of(parts: &Parts) -> Option<&HeaderValue> {
    let mut upgrades = parts.headers.get_all(UPGRADE).iter();
    let upgrade = upgrades.next()?;
    let asked = parts.version == Version::HTTP_11
        && parts.method != Method::CONNECT
        && upgrades.next().is_none()
        && elements(&parts.headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"));
    let to_http2 = upgrade
        .as_bytes()
        .split(|byte| *byte == b',')
        .any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"h2c"));
    (asked && !to_http2 && !upgrade.is_empty()).then_some(upgrade)
}

/// The elements of a list over all the fields of a name (RFC 9110, section 5.6.1).
pub(super) fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let values = headers.get_all(name).into_iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(version: Version, fields: &[(&'static str, &str)]) -> Parts {
        let mut parts = Request::new(()).into_parts().0;
        parts.version = version;
        for (name, value) in fields {
            parts.headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        parts
    }

    #[test]
    fn idempotent_methods_and_keys_make_a_request_repeatable() {
        let none = HeaderMap::new();
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(is_repeatable(&method.parse().unwrap(), &none), "{method}");
        }
        let keyed = parts(Version::HTTP_11, &[("idempotency-key", "\"8e03978e\"")]).headers;
        for method in ["POST", "PATCH", "CONNECT", "PURGE", "get"] {
            assert!(!is_repeatable(&method.parse().unwrap(), &none), "{method}");
            assert!(is_repeatable(&method.parse().unwrap(), &keyed), "{method}");
        }
    }

    #[test]
    fn an_upgrade_is_asked_for_in_both_fields() {
        let asked = [("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")];
        assert_eq!(upgrade_of(&parts(Version::HTTP_11, &asked)).unwrap(), "websocket");
        assert_eq!(upgrade_of(&parts(Version::HTTP_11, &asked[..1])), None);
        assert_eq!(upgrade_of(&parts(Version::HTTP_11, &asked[1..])), None);
        assert_eq!(upgrade_of(&parts(Version::HTTP_10, &asked)), None);
        assert_eq!(upgrade_of(&parts(Version::HTTP_2, &asked)), None);
        let mut any_method = parts(Version::HTTP_11, &asked);
        any_method.method = Method::POST;
        assert!(upgrade_of(&any_method).is_some());
    }

    #[test]
    fn nobody_upgrades_to_http2_behind_the_proxys_back() {
        for upgrade in ["h2c", "H2C", "websocket, h2c", "h2c,websocket"] {
            let asked =
                [("upgrade", upgrade), ("connection", "upgrade, http2-settings"), ("http2-settings", "AAMAAABk")];
            assert_eq!(upgrade_of(&parts(Version::HTTP_11, &asked)), None, "{upgrade}");
        }
        let twice = [("upgrade", "websocket"), ("upgrade", "h2c"), ("connection", "upgrade")];
        assert_eq!(upgrade_of(&parts(Version::HTTP_11, &twice)), None);
    }
}
