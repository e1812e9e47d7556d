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

    /// All 32 digits.
    pub fn hex(self) -> [u8; 32] {
        let mut digits = [0; 32];
        let (high, low) = digits.split_at_mut(16);
        high.copy_from_slice(&hex(self.0));
        low.copy_from_slice(&hex(self.1));
        digits
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
    pub fn traceparent(self) -> [u8; 55] {
        let mut value = *b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-00";
        let (trace, span, flags) = (&self.trace.hex(), &hex(self.span), &[b'0' + self.flags()]);
        for (at, part) in [(3, trace.as_slice()), (36, span), (54, flags)] {
            if let Some(place) = value.get_mut(at..at + part.len()) {
                place.copy_from_slice(part);
            }
        }
        value
    }

    fn flags(self) -> u8 {
        u8::from(self.sampled) * SAMPLED as u8 + u8::from(self.random) * RANDOM as u8
    }
}

impl Caller {
    /// Reads `traceparent`. `None`: it is malformed, or occurs several times, and the trace starts anew (section 3.2.2.5
    /// says so, and how a version later than 00 is read).
    pub fn traceparent(value: &[u8]) -> Option<Self> {
        let (version, rest) = value.trim_ascii().split_at_checked(2)?;
        let (trace, rest) = rest.strip_prefix(b"-")?.split_at_checked(32)?;
        let (span, rest) = rest.strip_prefix(b"-")?.split_at_checked(16)?;
        let (flags, rest) = rest.strip_prefix(b"-")?.split_at_checked(2)?;
        let later = match parse_hex(version, 2)? {
            0xff => return None,
            version => version > 0,
        };
        // Several fields arrive as one, joined by a comma.
        let ended = rest.is_empty() || later && rest.starts_with(b"-") && !rest.contains(&b',');
        if !ended {
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
    let mut all = [b'0'; 16];
    all.get_mut(16 - length..)?.copy_from_slice(digits);
    let (high, low) = all.split_first_chunk()?;
    let number = u64::from(number(*high)) << 32 | u64::from(number(*low.first_chunk()?));
    (hex(number) == all).then_some(number)
}

/// All 16 digits of a number.
pub fn hex(number: u64) -> [u8; 16] {
    let mut all = [0; 16];
    let (high, low) = all.split_at_mut(8);
    high.copy_from_slice(&digits((number >> 32) as u32));
    low.copy_from_slice(&digits(number as u32));
    all
}

const EACH: u64 = 0x0101_0101_0101_0101;

/// Eight digits at once, each in its byte.
fn digits(number: u32) -> [u8; 8] {
    let n = u64::from(number);
    let n = (n | n << 16) & 0x0000_ffff_0000_ffff;
    let n = (n | n << 8) & 0x00ff_00ff_00ff_00ff;
    let n = (n | n << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // What 6 carries over 15 is 10 or more, and a letter.
    let letters = (n + 6 * EACH) >> 4 & EACH;
    (n + u64::from(b'0') * EACH + u64::from(b'a' - b'0' - 10) * letters).to_be_bytes()
}

/// The way back. Of what are no digits it makes some number, of which they are not the digits.
fn number(digits: [u8; 8]) -> u32 {
    let n = u64::from_be_bytes(digits);
    // Letters have the bit that 64 stands for, and count from 1.
    let letters = n >> 6 & EACH;
    let n = ((n & (15 * EACH)) + 9 * letters) & (15 * EACH);
    let n = (n | n >> 4) & 0x00ff_00ff_00ff_00ff;
    let n = (n | n >> 8) & 0x0000_ffff_0000_ffff;
    (n | n >> 16) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_standard_library_and_nothing_else_is_a_number() {
        let mut number = 1u64;
        for _ in 0..2_000 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let digits = format!("{number:016x}");
            assert_eq!(hex(number), digits.as_bytes());
            assert_eq!(parse_hex(digits.as_bytes(), 16), Some(number));
        }
        for byte in 0..=u8::MAX {
            let value = char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
            for at in 0..16 {
                let mut digits = *b"0123456789abcdef";
                digits[at] = byte;
                let is = parse_hex(&digits, 16);
                assert_eq!(is.is_some(), value.is_some(), "{byte} at {at}");
                assert!(is.is_none_or(|number| hex(number) == digits));
            }
            assert_eq!(parse_hex(&[b'7', byte], 2), value.map(|value| 0x70 | u64::from(value)), "{byte}");
        }
    }
}
