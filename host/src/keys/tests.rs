use std::{sync::LazyLock, sync::atomic::AtomicU32};

use aws_lc_rs::{
    encoding::{AsDer, EcPrivateKeyRfc5915Der, Pkcs8V1Der},
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
        ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use serde_json::{Value, json};

use super::{Algorithm::*, *};

mod problems;
mod refresh;

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("keys-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn pem(tag: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(tag, der))
}

/// One key pair in all forms. RSA keys take long to make, so there are two of each kind for all tests.
struct Pair {
    algorithm: Algorithm,
    private: String,
    public: String,
    jwk: Value,
}

static RSA: LazyLock<[Pair; 2]> = LazyLock::new(|| [rsa(), rsa()]);
static EC: LazyLock<[Pair; 2]> = LazyLock::new(|| [ec(), ec()]);
static ED: LazyLock<[Pair; 2]> = LazyLock::new(|| [ed(), ed()]);

fn pairs() -> [&'static Pair; 3] {
    [&RSA[0], &EC[0], &ED[0]]
}

fn rsa() -> Pair {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let parts = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    let private = AsDer::<Pkcs8V1Der>::as_der(&pair).unwrap();
    Pair {
        algorithm: Rs256,
        private: pem("PRIVATE KEY", private.as_ref()),
        public: pem("RSA PUBLIC KEY", pair.public_key().as_ref()),
        jwk: json!({"kty": "RSA", "n": BASE64.encode(parts.n), "e": BASE64.encode(parts.e)}),
    }
}

fn ec() -> Pair {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = point[1..].split_at(32);
    let private = AsDer::<EcPrivateKeyRfc5915Der>::as_der(&pair.private_key()).unwrap();
    let public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der>::as_der(pair.public_key()).unwrap();
    Pair {
        algorithm: Es256,
        private: pem("EC PRIVATE KEY", private.as_ref()),
        public: pem("PUBLIC KEY", public.as_ref()),
        jwk: json!({"kty": "EC", "crv": "P-256", "x": BASE64.encode(x), "y": BASE64.encode(y)}),
    }
}

fn ed() -> Pair {
    let pair = Ed25519KeyPair::generate().unwrap();
    let public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der>::as_der(pair.public_key()).unwrap();
    Pair {
        algorithm: EdDsa,
        private: pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref()),
        public: pem("PUBLIC KEY", public.as_ref()),
        jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64.encode(pair.public_key().as_ref())}),
    }
}

fn jwks(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

fn with(jwk: &Value, more: Value) -> Value {
    let mut jwk = jwk.clone();
    jwk.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
    jwk
}

fn spec(source: KeySource) -> KeySpec {
    KeySpec { name: "key".to_owned(), algorithm: None, kid: None, source }
}

fn load(source: KeySource) -> Arc<Key> {
    load_spec(spec(source)).unwrap()
}

fn load_spec(spec: KeySpec) -> Result<Arc<Key>, String> {
    match Keys::load(vec![spec]) {
        Ok(keys) => Ok(keys.get("key").unwrap()),
        Err(problems) => Err(problems[0].to_string()),
    }
}

#[test]
fn what_a_private_key_signs_its_public_forms_verify() {
    let dir = Dir::new();
    for pair in pairs() {
        let algorithm = pair.algorithm;
        let private = load(KeySource::Private(dir.write("private.pem", &pair.private)));
        let signature = private.sign(b"data").unwrap();
        assert_eq!(private.algorithm(), Some(algorithm));
        assert_eq!(signature.len(), if algorithm == Rs256 { 256 } else { 64 });
        let set = jwks(&[with(&pair.jwk, json!({"kid": "a"}))]);
        for key in [
            private,
            load(KeySource::Public(dir.write("public.pem", &pair.public))),
            load(KeySource::Jwks(dir.write("jwks.json", set))),
        ] {
            assert_eq!(key.verify(algorithm, Some("a"), b"data", &signature), Ok(true));
            assert_eq!(key.verify(algorithm, None, b"data", &signature), Ok(true));
            assert_eq!(key.verify(algorithm, None, b"Data", &signature), Ok(false));
            for wrong in [&signature[..signature.len() - 1], &[signature.as_slice(), &[0]].concat(), &[]] {
                assert_eq!(key.verify(algorithm, None, b"data", wrong), Ok(false));
            }
            let mut flipped = signature.clone();
            flipped[20] ^= 1;
            assert_eq!(key.verify(algorithm, None, b"data", &flipped), Ok(false));
        }
    }
}

#[test]
fn tokens_signed_here_are_accepted_elsewhere_and_the_other_way_round() {
    use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
    let dir = Dir::new();
    let secret = "0123456789abcdef0123456789abcdef";
    let pkcs8 = |pair: &Pair| ::pem::parse(&pair.private).unwrap().contents().to_vec();
    let ec_pkcs8 = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8(&EC[0]));
    let ec_pkcs8 = pem("PRIVATE KEY", ec_pkcs8.unwrap().to_pkcs8v1().unwrap().as_ref());
    let cases = [
        (
            jsonwebtoken::Algorithm::RS256,
            KeySource::Private(dir.write("rsa.pem", &RSA[0].private)),
            DecodingKey::from_rsa_pem(RSA[0].public.as_bytes()),
            EncodingKey::from_rsa_pem(RSA[0].private.as_bytes()),
        ),
        (
            jsonwebtoken::Algorithm::ES256,
            KeySource::Private(dir.write("ec.pem", &EC[0].private)),
            DecodingKey::from_ec_pem(EC[0].public.as_bytes()),
            EncodingKey::from_ec_pem(ec_pkcs8.as_bytes()),
        ),
        (
            jsonwebtoken::Algorithm::EdDSA,
            KeySource::Private(dir.write("ed.pem", &ED[0].private)),
            DecodingKey::from_ed_pem(ED[0].public.as_bytes()),
            EncodingKey::from_ed_pem(ED[0].private.as_bytes()),
        ),
        (
            jsonwebtoken::Algorithm::HS256,
            KeySource::Secret(dir.write("secret", secret)),
            Ok(DecodingKey::from_secret(secret.as_bytes())),
            Ok(EncodingKey::from_secret(secret.as_bytes())),
        ),
    ];
    for (algorithm, source, decoding, encoding) in cases {
        let key = load(source);
        let claims = json!({"sub": "a", "exp": 4_000_000_000_u64});
        let header = json!({"alg": key.algorithm().unwrap().as_str(), "typ": "JWT"});
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let token = format!("{signed}.{}", BASE64.encode(key.sign(signed.as_bytes()).unwrap()));
        let decoded = jsonwebtoken::decode::<Value>(&token, &decoding.unwrap(), &Validation::new(algorithm));
        assert_eq!(decoded.unwrap().claims, claims, "{algorithm:?}");

        let token = jsonwebtoken::encode(&Header::new(algorithm), &claims, &encoding.unwrap()).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = BASE64.decode(signature).unwrap();
        let own = key.algorithm().unwrap();
        assert_eq!(key.verify(own, None, signed.as_bytes(), &signature), Ok(true));
    }
}

