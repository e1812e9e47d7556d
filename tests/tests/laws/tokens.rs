//! token-verify through the proxy: what is believed, and who may do what.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, Method};
use serde_json::{Value, json};
use tempfile::TempDir;
use weir_tests::client::{self, Client, EchoClient, Response};
use weir_tests::keys::{RsaKey, jwks};
use weir_tests::upstream::{Behaviour, EchoRequest, Upstream};
use weir_tests::weir::{Setup, Weir};

type Result = anyhow::Result<()>;

const RULES: &str = "issuer = \"https://auth\", audience = \"s\", callers = [\"order-service\"], roles = { \"DELETE /\" = [\"ADMIN\"] }, headers = { x-user = \"sub\", x-tenant = \"tenant\" }";

/// A service behind token-verify, the key that it believes, and its set of keys.
struct Guarded {
    upstream: Upstream,
    weir: Weir,
    key: RsaKey,
    directory: TempDir,
}

impl Guarded {
    async fn start() -> anyhow::Result<Self> {
        let (upstream, key, directory) =
            (Upstream::start(Behaviour::echo()).await?, RsaKey::generate("one")?, tempfile::tempdir()?);
        let file = directory.path().join("jwks.json");
        std::fs::write(&file, jwks(&[&key]).to_string())?;
        let weir = Setup::new()
            .service_with("s", &[upstream.address()], "http1", "chain = \"c\"")
            .toml("[chain]\nc = [\"verify\"]")
            .toml(&format!("[key.issuer]\njwks = {{ file = {file:?} }}"))
            .policy(
                "verify",
                "token-verify",
                &format!("{{ key = \"issuer\", algorithms = [\"RS256\"], leeway = \"0s\", {RULES} }}"),
            )
            .start();
        Ok(Self { upstream, weir, key, directory })
    }

    async fn send(&self, method: Method, path: &str, fields: &[(&str, String)]) -> anyhow::Result<Response> {
        let mut request = client::request(method, "s", path, "")?;
        for (name, value) in fields {
            request.headers_mut().append(name.parse::<HeaderName>()?, value.parse()?);
        }
        Client::http1(self.weir.address()).await?.send(request).await
    }

    /// The status, and the proxy's error where it made one.
    async fn get(&self, fields: &[(&str, String)]) -> anyhow::Result<(u16, String)> {
        let response = self.send(Method::GET, "/", fields).await?;
        Ok((response.status.as_u16(), response.header("x-weir-error").unwrap_or_default().to_owned()))
    }

    async fn bearer(&self, token: &str) -> anyhow::Result<(u16, String)> {
        self.get(&[bearer(token)]).await
    }
}

fn bearer(token: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {token}"))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that pass, with these in their place.
fn claims(changes: &Value) -> Value {
    let mut claims =
        json!({ "iss": "https://auth", "aud": "s", "sub": "order-service", "iat": now() - 10, "exp": now() + 3600 });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims(&json!({}));
    claims.as_object_mut().unwrap().remove(name).unwrap();
    claims
}

fn encode(part: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(part)
}

#[tokio::test]
async fn good_tokens_are_believed() -> Result {
    let guarded = Guarded::start().await?;
    let good = [
        json!({}),
        json!({ "aud": ["other", "s"] }),
        json!({ "nbf": now() - 1 }),
        json!({ "exp": now() + 60, "roles": ["USER"], "more": { "nested": [1, 2] } }),
        json!({ "exp": now() as f64 + 60.5 }),
    ];
    for changes in good {
        assert_eq!(guarded.bearer(&guarded.key.token(&claims(&changes))?).await?, (200, String::new()), "{changes}");
    }
    assert_eq!(guarded.bearer(&guarded.key.token(&without("iat"))?).await?.0, 200);
    let token = guarded.key.token(&claims(&json!({})))?;
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        assert_eq!(guarded.get(&[("authorization", format!("{scheme} {token}"))]).await?.0, 200, "{scheme}");
    }
    Ok(())
}

#[tokio::test]
async fn claims_that_do_not_hold_are_refused() -> Result {
    let guarded = Guarded::start().await?;
    let bad = [
        without("exp"),
        without("iss"),
        without("aud"),
        claims(&json!({ "exp": now() - 1 })),
        claims(&json!({ "exp": now() })),
        claims(&json!({ "exp": (now() + 3600).to_string() })),
        claims(&json!({ "exp": null })),
        claims(&json!({ "nbf": now() + 600 })),
        claims(&json!({ "iat": now() + 600 })),
        claims(&json!({ "iss": "https://auth.evil" })),
        claims(&json!({ "aud": "other" })),
        claims(&json!({ "aud": [] })),
    ];
    for claims in bad {
        assert_eq!(guarded.bearer(&guarded.key.token(&claims)?).await?, (401, "token".into()), "{claims}");
    }
    assert_eq!(guarded.upstream.request_count(), 0);
    Ok(())
}

