mod messages;

use super::*;
use weir_sdk::testing::fake::Key;
use weir_sdk::testing::{Call, Harness, Host};
use weir_sdk::{Edit, ExchangeKind};

const SECRET: &[u8] = b"the key of a test";

fn host() -> Host {
    let mut host = Host::default().key(Key { id: Some("k1".to_owned()), ..Key::new("signing", "ES256", SECRET) });
    host.services.insert(1, "user-service".to_owned());
    host.services.insert(2, "order-service".to_owned());
    host
}

fn config(more: Value) -> Value {
    let mut config = json!({ "key": "signing", "issuer": "weir" });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn minting(more: Value) -> Harness<TokenMint> {
    Harness::in_host(host(), config(more)).unwrap()
}

fn call(service: u32) -> Call {
    Call::new().service(service).field(":identity", "web")
}

/// The one field that the policy sets.
fn sent(policy: &Harness<TokenMint>, call: &Call) -> (String, String) {
    match policy.on_request(call).unwrap() {
        Verdict::Amend(Amendment { edits, attributes, .. }) => match edits.as_slice() {
            [Edit::Set(name, value)] if attributes.is_empty() => {
                (name.clone(), String::from_utf8(value.clone()).unwrap())
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Header and claims of a token, whose signature is checked.
fn opened(value: &str) -> (Value, Value) {
    let token = value.strip_prefix("Bearer ").unwrap();
    let [header, claims, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let signed = crypto::sha256(&[SECRET, format!("{header}.{claims}").as_bytes()].concat());
    assert_eq!(URL_SAFE_NO_PAD.decode(signature).unwrap(), signed);
    let json = |part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    (json(header), json(claims))
}

fn problem(config: Value) -> Error {
    Harness::<TokenMint>::in_host(host(), config).err().unwrap()
}

#[test]
fn a_token_says_who_calls_whom_and_for_how_long() {
    let policy = minting(json!({ "roles": ["reader"], "claims": { "zone": "a", "limits": { "rate": 5 } } }));
    let (field, value) = sent(&policy, &call(1));
    assert_eq!(field, "authorization");
    let (header, claims) = opened(&value);
    assert_eq!(header, json!({ "alg": "ES256", "typ": "JWT", "kid": "k1" }));
    let now = policy.host(|host| host.unix / 1_000_000_000);
    let expected = json!({
        "iss": "weir", "sub": "web", "aud": "user-service", "iat": now, "exp": now + 3600,
        "roles": ["reader"], "zone": "a", "limits": { "rate": 5 },
    });
    assert_eq!(claims, expected);
}

#[test]
fn a_key_without_an_id_gives_a_header_without_kid() {
    let host = Host::default().key(Key::new("signing", "HS256", SECRET));
    let policy = Harness::in_host(host, config(json!({}))).unwrap();
    assert_eq!(opened(&sent(&policy, &call(1)).1).0, json!({ "alg": "HS256", "typ": "JWT" }));
}

#[test]
fn configured_subject_and_audience_win() {
    let policy = minting(json!({ "subject": "batch", "audience": "everyone", "ttl": "90s" }));
    assert!(policy.needs().request.is_empty());
    let (_, claims) = opened(&sent(&policy, &Call::new().service(1)).1);
    assert_eq!((&claims["sub"], &claims["aud"]), (&json!("batch"), &json!("everyone")));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 90);
}

#[test]
fn an_audience_of_its_own_needs_one_token_for_all_services() {
    let policy = minting(json!({ "audience": "everyone" }));
    let first = sent(&policy, &call(1));
    policy.advance(Duration::from_secs(10));
    assert_eq!(sent(&policy, &call(2)), first);
}

#[test]
fn without_identity_and_subject_nothing_is_sent_on() {
    let policy = minting(json!({}));
    for nobody in [Call::new().service(1), Call::new().field(":identity", ""), Call::new().field(":identity", b"\xff")]
    {
        assert!(policy.on_request(&nobody).unwrap_err().message().contains("identity"));
    }
}

#[test]
fn a_token_is_sent_again_until_shortly_before_it_expires() {
    // A tenth of the time before the end, and at most a minute.
    for (ttl, reused) in [("1h", 3539), ("100s", 89)] {
        let policy = minting(json!({ "ttl": ttl }));
        let first = sent(&policy, &call(1));
        policy.advance(Duration::from_secs(reused));
        assert_eq!(sent(&policy, &call(1)), first, "{ttl}");
        policy.advance(Duration::from_secs(1));
        let second = sent(&policy, &call(1));
        assert_ne!(second, first, "{ttl}");
        assert_eq!(sent(&policy, &call(1)), second, "{ttl}");
    }
}

#[test]
fn a_token_is_never_sent_to_another_service_or_for_another_caller() {
    let policy = minting(json!({}));
    for (service, name) in [(1, "user-service"), (2, "order-service"), (1, "user-service")] {
        for caller in ["web", "batch"] {
            let call = Call::new().service(service).field(":identity", caller);
            let (_, claims) = opened(&sent(&policy, &call).1);
            assert_eq!((&claims["sub"], &claims["aud"]), (&json!(caller), &json!(name)));
        }
    }
}

#[test]
fn a_new_key_signs_at_once() {
    let policy = minting(json!({}));
    let first = sent(&policy, &call(1));
    policy.advance(Duration::from_secs(1));
    policy.host(|host| {
        host.keys[0].version += 1;
        host.keys[0].id = Some("k2".to_owned());
    });
    let second = sent(&policy, &call(1));
    assert_ne!(first, second);
    assert_eq!(opened(&second.1).0["kid"], "k2");
}

#[test]
fn a_clock_set_back_gives_no_tokens_of_the_future() {
    let policy = minting(json!({}));
    sent(&policy, &call(1));
    policy.host(|host| host.unix -= 100_000_000_000);
    let now = policy.host(|host| host.unix / 1_000_000_000);
    assert_eq!(opened(&sent(&policy, &call(1)).1).1["iat"], now);
}

#[test]
fn what_the_client_sent_in_the_field_is_replaced() {
    let policy = minting(json!({ "field": "X-Token" }));
    let (field, value) = sent(&policy, &call(1).field("x-token", "mine"));
    assert_eq!(field, "x-token");
    // Raw: a scheme belongs to `authorization` alone.
    opened(&format!("Bearer {value}"));
}

#[test]
fn a_fixed_value_is_sent_as_it_is() {
    let policy = Harness::<TokenMint>::new(json!({ "static-token": { "value": "s3cr3t" } })).unwrap();
    assert_eq!(sent(&policy, &Call::new()), ("x-internal-token".to_owned(), "s3cr3t".to_owned()));
    assert!(policy.needs().request.is_empty());
    let named = json!({ "static-token": { "value": "Basic YTpi" }, "field": "authorization" });
    let policy = Harness::<TokenMint>::new(named).unwrap();
    assert_eq!(sent(&policy, &Call::new()), ("authorization".to_owned(), "Basic YTpi".to_owned()));
}

#[test]
fn a_service_without_a_name_gets_no_token() {
    let policy = minting(json!({}));
    policy.host(|host| host.services.insert(7, String::new()));
    assert!(policy.on_request(&call(7)).is_err(), "a service that is gone has no name");
}

#[test]
fn the_cache_is_bounded_by_count_and_by_bytes() {
    let minted = |size| Minted { value: vec![b'x'; size], version: 1, issued: Duration::ZERO, renew: Duration::MAX };
    let mut cache = Cache::default();
    for service in 0..10_000 {
        cache.insert(Target::service(ServiceId(service)), "a", minted(10));
        assert!(cache.len() <= 4096 && cache.get(Target::service(ServiceId(service)), "a").is_some());
    }
    let mut cache = Cache::default();
    for service in 0..100 {
        cache.insert(Target::service(ServiceId(service)), "a", minted(1 << 20));
        assert!(cache.len() <= 4 && cache.get(Target::service(ServiceId(service)), "a").is_some());
    }
    // Renewing one and the same does not fill it.
    let mut cache = Cache::default();
    cache.insert(Target::service(ServiceId(0)), "a", minted(1 << 20));
    for _ in 0..100 {
        cache.insert(Target::service(ServiceId(1)), "a", minted(1 << 20));
    }
    assert_eq!(cache.len(), 2);
}

#[test]
fn a_configuration_that_cannot_work_is_refused_where_it_is_wrong() {
    for (config, pointer) in [
        (json!({}), ""),
        (json!({ "key": "signing", "issuer": "weir", "static-token": { "value": "x" } }), ""),
        (json!({ "key": "signing" }), "/issuer"),
        (config(json!({ "key": "unknown" })), "/key"),
        (config(json!({ "ttl": "0s" })), "/ttl"),
        (config(json!({ "ttl": "1500ms" })), "/ttl"),
        (config(json!({ "subject": "" })), "/subject"),
        (config(json!({ "on": ["call", "delivery"] })), "/subject"),
        (config(json!({ "field": ":path" })), "/field"),
        (config(json!({ "field": "" })), "/field"),
        (config(json!({ "claims": { "exp": 1 } })), "/claims/exp"),
        (json!({ "static-token": { "value": "a\r\nb: c" } }), "/static-token/value"),
        (json!({ "static-token": { "value": "a" }, "issuer": "weir" }), ""),
    ] {
        assert_eq!(problem(config.clone()).pointer(), pointer, "{config}");
    }
    assert!(problem(config(json!({ "isuer": "weir" }))).message().contains("isuer"));
    for on in [json!([]), json!(["calls"]), json!("call")] {
        assert!(Harness::<TokenMint>::in_host(host(), config(json!({ "on": on }))).is_err(), "{on}");
    }
}

#[test]
fn a_set_of_keys_does_not_sign() {
    let host = Host::default().key(Key::new("signing", "", SECRET));
    let error = Harness::<TokenMint>::in_host(host, config(json!({}))).err().unwrap();
    assert_eq!(error.pointer(), "/key");
}
