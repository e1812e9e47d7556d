use weir_sdk::prelude::*;

#[derive(JsonSchema)]
struct Mine {}

#[policy]
impl Policy for Mine {
    fn on_request(&self, _: &Exchange) -> Result<Verdict> {
        Ok(Verdict::Proceed)
    }
}

fn main() {}
