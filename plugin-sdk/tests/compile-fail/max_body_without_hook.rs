use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Mine {}

#[policy(max_body = 1024)]
impl Policy for Mine {
    fn on_request(&self, _: &Exchange) -> Result<Verdict> {
        Ok(Verdict::Proceed)
    }
}

fn main() {}
