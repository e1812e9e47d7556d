//! The laws of the policy: tokens, and what is done with them. Those of rules and of the cache follow in files of their
//! own.

mod cache;
mod claims;
mod messages;
mod rules;
mod strict;

use super::*;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use weir_sdk::Edit;
use weir_sdk::testing::fake::Key;
use weir_sdk::testing::{Call, Harness, Host};

const SECRET: &[u8] = b"the key of a test";
/// The time of the fake host, in seconds.
const NOW: u64 = 1_767_225_600;

fn config(more: Value) -> Value {
    let mut config = json!({ "key": "issuer", "algorithms": ["RS256"] });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn host() -> Host {
    Host::default().key(Key::new("issuer", "RS256", SECRET))
}

fn verifying(more: Value) -> Harness<TokenVerify> {
    Harness::in_host(host(), config(more)).unwrap()
}

fn problem(more: Value) -> Error {
    Harness::<TokenVerify>::in_host(host(), config(more)).err().unwrap()
}

/// A signed token with exactly this text as header and claims.
fn written(header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = crypto::sha256(&[SECRET, signed.as_bytes()].concat());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A good token with these claims besides `sub` and `exp`, or instead of them. `null` leaves one out.
fn token(more: Value) -> String {
    let mut claims = json!({ "sub": "order-service", "exp": NOW + 60 });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    written(r#"{"alg":"RS256","typ":"JWT"}"#, &claims.to_string())
}

fn with_header(header: &str) -> String {
    written(header, &format!(r#"{{"sub":"order-service","exp":{}}}"#, NOW + 60))
}

fn call(token: &str) -> Call {
    Call::new().field("authorization", format!("Bearer {token}"))
}

fn to(method: &str, path: &str, token: &str) -> Call {
    call(token).field(":method", method).field(":path", path)
}

fn reply(policy: &Harness<TokenVerify>, call: &Call) -> Reply {
    match policy.on_request(call).unwrap() {
        Verdict::Reply(reply) => reply,
        other => panic!("passed with {other:?}"),
    }
}

/// The status of a refusal; 200 if the call passes.
fn status(policy: &Harness<TokenVerify>, call: &Call) -> u16 {
    match policy.on_request(call).unwrap() {
        Verdict::Reply(reply) => reply.status,
        Verdict::Proceed | Verdict::Amend(_) => 200,
    }
}

fn edits(policy: &Harness<TokenVerify>, call: &Call) -> Vec<Edit> {
    match policy.on_request(call).unwrap() {
        Verdict::Amend(amendment) => amendment.edits,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_good_token_passes_and_tells_its_subject() {
    let policy = verifying(json!({}));
    assert_eq!(policy.needs().request, ["authorization"], "what no rule looks at is not read");
    let call = call(&token(json!({})));
    assert_eq!(policy.on_request(&call).unwrap(), Amendment::new().attribute("sub", "order-service").into());
    assert_eq!(call.attribute("sub").as_deref(), Some("order-service"));
}

#[test]
fn with_nothing_to_tell_the_exchange_is_left_alone() {
    let policy = verifying(json!({ "attributes": [] }));
    assert_eq!(policy.on_request(&call(&token(json!({})))).unwrap(), Verdict::Proceed);
}

#[test]
fn a_bad_token_is_answered_401_as_rfc_6750_says() {
    let policy = verifying(json!({}));
    let reply = reply(&policy, &call("nonsense"));
    assert_eq!((reply.status, reply.error.as_str()), (401, "token"));
    assert_eq!(reply.headers, [("www-authenticate".to_owned(), b"Bearer error=\"invalid_token\"".to_vec())]);
}

#[test]
fn a_missing_token_is_answered_401_without_an_error_code() {
    let policy = verifying(json!({}));
    let reply = reply(&policy, &Call::new());
    assert_eq!((reply.status, reply.error.as_str()), (401, "token"));
    assert_eq!(reply.headers, [("www-authenticate".to_owned(), b"Bearer".to_vec())]);
}

#[test]
fn a_caller_out_of_bounds_is_answered_403() {
    let policy = verifying(json!({ "callers": ["cart-service"] }));
    let reply = reply(&policy, &call(&token(json!({}))));
    assert_eq!((reply.status, reply.error.as_str()), (403, "forbidden"));
    assert_eq!(reply.headers, [("www-authenticate".to_owned(), b"Bearer error=\"insufficient_scope\"".to_vec())]);
}

#[test]
fn an_answer_repeats_nothing_of_the_token_and_of_the_configuration() {
    let policy = verifying(json!({ "issuer": "https://inner", "callers": ["cart-service"] }));
    let good = json!({ "iss": "https://inner", "sub": "attacker" });
    for token in [token(good), token(json!({ "iss": "attacker" })), with_header(r#"{"alg":"attacker"}"#)] {
        let message = reply(&policy, &call(&token)).message;
        assert!(!message.contains("attacker") && !message.contains("inner") && !message.contains("cart"), "{message}");
    }
}

#[test]
fn optional_lets_calls_without_a_token_pass_but_none_with_a_bad_one() {
    let policy = verifying(json!({ "optional": true }));
    assert_eq!(policy.on_request(&Call::new()).unwrap(), Verdict::Proceed);
    assert_eq!(status(&policy, &call(&token(json!({})))), 200);
    for bad in ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer nonsense"] {
        assert_eq!(status(&policy, &Call::new().field("authorization", bad)), 401, "{bad:?}");
    }
}

#[test]
fn optional_is_not_optional_where_a_rule_asks_for_somebody() {
    let policy = verifying(json!({ "optional": true, "roles": { "/admin": ["ADMIN"] } }));
    let anonymous = |path: &str| Call::new().field(":method", "GET").field(":path", path);
    assert_eq!(status(&policy, &anonymous("/")), 200);
    assert_eq!(status(&policy, &anonymous("/admin/users")), 401);
    let policy = verifying(json!({ "optional": true, "callers": ["order-service"] }));
    assert_eq!(status(&policy, &Call::new()), 401);
}

#[test]
fn another_field_holds_the_token_alone() {
    let policy = verifying(json!({ "field": "X-Internal-Token" }));
    let token = token(json!({}));
    assert_eq!(status(&policy, &Call::new().field("x-internal-token", token.as_str())), 200);
    assert_eq!(status(&policy, &Call::new().field("x-internal-token", format!("Bearer {token}"))), 401);
    assert_eq!(status(&policy, &call(&token)), 401, "and no other field does");
}

#[test]
fn claims_are_sent_on_in_headers() {
    let headers = json!({ "X-User-Id": "sub", "x-level": "level", "x-org": "/org/name", "x-roles": "roles" });
    let policy = verifying(json!({ "headers": headers }));
    let token = token(json!({ "level": 3, "org": { "name": "Käse & Co" }, "roles": ["a", "b,c"] }));
    let expected = Amendment::new()
        .set("x-level", "3")
        .set("x-org", "Käse & Co")
        .set("x-roles", r#"["a","b,c"]"#)
        .set("x-user-id", "order-service");
    assert_eq!(edits(&policy, &call(&token)), expected.edits);
}

#[test]
fn a_client_never_gets_its_own_value_into_a_header_for_claims() {
    let policy = verifying(json!({ "optional": true, "headers": { "x-tenant": "tenant", "x-user-id": "sub" } }));
    let set = |name: &str, value: &str| Edit::Set(name.to_owned(), value.into());
    let remove = |name: &str| Edit::Remove(name.to_owned());
    let injecting = |call: Call| call.field("x-user-id", "root").field("x-tenant", "all");

    let whole = injecting(call(&token(json!({ "tenant": "a" }))));
    assert_eq!(edits(&policy, &whole), [set("x-tenant", "a"), set("x-user-id", "order-service")]);
    for absent in [json!({}), json!({ "tenant": null })] {
        let partial = injecting(call(&token(absent)));
        assert_eq!(edits(&policy, &partial), [remove("x-tenant"), set("x-user-id", "order-service")]);
    }
    assert_eq!(edits(&policy, &injecting(Call::new())), [remove("x-tenant"), remove("x-user-id")]);
}

#[test]
fn a_claim_that_breaks_a_header_refuses_the_token() {
    // An invalid edit would be the policy's error, and might be skipped with all its other edits.
    let policy = verifying(json!({ "headers": { "x-user-id": "sub" } }));
    for subject in ["a\r\nx-admin: 1", "a\nb", "a\0b", "a\u{7f}"] {
        assert_eq!(status(&policy, &call(&token(json!({ "sub": subject })))), 401, "{subject:?}");
    }
}

#[test]
fn attributes_are_the_claims_asked_for() {
    let policy = verifying(json!({ "attributes": ["sub", "tenant", "level"] }));
    let call = call(&token(json!({ "level": 3 })));
    policy.on_request(&call).unwrap();
    let attribute = |name| call.attribute(name);
    assert_eq!((attribute("sub"), attribute("level")), (Some("order-service".to_owned()), Some("3".to_owned())));
    assert_eq!(attribute("tenant"), None);
}

#[test]
fn a_host_that_cannot_check_refuses() {
    // An error of the host is a refusal, and never an error of the policy, which `on-error = "skip"` would let pass.
    let policy = verifying(json!({ "algorithms": ["RS256", "ES256"] }));
    assert_eq!(status(&policy, &call(&with_header(r#"{"alg":"ES256"}"#))), 401);
    policy.host(|host| host.keys[0].id = Some("new".to_owned()));
    assert_eq!(status(&policy, &call(&with_header(r#"{"alg":"RS256","kid":"old"}"#))), 401);
    assert_eq!(status(&policy, &call(&with_header(r#"{"alg":"RS256","kid":"new"}"#))), 200);
}

#[test]
fn a_configuration_that_cannot_work_is_refused_where_it_is_wrong() {
    for (more, pointer) in [
        (json!({ "key": "unknown" }), "/key"),
        (json!({ "algorithms": [] }), "/algorithms"),
        (json!({ "algorithms": ["ES256"] }), "/algorithms"),
        (json!({ "leeway": "11m" }), "/leeway"),
        (json!({ "field": ":path" }), "/field"),
        (json!({ "field": "" }), "/field"),
        (json!({ "headers": { "x y": "sub" } }), "/headers"),
        (json!({ "roles": { "admin": ["A"] } }), "/roles"),
        (json!({ "callers": { "get /": ["a"] } }), "/callers"),
    ] {
        assert_eq!(problem(more.clone()).pointer(), pointer, "{more}");
    }
    assert!(problem(json!({ "algorithms": ["none"] })).message().contains("none"));
    assert!(problem(json!({ "audiense": "a" })).message().contains("audiense"));
    for on in [json!([]), json!(["calls"]), json!("call")] {
        assert!(Harness::<TokenVerify>::in_host(host(), config(json!({ "on": on }))).is_err(), "{on}");
    }
}

#[test]
fn everything_at_once_lets_the_right_one_pass_and_nobody_else() {
    let policy = verifying(json!({
        "issuer": "https://auth", "audience": "user-service", "leeway": "0s",
        "callers": ["order-service"], "roles": { "DELETE /": ["ADMIN"] },
    }));
    let claims = |more: Value| {
        let mut claims = json!({ "iss": "https://auth", "aud": "user-service", "roles": ["ADMIN"] });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        token(claims)
    };
    let delete = |more: Value| status(&policy, &to("DELETE", "/users/1", &claims(more)));
    assert_eq!(delete(json!({})), 200);
    assert_eq!(delete(json!({ "iss": "https://other" })), 401);
    assert_eq!(delete(json!({ "aud": "order-service" })), 401);
    assert_eq!(delete(json!({ "sub": "cart-service" })), 403);
    assert_eq!(delete(json!({ "roles": ["USER"] })), 403);
    assert_eq!(status(&policy, &to("GET", "/users/1", &claims(json!({ "roles": ["USER"] })))), 200);
}
