//! The compact form of a signed token (RFC 7515, section 7.1), read as strictly as it is written.

use crate::denial::Denial;
use crate::json;
use base64::Engine;
// Without padding, and with nothing in the bits that are left over: one token has one spelling.
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// A longer token is not looked at.
const LONGEST: usize = 8 << 10;

/// The token after "Bearer", which may be in any case (RFC 6750, section 2.1; RFC 9110, section 11.1).
pub fn bearer(value: &[u8]) -> Result<&[u8], Denial> {
    const SCHEME: &[u8] = b"bearer";
    let (scheme, token) = value.split_at_checked(SCHEME.len()).ok_or(Denial::Invalid("it is not a bearer token"))?;
    if !scheme.eq_ignore_ascii_case(SCHEME) || token.first() != Some(&b' ') {
        return Err(Denial::Invalid("it is not a bearer token"));
    }
    Ok(token.trim_ascii())
}

/// A token in its parts. Nothing in it is to be believed before the signature is checked.
#[derive(Debug)]
pub struct Token<'a> {
    pub algorithm: String,
    pub key_id: Option<String>,
    pub typ: Option<String>,
    /// What the signature covers.
    pub signed: &'a [u8],
    pub signature: Vec<u8>,
    payload: &'a str,
}

impl<'a> Token<'a> {
    pub fn parse(token: &'a [u8]) -> Result<Self, Denial> {
        if token.len() > LONGEST {
            return Err(Denial::Invalid("the token is too long"));
        }
        // Fields that occur twice arrive joined.
        if token.contains(&b',') {
            return Err(Denial::Invalid("there is more than one token"));
        }
        Self::parts(token).ok_or(Denial::Invalid("the token is malformed"))
    }

    fn parts(token: &'a [u8]) -> Option<Self> {
        let token = std::str::from_utf8(token).ok()?;
        // Three parts: a fourth would leave a dot in the payload, and that does not decode.
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok().filter(|signature| !signature.is_empty())?;
        let header = json::object(&URL_SAFE_NO_PAD.decode(header).ok()?)?;
        // Extensions that must be understood: none is (RFC 7515, section 4.1.11; RFC 7797, section 6).
        if header.get("crit").is_some() || header.get("b64").is_some_and(|encoded| *encoded != Value::Bool(true)) {
            return None;
        }
        let text = |name| match header.get(name) {
            None => Some(None),
            Some(Value::String(text)) => Some(Some(text.clone())),
            Some(_) => None,
        };
        Some(Self {
            algorithm: text("alg")??,
            key_id: text("kid")?,
            typ: text("typ")?,
            signed: signed.as_bytes(),
            signature,
            payload,
        })
    }

    /// The claims: one JSON object.
    pub fn claims(&self) -> Result<Value, Denial> {
        let decoded = URL_SAFE_NO_PAD.decode(self.payload).ok();
        decoded.and_then(|payload| json::object(&payload)).ok_or(Denial::Invalid("the token is malformed"))
    }
}
