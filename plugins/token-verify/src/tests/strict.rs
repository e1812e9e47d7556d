//! How a token is read.

use super::*;

fn refuses(policy: &Harness<TokenVerify>, token: &str) {
    assert_eq!(reply(policy, &call(token)).status, 401, "{token}");
}

#[test]
fn bearer_is_accepted_in_any_case_and_no_other_scheme_is() {
    let policy = verifying(json!({}));
    let token = token(json!({}));
    for good in ["Bearer ", "bearer ", "BEARER ", "bEaReR   "] {
        let call = Call::new().field("authorization", format!("{good}{token}"));
        assert_eq!(status(&policy, &call), 200, "{good:?}");
    }
    for bad in ["", "Basic ", "Bearer", "Bearer\t", "Token ", "Bearer: ", "Bearer Bearer "] {
        let call = Call::new().field("authorization", format!("{bad}{token}"));
        assert_eq!(status(&policy, &call), 401, "{bad:?}");
    }
}

#[test]
fn several_authorization_fields_are_refused() {
    let policy = verifying(json!({}));
    let token = token(json!({}));
    for several in [
        format!("Bearer {token}, Bearer {token}"),
        format!("Bearer {token}, Basic YTpi"),
        format!("Basic YTpi, Bearer {token}"),
        format!("Bearer {token}, "),
        format!(", Bearer {token}"),
        format!("Bearer {token},{token}"),
    ] {
        let call = Call::new().field("authorization", several.as_str());
        assert_eq!(status(&policy, &call), 401, "{several}");
    }
    let twice = Call::new().field("authorization", format!("Bearer {token}, Bearer {token}"));
    assert_eq!(reply(&policy, &twice).message, "there is more than one token");
}

#[test]
fn a_token_in_the_query_is_never_looked_at() {
    let policy = verifying(json!({ "roles": { "/admin": ["ADMIN"] } }));
    let path = format!("/?access_token={}", token(json!({})));
    assert_eq!(status(&policy, &Call::new().field(":method", "GET").field(":path", path)), 401);
}

#[test]
fn a_signature_that_does_not_fit_is_refused() {
    let policy = verifying(json!({}));
    let good = token(json!({}));
    let other = token(json!({ "sub": "root" }));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (forged, _) = other.rsplit_once('.').unwrap();
    refuses(&policy, &format!("{forged}.{signature}"));
    refuses(&policy, &format!("{signed}.{}", URL_SAFE_NO_PAD.encode([0; 32])));
    assert_eq!(status(&policy, &call(&good)), 200);
    // Also once the good one is known.
    refuses(&policy, &format!("{forged}.{signature}"));
}

#[test]
fn an_unsigned_token_is_refused() {
    let policy = verifying(json!({}));
    let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"a","exp":{}}}"#, NOW + 60));
    for algorithm in ["none", "None", "NONE"] {
        let header = format!(r#"{{"alg":"{algorithm}"}}"#);
        refuses(&policy, &format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(&header)));
        refuses(&policy, &with_header(&header));
    }
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#);
    refuses(&policy, &format!("{header}.{claims}."));
    refuses(&policy, &format!("{header}.{claims}"));
}

