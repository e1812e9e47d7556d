//! A token goes with a message when it is published; a delivery hands it on.

use super::*;

const ORDERS: u32 = 1;
const INVOICES: u32 = 2;

fn minting(more: Value) -> Harness<TokenMint> {
    let mut host = host();
    host.services.insert(9, "broker events".to_owned());
    host.routes.extend([(ORDERS, "publish order.created".to_owned()), (INVOICES, "publish invoices".to_owned())]);
    Harness::in_host(host, config(more)).unwrap()
}

fn publish(channel: u32) -> Call {
    Call::new().kind(ExchangeKind::Publish).service(9).route(channel).field(":identity", "web")
}

fn delivery() -> Call {
    Call::new().kind(ExchangeKind::Delivery).service(2).field("authorization", "Bearer of-the-message")
}

fn claims(policy: &Harness<TokenMint>, call: &Call) -> Value {
    opened(&sent(policy, call).1).1
}

fn left(policy: &Harness<TokenMint>, call: &Call) -> u64 {
    claims(policy, call)["exp"].as_u64().unwrap() - policy.host(|host| host.unix / 1_000_000_000)
}

#[test]
fn a_message_gets_a_token_from_its_publisher_for_its_channel() {
    let claims = claims(&minting(json!({})), &publish(ORDERS));
    assert_eq!((&claims["sub"], &claims["aud"]), (&json!("web"), &json!("order.created")));
}

#[test]
fn channels_of_one_broker_never_share_a_token() {
    let policy = minting(json!({}));
    for (channel, name) in [(ORDERS, "order.created"), (INVOICES, "invoices"), (ORDERS, "order.created")] {
        assert_eq!(claims(&policy, &publish(channel))["aud"], name);
    }
    // Nor do a channel and a service of the same number.
    assert_eq!(claims(&policy, &call(ORDERS))["aud"], "user-service");
    assert_eq!(claims(&policy, &publish(ORDERS))["aud"], "order.created");
}

#[test]
fn a_configured_audience_is_that_of_messages_too() {
    let policy = minting(json!({ "audience": "everyone" }));
    let first = sent(&policy, &publish(ORDERS));
    assert_eq!(opened(&first.1).1["aud"], "everyone");
    policy.advance(Duration::from_secs(10));
    assert_eq!(sent(&policy, &publish(INVOICES)), first);
}

#[test]
fn what_goes_with_a_message_is_good_for_half_its_time_at_least() {
    for more in [json!({}), json!({ "audience": "everyone" })] {
        let policy = minting(more);
        sent(&policy, &call(1));
        for _ in 0..60 {
            policy.advance(Duration::from_secs(125));
            assert!(left(&policy, &publish(ORDERS)) >= 1800);
            sent(&policy, &call(1));
        }
    }
    let policy = minting(json!({}));
    let first = sent(&policy, &publish(ORDERS));
    policy.advance(Duration::from_secs(1799));
    assert_eq!(sent(&policy, &publish(ORDERS)), first, "and is signed no more often than that takes");
}

#[test]
fn a_delivery_keeps_the_token_that_came_with_the_message() {
    assert_eq!(minting(json!({})).on_request(&delivery()).unwrap(), Verdict::Proceed);
    let fixed = Harness::<TokenMint>::new(json!({ "static-token": { "value": "s3cr3t" } })).unwrap();
    assert_eq!(fixed.on_request(&delivery()).unwrap(), Verdict::Proceed);
}

#[test]
fn a_delivery_gets_a_token_of_the_node_where_it_is_asked_to() {
    let policy = minting(json!({ "on": ["delivery"], "subject": "weir" }));
    let claims = claims(&policy, &delivery());
    assert_eq!((&claims["sub"], &claims["aud"]), (&json!("weir"), &json!("order-service")));
    assert_eq!(claims["exp"], claims["iat"].as_u64().unwrap() + 3600, "as fresh as a call's");
    for other in [call(1), publish(ORDERS)] {
        assert_eq!(policy.on_request(&other).unwrap(), Verdict::Proceed);
    }
}
