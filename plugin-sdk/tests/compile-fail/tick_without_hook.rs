use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Mine {}

#[policy(tick = 1000)]
impl Policy for Mine {
    fn on_request(&self, _: &Exchange) -> Result<Verdict> {
        Ok(Verdict::Proceed)
    }
}

fn main() {}
