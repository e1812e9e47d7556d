//! Asks for keys and ejects endpoints, as its configuration, the request, and a word that tests write into the built file
//! say. It swallows every error.

use std::hint::black_box;
use weir_sdk::prelude::*;

/// What tests look for in the file and write over: the key to open in `configure`, filled up with dots.
static WORD: [u8; 32] = *b"asker-word:.....................";

/// Volatile in effect: the compiler must not know what the file will say.
fn word() -> &'static str {
    let word = black_box(&WORD).get(11..).unwrap_or_default();
    std::str::from_utf8(word).unwrap_or_default().trim_end_matches('.')
}

#[derive(Deserialize, JsonSchema)]
struct Asker {
    /// A key to open in `configure`.
    key: Option<String>,
}

#[policy(reads = ["x-open", "x-eject"])]
impl Policy for Asker {
    fn configure(&mut self, _: &mut Needs) -> Result<()> {
        for key in [word(), self.key.as_deref().unwrap_or_default()].into_iter().filter(|key| !key.is_empty()) {
            drop(crypto::Key::open(key));
        }
        Ok(())
    }

    fn on_request(&self, exchange: &Exchange) -> Result<Verdict> {
        let mut amendment = Amendment::new();
        if let Some(name) = exchange.text("x-open") {
            let opened = crypto::Key::open(name).map_or_else(|error| error.to_string(), |_| "opened".into());
            amendment = amendment.set("x-opened", opened);
        }
        if exchange.field("x-eject").is_some() {
            let ejected = endpoints::eject(exchange.service, EndpointId(0), Duration::from_secs(60));
            endpoints::report_breaker(exchange.service, None, "", endpoints::Breaker::Open, "a test");
            amendment = amendment.set("x-ejected", ejected.to_string());
        }
        Ok(amendment.into())
    }
}
