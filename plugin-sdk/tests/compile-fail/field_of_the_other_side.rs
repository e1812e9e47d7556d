use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Mine {}

#[policy(reads_response = ["@user"])]
impl Policy for Mine {
    fn on_response(&self, _: &Exchange, _: &Response) -> Result<Verdict> {
        Ok(Verdict::Proceed)
    }
}

fn main() {}
