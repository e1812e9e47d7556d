use weir_sdk::prelude::*;

#[policy]
#[derive(Deserialize, JsonSchema)]
struct Mine {}

fn main() {}
