//! token-mint through the proxy: what a service is told of its caller, checked part by part.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use aws_lc_rs::signature::{self, KeyPair, UnparsedPublicKey, VerificationAlgorithm};
use aws_lc_rs::{hmac, rand::SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tempfile::TempDir;
use weir_tests::client::{self, Client};
use weir_tests::keys::RsaKey;
use weir_tests::upstream::{Behaviour, Received, Upstream};
use weir_tests::weir::Setup;

type Result = anyhow::Result<()>;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn decode(part: &str) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

/// A node that mints with a key of this algorithm, and what the service was sent in `authorization` by four connections.
async fn minted(algorithm: &str, file: &Path, config: &str) -> anyhow::Result<Vec<String>> {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let source = if algorithm == "HS256" { "secret" } else { "private" };
    let weir = Setup::new()
        .listener("identity = \"order-service\"")
        .service_with("s", &[upstream.address()], "http1", "chain = \"c\"")
        .toml("[chain]\nc = [\"mint\"]")
        .toml(&format!("[key.k]\nalgorithm = \"{algorithm}\"\n{source} = {{ file = {file:?} }}\nkid = \"k-1\""))
        .policy("mint", "token-mint", &format!("{{ key = \"k\", issuer = \"weir\", {config} }}"))
        .start();
    for _ in 0..4 {
        let mut client = Client::http1(weir.address()).await?;
        for _ in 0..5 {
            let mut request = client::get("s", "/")?;
            request.headers_mut().insert("authorization", "Bearer of-the-client".parse()?);
            assert_eq!(client.send(request).await?.status.as_u16(), 200);
        }
    }
    let sent = |request: Received| {
        let [value] = request.headers_named("authorization")[..] else { anyhow::bail!("one value, not {request:?}") };
        value.strip_prefix("Bearer ").map(str::to_owned).context("a bearer token")
    };
    upstream.requests().into_iter().map(sent).collect()
}

fn write_pem(directory: &TempDir, der: &[u8]) -> anyhow::Result<PathBuf> {
    let file = directory.path().join("key.pem");
    std::fs::write(
        &file,
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der)),
    )?;
    Ok(file)
}

/// Checks the signature of a token, without any code that knows tokens.
fn assert_signed(token: &str, algorithm: &'static dyn VerificationAlgorithm, public: &[u8]) -> Result {
    let (signed, signature) = token.rsplit_once('.').context("a signature")?;
    let key = UnparsedPublicKey::new(algorithm, public);
    key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature)?)
        .map_err(|_| anyhow::anyhow!("the signature does not fit: {token}"))
}

#[tokio::test]
async fn minted_tokens_say_who_calls_whom() -> Result {
    let (directory, key) = (tempfile::tempdir()?, RsaKey::generate("k-1")?);
    let file = directory.path().join("rsa.pem");
    std::fs::write(&file, key.private_pem()?)?;
    let before = now();
    let tokens = minted("RS256", &file, "ttl = \"1h\", roles = [\"SERVICE\"], claims = { zone = \"a\" }").await?;
    assert_eq!(tokens.len(), 20);
    let mut different = tokens.clone();
    different.sort();
    different.dedup();
    assert!(different.len() <= 2, "a token is kept: one for each worker, not {}", different.len());

    let parts: Vec<&str> = tokens[0].split('.').collect();
    assert_eq!(decode(parts[0])?, json!({ "alg": "RS256", "typ": "JWT", "kid": "k-1" }));
    let claims = decode(parts[1])?;
    let (issued, expires) = (claims["iat"].as_u64().context("iat")?, claims["exp"].as_u64().context("exp")?);
    assert!((before..=now()).contains(&issued) && expires - issued == 3600, "{claims}");
    for (name, value) in [
        ("iss", json!("weir")),
        ("sub", json!("order-service")),
        ("aud", json!("s")),
        ("roles", json!(["SERVICE"])),
        ("zone", json!("a")),
    ] {
        assert_eq!(claims[name], value, "{name}");
    }
    let pem = key.public_pem()?;
    let der = STANDARD.decode(pem.lines().filter(|line| !line.starts_with('-')).collect::<String>())?;
    assert_signed(&tokens[0], &signature::RSA_PKCS1_2048_8192_SHA256, &der)
}

