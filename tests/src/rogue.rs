//! The rogue in a chain: every way in which a policy can break the contract, and what its exchange costs.

use crate::client::{self, Body, Response};
use crate::guests::rogue;
use crate::upstream::Upstream;
use crate::weir::Setup;

/// What goes wrong inside a hook, whatever the hook would have answered.
pub const ACTS: [&str; 6] = ["trap", "panic", "exit", "loop", "memory", "recurse"];
pub const HOOKS: [&str; 8] =
    ["on-request", "on-endpoints", "pick", "on-attempt", "on-outcome", "on-response", "on-body", "on-complete"];
/// Answers that break the contract, by the hooks that can give them.
pub const ANSWERS: [(&str, &[&str]); 6] = [
    ("on-request", &["many-headers", "bad-header", "bad-name", "framing", "huge-reply", "bad-status", "out-of-range"]),
    ("pick", &["out-of-range"]),
    ("on-attempt", &["many-headers", "bad-header", "bad-name", "framing", "huge-reply"]),
    ("on-outcome", &["huge-reply"]),
    ("on-response", &["many-headers", "bad-header", "bad-name", "framing", "huge-reply", "bad-status", "out-of-range"]),
    ("on-body", &["huge-reply", "bad-status"]),
];

/// One policy of the rogue with a chain and a route of its own, which is the host to call.
#[derive(Clone, Copy)]
pub struct Case {
    pub hook: &'static str,
    pub deed: &'static str,
    pub on_error: &'static str,
}

impl Case {
    pub fn all() -> Vec<Self> {
        let acts = HOOKS.into_iter().flat_map(|hook| ACTS.map(|deed| (hook, deed)));
        let answers = ANSWERS.into_iter().flat_map(|(hook, deeds)| deeds.iter().map(move |deed| (hook, *deed)));
        let each = acts
            .chain(answers)
            .flat_map(|(hook, deed)| ["reject", "skip"].map(|on_error| Self { hook, deed, on_error }));
        each.collect()
    }

    pub fn name(&self) -> String {
        format!("{}-{}-{}", self.hook, self.deed, self.on_error)
    }

    /// When the policy may not be skipped: after the outcome there is nothing left to refuse.
    pub fn is_refused(&self) -> bool {
        self.on_error == "reject" && !matches!(self.hook, "on-outcome" | "on-complete")
    }

    fn toml(&self) -> String {
        let (name, Self { hook, deed, on_error }) = (self.name(), self);
        // What is huge gets the room to be made: it is to fail at the boundary, and not for want of memory.
        let limits = if *deed == "huge-reply" {
            "cpu = \"5s\", memory = \"256MiB\""
        } else {
            "cpu = \"100ms\", memory = \"16MiB\""
        };
        format!(
            "[policy.{name}]\nplugin = \"rogue\"\non-error = \"{on_error}\"\nlimits = {{ {limits} }}\nconfig = {{ in = \"{hook}\", do = \"{deed}\" }}\n\
             [[route]]\nmatch = {{ host = \"{name}\" }}\nservice = \"service\"\ntimeout = \"none\"\nchain = \"{name}\"\n"
        )
    }
}

pub fn node(cases: &[Case], upstream: &Upstream, workers: usize) -> Setup {
    let policies: String = cases.iter().map(Case::toml).collect();
    let chains: String = cases.iter().map(|case| format!("{} = [\"{}\"]\n", case.name(), case.name())).collect();
    Setup::new()
        .workers(workers)
        .with_plugin_file(&rogue(), "rogue")
        .service("service", &[upstream.address()])
        .toml(&policies)
        .toml(&format!("[chain]\n{chains}"))
}

pub fn call(case: &Case, rogue: bool) -> anyhow::Result<http::Request<Body>> {
    let mut request = client::post(&case.name(), "/", "body")?;
    if rogue {
        request.headers_mut().insert("x-rogue", "now".parse()?);
    }
    Ok(request)
}

pub fn is_refusal(response: &Response) -> bool {
    let explained = response.json().is_ok_and(|json| json["error"] == "policy" && json["message"].is_string());
    response.status == 503 && response.header("x-weir-error") == Some("policy") && explained
}
