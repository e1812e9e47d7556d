//! Keys and tokens made here, by other code than the proxy's, for the tests and the demo.
//!
//! aws-lc-rs, because the host's token code already brings it in: no further crypto library to build or to trust.

use anyhow::{Context, Result};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// An RSA key of 2048 bits that signs with RS256 (RFC 7518 section 3.3).
#[derive(Debug)]
pub struct RsaKey {
    id: String,
    pair: KeyPair,
}

impl RsaKey {
    /// Makes a key; `id` becomes its `kid`.
    pub fn generate(id: &str) -> Result<Self> {
        let pair = KeyPair::generate(KeySize::Rsa2048).context("cannot make an RSA key")?;
        Ok(Self { id: id.to_owned(), pair })
    }

    /// Reads what [`RsaKey::private_pem`] wrote.
    pub fn from_pem(id: &str, pem: &str) -> Result<Self> {
        let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(base64).context("the PEM is not base64")?;
        let pair = KeyPair::from_pkcs8(&der).context("the PEM holds no PKCS#8 RSA key")?;
        Ok(Self { id: id.to_owned(), pair })
    }

    /// The private key as PKCS#8 (RFC 5958).
    pub fn private_pem(&self) -> Result<String> {
        let der = AsDer::<Pkcs8V1Der>::as_der(&self.pair)?;
        Ok(pem("PRIVATE KEY", der.as_ref()))
    }

    /// The public key as SubjectPublicKeyInfo (RFC 5280 section 4.1).
    pub fn public_pem(&self) -> Result<String> {
        let der = AsDer::<PublicKeyX509Der>::as_der(self.pair.public_key())?;
        Ok(pem("PUBLIC KEY", der.as_ref()))
    }

    /// The public key as a JWK (RFC 7517).
    pub fn public_jwk(&self) -> Value {
        let public = self.pair.public_key();
        json!({
            "kty": "RSA",
            "kid": self.id,
            "use": "sig",
            "alg": "RS256",
            "n": URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero()),
            "e": URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero()),
        })
    }

    /// A token with these claims and this key's `kid`.
    pub fn token(&self, claims: &Value) -> Result<String> {
        self.token_with_header(&json!({ "alg": "RS256", "typ": "JWT", "kid": self.id }), claims)
    }

    /// A token with any header, however wrong, and a signature that is right.
    pub fn token_with_header(&self, header: &Value, claims: &Value) -> Result<String> {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let random = SystemRandom::new();
        self.pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// A JWK set (RFC 7517 section 5) of these keys.
pub fn jwks(keys: &[&RsaKey]) -> Value {
    json!({ "keys": keys.iter().map(|key| key.public_jwk()).collect::<Vec<_>>() })
}

/// DER in the textual encoding of RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
