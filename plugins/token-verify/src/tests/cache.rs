//! What is known of tokens that were verified before.

use super::*;
use crate::cache::{Verified, same};

/// Makes each further look at a signature fail.
fn break_signatures(policy: &Harness<TokenVerify>) {
    policy.host(|host| host.keys[0].secret = b"another".to_vec());
}

fn known(policy: &Harness<TokenVerify>) -> usize {
    policy.policy().ready.as_ref().unwrap().cache.borrow().len()
}

#[test]
fn a_known_token_is_not_verified_again() {
    let policy = verifying(json!({ "headers": { "x-user-id": "sub" } }));
    let call = call(&token(json!({})));
    let first = policy.on_request(&call).unwrap();
    break_signatures(&policy);
    assert_eq!(policy.on_request(&call).unwrap(), first);
    let another = super::call(&token(json!({ "sub": "new" })));
    assert_eq!(status(&policy, &another), 401, "so it was the cache");
}

#[test]
fn a_known_token_expires_all_the_same() {
    let policy = verifying(json!({ "leeway": "2s" }));
    let call = call(&token(json!({ "exp": NOW + 10 })));
    assert_eq!(status(&policy, &call), 200);
    policy.advance(Duration::from_millis(11_999));
    assert_eq!(status(&policy, &call), 200);
    policy.advance(Duration::from_millis(1));
    assert_eq!(status(&policy, &call), 401);
}

#[test]
fn a_clock_set_back_makes_a_known_token_one_of_the_future() {
    let policy = verifying(json!({}));
    let call = call(&token(json!({ "iat": NOW })));
    assert_eq!(status(&policy, &call), 200);
    policy.host(|host| host.unix -= 1_000_000_000);
    assert_eq!(status(&policy, &call), 401);
}

#[test]
fn a_known_token_is_verified_again_with_a_new_key() {
    let policy = verifying(json!({}));
    let call = call(&token(json!({})));
    assert_eq!(status(&policy, &call), 200);
    break_signatures(&policy);
    policy.host(|host| host.keys[0].version += 1);
    assert_eq!(status(&policy, &call), 401);
}

#[test]
fn a_token_with_the_same_end_is_another_token() {
    let policy = verifying(json!({}));
    let good = token(json!({}));
    assert_eq!(status(&policy, &call(&good)), 200);
    let (_, end) = good.split_at(good.len() - 8);
    // What differs in a byte anywhere, in length, or in everything but its end.
    for at in 0..good.len() - 8 {
        let mut other = good.clone().into_bytes();
        other[at] = if other[at] == b'A' { b'B' } else { b'A' };
        assert_eq!(status(&policy, &call(&String::from_utf8(other).unwrap())), 401, "{at}");
    }
    for other in [format!("x{good}"), good[1..].to_owned(), end.to_owned(), format!("a.b.{end}")] {
        assert_eq!(status(&policy, &call(&other)), 401, "{other}");
    }
}

#[test]
fn refused_tokens_are_not_kept() {
    let policy = verifying(json!({}));
    for bad in [token(json!({ "exp": NOW })), token(json!({ "aud": "x" })), "a.b.c".to_owned()] {
        assert_eq!(status(&policy, &call(&bad)), 401);
    }
    assert_eq!(known(&policy), 0);
}

#[test]
fn the_cache_is_bounded_and_counts_its_bytes() {
    let verified = |size: usize| Verified {
        version: 1,
        from: 0.0,
        until: 1.0,
        callers: Box::default(),
        roles: Box::default(),
        verdict: Amendment::new().set("x", vec![b'x'; size]).into(),
    };
    let mut cache = Cache::default();
    // A multiplication scatters the ends as a signature would.
    let token = |n: u64| [[b'a'; 700].as_slice(), &n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()].concat();
    for n in 0..20_000 {
        cache.insert(&token(n), verified(100));
        assert!(cache.get(&token(n)).is_some());
    }
    assert!(cache.bytes() <= 4 << 20 && cache.len() > 3000, "{} in {} bytes", cache.len(), cache.bytes());
    // Room is made at random: some of the oldest are still there, and most of the newest.
    assert!((19_000..20_000).filter(|n| cache.get(&token(*n)).is_some()).count() > 700);
    // Putting one in again and again takes no room of others, then or later.
    let mut cache = Cache::default();
    for n in (0..10_000).map(|_| 0).chain(0..100) {
        cache.insert(&token(n), verified(100));
    }
    assert_eq!(cache.len(), 100);
    cache.insert(&token(20_000), verified(3 << 20));
    assert!(cache.get(&token(20_000)).is_some() && cache.bytes() <= 4 << 20);
}

#[test]
fn many_tokens_go_through_without_end() {
    let policy = verifying(json!({}));
    for n in 0..300 {
        assert_eq!(status(&policy, &call(&token(json!({ "sub": n.to_string(), "pad": "x".repeat(5_000) })))), 200);
    }
    assert_eq!(known(&policy), 300);
}

#[test]
fn tokens_are_compared_in_full() {
    let bytes: Vec<u8> = (0..40).collect();
    for length in 0..bytes.len() {
        let whole = &bytes[..length];
        assert!(same(whole, whole));
        for at in 0..length {
            let mut other = whole.to_vec();
            other[at] ^= 1;
            assert!(!same(whole, &other), "{length} {at}");
            assert!(!same(whole, &whole[..at]) && !same(&whole[..at], whole), "{length} {at}");
        }
    }
}

#[test]
fn tokens_are_the_same_only_if_all_of_their_bytes_are() {
    for length in (0..200).chain([540, 576, 577]) {
        let token: Vec<u8> = (0..length).map(|at| (at * 7 + 1) as u8).collect();
        assert!(crate::cache::same(&token, &token.clone()), "{length}");
        assert!(!crate::cache::same(&token, &[token.as_slice(), b"."].concat()), "{length}");
        for at in 0..length {
            let mut other = token.clone();
            other[at] ^= 1 << (at % 8);
            assert!(!crate::cache::same(&token, &other), "{length} at {at}");
        }
    }
}
