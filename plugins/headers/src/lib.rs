//! Sets, appends and removes header fields of requests and responses.

use std::collections::BTreeMap;
use weir_sdk::prelude::*;

/// What to do with the fields of a request and of its response.
#[derive(Deserialize, JsonSchema)]
struct Headers {
    #[serde(default)]
    request: Edits,
    #[serde(default)]
    response: Edits,
}

/// Removed first, then set, then appended.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(default)]
struct Edits {
    /// Fields to remove, by name.
    remove: Vec<String>,
    /// Fields to set: all earlier values are replaced.
    set: BTreeMap<String, String>,
    /// Fields to give one more value.
    append: BTreeMap<String, String>,
}

impl Edits {
    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.append.is_empty()
    }

    fn verdict(&self) -> Verdict {
        let mut amendment = Amendment::new();
        for name in &self.remove {
            amendment = amendment.remove(name.to_ascii_lowercase());
        }
        for (name, value) in &self.set {
            amendment = amendment.set(name.to_ascii_lowercase(), value.as_str());
        }
        for (name, value) in &self.append {
            amendment = amendment.append(name.to_ascii_lowercase(), value.as_str());
        }
        amendment.into()
    }
}

#[policy]
impl Policy for Headers {
    fn configure(&mut self, needs: &mut Needs) -> Result<()> {
        needs.skip =
            Skip { on_request: self.request.is_empty(), on_response: self.response.is_empty(), ..Skip::default() };
        Ok(())
    }

    fn on_request(&self, _: &Exchange) -> Result<Verdict> {
        Ok(self.request.verdict())
    }

    fn on_response(&self, _: &Exchange, _: &Response) -> Result<Verdict> {
        Ok(self.response.verdict())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use weir_sdk::testing::{Answer, Call, Harness};

    #[test]
    fn fields_are_removed_then_set_then_appended() {
        let policy = Harness::<Headers>::new(json!({
            "response": { "set": { "X-Policy-Marker": "v1" }, "remove": ["server"], "append": { "via": "weir" } },
        }))
        .unwrap();
        let verdict = policy.on_response(&Call::new(), Answer::status(200)).unwrap();
        let expected = Amendment::new().remove("server").set("x-policy-marker", "v1").append("via", "weir");
        assert_eq!(verdict, expected.into());
    }

    #[test]
    fn messages_are_edited_as_requests_are() {
        let config = json!({ "request": { "set": { "x-origin": "shop" } }, "response": { "set": { "x-seen": "1" } } });
        let policy = Harness::<Headers>::new(config).unwrap();
        for kind in [ExchangeKind::Call, ExchangeKind::Publish, ExchangeKind::Delivery] {
            let call = Call::new().kind(kind);
            assert_eq!(policy.on_request(&call).unwrap(), Amendment::new().set("x-origin", "shop").into());
            let verdict = policy.on_response(&call, Answer::status(200)).unwrap();
            assert_eq!(verdict, Amendment::new().set("x-seen", "1").into());
        }
    }

    #[test]
    fn a_side_without_edits_is_not_called() {
        let policy = Harness::<Headers>::new(json!({ "request": { "set": { "a": "b" } } })).unwrap();
        assert!(policy.needs().skip.on_response && !policy.needs().skip.on_request);
        assert_eq!(policy.on_response(&Call::new(), Answer::status(200)).unwrap(), Verdict::Proceed);
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = Harness::<Headers>::new(json!({ "request": { "sett": {} } })).err().unwrap();
        assert!(error.message().contains("sett"), "{error}");
    }
}
