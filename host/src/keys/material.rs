//! Keys in the form that computes.

use std::ops::RangeInclusive;

use aws_lc_rs::{
    error::Unspecified,
    hmac,
    rand::SystemRandom,
    signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair, ParsedPublicKey, RSA_PKCS1_SHA256, RsaKeyPair},
};

use super::{Algorithm, KeySource, KeySpec, jwks, pem_file};

/// The least that is as strong as the digest (RFC 7518, section 3.2), in bytes.
const MIN_SECRET_BYTES: usize = 32;

/// RSA of 2048 bits (RFC 7518, section 3.3) to 8192, the most that the library takes.
pub(super) const RSA_MODULUS_BYTES: RangeInclusive<usize> = 256..=1024;

/// All a file holds: one key, or the usable ones of a set.
pub(super) struct Material {
    pub(super) members: Vec<Member>,
}

pub(super) struct Member {
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) signer: Option<Signer>,
    pub(super) verifier: Verifier,
}

pub(super) enum Signer {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Hmac(Box<hmac::Key>),
}

pub(super) enum Verifier {
    /// Bound to its algorithm.
    Public(ParsedPublicKey),
    Hmac(Box<hmac::Key>),
}

impl Material {
    /// Understands the content of the key's file.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub(super) fn parse(spec: &KeySpec, content: &[u8]) -> Result<Self, String> {
        let mut member = match &spec.source {
            KeySource::Jwks(_) => {
                if spec.kid.is_some() {
                    return Err("a set has the ids of its keys in it; remove kid".to_owned());
                }
                return jwks::parse(content, spec.algorithm).map(|members| Self { members });
            }
            KeySource::Private(_) => pem_file::private(content)?,
            KeySource::Public(_) => pem_file::public(content)?,
            KeySource::Secret(_) => secret(content)?,
        };
        member.kid.clone_from(&spec.kid);
        match spec.algorithm {
            Some(algorithm) if algorithm != member.algorithm => Err(format!(
                "holds a key for {}, but its algorithm is configured as {algorithm}; change one of them",
                member.algorithm
            )),
            _ => Ok(Self { members: vec![member] }),
        }
    }
}

fn secret(content: &[u8]) -> Result<Member, String> {
    if content.starts_with(b"-----BEGIN ") {
        return Err("holds PEM, which is no secret; give it as private or public".to_owned());
    }
    let line = content.strip_suffix(b"\n").unwrap_or(content);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is_text = line.iter().all(|byte| matches!(byte, b' '..=b'~'));
    Member::secret(if is_text { line } else { content })
}

impl Member {
    pub(super) fn secret(secret: &[u8]) -> Result<Self, String> {
        if secret.len() < MIN_SECRET_BYTES {
            let length = secret.len();
            return Err(format!(
                "has {length} bytes; a secret needs at least {MIN_SECRET_BYTES}, as from `openssl rand -hex 32`"
            ));
        }
        let key = Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret));
        Ok(Self {
            kid: None,
            algorithm: Algorithm::Hs256,
            signer: Some(Signer::Hmac(key.clone())),
            verifier: Verifier::Hmac(key),
        })
    }

    pub(super) fn public(algorithm: Algorithm, key: ParsedPublicKey) -> Self {
        Self { kid: None, algorithm, signer: None, verifier: Verifier::Public(key) }
    }
}

impl Signer {
    pub(super) fn sign(&self, data: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, data, &mut signature)?;
                Ok(signature)
            }
            Self::Ecdsa(key) => Ok(key.sign(&random, data)?.as_ref().to_vec()),
            Self::Ed25519(key) => Ok(key.sign(data).as_ref().to_vec()),
            Self::Hmac(key) => Ok(hmac::sign(key, data).as_ref().to_vec()),
        }
    }

    /// The public half; none of a secret.
    pub(super) fn public_bytes(&self) -> &[u8] {
        match self {
            Self::Rsa(key) => key.public_key().as_ref(),
            Self::Ecdsa(key) => key.public_key().as_ref(),
            Self::Ed25519(key) => key.public_key().as_ref(),
            Self::Hmac(_) => &[],
        }
    }
}

impl Verifier {
    pub(super) fn verify(&self, data: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Public(key) => key.verify_sig(data, signature).is_ok(),
            // In constant time.
            Self::Hmac(key) => hmac::verify(key, data, signature).is_ok(),
        }
    }
}
