//! Fetches a flag from a service in `tick`, keeps it in a cell, and adds it to each request as `x-flag`. What became of the
//! latest fetch is `x-fetched`. A request with `x-call-out` makes it call out where it must not.

use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Flags {
    /// The service to ask.
    service: String,
    /// What to ask it.
    #[serde(default = "flag")]
    path: String,
    /// A body to send along, of so many bytes.
    #[serde(default)]
    body: usize,
    /// How long a flag is good.
    #[serde(default = "minute")]
    ttl: Period,
    /// How long to wait for an answer.
    #[serde(default = "minute")]
    timeout: Period,
    /// Trap after an answer.
    #[serde(default)]
    trap: bool,
}

fn flag() -> String {
    "/flag".into()
}

fn minute() -> Period {
    Period::from_secs(60)
}

impl Flags {
    fn fetch(&self) -> Result<String, outbound::Error> {
        let mut request = outbound::Request::get(&self.path).field("x-asked-by", "flags");
        if self.body > 0 {
            request = outbound::Request::post(&self.path, vec![b'x'; self.body]);
        }
        let answer = request.send(&self.service, *self.timeout)?;
        if self.trap {
            std::process::abort();
        }
        let stored = cells::put("flag", &answer.body, *self.ttl);
        Ok(stored.map_or_else(|error| error.to_string(), |()| answer.status.to_string()))
    }
}

#[policy(reads = ["x-call-out"], tick = 20)]
impl Policy for Flags {
    fn tick(&self) {
        let fetched = self.fetch().unwrap_or_else(|error| format!("{:?}: {error}", error.kind));
        if cells::put("fetched", fetched.as_bytes(), *minute()).is_err() {
            log::error("no room for a small value");
        }
    }

    fn on_request(&self, exchange: &Exchange) -> Result<Verdict> {
        let mut amendment = Amendment::new();
        if exchange.field("x-call-out").is_some() {
            let refused = outbound::Request::get("/").send(&self.service, Duration::from_secs(1)).err();
            let kind = refused.map_or("none".to_owned(), |error| format!("{:?}", error.kind));
            amendment = amendment.set("x-refused", kind);
        }
        for key in ["flag", "fetched"] {
            if let Some(value) = cells::get(key) {
                let shown: Vec<u8> = value.into_iter().take(200).collect();
                amendment = amendment.set(format!("x-{key}"), shown);
            }
        }
        Ok(amendment.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_sdk::testing::{Call, Harness, json};

    #[test]
    fn a_flag_that_was_fetched_goes_along_until_it_is_too_old() {
        let policy = Harness::<Flags>::new(json!({ "service": "flags", "ttl": "5s", "timeout": "2s" })).unwrap();
        policy.host(|host| host.answer("flags", "/flag", Ok(outbound::Response::new(200, "on"))));
        policy.tick();
        let sent = policy.host(|host| host.sent.clone());
        assert_eq!((sent.len(), &*sent[0].service, sent[0].timeout), (1, "flags", Duration::from_secs(2)));
        let expected = Amendment::new().set("x-flag", "on").set("x-fetched", "200");
        assert_eq!(policy.on_request(&Call::new()).unwrap(), expected.into());
        policy.advance(Duration::from_secs(6));
        assert_eq!(policy.on_request(&Call::new()).unwrap(), Amendment::new().set("x-fetched", "200").into());
    }

    #[test]
    fn only_tick_may_call_out() {
        let policy = Harness::<Flags>::new(json!({ "service": "flags" })).unwrap();
        let verdict = policy.on_request(&Call::new().field("x-call-out", "1")).unwrap();
        assert_eq!(verdict, Amendment::new().set("x-refused", "OnlyInTick").into());
        assert!(policy.host(|host| host.sent.is_empty()));
    }
}
