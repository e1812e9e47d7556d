use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Mine {}

#[policy]
impl Policy for Mine {
    fn on_outcome(&self, _: &Exchange, _: &Outcome) -> Result<Verdict> {
        Ok(Verdict::Proceed)
    }
}

fn main() {}
