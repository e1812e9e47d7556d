//! Says in each hook what the request tells it to say, be it allowed or not: so a test can make up whatever a policy
//! could ever answer. The request carries it as JSON, in hexadecimal, in the field `x-say-` with the policy's name.

use std::cell::RefCell;
use weir_sdk::prelude::*;
use weir_sdk::{Slots, serde_json};

/// Exchanges whose words are kept at a time.
const KEPT: usize = 1024;

#[derive(Deserialize, JsonSchema)]
struct Parrot {
    /// The field is `x-say-` with this.
    name: String,
    #[serde(skip, default = "slots")]
    words: RefCell<Slots<Words>>,
}

fn slots() -> RefCell<Slots<Words>> {
    RefCell::new(Slots::new(KEPT))
}

/// What to say in each hook; where there is nothing, it is a good policy.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Words {
    on_request: Option<Say>,
    pick: Option<Option<u32>>,
    on_attempt: Option<SayToAttempt>,
    on_outcome: Option<Judge>,
    on_response: Option<Say>,
    on_body: Option<SayToBody>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "kebab-case")]
enum Say {
    Fail(String),
    Trap,
    Amend(Change),
    Reply(Answer),
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "kebab-case")]
enum SayToAttempt {
    Fail(String),
    Amend(Vec<Alter>),
    Refuse { reason: String, error: String, retry_after: Option<u64>, every_endpoint: bool },
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "kebab-case")]
enum Judge {
    Fail(String),
    Retry { after: u64, elsewhere: bool },
    DeadLetter(String),
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "kebab-case")]
enum SayToBody {
    Fail(String),
    Replace(Bytes),
    Reply(Answer),
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "kebab-case")]
enum Alter {
    Set(String, Bytes),
    Append(String, Bytes),
    Remove(String),
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct Change {
    edits: Vec<Alter>,
    attributes: Vec<(String, String)>,
    /// Nanoseconds.
    timeout: Option<u64>,
    attempt_timeout: Option<u64>,
    service: Option<u32>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "kebab-case")]
struct Answer {
    status: u16,
    error: String,
    message: String,
    headers: Vec<(String, Bytes)>,
    body: Option<Bytes>,
    grpc_status: Option<u32>,
}

/// Bytes as characters below 256, so many times over.
#[derive(Deserialize, Clone)]
struct Bytes(String, usize);

impl From<Bytes> for Vec<u8> {
    fn from(Bytes(text, times): Bytes) -> Self {
        text.chars().map(|character| character as u8).collect::<Self>().repeat(times)
    }
}

impl From<Alter> for weir_sdk::Edit {
    fn from(alter: Alter) -> Self {
        match alter {
            Alter::Set(name, value) => Self::Set(name, value.into()),
            Alter::Append(name, value) => Self::Append(name, value.into()),
            Alter::Remove(name) => Self::Remove(name),
        }
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self {
            status: answer.status,
            error: answer.error,
            message: answer.message,
            headers: answer.headers.into_iter().map(|(name, value)| (name, value.into())).collect(),
            body: answer.body.map(Into::into),
            grpc_status: answer.grpc_status,
        }
    }
}

impl Say {
    fn verdict(self) -> Result<Verdict> {
        Ok(match self {
            Self::Fail(why) => return Err(why.into()),
            Self::Trap => std::process::abort(),
            Self::Reply(answer) => Verdict::Reply(answer.into()),
            Self::Amend(change) => Verdict::Amend(Amendment {
                edits: change.edits.into_iter().map(Into::into).collect(),
                attributes: change.attributes,
                timeout: change.timeout.map(Duration::from_nanos),
                attempt_timeout: change.attempt_timeout.map(Duration::from_nanos),
                service: change.service.map(ServiceId),
            }),
        })
    }
}

impl Parrot {
    fn words<T>(&self, exchange: &Exchange, of: impl FnOnce(&Words) -> Option<T>) -> Option<T> {
        self.words.borrow_mut().get_mut(exchange.memo()).and_then(|words| of(words))
    }
}

fn parse(hexadecimal: &[u8]) -> Result<Words> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let byte = |pair: &[u8]| {
        Some(pair.iter().map(digit).collect::<Option<Vec<_>>>()?.iter().fold(0, |all, digit| all << 4 | digit))
    };
    let json: Option<Vec<u8>> = hexadecimal.chunks(2).map(byte).collect();
    serde_json::from_slice(&json.unwrap_or_default()).map_err(|error| Error::new(format!("x-say: {error}")))
}

#[policy(max_body = 65536)]
impl Policy for Parrot {
    fn configure(&mut self, needs: &mut Needs) -> Result<()> {
        needs.read(format!("x-say-{}", self.name));
        Ok(())
    }

    fn on_request(&self, exchange: &Exchange) -> Result<Verdict> {
        let Some(said) = exchange.field(&format!("x-say-{}", self.name)) else { return Ok(Verdict::Proceed) };
        let words = parse(said)?;
        let say = words.on_request.clone();
        if let Ok(memo) = self.words.borrow_mut().insert(words) {
            exchange.remember(memo);
        }
        say.map_or(Ok(Verdict::Proceed), Say::verdict)
    }

    fn pick(&self, exchange: &Exchange, tried: &[EndpointId]) -> Result<Option<EndpointId>> {
        match self.words(exchange, |words| words.pick) {
            Some(picked) => Ok(picked.map(EndpointId)),
            None => Ok(endpoints::least_loaded(exchange.service, tried)),
        }
    }

    fn on_attempt(&self, exchange: &Exchange, _: EndpointId) -> Result<Attempt> {
        match self.words(exchange, |words| words.on_attempt.clone()) {
            None => Ok(Attempt::Proceed),
            Some(SayToAttempt::Fail(why)) => Err(why.into()),
            Some(SayToAttempt::Amend(edits)) => Ok(Attempt::Amend(edits.into_iter().map(Into::into).collect())),
            Some(SayToAttempt::Refuse { reason, error, retry_after, every_endpoint }) => Ok(Attempt::Refuse(Refusal {
                reason,
                error,
                retry_after: retry_after.map(Duration::from_nanos),
                every_endpoint,
            })),
        }
    }

    fn on_outcome(&self, exchange: &Exchange, _: &Outcome) -> Result<Decision> {
        match self.words(exchange, |words| words.on_outcome.clone()) {
            None => Ok(Decision::Accept),
            Some(Judge::Fail(why)) => Err(why.into()),
            Some(Judge::Retry { after, elsewhere }) => {
                Ok(Decision::Retry { after: Duration::from_nanos(after), elsewhere })
            }
            Some(Judge::DeadLetter(reason)) => Ok(Decision::DeadLetter(reason)),
        }
    }

    fn on_response(&self, exchange: &Exchange, _: &Response) -> Result<Verdict> {
        self.words(exchange, |words| words.on_response.clone()).map_or(Ok(Verdict::Proceed), Say::verdict)
    }

    fn on_body(&self, exchange: &Exchange, _: BodyOf, _: &[u8]) -> Result<BodyVerdict> {
        match self.words(exchange, |words| words.on_body.clone()) {
            None => Ok(BodyVerdict::Proceed),
            Some(SayToBody::Fail(why)) => Err(why.into()),
            Some(SayToBody::Replace(body)) => Ok(BodyVerdict::Replace(body.into())),
            Some(SayToBody::Reply(answer)) => Ok(BodyVerdict::Reply(answer.into())),
        }
    }

    fn on_complete(&self, exchange: &Exchange, _: &Completion) {
        self.words.borrow_mut().remove(exchange.memo());
    }
}
