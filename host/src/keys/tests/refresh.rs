//! Rotation.

use super::*;

#[test]
fn a_changed_file_is_taken_up_and_raises_the_version() {
    let dir = Dir::new();
    let file = dir.write("p.pem", &ED[0].private);
    let keys = Keys::load(vec![spec(KeySource::Private(file))]).unwrap();
    let key = keys.get("key").unwrap();
    let (version, old) = (key.version(), key.sign(b"data").unwrap());
    assert_eq!(keys.refresh(), Refreshed::default());
    assert_eq!(key.version(), version);

    dir.write("p.pem", &ED[1].private);
    assert_eq!(keys.refresh(), Refreshed { changed: vec!["key".to_owned()], problems: vec![] });
    assert!(key.version() > version);
    assert_eq!(key.verify(EdDsa, None, b"data", &old), Ok(false));
    assert_eq!(keys.refresh(), Refreshed::default());
}

#[test]
fn a_broken_file_leaves_the_last_good_key_and_is_told_once() {
    let dir = Dir::new();
    let set = |pair: &Pair| jwks(&[with(&pair.jwk, json!({"kid": "a"}))]);
    let file = dir.write("jwks.json", set(&ED[0]));
    let keys = Keys::load(vec![spec(KeySource::Jwks(file.clone()))]).unwrap();
    let key = keys.get("key").unwrap();
    let version = key.version();
    let private = load(KeySource::Private(dir.write("p.pem", &ED[0].private)));
    let signature = private.sign(b"data").unwrap();

    let half = set(&ED[1])[..40].to_owned();
    for broken in [Some(half), None] {
        match broken {
            Some(content) => drop(dir.write("jwks.json", content)),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let refreshed = keys.refresh();
        assert_eq!((refreshed.changed.len(), refreshed.problems.len()), (0, 1));
        assert!(refreshed.problems[0].message.ends_with("stays in use"));
        assert_eq!(keys.refresh(), Refreshed::default());
        assert_eq!(key.version(), version);
        assert_eq!(key.verify(EdDsa, Some("a"), b"data", &signature), Ok(true));
    }
    dir.write("jwks.json", set(&ED[1]));
    assert_eq!(keys.refresh().changed, ["key"]);
    assert_eq!(key.verify(EdDsa, Some("a"), b"data", &signature), Ok(false));
}

#[test]
fn versions_never_repeat_over_loads() {
    let dir = Dir::new();
    let source = KeySource::Private(dir.write("p.pem", &ED[0].private));
    let first = load(source.clone()).version();
    assert!(load(source).version() > first);
}

#[test]
fn keys_are_used_while_they_are_refreshed() {
    let dir = Dir::new();
    dir.write("p.pem", &ED[0].private);
    let keys = Keys::load(vec![spec(KeySource::Private(dir.0.join("p.pem")))]).unwrap();
    let key = keys.get("key").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let signature = key.sign(b"data").unwrap();
                    key.verify(EdDsa, None, b"data", &signature).unwrap();
                }
            });
        }
        for turn in 0..50 {
            dir.write("p.pem", &ED[turn % 2].private);
            keys.refresh();
        }
    });
    assert_eq!(keys.refresh().problems, []);
}
