//! What the laws of retry share: one service behind one retry policy.

use crate::client::{self, Response};
use crate::upstream::Upstream;
use crate::weir::{Setup, Weir};

/// No wait to speak of.
pub const AT_ONCE: &str = "backoff = { kind = \"fixed\", delay = \"1ms\" }";

/// A budget that is in no test's way; a test that is about the budget writes its own.
pub const BUDGET: &str = "[retry-budget]\npercent = 100\nmin-per-second = 1000";

/// The service `s` behind a retry policy with these keys, and more keys of its route.
pub fn setup(upstreams: &[&Upstream], config: &str, route: &str) -> Setup {
    let endpoints: Vec<_> = upstreams.iter().map(|upstream| upstream.address()).collect();
    Setup::new()
        .service_with("s", &endpoints, "http1", &format!("chain = \"c\"\n{route}"))
        .toml("[chain]\nc = [\"retry\"]")
        .policy("retry", "retry", &format!("{{ {config} }}"))
}

pub fn start(upstreams: &[&Upstream], config: &str, route: &str) -> Weir {
    setup(upstreams, config, route).toml(BUDGET).start()
}

pub async fn get(weir: &Weir) -> anyhow::Result<Response> {
    client::fetch(weir.address(), "s", "/").await
}