#[tokio::test]
async fn tokens_are_signed_with_each_algorithm() -> Result {
    let (directory, random) = (tempfile::tempdir()?, SystemRandom::new());
    let p256 = signature::EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &random)?;
    let token = &minted("ES256", &write_pem(&directory, p256.as_ref())?, "").await?[0];
    let pair = signature::EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, p256.as_ref())?;
    assert_signed(token, &signature::ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref())?;

    let ed25519 = signature::Ed25519KeyPair::generate_pkcs8(&random)?;
    let token = &minted("EdDSA", &write_pem(&directory, ed25519.as_ref())?, "").await?[0];
    let pair = signature::Ed25519KeyPair::from_pkcs8(ed25519.as_ref())?;
    assert_signed(token, &signature::ED25519, pair.public_key().as_ref())?;

    let (secret, file) = ([7; 32], directory.path().join("secret"));
    std::fs::write(&file, secret)?;
    let token = &minted("HS256", &file, "").await?[0];
    let (signed, tag) = token.rsplit_once('.').context("a signature")?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    hmac::verify(&key, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(tag)?)
        .map_err(|_| anyhow::anyhow!("the tag does not fit"))?;
    Ok(())
}

#[tokio::test]
async fn what_one_route_mints_the_next_node_verifies() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let (directory, key) = (tempfile::tempdir()?, RsaKey::generate("k")?);
    let [private, public] = ["private.pem", "public.pem"].map(|name| directory.path().join(name));
    std::fs::write(&private, key.private_pem()?)?;
    std::fs::write(&public, key.public_pem()?)?;
    let inner = Setup::new()
        .service_with("s", &[upstream.address()], "http1", "chain = \"c\"")
        .toml(&format!("[chain]\nc = [\"verify\"]\n[key.k]\nalgorithm = \"RS256\"\npublic = {{ file = {public:?} }}"))
        .policy("verify", "token-verify", "{ key = \"k\", algorithms = [\"RS256\"], issuer = \"weir\", audience = \"s\", callers = [\"order-service\"] }")
        .start();
    for (identity, status) in [("order-service", 200), ("cart-service", 403)] {
        let outer = Setup::new()
            .listener(&format!("identity = \"{identity}\""))
            .service_with("s", &[inner.address()], "http1", "chain = \"c\"")
            .toml(&format!(
                "[chain]\nc = [\"mint\"]\n[key.k]\nalgorithm = \"RS256\"\nprivate = {{ file = {private:?} }}"
            ))
            .policy("mint", "token-mint", "{ key = \"k\", issuer = \"weir\" }")
            .start();
        assert_eq!(client::fetch(outer.address(), "s", "/").await?.status.as_u16(), status, "{identity}");
    }
    assert_eq!(client::fetch(inner.address(), "s", "/").await?.status.as_u16(), 401);
    Ok(())
}

#[tokio::test]
async fn a_static_token_replaces_the_clients() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let weir = Setup::new()
        .service_with("s", &[upstream.address()], "http1", "chain = \"c\"")
        .toml("[chain]\nc = [\"mint\"]")
        .policy("mint", "token-mint", "{ static-token = { value = \"internal-7\" } }")
        .start();
    let mut request = client::get("s", "/")?;
    request.headers_mut().insert("x-internal-token", "of-the-client".parse()?);
    assert_eq!(Client::http1(weir.address()).await?.send(request).await?.status.as_u16(), 200);
    assert_eq!(upstream.last().context("a request")?.headers_named("x-internal-token"), ["internal-7"]);
    Ok(())
}
