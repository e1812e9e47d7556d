//! Which fields a policy may change.

use http::{HeaderName, HeaderValue};

/// The longest value that a policy may set, in bytes: what common servers take in one field.
const MAX_VALUE_BYTES: usize = 8 * 1024;

/// The longest name that a policy may use, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// Fields that frame a message or belong to one connection (RFC 9110, section 7.6.1). They are the host's to set: a
/// policy that could would make the peers disagree on where a message ends, or whom it is for.
const RESERVED: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A field that a policy wants to change.
///
/// # Errors
/// The name is not in lower case, not valid, or reserved.
pub fn editable_name(name: &str) -> Result<HeaderName, String> {
    if RESERVED.contains(&name) {
        return Err(format!("field {name:?} frames the message, and only the host sets it"));
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(format!("the name of a field has {} bytes; {MAX_NAME_BYTES} are the most", name.len()));
    }
    // `HeaderName` takes a quote, which is in no token (RFC 9110, section 5.6.2): services would refuse the whole request.
    let valid = HeaderName::from_lowercase(name.as_bytes()).ok().filter(|_| !name.contains('"'));
    valid.ok_or_else(|| match name {
        _ if name.starts_with(':') => format!("field {name:?} is no header field, and cannot be changed"),
        _ => format!("{name:?} is no field name (it has to be a token in lower case)"),
    })
}

/// A value that a policy wants to give to a field.
///
/// # Errors
/// The value is too long, or has bytes that one of the protocols cannot carry. The message names the field only: values
/// can be secrets.
pub fn editable_value(name: &HeaderName, value: &[u8]) -> Result<HeaderValue, String> {
    let name = name.as_str();
    if value.len() > MAX_VALUE_BYTES {
        return Err(format!("the value of field {name:?} has {} bytes; {MAX_VALUE_BYTES} are the most", value.len()));
    }
    // HTTP/1 takes it off, HTTP/2 calls it malformed (RFC 9113, section 8.2.1).
    if value.trim_ascii() != value {
        return Err(format!("the value of field {name:?} begins or ends with white space"));
    }
    HeaderValue::from_bytes(value).map_err(|_| format!("the value of field {name:?} has control characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_fields_are_a_policys_to_change() {
        for name in
            ["authorization", "x-user", "content-type", "cookie", "grpc-timeout", "date", "x-request-id", "_a.b~c"]
        {
            assert_eq!(editable_name(name).unwrap(), name);
        }
    }

    #[test]
    fn framing_is_the_hosts() {
        for name in RESERVED {
            let problem = editable_name(name).unwrap_err();
            assert!(problem.contains(name), "{problem}");
        }
        for pseudo in [":path", ":status", ":"] {
            assert!(editable_name(pseudo).unwrap_err().contains(pseudo));
        }
    }

    #[test]
    fn a_bad_name_is_named() {
        for name in ["", "X-User", "Host", "Content-Length", "x user", "x\r\ny", "x:", "x\"y", "ä"] {
            let problem = editable_name(name).unwrap_err();
            assert!(problem.contains(&format!("{name:?}")), "{problem}");
        }
        assert!(editable_name(&"x".repeat(256)).is_ok());
        assert!(editable_name(&"x".repeat(257)).unwrap_err().len() < 100);
    }

    #[test]
    fn a_value_is_what_both_protocols_can_carry() {
        let name = HeaderName::from_static("x-user");
        for value in ["", "a", "a b\tc", "ä"] {
            assert_eq!(editable_value(&name, value.as_bytes()).unwrap().as_bytes(), value.as_bytes());
        }
        for byte in (0..=255_u8).filter(|byte| *byte != b'\t') {
            let valid = byte >= b' ' && byte != 0x7f;
            assert_eq!(editable_value(&name, &[b'a', byte, b'b']).is_ok(), valid, "{byte}");
        }
        for value in ["a\r\nb: c", "a\n", "\0", " a", "a ", "a\t"] {
            let problem = editable_value(&name, value.as_bytes()).unwrap_err();
            assert!(problem.contains("x-user"), "{problem}");
        }
    }

    #[test]
    fn a_value_has_a_bound() {
        let name = HeaderName::from_static("x-user");
        assert!(editable_value(&name, &[b'a'; MAX_VALUE_BYTES]).is_ok());
        assert!(editable_value(&name, &[b'a'; MAX_VALUE_BYTES + 1]).unwrap_err().contains("x-user"));
    }
}