#[test]
fn a_key_verifies_its_own_algorithm_only() {
    let dir = Dir::new();
    for pair in pairs() {
        let key = load(KeySource::Public(dir.write("public.pem", &pair.public)));
        for algorithm in [Rs256, Es256, EdDsa, Hs256] {
            let result = key.verify(algorithm, None, b"data", &[0; 64]);
            match algorithm == pair.algorithm {
                true => assert_eq!(result, Ok(false)),
                false => assert_eq!(result, Err(KeyError::WrongAlgorithm { key: "key".to_owned(), algorithm })),
            }
        }
    }
}

#[test]
fn a_public_key_never_serves_as_a_secret() {
    let dir = Dir::new();
    let file = dir.write("public.pem", &RSA[0].public);
    // What an attacker would do who knows the public key: sign with its file as the secret.
    let forged = aws_lc_rs::hmac::sign(
        &aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, RSA[0].public.as_bytes()),
        b"data",
    );
    let set = jwks(&[RSA[0].jwk.clone()]);
    for source in [KeySource::Public(file.clone()), KeySource::Jwks(dir.write("jwks", set))] {
        let result = load(source).verify(Hs256, None, b"data", forged.as_ref());
        assert!(matches!(result, Err(KeyError::WrongAlgorithm { .. })), "{result:?}");
    }
    let problem = load_spec(spec(KeySource::Secret(file))).unwrap_err();
    assert!(problem.contains("no secret"), "{problem}");
}

#[test]
fn public_keys_and_sets_do_not_sign() {
    let dir = Dir::new();
    let secret = json!({"kty": "oct", "k": BASE64.encode([7; 32])});
    for source in [
        KeySource::Public(dir.write("public.pem", &EC[0].public)),
        KeySource::Jwks(dir.write("jwks.json", jwks(&[secret]))),
    ] {
        let cannot = KeyError::CannotSign { key: "key".to_owned() };
        assert_eq!(load(source).sign(b"data"), Err(cannot));
    }
}

