use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Mine {}

#[policy]
impl Policy for Mine {
    fn on_request(&self) -> Result<Verdict> {
        Ok(Verdict::Proceed)
    }
}

fn main() {}
