use weir_sdk::prelude::*;

#[derive(Deserialize)]
struct Mine {}

#[policy]
impl Policy for Mine {
    fn on_request(&self, _: &Exchange) -> Result<Verdict> {
        Ok(Verdict::Proceed)
    }
}

fn main() {}
