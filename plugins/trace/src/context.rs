//! Identifiers of a trace, and the field `traceparent` (W3C Trace Context, section 3.2).

use weir_sdk::prelude::*;

/// 16 bytes, the high half first. All zeros: no trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TraceId(pub u64, pub u64);

/// What a request says of its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caller {
    /// All zeros where the request names no trace, but says whether to sample.
    pub trace: TraceId,
    /// The caller's span; 0: not known.
    pub span: u64,
    pub sampled: Option<bool>,
    /// The trace id is known to be random (the flag of Trace Context, level 2). Handed on as it came.
    pub random: bool,
}

/// What a request is sent on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub trace: TraceId,
    pub span: u64,
    /// 0: a root.
    pub parent: u64,
    pub sampled: bool,
    pub random: bool,
}

const SAMPLED: u64 = 1;
const RANDOM: u64 = 2;

impl TraceId {
    pub fn random() -> Self {
        Self(random::next(), random::next().max(1))
    }

    /// From 32 digits, or from the 16 of older tracers.
    pub fn parse(digits: &[u8]) -> Option<Self> {
        let (high, low) = digits.split_at(digits.len().saturating_sub(16));
        let high = if high.is_empty() { 0 } else { parse_hex(high, 16)? };
        Some(Self(high, parse_hex(low, 16)?)).filter(|id| *id != Self::default())
    }

    pub fn hex(self) -> String {
        [self.0, self.1].into_iter().flat_map(hex).map(char::from).collect()
    }

    /// The seven bytes that decide about sampling, the same on every hop. They are the ones that Trace Context, level 2,
    /// asks to be random.
    pub fn randomness(self) -> u64 {
        self.1 & 0x00ff_ffff_ffff_ffff
    }
}

impl Context {
    /// For one attempt within this exchange.
    pub fn child(self, span: u64) -> Self {
        Self { span, parent: self.span, ..self }
    }

    /// The value of `traceparent`, in version 00.
    pub fn traceparent(self) -> Vec<u8> {
        let flags = u8::from(self.sampled) * SAMPLED as u8 + u8::from(self.random) * RANDOM as u8;
        let mut value = Vec::with_capacity(55);
        value.extend_from_slice(b"00-");
        value.extend_from_slice(&hex(self.trace.0));
        value.extend_from_slice(&hex(self.trace.1));
        value.push(b'-');
        value.extend_from_slice(&hex(self.span));
        value.extend_from_slice(&[b'-', b'0', b'0' + flags]);
        value
    }
}

impl Caller {
    /// Reads `traceparent`. `None`: it is malformed, or occurs several times, and the trace starts anew (section 3.2.2.5
    /// says so, and how a version later than 00 is read).
    pub fn traceparent(value: &[u8]) -> Option<Self> {
        let (fixed, rest) = value.trim_ascii().split_at_checked(55)?;
        let mut parts = fixed.split(|byte| *byte == b'-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let later = match parse_hex(version, 2)? {
            0xff => return None,
            version => version > 0,
        };
        // Several fields arrive as one, joined by a comma.
        let ended = rest.is_empty() || later && rest.starts_with(b"-") && !rest.contains(&b',');
        if !ended || trace.len() != 32 {
            return None;
        }
        let flags = parse_hex(flags, 2)?;
        Some(Self {
            trace: TraceId::parse(trace)?,
            span: parse_span(span)?,
            sampled: Some(flags & SAMPLED != 0),
            random: flags & RANDOM != 0,
        })
    }
}

/// A span's id from its 16 digits. `None` also for zero, which is no span.
pub fn parse_span(digits: &[u8]) -> Option<u64> {
    parse_hex(digits, 16).filter(|id| *id != 0)
}

/// A number of exactly so many lower-case digits, at most 16.
fn parse_hex(digits: &[u8], length: usize) -> Option<u64> {
    if digits.len() != length {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'9' => Some(number << 4 | u64::from(digit - b'0')),
        b'a'..=b'f' => Some(number << 4 | u64::from(digit - b'a' + 10)),
        _ => None,
    })
}

/// All 16 digits of a number.
pub fn hex(number: u64) -> [u8; 16] {
    std::array::from_fn(|at| match (number >> (60 - 4 * at)) as u8 & 0xf {
        digit @ 0..10 => b'0' + digit,
        digit => b'a' - 10 + digit,
    })
}
