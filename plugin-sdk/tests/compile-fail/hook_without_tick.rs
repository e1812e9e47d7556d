use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Mine {}

#[policy]
impl Policy for Mine {
    fn tick(&self) {}
}

fn main() {}