#[tokio::test]
async fn forged_and_malformed_tokens_are_refused() -> Result {
    let guarded = Guarded::start().await?;
    let (key, claims) = (&guarded.key, claims(&json!({})));
    let good = key.token(&claims)?;
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { anyhow::bail!("three parts") };
    let with = |change: Value| {
        let mut header = json!({ "alg": "RS256", "typ": "JWT", "kid": "one" });
        header.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        key.token_with_header(&header, &claims)
    };
    let confused = format!("{}.{payload}", encode(json!({ "alg": "HS256", "kid": "one" }).to_string()));
    let hmac_of_public =
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.public_pem()?.as_bytes()), confused.as_bytes());
    let stranger = RsaKey::generate("one")?;
    // The last character of a signature of 256 bytes carries four bits that mean nothing, and have to be zero.
    let last = signature.chars().last().context("a signature")?;
    let next = char::from(last as u8 + 1);
    let none = encode(json!({ "alg": "none" }).to_string());
    let bad = [
        ("none", format!("{none}.{payload}.")),
        ("none, signed", format!("{none}.{payload}.{signature}")),
        ("HMAC by the public key", format!("{confused}.{}", encode(hmac_of_public))),
        ("an algorithm that is not listed", with(json!({ "alg": "RS512" }))?),
        ("no algorithm", with(json!({ "alg": null }))?),
        ("crit", with(json!({ "crit": ["exp"] }))?),
        ("unknown crit", with(json!({ "crit": ["urn:x"], "urn:x": 1 }))?),
        ("b64 false", with(json!({ "crit": ["b64"], "b64": false }))?),
        ("b64 false, not critical", with(json!({ "b64": false }))?),
        ("a key that is not in the set", with(json!({ "kid": "two" }))?),
        ("another's signature", stranger.token(&claims)?),
        (
            "a key that it brings along",
            stranger
                .token_with_header(&json!({ "alg": "RS256", "kid": "one", "jwk": stranger.public_jwk() }), &claims)?,
        ),
        ("other claims", format!("{header}.{}.{signature}", encode(json!({ "sub": "admin" }).to_string()))),
        ("a member twice", format!("{header}.{}.{signature}", encode("{\"sub\":\"a\",\"sub\":\"b\"}"))),
        ("padded signature", format!("{good}==")),
        ("padded payload", format!("{header}.{payload}=.{signature}")),
        ("spare bits", format!("{}{next}", &good[..good.len() - 1])),
        ("a space within", format!("{header}.{payload}.{} {}", &signature[..9], &signature[9..])),
        ("two parts", format!("{header}.{payload}")),
        ("four parts", format!("{good}.{signature}")),
        ("no signature", format!("{header}.{payload}.")),
        ("nothing", String::new()),
        ("no token", "x".repeat(300)),
        ("too long", format!("{good}{}", "A".repeat(9000))),
    ];
    assert_eq!(guarded.bearer(&good).await?.0, 200);
    for (what, token) in bad {
        assert_eq!(guarded.bearer(&token).await?, (401, "token".into()), "{what}: {token}");
    }
    assert_eq!(guarded.upstream.request_count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_token_counts_in_one_field_and_nowhere_else() -> Result {
    let guarded = Guarded::start().await?;
    let token = guarded.key.token(&claims(&json!({})))?;
    let refused = (401, "token".to_owned());
    assert_eq!(guarded.get(&[]).await?, refused);
    assert_eq!(guarded.get(&[bearer(&token), bearer(&token)]).await?, refused, "two fields, though both are good");
    assert_eq!(guarded.get(&[("authorization", format!("Bearer {token}, Bearer {token}"))]).await?, refused);
    assert_eq!(guarded.get(&[("authorization", format!("Basic {token}"))]).await?, refused);
    assert_eq!(guarded.get(&[("authorization", token.clone())]).await?, refused, "no scheme");
    assert_eq!(guarded.get(&[("cookie", format!("access_token={token}"))]).await?, refused);
    for name in ["access_token", "token", "jwt"] {
        let response = guarded.send(Method::GET, &format!("/?{name}={token}"), &[]).await?;
        assert_eq!(response.status.as_u16(), 401, "a token from the query string was believed");
        assert!(response.header("www-authenticate").context("www-authenticate")?.starts_with("Bearer"));
        assert!(!response.text().contains(&token), "the answer repeats the token");
    }
    assert_eq!(guarded.upstream.request_count(), 0);
    Ok(())
}

#[tokio::test]
async fn callers_and_roles_are_kept() -> Result {
    let guarded = Guarded::start().await?;
    let forbidden = (403, "forbidden".to_owned());
    assert_eq!(guarded.bearer(&guarded.key.token(&claims(&json!({ "sub": "cart-service" })))?).await?, forbidden);
    assert_eq!(guarded.bearer(&guarded.key.token(&without("sub"))?).await?, forbidden);
    for (roles, status) in [
        (json!(["ADMIN"]), 200),
        (json!("USER ADMIN"), 200),
        (json!(["USER"]), 403),
        (json!(["admin"]), 403),
        (json!({ "ADMIN": true }), 403),
    ] {
        let token = guarded.key.token(&claims(&json!({ "roles": roles })))?;
        assert_eq!(
            guarded.send(Method::DELETE, "/users/1", &[bearer(&token)]).await?.status.as_u16(),
            status,
            "{roles}"
        );
        assert_eq!(guarded.send(Method::GET, "/users/1", &[bearer(&token)]).await?.status.as_u16(), 200);
    }
    let record = &guarded.weir.records(1, |record| record["error"] == "forbidden").await[0];
    assert_eq!(
        (&record["acted"][0]["policy"], &record["acted"][0]["did"]),
        (&"verify".into(), &"replied 403".into()),
        "{record}"
    );
    Ok(())
}

#[tokio::test]
async fn a_client_cannot_inject_the_fields_of_claims() -> Result {
    let guarded = Guarded::start().await?;
    let injected = |name| (name, "admin".to_owned());
    for changes in [json!({}), json!({ "tenant": "acme" })] {
        let token = guarded.key.token(&claims(&changes))?;
        let fields = [bearer(&token), injected("x-user"), injected("X-User"), injected("x-tenant")];
        assert_eq!(guarded.send(Method::GET, "/", &fields).await?.status.as_u16(), 200);
        let request = guarded.upstream.last().context("a request")?;
        assert_eq!(request.headers_named("x-user"), ["order-service"]);
        assert_eq!(
            request.headers_named("x-tenant"),
            changes.get("tenant").map(|tenant| tenant.as_str().unwrap()).as_slice()
        );
        let record = guarded.weir.records(1, |record| record["attributes"]["sub"] == "order-service").await;
        assert!(!record.is_empty(), "the record names the caller");
    }
    Ok(())
}

#[tokio::test]
async fn grpc_callers_get_the_status_of_grpc() -> Result {
    let guarded = Guarded::start().await?;
    let mut client = EchoClient::connect(guarded.weir.address(), "s").await?;
    let status = client.unary(tonic::Request::new(EchoRequest::default())).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status:?}");
    let mut request = tonic::Request::new(EchoRequest::default());
    let token = guarded.key.token(&claims(&json!({ "sub": "cart-service" })))?;
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let status = client.unary(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status:?}");
    assert_eq!(status.metadata().get("x-weir-error").context("x-weir-error")?, "forbidden");
    Ok(())
}

#[tokio::test]
async fn a_set_of_keys_is_rotated_without_a_restart() -> Result {
    let guarded = Guarded::start().await?;
    let (next, file) = (RsaKey::generate("two")?, guarded.directory.path().join("jwks.json"));
    let (old_token, new_token) = (guarded.key.token(&claims(&json!({})))?, next.token(&claims(&json!({})))?);
    let is = |token: String, status: u16| {
        let guarded = &guarded;
        async move || guarded.bearer(&token).await.is_ok_and(|answer| answer.0 == status)
    };
    assert!(is(old_token.clone(), 200)().await && is(new_token.clone(), 401)().await);

    std::fs::write(&file, jwks(&[&guarded.key, &next]).to_string())?;
    guarded.weir.until("the new key is believed", is(new_token.clone(), 200)).await;
    assert!(is(old_token.clone(), 200)().await, "the old key is still in the set");

    std::fs::write(&file, jwks(&[&next]).to_string())?;
    guarded.weir.until("the old key is forgotten, with the tokens that it signed", is(old_token.clone(), 401)).await;
    assert!(is(new_token, 200)().await);
    Ok(())
}
