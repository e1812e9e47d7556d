//! Sets of keys (RFC 7517, RFC 7518, RFC 8037).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::{
    Algorithm,
    material::{Member, RSA_MODULUS_BYTES},
};

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// What matters of one key. Private parts are not read.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

/// The keys of the set that can verify. Those for other purposes, of other kinds or broken are passed over, as RFC 7517,
/// section 5, wants it: an issuer may add such keys at any time.
///
/// # Errors
/// There are none, or the file is no set.
pub(super) fn parse(content: &[u8], algorithm: Option<Algorithm>) -> Result<Vec<Member>, String> {
    let set: Set = serde_json::from_slice(content).map_err(|error| {
        // What serde says of the content would show pieces of it.
        format!(
            "is not a JWKS (line {}, column {}); it has to be JSON as {{\"keys\": [ … ]}}",
            error.line(),
            error.column()
        )
    })?;
    let mut members = Vec::new();
    let mut passed_over = Vec::new();
    for (number, value) in set.keys.into_iter().enumerate() {
        let member =
            serde_json::from_value::<Jwk>(value).map_err(|_| "is not a JWK".to_owned()).and_then(|jwk| jwk.member());
        match member {
            Ok(member) if algorithm.is_none_or(|algorithm| algorithm == member.algorithm) => {
                members.push(member);
            }
            Ok(member) => passed_over.push(format!("key {number} is for {}", member.algorithm)),
            Err(reason) => passed_over.push(format!("key {number} {reason}")),
        }
    }
    if members.is_empty() {
        passed_over.truncate(5);
        let reasons = passed_over.join(", ");
        return Err(format!("has no key that can be used ({reasons}); it needs one for RS256, ES256, EdDSA or HS256"));
    }
    Ok(members)
}

impl Jwk {
    fn member(self) -> Result<Member, String> {
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err("is not for signatures".to_owned());
        }
        if self.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err("is not for verifying".to_owned());
        }
        let mut member = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => self.rsa(),
            ("EC", Some("P-256")) => self.ec(),
            ("OKP", Some("Ed25519")) => self.okp(),
            ("oct", _) => Member::secret(&bytes(self.k.as_deref())?),
            (kty, crv) => Err(format!("is of an unknown kind {kty} {}", crv.unwrap_or_default())),
        }?;
        let own = member.algorithm.as_str();
        match self.alg.as_deref() {
            // RFC 9864 gives EdDSA on this curve a name of its own.
            Some("Ed25519") if member.algorithm == Algorithm::EdDsa => {}
            Some(alg) if alg != own => return Err(format!("is for {alg}")),
            _ => {}
        }
        member.kid = self.kid;
        // A set verifies only; who holds its secret signs with it as a key of its own.
        member.signer = None;
        Ok(member)
    }

    fn rsa(&self) -> Result<Member, String> {
        let (n, e) = (bytes(self.n.as_deref())?, bytes(self.e.as_deref())?);
        let components = RsaPublicKeyComponents { n: number(&n), e: number(&e) };
        if !RSA_MODULUS_BYTES.contains(&components.n.len()) {
            return Err(format!("has {} bits; RSA keys have 2048 to 8192", components.n.len().saturating_mul(8)));
        }
        let key = components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256);
        let key = key.map_err(|_| "is not a valid RSA key".to_owned())?;
        Ok(Member::public(Algorithm::Rs256, key))
    }

    fn ec(&self) -> Result<Member, String> {
        let (x, y) = (bytes(self.x.as_deref())?, bytes(self.y.as_deref())?);
        if x.len() != 32 || y.len() != 32 {
            return Err("has coordinates that are not 32 bytes".to_owned());
        }
        let point = [[4].as_slice(), &x, &y].concat();
        let key =
            ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|_| "is not a point of P-256".to_owned())?;
        Ok(Member::public(Algorithm::Es256, key))
    }

    fn okp(&self) -> Result<Member, String> {
        let x = bytes(self.x.as_deref())?;
        if x.len() != 32 {
            return Err("has an x that is not 32 bytes".to_owned());
        }
        let key = ParsedPublicKey::new(&ED25519, x).map_err(|_| "is not a valid Ed25519 key".to_owned())?;
        Ok(Member::public(Algorithm::EdDsa, key))
    }
}

fn bytes(value: Option<&str>) -> Result<Vec<u8>, String> {
    let value = value.ok_or("lacks a part")?;
    BASE64_URL_SAFE_NO_PAD.decode(value).map_err(|_| "has a part that is not base64url without padding".to_owned())
}

/// Without leading zeros, which some issuers write against RFC 7518, section 6.3.1.
fn number(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}
