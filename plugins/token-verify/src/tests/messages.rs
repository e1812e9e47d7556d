//! Publishes, of which the publisher's token is checked, and deliveries, of which that of the message is.

use super::*;

fn publish(channel: &str, token: &str) -> Call {
    to("POST", &format!("/v1/publish/{channel}"), token).kind(ExchangeKind::Publish)
}

fn delivery(token: &str) -> Call {
    to("POST", "/events/order-created", token).kind(ExchangeKind::Delivery)
}

#[test]
fn messages_are_verified_like_calls_unless_something_else_is_said() {
    let policy = verifying(json!({}));
    for kind in [ExchangeKind::Call, ExchangeKind::Publish, ExchangeKind::Delivery] {
        let call = call(&token(json!({}))).kind(kind);
        assert_eq!(status(&policy, &call), 200);
        assert_eq!(call.attribute("sub").as_deref(), Some("order-service"));
        assert_eq!(status(&policy, &Call::new().kind(kind)), 401, "{kind:?} without a token");
    }
}

#[test]
fn kinds_that_are_not_named_pass_as_they_are() {
    let policy = verifying(json!({ "on": ["call", "delivery"], "headers": { "x-user-id": "sub" } }));
    for token in ["nonsense", ""] {
        let call = publish("order.created", token).field("x-user-id", "of the publisher");
        assert_eq!(policy.on_request(&call).unwrap(), Verdict::Proceed);
        assert_eq!(status(&policy, &delivery(token)), 401);
        assert_eq!(status(&policy, &to("GET", "/", token)), 401);
    }
    assert_eq!(status(&policy, &delivery(&token(json!({})))), 200);
}

#[test]
fn a_token_that_was_minted_for_the_channel_tells_the_consumer_who_published() {
    // As token-mint signs it at the publish.
    let minted =
        json!({ "iss": "weir", "sub": "order-service", "aud": "order.created", "iat": NOW, "exp": NOW + 3600 });
    let policy = verifying(json!({
        "issuer": "weir", "audience": "order.created", "callers": ["order-service"], "headers": { "x-publisher": "sub" },
    }));
    let call = delivery(&token(minted.clone()));
    assert_eq!(edits(&policy, &call), [Edit::Set("x-publisher".to_owned(), b"order-service".to_vec())]);
    let with = |claim: &str, value: &str| {
        let mut claims = minted.clone();
        claims[claim] = json!(value);
        status(&policy, &delivery(&token(claims)))
    };
    assert_eq!([with("aud", "invoices"), with("iss", "other"), with("sub", "stranger")], [401, 401, 403]);
}

#[test]
fn a_message_that_outlives_its_token_is_refused() {
    let policy = verifying(json!({}));
    let token = token(json!({ "exp": NOW + 3600 }));
    assert_eq!(status(&policy, &delivery(&token)), 200);
    policy.advance(Duration::from_secs(3599));
    assert_eq!(status(&policy, &delivery(&token)), 200);
    policy.advance(Duration::from_secs(1));
    let reply = reply(&policy, &delivery(&token));
    assert_eq!(
        (reply.status, reply.message.as_str()),
        (401, "the token has expired"),
        "which is the dead letter's reason"
    );
}

#[test]
fn rules_say_who_may_publish_to_which_channel() {
    let rules = json!({ "/v1/publish": [], "POST /v1/publish/order.created": ["order-service"] });
    let policy = verifying(json!({ "callers": rules }));
    let token = token(json!({}));
    assert_eq!(status(&policy, &publish("order.created", &token)), 200);
    assert_eq!(status(&policy, &publish("order.cancelled", &token)), 403);
    assert_eq!(status(&policy, &publish("order.created.more", &token)), 403);
    assert_eq!(status(&policy, &delivery(&token)), 200, "no rule is about its path");
}
