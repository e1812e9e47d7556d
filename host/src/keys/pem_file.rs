//! Keys in PEM files (RFC 7468).

use aws_lc_rs::{
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
        ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, VerificationAlgorithm,
    },
};
use pem::Pem;

use super::{
    Algorithm,
    material::{Member, RSA_MODULUS_BYTES, Signer},
};

const KINDS: &str = "RSA of 2048 to 8192 bits, P-256 or Ed25519";

/// The private key in the file.
pub(super) fn private(content: &[u8]) -> Result<Member, String> {
    let block = find(content, &["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"], "private")?;
    if block.headers().get("Proc-Type").is_some() {
        return Err(ENCRYPTED.to_owned());
    }
    let der = block.contents();
    // The tag does not tell what is in PKCS#8, and what fits one kind fits no other.
    let rsa = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der)).map(Signer::Rsa);
    let signer = rsa
        .or_else(|_| EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map(Signer::Ecdsa))
        .or_else(|_| Ed25519KeyPair::from_pkcs8(der).map(Signer::Ed25519))
        .map_err(|_| format!("holds no private key that can be used; it has to be {KINDS}"))?;
    let algorithm = match signer {
        Signer::Rsa(_) => Algorithm::Rs256,
        Signer::Ecdsa(_) => Algorithm::Es256,
        Signer::Ed25519(_) => Algorithm::EdDsa,
        Signer::Hmac(_) => Algorithm::Hs256,
    };
    let mut member = public_key(signer.public_bytes())
        .filter(|member| member.algorithm == algorithm)
        .ok_or_else(|| format!("holds a private key without its public half; it has to be {KINDS}"))?;
    member.signer = Some(signer);
    Ok(member)
}

/// The public key in the file.
pub(super) fn public(content: &[u8]) -> Result<Member, String> {
    let block = find(content, &["PUBLIC KEY", "RSA PUBLIC KEY"], "public")?;
    public_key(block.contents()).ok_or_else(|| format!("holds no public key that can be used; it has to be {KINDS}"))
}

/// A public key in any form: SubjectPublicKeyInfo, PKCS#1, an uncompressed point, or the 32 bytes of Ed25519.
fn public_key(bytes: &[u8]) -> Option<Member> {
    if let Ok(key) = rsa::PublicKey::from_der(bytes) {
        return RSA_MODULUS_BYTES
            .contains(&key.modulus_len())
            .then(|| parse(Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256, bytes))
            .flatten();
    }
    parse(Algorithm::Es256, &ECDSA_P256_SHA256_FIXED, bytes).or_else(|| parse(Algorithm::EdDsa, &ED25519, bytes))
}

fn parse(algorithm: Algorithm, verification: &'static dyn VerificationAlgorithm, bytes: &[u8]) -> Option<Member> {
    let key = ParsedPublicKey::new(verification, bytes).ok()?;
    Some(Member::public(algorithm, key))
}

const ENCRYPTED: &str = "holds an encrypted key; decrypt it with `openssl pkey -in … -out …`";

/// The first block with one of these tags. Others, as the parameters that OpenSSL writes before EC keys, are passed over.
fn find(content: &[u8], tags: &[&str], kind: &str) -> Result<Pem, String> {
    // What the library says of a fault may quote the line, which may be part of a key.
    let blocks = pem::parse_many(content).map_err(|_| "is not valid PEM; write the file anew")?;
    let found: Vec<_> = blocks.iter().map(|block| block.tag().to_owned()).collect();
    blocks.into_iter().find(|block| tags.contains(&block.tag())).ok_or_else(|| {
        let tag = tags.first().copied().unwrap_or_default();
        let expected = format!("a {kind} key begins with -----BEGIN {tag}-----");
        match found.first().map(String::as_str) {
            None => format!("holds no PEM; {expected}"),
            Some("ENCRYPTED PRIVATE KEY") => ENCRYPTED.to_owned(),
            Some(tag) if kind == "public" && tag.ends_with("PRIVATE KEY") => {
                "holds a private key; give it as private, or only its public half \
                 (`openssl pkey -in … -pubout`)"
                    .to_owned()
            }
            Some(tag) => format!("holds {tag}; {expected}"),
        }
    })
}
