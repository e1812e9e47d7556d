use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Mine {}

#[policy(tick = 5)]
impl Policy for Mine {
    fn tick(&self) {}
}

fn main() {}
