//! Rejects calls that carry no bearer token.
use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct RequireToken {
    /// Named in the answer.
    realm: String,
}

#[policy(reads = ["authorization"])]
impl Policy for RequireToken {
    fn on_request(&self, exchange: &Exchange) -> Result<Verdict> {
        match exchange.bearer_token() {
            Some(_) => Ok(Verdict::Proceed),
            None => Ok(Verdict::reply(401, format!("token required for {}", self.realm))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_sdk::testing::{Call, Harness, json};

    #[test]
    fn a_call_without_a_token_is_refused() {
        let policy = Harness::<RequireToken>::new(json!({ "realm": "orders" })).unwrap();
        let refused = policy.on_request(&Call::new()).unwrap();
        assert_eq!(refused, Verdict::reply(401, "token required for orders"));

        let call = Call::new().field("authorization", "Bearer abc");
        assert_eq!(policy.on_request(&call).unwrap(), Verdict::Proceed);
    }
}

/// The code above is the README's, so that it compiles and its test runs.
#[test]
fn the_readme_holds_this_code() {
    let blocks: Vec<&str> =
        include_str!("../README.md").split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        assert!(include_str!("readme.rs").contains(block), "{block}");
    }
}
