use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Mine {}

#[policy]
impl Policy for Mine {
    fn on_body(&self, _: &Exchange, _: BodyOf, _: &[u8]) -> Result<BodyVerdict> {
        Ok(BodyVerdict::Proceed)
    }
}

fn main() {}
