//! Reads the fields that its configuration names, and does nothing: what it costs to be called at all.

use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Fields {
    /// What to read of requests.
    reads: Vec<String>,
}

#[policy]
impl Policy for Fields {
    fn configure(&mut self, needs: &mut Needs) -> Result<()> {
        self.reads.iter().for_each(|field| needs.read(field.as_str()));
        Ok(())
    }

    fn on_request(&self, _: &Exchange) -> Result<Verdict> {
        Ok(Verdict::Proceed)
    }
}
