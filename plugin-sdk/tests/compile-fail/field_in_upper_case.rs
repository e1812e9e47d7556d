use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Mine {}

#[policy(reads = [":path", "Authorization"])]
impl Policy for Mine {
    fn on_request(&self, _: &Exchange) -> Result<Verdict> {
        Ok(Verdict::Proceed)
    }
}

fn main() {}
