//! What a policy can do wrong.

use std::hint::black_box;
use weir_sdk::prelude::*;

const HUGE: usize = 64 << 20;
const MANY: usize = 100_000;

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq)]
pub enum Deed {
    /// Leaves the exchange alone.
    Nothing,
    /// Executes an unreachable instruction.
    Trap,
    /// Panics, as a bug in a policy does.
    Panic,
    Exit,
    /// Never returns.
    Loop,
    /// Takes memory until there is none.
    Memory,
    /// Calls itself until the stack ends.
    Recurse,
    /// Returns an error, which is no breach of the contract.
    Error,
    /// Prints more than anybody wants to read.
    Print,
    /// Asks the host for more than it gives.
    Flood,
    /// Changes 100 000 fields.
    ManyHeaders,
    /// Gives a field a value that would end the header.
    BadHeader,
    /// Gives a field a name that is none.
    BadName,
    /// Sets the length of a message that it does not frame.
    Framing,
    /// Answers with 64 MiB.
    HugeReply,
    /// Replies with a status that is none.
    BadStatus,
    /// Names a service or an endpoint that does not exist, or asks for a wait that never ends.
    OutOfRange,
}

impl Deed {
    /// What is done inside a hook, whatever the hook answers.
    pub fn act(self) -> Result<()> {
        match self {
            Self::Trap => std::process::abort(),
            #[expect(clippy::panic, reason = "that is the deed")]
            Self::Panic => panic!("a bug"),
            Self::Exit => std::process::exit(0),
            Self::Loop => loop {
                black_box(());
            },
            Self::Memory => loop {
                black_box(Vec::leak(vec![1u8; 1 << 20]));
            },
            Self::Recurse => {
                black_box(recurse(black_box(0)));
                Ok(())
            }
            Self::Error => Err("no luck today".into()),
            Self::Print => {
                (0..MANY).for_each(|line| println!("line {line} {}", "x".repeat(1000)));
                Ok(())
            }
            Self::Flood => flood(),
            _ => Ok(()),
        }
    }

    pub fn verdict(self) -> Verdict {
        match self {
            Self::HugeReply => Reply::error(200, "", "").body(vec![b'x'; HUGE]).into(),
            Self::BadStatus => Verdict::reply(99, "no such status"),
            Self::OutOfRange => Amendment { service: Some(ServiceId(u32::MAX)), ..Amendment::new() }.into(),
            _ => self
                .edits()
                .into_iter()
                .fold(Amendment::new(), |amendment, (name, value)| amendment.append(name, value))
                .into(),
        }
    }

    pub fn attempt(self) -> Attempt {
        match self {
            Self::HugeReply => Attempt::Refuse(Refusal { reason: "x".repeat(HUGE), ..Refusal::default() }),
            // To refuse whatever is picked is allowed, and ends when no endpoint is left.
            Self::OutOfRange => Attempt::Refuse(Refusal { retry_after: Some(Duration::MAX), ..Refusal::default() }),
            _ => Attempt::Amend(
                self.edits().into_iter().map(|(name, value)| weir_sdk::Edit::Append(name, value)).collect(),
            ),
        }
    }

    pub fn decision(self) -> Decision {
        match self {
            Self::HugeReply => Decision::DeadLetter("x".repeat(HUGE)),
            Self::OutOfRange => Decision::Retry { after: Duration::MAX, elsewhere: true },
            _ => Decision::Accept,
        }
    }

    pub fn body(self) -> BodyVerdict {
        match self {
            Self::HugeReply => BodyVerdict::Replace(vec![b'x'; HUGE]),
            Self::BadStatus => BodyVerdict::Reply(Reply::error(99, "policy", "no such status")),
            _ => BodyVerdict::Proceed,
        }
    }

    fn edits(self) -> Vec<(String, Vec<u8>)> {
        let one = |name: &str, value: &str| vec![(name.to_owned(), value.as_bytes().to_vec())];
        match self {
            Self::ManyHeaders => (0..MANY).map(|number| (format!("x-{number}"), b"1".to_vec())).collect(),
            Self::BadHeader => one("x-bad", "a\r\nx-injected: b"),
            Self::BadName => one("x-bad\r\nx-injected", "b"),
            Self::Framing => one("content-length", "1"),
            _ => Vec::new(),
        }
    }
}

#[expect(unconditional_recursion, reason = "that is the deed")]
fn recurse(depth: u64) -> u64 {
    black_box(recurse(black_box(depth + 1))) + 1
}

/// Asks for more of everything than there is. The host says no, or stops it: both are fine.
fn flood() -> Result<()> {
    let long = "x".repeat(HUGE / 64);
    for number in 0..MANY {
        let name = format!("{number}");
        drop(cells::Word::open(&name));
        drop(cells::put(&name, long.as_bytes(), Duration::MAX));
        drop(metrics::Counter::open(&name, &long));
        drop(crypto::Key::open(&name));
        log::error(&long);
        endpoints::eject(ServiceId(number as u32), EndpointId(u32::MAX), Duration::MAX);
        endpoints::load(ServiceId(u32::MAX), EndpointId(number as u32));
        endpoints::report_breaker(ServiceId(0), None, &name, endpoints::Breaker::Open, &long);
        black_box(random::secure(usize::MAX));
    }
    Ok(())
}