#[test]
fn from_a_set_the_key_id_chooses() {
    let dir = Dir::new();
    let set = jwks(&[
        with(&EC[0].jwk, json!({"kid": "a", "use": "sig", "alg": "ES256"})),
        with(&EC[1].jwk, json!({"kid": "b", "key_ops": ["verify"]})),
        with(&ED[0].jwk, json!({"kid": "c", "alg": "Ed25519"})),
        json!({"kty": "oct", "kid": "h", "k": BASE64.encode([7; 32])}),
    ]);
    let set = load(KeySource::Jwks(dir.write("jwks.json", set)));
    assert_eq!((set.algorithm(), set.kid()), (None, None));
    let signature = |pair: &Pair| load(KeySource::Private(dir.write("p.pem", &pair.private))).sign(b"data").unwrap();
    let (a, b, c) = (signature(&EC[0]), signature(&EC[1]), signature(&ED[0]));
    let verify = |algorithm, kid, signature: &[u8]| set.verify(algorithm, kid, b"data", signature);

    assert_eq!(verify(Es256, Some("a"), &a), Ok(true));
    assert_eq!(verify(Es256, Some("b"), &a), Ok(false));
    assert_eq!(verify(Es256, Some("b"), &b), Ok(true));
    let unknown = KeyError::UnknownKid { key: "key".to_owned(), kid: "z".to_owned() };
    assert_eq!(verify(Es256, Some("z"), &a), Err(unknown));
    assert!(matches!(verify(EdDsa, Some("a"), &c), Err(KeyError::WrongAlgorithm { .. })));
    // Without an id: only where there is no choice.
    assert_eq!(verify(EdDsa, None, &c), Ok(true));
    assert!(matches!(verify(Es256, None, &a), Err(KeyError::NoKid { count: 2, .. })));
    assert!(matches!(verify(Rs256, None, &a), Err(KeyError::WrongAlgorithm { .. })));
    let hmac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[7; 32]);
    let tag = aws_lc_rs::hmac::sign(&hmac, b"data");
    assert_eq!(verify(Hs256, Some("h"), tag.as_ref()), Ok(true));
}

#[test]
fn unfit_keys_of_a_set_are_passed_over() {
    let dir = Dir::new();
    let rsa = |n: &[u8]| json!({"kty": "RSA", "n": BASE64.encode(n), "e": "AQAB"});
    let unfit = [
        with(&EC[0].jwk, json!({"use": "enc"})),
        with(&EC[0].jwk, json!({"key_ops": ["encrypt"]})),
        with(&EC[0].jwk, json!({"alg": "RS256"})),
        with(&RSA[0].jwk, json!({"alg": "PS256"})),
        with(&EC[0].jwk, json!({"y": BASE64.encode([1; 32])})),
        with(&EC[0].jwk, json!({"x": "AA"})),
        with(&EC[0].jwk, json!({"crv": "P-384"})),
        with(&ED[0].jwk, json!({"crv": "X25519"})),
        with(&ED[0].jwk, json!({"x": "=="})),
        rsa(&[0xff; 128]),
        rsa(&[]),
        json!({"kty": "RSA"}),
        json!({"kty": "oct", "k": BASE64.encode([7; 31])}),
        json!({"kty": "new"}),
        json!({"kty": 7}),
        json!("key"),
    ];
    for jwk in &unfit {
        let file = dir.write("jwks.json", jwks(std::slice::from_ref(jwk)));
        let problem = load_spec(spec(KeySource::Jwks(file))).unwrap_err();
        assert!(problem.contains("no key that can be used"), "{problem}");
    }
    let fit = with(&EC[1].jwk, json!({"kid": "b"}));
    let all: Vec<_> = unfit.into_iter().chain([fit]).collect();
    let set = load(KeySource::Jwks(dir.write("jwks.json", jwks(&all))));
    let private = load(KeySource::Private(dir.write("p.pem", &EC[1].private)));
    assert_eq!(set.verify(Es256, None, b"data", &private.sign(b"data").unwrap()), Ok(true));
}

#[test]
fn a_configured_key_id_must_be_the_tokens() {
    let dir = Dir::new();
    let source = KeySource::Private(dir.write("p.pem", &ED[0].private));
    let key = load_spec(KeySpec { kid: Some("k1".to_owned()), ..spec(source) }).unwrap();
    let signature = key.sign(b"data").unwrap();
    assert_eq!(key.kid().as_deref(), Some("k1"));
    assert_eq!(key.verify(EdDsa, Some("k1"), b"data", &signature), Ok(true));
    assert_eq!(key.verify(EdDsa, None, b"data", &signature), Ok(true));
    let other = key.verify(EdDsa, Some("k2"), b"data", &signature);
    assert!(matches!(other, Err(KeyError::UnknownKid { .. })), "{other:?}");
}

#[test]
fn a_line_end_after_a_text_secret_does_not_count() {
    let dir = Dir::new();
    let text = [b'x'; 32];
    let binary = [0xff; 32];
    let tag = |name: &str, secret: &[u8]| load(KeySource::Secret(dir.write(name, secret))).sign(b"data").unwrap();
    let plain = tag("plain", &text);
    assert_eq!(plain, tag("unix", &[text.as_slice(), b"\n"].concat()));
    assert_eq!(plain, tag("dos", &[text.as_slice(), b"\r\n"].concat()));
    assert_ne!(plain, tag("two", &[text.as_slice(), b"\n\n"].concat()));
    assert_ne!(tag("binary", &binary), tag("longer", &[binary.as_slice(), b"\n"].concat()));
}

#[test]
fn algorithms_have_their_jws_names() {
    for algorithm in [Rs256, Es256, EdDsa, Hs256] {
        assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
    }
    assert!("none".parse::<Algorithm>().unwrap_err().to_string().contains("\"none\""));
}

#[test]
fn sha256_is_that_of_fips_180() {
    assert_eq!(sha256(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
}
