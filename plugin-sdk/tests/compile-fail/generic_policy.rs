use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Mine {}

struct Of<T>(T);

#[policy]
impl<T> Policy for Of<T> {
    fn on_request(&self, _: &Exchange) -> Result<Verdict> {
        Ok(Verdict::Proceed)
    }
}

fn main() {}