#[test]
fn the_algorithm_is_the_pinned_one() {
    // The key of the fake host is a set here, which would take any algorithm.
    let host = Host::default().key(Key::new("issuer", "", SECRET));
    let policy = Harness::<TokenVerify>::in_host(host, config(json!({}))).unwrap();
    assert_eq!(status(&policy, &call(&with_header(r#"{"alg":"RS256"}"#))), 200);
    for header in [
        r#"{"alg":"HS256"}"#,
        r#"{"alg":"ES256"}"#,
        r#"{"alg":"rs256"}"#,
        r#"{"alg":""}"#,
        r#"{"alg":["RS256"]}"#,
        r#"{"alg":null}"#,
        r#"{"typ":"JWT"}"#,
    ] {
        refuses(&policy, &with_header(header));
    }
}

#[test]
fn critical_extensions_are_refused() {
    let policy = verifying(json!({}));
    for crit in [r#"["x"]"#, r#"["b64"]"#, r#"["exp"]"#, "[]", "null", "true"] {
        refuses(&policy, &with_header(&format!(r#"{{"alg":"RS256","crit":{crit},"b64":true}}"#)));
    }
}

#[test]
fn an_unencoded_payload_is_refused() {
    let policy = verifying(json!({}));
    for encoded in ["false", "null", "0", "\"true\""] {
        refuses(&policy, &with_header(&format!(r#"{{"alg":"RS256","b64":{encoded}}}"#)));
    }
    assert_eq!(status(&policy, &call(&with_header(r#"{"alg":"RS256","b64":true}"#))), 200);
}

#[test]
fn base64_has_one_spelling() {
    let policy = verifying(json!({}));
    let good = token(json!({}));
    // 32 bytes of signature leave two bits over in the last of 43 characters, which are zero.
    let last = good.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = alphabet.chars().nth(alphabet.find(last).unwrap() + 1).unwrap();
    refuses(&policy, &format!("{}{next}", &good[..good.len() - 1]));
    refuses(&policy, &format!("{good}="));
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    refuses(&policy, &format!("{header}=.{claims}.{signature}"));
    refuses(&policy, &format!("{header}.{claims}=.{signature}"));
    refuses(&policy, &format!("{header}.{claims} .{signature}"));
    refuses(&policy, &format!("{header}.\n{claims}.{signature}"));
    assert_eq!(status(&policy, &call(&good)), 200);
}

#[test]
fn the_other_base64_alphabet_is_refused() {
    let policy = verifying(json!({}));
    let standard =
        (0..200).map(|n| token(json!({ "n": n }))).find(|token| token.contains('-') || token.contains('_')).unwrap();
    assert_eq!(status(&policy, &call(&standard)), 200);
    refuses(&policy, &standard.replace('-', "+").replace('_', "/"));
}

#[test]
fn a_token_has_three_parts() {
    let policy = verifying(json!({}));
    let good = token(json!({}));
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    for parts in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        header.to_owned(),
        format!("{header}.{claims}"),
        format!("{good}.{signature}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{header}..{claims}.{signature}"),
        format!("{header}.{claims}.{signature}.{claims}.{signature}"),
    ] {
        refuses(&policy, &parts);
    }
}

#[test]
fn a_member_that_occurs_twice_is_refused_in_header_and_claims() {
    let policy = verifying(json!({}));
    let end = NOW + 60;
    refuses(&policy, &with_header(r#"{"alg":"RS256","alg":"RS256"}"#));
    refuses(&policy, &with_header(r#"{"alg":"RS256","\u0061lg":"none"}"#));
    for claims in [
        format!(r#"{{"sub":"a","sub":"b","exp":{end}}}"#),
        format!(r#"{{"exp":{end},"exp":{end}}}"#),
        format!(r#"{{"exp":{end},"org":{{"id":1,"id":2}}}}"#),
        format!(r#"{{"exp":{end},"list":[{{"id":1,"id":2}}]}}"#),
    ] {
        refuses(&policy, &written(r#"{"alg":"RS256"}"#, &claims));
    }
}

#[test]
fn header_and_claims_are_one_json_object_each() {
    let policy = verifying(json!({}));
    for header in ["", "[]", "\"RS256\"", r#"{"alg":"RS256"} {}"#, "\u{feff}{\"alg\":\"RS256\"}", r#"{"alg":"RS256",}"#]
    {
        refuses(&policy, &with_header(header));
    }
    for claims in ["", "[]", "null", "1", "{", r#"{"exp":9999999999}x"#, r#"{"exp":1e999}"#] {
        refuses(&policy, &written(r#"{"alg":"RS256"}"#, claims));
    }
    let deep = format!(r#"{{"exp":9999999999,"a":{}{}}}"#, "[".repeat(2000), "]".repeat(2000));
    refuses(&policy, &written(r#"{"alg":"RS256"}"#, &deep));
    refuses(&policy, &with_header(r#"{"alg":"RS256","kid":1}"#));
    refuses(&policy, &with_header(r#"{"alg":"RS256","typ":[]}"#));
}

#[test]
fn a_long_token_is_not_looked_at() {
    let policy = verifying(json!({}));
    let pad = |length: usize| token(json!({ "pad": "x".repeat(length) }));
    assert_eq!(status(&policy, &call(&pad(5_900))), 200);
    let long = pad(6_200);
    assert!(long.len() > 8 << 10);
    refuses(&policy, &long);
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let policy = verifying(json!({}));
    for bytes in [b"Bearer \xff\xfe".to_vec(), b"\xff".to_vec(), b"Bearer a.\xc3\x28.c".to_vec()] {
        assert_eq!(status(&policy, &Call::new().field("authorization", bytes)), 401);
    }
}

#[test]
fn typ_is_looked_at_only_if_configured() {
    let any = verifying(json!({}));
    assert_eq!(status(&any, &call(&with_header(r#"{"alg":"RS256","typ":"whatever"}"#))), 200);
    let policy = verifying(json!({ "typ": "at+jwt" }));
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt"] {
        assert_eq!(status(&policy, &call(&with_header(&format!(r#"{{"alg":"RS256","typ":"{typ}"}}"#)))), 200, "{typ}");
    }
    for header in [r#"{"alg":"RS256","typ":"JWT"}"#, r#"{"alg":"RS256"}"#] {
        refuses(&policy, &with_header(header));
    }
}
