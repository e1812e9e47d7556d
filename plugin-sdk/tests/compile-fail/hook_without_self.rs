use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Mine {}

#[policy]
impl Policy for Mine {
    fn on_attempt(_: &Exchange, _: EndpointId, _: u32) -> Result<Attempt> {
        Ok(Attempt::Proceed)
    }
}

fn main() {}
