use crate::exchange::{Completion, EndpointId, Exchange, Outcome, Response, ServiceId};
use crate::host::endpoints::Endpoint;
use crate::verdict::{Attempt, BodyVerdict, Decision, Verdict};
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

/// Whose body a hook was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BodyOf {
    /// A call's.
    Request,
    /// Of the answer to a call.
    Response,
    /// Seen twice: when the message is published and, as the broker kept it, in each attempt to deliver it.
    Message,
}

/// Hooks, or occasions for a hook, that a configuration has no use for. What is skipped costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Skip {
    pub on_request: bool,
    pub on_attempt: bool,
    pub on_outcome: bool,
    /// Outcomes with a status below 400 and no gRPC status but 0.
    pub on_outcome_of_success: bool,
    pub on_response: bool,
    pub on_complete: bool,
    /// Every hook after `on_request`, in exchanges in which the memo is 0.
    pub without_memo: bool,
}

/// What a configured policy wants to be given. Starts with what `#[policy(reads = […], reads_response = […])]` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// Request fields, for [`Exchange::field`].
    pub request: Vec<String>,
    /// Response fields, for [`Outcome::field`] and [`Response::field`].
    pub response: Vec<String>,
    pub skip: Skip,
    /// Set by [`Needs::skip_while_zero`].
    pub idle: Option<Idle>,
}

/// What to skip while a shared word is 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Idle {
    /// The name of a [`Word`](crate::host::cells::Word) of this policy.
    pub word: String,
    pub skip: Skip,
}

impl Needs {
    /// Skips these occasions as long as the [`Word`](crate::host::cells::Word) of this name is 0, on whichever worker it is
    /// changed. For policies that mostly have nothing to do: a breaker that is closed costs one look of the host.
    pub fn skip_while_zero(&mut self, word: impl Into<String>, skip: Skip) {
        self.idle = Some(Idle { word: word.into(), skip });
    }

    /// Adds a request field.
    pub fn read(&mut self, field: impl Into<String>) {
        let field = field.into();
        if !self.request.contains(&field) {
            self.request.push(field);
        }
    }

    /// Adds a response field.
    pub fn read_response(&mut self, field: impl Into<String>) {
        let field = field.into();
        if !self.response.contains(&field) {
            self.response.push(field);
        }
    }
}

/// A policy. The struct is the configuration; `#[policy]` on the `impl` exports the hooks that are written, and an absent
/// one costs nothing. An instance serves one exchange at a time, but many in turn: state goes into cells of `std::cell`,
/// or into [`cells`](crate::host::cells) where all workers share it.
#[expect(unused_variables, reason = "the names are for the reader; the defaults do nothing")]
pub trait Policy: DeserializeOwned + JsonSchema + 'static {
    /// Checks what the schema cannot, opens keys and cells, and says what the policy wants to be given.
    fn configure(&mut self, needs: &mut Needs) -> Result<()> {
        Ok(())
    }

    /// Once per exchange, in the order of the chain.
    fn on_request(&self, exchange: &Exchange) -> Result<Verdict> {
        Ok(Verdict::Proceed)
    }

    /// When the endpoints of a service change, and before the first exchange with it.
    fn on_endpoints(&self, service: ServiceId, endpoints: &[Endpoint]) -> Result<()> {
        Ok(())
    }

    /// The endpoint of the next attempt; not one of `tried`. The first policy of a chain that has this hook decides.
    fn pick(&self, exchange: &Exchange, tried: &[EndpointId]) -> Result<Option<EndpointId>> {
        Err(Error::new("pick is not implemented"))
    }

    /// Once per attempt, in the order of the chain.
    fn on_attempt(&self, exchange: &Exchange, endpoint: EndpointId) -> Result<Attempt> {
        Ok(Attempt::Proceed)
    }

    /// Once for every `on_attempt`, in reverse order of the chain.
    fn on_outcome(&self, exchange: &Exchange, outcome: &Outcome) -> Result<Decision> {
        Ok(Decision::Accept)
    }

    /// Once, in reverse order of the chain.
    fn on_response(&self, exchange: &Exchange, response: &Response) -> Result<Verdict> {
        Ok(Verdict::Proceed)
    }

    /// With a whole body that is not longer than `#[policy(max_body = …)]`.
    fn on_body(&self, exchange: &Exchange, of: BodyOf, body: &[u8]) -> Result<BodyVerdict> {
        Ok(BodyVerdict::Proceed)
    }

    /// Exactly once per exchange that `on_request` saw.
    fn on_complete(&self, exchange: &Exchange, completion: &Completion) {}

    /// As often as `#[policy(tick = …)]` asks, in milliseconds. Only here a policy may call out, by
    /// [`outbound`](crate::host::outbound).
    fn tick(&self) {}
}

/// What `#[policy]` says of a policy.
#[doc(hidden)]
pub trait Described: Policy {
    const NAME: &'static str;
    const VERSION: &'static str;
    const SUMMARY: &'static str;
    const READS: &'static [&'static str];
    const READS_RESPONSE: &'static [&'static str];
    /// Milliseconds; 0: never.
    const TICK: u64;
    const MAX_BODY: u32;
}

/// Makes a policy from its configuration, as the host does.
#[doc(hidden)]
pub fn configure<P: Described>(config: &[u8]) -> Result<(P, Needs)> {
    let mut policy: P = serde_json::from_slice(config).map_err(|error| Error::new(error.to_string()))?;
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let mut needs = Needs { request: owned(P::READS), response: owned(P::READS_RESPONSE), ..Needs::default() };
    policy.configure(&mut needs)?;
    Ok((policy, needs))
}

/// The JSON Schema of a policy's configuration.
#[doc(hidden)]
pub fn schema<P: Policy>() -> String {
    schemars::schema_for!(P).as_value().to_string()
}
