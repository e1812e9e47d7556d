//! Writes the JSON of log lines.
//!
//! By hand and not with serde, because a line is part of what every exchange costs, and this costs
//! about a quarter less for the few shapes that a line has.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest text that is written, in bytes. Peers and plugins choose what is logged, not how much:
/// what is longer is cut and ends in an ellipsis.
pub const MAX_TEXT: usize = 1_024;

/// The last second that RFC 3339 can write: the end of the year 9999.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// Appends the members of a JSON object, or the elements of a list, to a line.
#[derive(Debug)]
pub struct Json<'a> {
    line: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Json<'a> {
    /// Appends an object with the members that `members` writes.
    pub fn object(line: &'a mut Vec<u8>, members: impl FnOnce(&mut Json)) {
        line.push(b'{');
        members(&mut Json { line, empty: true });
        line.push(b'}');
    }

    /// A member that is an object.
    pub fn member(&mut self, name: &'static str, members: impl FnOnce(&mut Json)) {
        self.name(name);
        Json::object(self.line, members);
    }

    /// A member that is a list of one object for each of `entries`.
    pub fn list<T>(
        &mut self,
        name: &'static str,
        entries: impl Iterator<Item = T>,
        mut members: impl FnMut(T, &mut Json),
    ) {
        self.name(name);
        self.line.push(b'[');
        for (index, entry) in entries.enumerate() {
            if index > 0 {
                self.line.push(b',');
            }
            Json::object(self.line, |object| members(entry, object));
        }
        self.line.push(b']');
    }

    /// A member that is text.
    pub fn text(&mut self, name: &'static str, text: &str) {
        self.name(name);
        self.quoted(text);
    }

    /// A member that is text, if there is any.
    pub fn some_text(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    /// A member that is a whole number.
    pub fn number(&mut self, name: &'static str, number: u64) {
        self.name(name);
        self.digits(number, 1);
    }

    /// A member that is a duration in milliseconds, with three decimals.
    pub fn millis(&mut self, name: &'static str, duration: Duration) {
        self.name(name);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.digits(micros / 1_000, 1);
        self.line.push(b'.');
        self.digits(micros % 1_000, 3);
    }

    /// A member that is a moment: RFC 3339, UTC, milliseconds. Moments before 1970 or after 9999,
    /// which that cannot write, become those limits.
    pub fn time(&mut self, name: &'static str, time: SystemTime) {
        self.name(name);
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = humantime::format_rfc3339_millis(UNIX_EPOCH + since.min(LAST_SECOND));
        // A Vec takes all that is written.
        let _written = write!(self.line, "\"{time}\"");
    }

    /// A member whose name, too, is someone else's text.
    pub fn pair(&mut self, name: &str, text: &str) {
        self.comma();
        self.quoted(name);
        self.line.push(b':');
        self.quoted(text);
    }

    /// Our own names need no escaping.
    fn name(&mut self, name: &'static str) {
        self.comma();
        self.line.push(b'"');
        self.line.extend_from_slice(name.as_bytes());
        self.line.extend_from_slice(b"\":");
    }

    fn comma(&mut self) {
        if !std::mem::take(&mut self.empty) {
            self.line.push(b',');
        }
    }

    fn quoted(&mut self, text: &str) {
        self.line.push(b'"');
        if text.len() <= MAX_TEXT {
            self.escaped(text.as_bytes());
        } else {
            let start = text.as_bytes().get(..text.floor_char_boundary(MAX_TEXT));
            self.escaped(start.unwrap_or_default());
            self.line.extend_from_slice("…".as_bytes());
        }
        self.line.push(b'"');
    }

    /// Appends UTF-8 with what JSON does not allow in a string escaped (RFC 8259, section 7).
    fn escaped(&mut self, mut text: &[u8]) {
        let special = |byte: &u8| (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\');
        // Almost no text has any. Asking without an early exit lets the compiler look at 16 bytes
        // at once.
        if !text.iter().fold(false, |found, byte| found | special(byte)) {
            self.line.extend_from_slice(text);
            return;
        }
        while let Some(at) = text.iter().position(special) {
            let (plain, rest) = text.split_at(at);
            let Some((byte, rest)) = rest.split_first() else {
                break;
            };
            self.line.extend_from_slice(plain);
            match byte {
                b'"' => self.line.extend_from_slice(b"\\\""),
                b'\\' => self.line.extend_from_slice(b"\\\\"),
                b'\n' => self.line.extend_from_slice(b"\\n"),
                control => {
                    let _written = write!(self.line, "\\u{control:04x}");
                }
            }
            text = rest;
        }
        self.line.extend_from_slice(text);
    }

    /// Appends a number, with leading zeros up to `width` digits.
    fn digits(&mut self, mut number: u64, width: usize) {
        let mut digits = [b'0'; 20]; // u64::MAX has 20
        let mut used = 0;
        for digit in digits.iter_mut().rev() {
            if number == 0 && used >= width {
                break;
            }
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
            used += 1;
        }
        self.line.extend_from_slice(digits.get(20 - used..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use serde_json::Value;

    fn parsed(members: impl FnOnce(&mut Json)) -> Value {
        let mut line = Vec::new();
        Json::object(&mut line, members);
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn every_character_survives() {
        let all: String = (0..0x3000).filter_map(char::from_u32).chain("🦀\u{10ffff}".chars()).collect();
        for chunk in all.chars().collect::<Vec<_>>().chunks(100) {
            let text: String = chunk.iter().collect();
            assert_eq!(parsed(|json| json.pair(&text, &text))[&text], text);
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        for start in ["", "a", "ab", "abc"] {
            let text = format!("{start}{}", "🦀".repeat(MAX_TEXT));
            let json = parsed(|json| json.text("text", &text));
            let written = json["text"].as_str().unwrap();
            let kept = written.strip_suffix('…').unwrap();
            assert!(text.starts_with(kept));
            assert!(kept.len() <= MAX_TEXT && kept.len() > MAX_TEXT - 4);
        }
        let longest = "a".repeat(MAX_TEXT);
        assert_eq!(parsed(|json| json.text("text", &longest))["text"], longest);
    }

    #[test]
    fn numbers_are_exact() {
        for number in [0, 1, 9, 10, 99, 100, 12_345, u64::MAX - 1, u64::MAX] {
            assert_eq!(parsed(|json| json.number("n", number))["n"], number);
        }
    }

    #[test]
    fn milliseconds_have_three_decimals() {
        let mut line = Vec::new();
        Json::object(&mut line, |json| {
            json.millis("a", Duration::ZERO);
            json.millis("b", Duration::from_nanos(1_002_999));
            json.millis("c", Duration::from_secs(61));
        });
        assert_eq!(line, br#"{"a":0.000,"b":1.002,"c":61000.000}"#);
    }

    #[test]
    fn impossible_clocks_are_clamped() {
        let second = Duration::from_secs(1);
        let json = parsed(|json| {
            json.time("usual", UNIX_EPOCH + Duration::from_millis(1_795_162_530_123));
            json.time("before", UNIX_EPOCH - second);
            json.time("after", UNIX_EPOCH + LAST_SECOND + second);
        });
        assert_eq!(json["usual"], "2026-11-20T08:15:30.123Z");
        assert_eq!(json["before"], "1970-01-01T00:00:00.000Z");
        assert_eq!(json["after"], "9999-12-31T23:59:59.000Z");
    }
}
