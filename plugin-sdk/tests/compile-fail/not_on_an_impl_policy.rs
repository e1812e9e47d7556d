use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Mine {}

#[policy]
impl Mine {}

fn main() {}
