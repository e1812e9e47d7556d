//! What cannot be loaded, and what is said of it.

use super::*;

#[test]
fn problems_name_the_key_the_file_and_what_to_do() {
    let dir = Dir::new();
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let p384 = pem("PRIVATE KEY", p384.to_pkcs8v1().unwrap().as_ref());
    let small = RsaPublicKeyComponents { n: vec![0xff; 128], e: vec![1, 0, 1] };
    let small: ParsedPublicKey = small.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).unwrap();
    let small = pem("PUBLIC KEY", small.as_ref());
    let big = "x".repeat(1024 * 1024 + 1);
    type Source = fn(PathBuf) -> KeySource;
    let (private, public): (Source, Source) = (KeySource::Private, KeySource::Public);
    let (secret, set): (Source, Source) = (KeySource::Secret, KeySource::Jwks);
    let cases = [
        (private, "", "holds no PEM; a private key begins with -----BEGIN PRIVATE KEY-----"),
        (private, &RSA[0].private[..500], "PEM"),
        (private, &RSA[0].public, "holds RSA PUBLIC KEY"),
        (private, &p384, "P-256"),
        (private, &pem("PRIVATE KEY", b"abc"), "no private key that can be used"),
        (private, &pem("ENCRYPTED PRIVATE KEY", b"abc"), "decrypt it"),
        (public, &RSA[0].private, "give it as private"),
        (public, &pem("CERTIFICATE", b"abc"), "holds CERTIFICATE"),
        (public, &small, "2048"),
        (secret, &big[..31], "has 31 bytes; a secret needs at least 32"),
        (secret, &big, "larger than 1 MiB"),
        (set, "{}", "is not a JWKS"),
        (set, r#"{"keys": []}"#, "no key that can be used"),
    ];
    for (source, content, expected) in cases {
        let file = dir.write("a.pem", content);
        let problem = load_spec(spec(source(file.clone()))).unwrap_err();
        let begins = format!("key \"key\": {}: ", file.display());
        assert!(problem.starts_with(&begins) && problem.contains(expected), "{problem}");
    }
    for (path, expected) in [(dir.0.clone(), "not a file"), (dir.0.join("none"), "check the path")] {
        let problem = load_spec(spec(private(path))).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    }
    let file = dir.write("a.pem", &EC[0].private);
    let other = KeySpec { algorithm: Some(EdDsa), ..spec(private(file.clone())) };
    let problem = load_spec(other).unwrap_err();
    assert!(problem.contains("a key for ES256") && problem.contains("EdDSA"), "{problem}");
    let kid = KeySpec { kid: Some("a".to_owned()), ..spec(set(file.clone())) };
    assert!(load_spec(kid).unwrap_err().contains("remove kid"));
    let twice = vec![spec(private(file.clone())), spec(private(file))];
    let problems = Keys::load(twice).unwrap_err();
    assert!(problems.len() == 1 && problems[0].message.contains("rename"), "{problems:?}");
}

#[test]
fn all_problems_are_told_at_once() {
    let missing = |name: &str| KeySpec { name: name.to_owned(), ..spec(KeySource::Secret(PathBuf::from("/nowhere"))) };
    let problems = Keys::load(vec![missing("a"), missing("b")]).unwrap_err();
    assert_eq!(problems.iter().map(|problem| problem.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn nothing_shows_material() {
    let dir = Dir::new();
    let key = load(KeySource::Secret(dir.write("secret", "k".repeat(40))));
    let shown = format!("{key:?}");
    assert!(shown.contains("version") && !shown.contains("kkkk"), "{shown}");
    // Neither do problems.
    let file = dir.write("jwks.json", r#"{"keys": "kkkkkkkk"}"#);
    let problem = load_spec(spec(KeySource::Jwks(file))).unwrap_err();
    assert!(!problem.contains("kkkk"), "{problem}");
}
