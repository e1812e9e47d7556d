//! What a token must claim.

use super::*;

/// Whether a token with these claims passes, in an instance that has not seen it before.
fn passes(more: &Value, claims: Value) -> bool {
    status(&verifying(more.clone()), &call(&token(claims))) == 200
}

#[test]
fn a_token_without_exp_is_refused() {
    assert!(passes(&json!({}), json!({})));
    assert!(!passes(&json!({}), json!({ "exp": null })));
}

#[test]
fn a_token_has_expired_at_its_exp() {
    let none = json!({ "leeway": "0s" });
    assert!(!passes(&none, json!({ "exp": NOW - 1 })));
    assert!(!passes(&none, json!({ "exp": NOW })));
    assert!(passes(&none, json!({ "exp": NOW + 1 })));
    let some = json!({ "leeway": "5s" });
    assert!(!passes(&some, json!({ "exp": NOW - 5 })));
    assert!(passes(&some, json!({ "exp": NOW - 4 })));
}

#[test]
fn a_token_of_the_future_is_refused() {
    for claim in ["nbf", "iat"] {
        assert!(passes(&json!({}), json!({ claim: NOW })), "{claim}");
        assert!(!passes(&json!({}), json!({ claim: NOW + 1 })), "{claim}");
        assert!(passes(&json!({ "leeway": "5s" }), json!({ claim: NOW + 5 })), "{claim}");
        assert!(!passes(&json!({ "leeway": "5s" }), json!({ claim: NOW + 6 })), "{claim}");
    }
    assert!(!passes(&json!({}), json!({ "iat": NOW, "nbf": NOW + 1 })));
}

#[test]
fn times_may_have_a_fraction() {
    let policy = verifying(json!({}));
    let written = |end: &str| call(&written(r#"{"alg":"RS256"}"#, &format!(r#"{{"exp":{end}}}"#)));
    assert_eq!(status(&policy, &written("1767225600.5")), 200);
    assert_eq!(status(&policy, &written("1.8e9")), 200);
    assert_eq!(status(&policy, &written("1767225599.5")), 401);
    assert_eq!(status(&policy, &written("-1")), 401);
    policy.advance(Duration::from_millis(500));
    assert_eq!(status(&policy, &written("1767225600.5")), 401);
}

#[test]
fn times_that_are_no_numbers_are_refused() {
    for claim in ["exp", "nbf", "iat"] {
        for wrong in [json!("1767225000"), json!(true), json!([1]), json!({})] {
            assert!(!passes(&json!({}), json!({ claim: wrong })), "{claim} {wrong}");
        }
        let end = if claim == "exp" { String::new() } else { format!(r#""exp":{},"#, NOW + 60) };
        let null = written(r#"{"alg":"RS256"}"#, &format!(r#"{{{end}"{claim}":null}}"#));
        assert_eq!(status(&verifying(json!({})), &call(&null)), 401, "{claim}");
    }
}

#[test]
fn the_issuer_is_one_of_ours() {
    let one = json!({ "issuer": "https://auth" });
    assert!(passes(&one, json!({ "iss": "https://auth" })));
    for wrong in [json!("https://auth/"), json!("HTTPS://AUTH"), json!(["https://auth"]), json!(null), json!("")] {
        assert!(!passes(&one, json!({ "iss": wrong })), "{wrong}");
    }
    let several = json!({ "issuer": ["a", "b"] });
    assert!(passes(&several, json!({ "iss": "b" })) && !passes(&several, json!({ "iss": "c" })));
    assert!(passes(&json!({}), json!({ "iss": "anyone" })), "not looked at if not configured");
}

#[test]
fn the_audience_is_one_of_ours() {
    let one = json!({ "audience": "user-service" });
    for good in [json!("user-service"), json!(["user-service"]), json!(["a", "user-service"])] {
        assert!(passes(&one, json!({ "aud": good })), "{good}");
    }
    for wrong in [json!("user"), json!(["a"]), json!([]), json!(null), json!([["user-service"]]), json!({}), json!(1)] {
        assert!(!passes(&one, json!({ "aud": wrong })), "{wrong}");
    }
    let several = json!({ "audience": ["a", "b"] });
    assert!(passes(&several, json!({ "aud": ["b", "c"] })) && !passes(&several, json!({ "aud": "c" })));
}

#[test]
fn a_token_for_somebody_is_refused_by_a_policy_that_is_nobody() {
    assert!(!passes(&json!({}), json!({ "aud": "user-service" })));
}

#[test]
fn required_claims_are_there() {
    let policy = json!({ "required-claims": ["sub", "tenant", "/org/id"] });
    assert!(passes(&policy, json!({ "tenant": "", "org": { "id": 0 } })));
    assert!(!passes(&policy, json!({ "tenant": "a", "org": {} })));
    assert!(!passes(&policy, json!({ "tenant": "a", "org": { "id": null } })));
    assert!(!passes(&policy, json!({ "sub": null, "tenant": "a", "org": { "id": 0 } })));
}

#[test]
fn the_subject_is_text() {
    for wrong in [json!(1), json!(["order-service"]), json!({})] {
        assert!(!passes(&json!({}), json!({ "sub": wrong })), "{wrong}");
    }
}
