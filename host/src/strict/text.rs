//! Which bytes may stand where, and words put together from several reads.

use memchr::memchr;

use super::Violation;

/// A method or field name, as long as one that matters; of a longer one only its length is kept.
#[derive(Default)]
pub(super) struct Word {
    bytes: [u8; 17],
    length: usize,
}

impl Word {
    pub(super) fn clear(&mut self) {
        self.length = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn extend(&mut self, more: &[u8]) {
        let end = self.length.saturating_add(more.len());
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(more);
        }
        self.length = end;
    }

    /// The word, or nothing if it is longer than any that matters.
    pub(super) fn kept(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// The bytes at the beginning of `rest` that are of this kind.
pub(super) fn run(rest: &[u8], kind: impl Fn(u8) -> bool) -> &[u8] {
    let end = rest.iter().position(|byte| !kind(*byte)).unwrap_or(rest.len());
    rest.get(..end).unwrap_or(rest)
}

/// The bytes at the beginning of `rest` that may stand in a field's value (RFC 9110, section 5.5).
pub(super) fn text(rest: &[u8]) -> &[u8] {
    let line = memchr(b'\r', rest).and_then(|end| rest.get(..end)).unwrap_or(rest);
    // Numbers and no branch for each byte, so that the compiler looks at many at once.
    let wrong = line.iter().fold(0, |wrong, byte| wrong | u8::from(!is_text(*byte)));
    if wrong == 0 { line } else { run(line, is_text) }
}

/// Why a byte is wrong whatever was expected, if it is.
pub(super) fn not_text(byte: u8) -> Option<Violation> {
    match byte {
        b'\n' => Some(Violation::BareLineFeed),
        _ if !is_text(byte) && byte != b'\r' => Some(Violation::ControlCharacter),
        _ => None,
    }
}

pub(super) fn is_text(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

/// No fragment: hyper would drop it without a word. Bytes above ASCII are let through, for callers do send them.
pub(super) fn is_target(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f && byte != b'#'
}

/// A character of a token (RFC 9110, section 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    const MARKS: &[u8] = b"!#$%&'*+-.^_`|~";
    #[expect(clippy::indexing_slicing, reason = "while compiling, with constants")]
    const TOKEN: [bool; 256] = {
        let mut token = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            token[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let mut mark = 0;
        while mark < MARKS.len() {
            token[MARKS[mark] as usize] = true;
            mark += 1;
        }
        token
    };
    TOKEN.get(usize::from(byte)).copied().unwrap_or(false)
}

/// The length of the field line, CRLF included, with which `rest` begins, if all of it is there and well-formed, and
/// its name as well: most lines are so, and need not be looked at step by step.
pub(super) fn whole_line(rest: &[u8]) -> Option<(&[u8], usize)> {
    let name = run(rest, is_token);
    let (colon, value) = rest.get(name.len()..)?.split_first()?;
    let text = text(value);
    let well_formed = *colon == b':' && !name.is_empty() && value.get(text.len()..)?.starts_with(b"\r\n");
    well_formed.then(|| (name, name.len() + 1 + text.len() + 2))
}
