//! Bytes that make hyper refuse the request it is reading, with the status that fits.
//!
//! hyper answers a head that it cannot parse by itself and closes the connection. It looks for faults only once the head
//! is complete, so each sequence ends in an empty line. Each also holds something that no parser accepts: were hyper's
//! limits other than assumed, the request would still be refused, with 400.

use tokio::io::ReadBuf;

/// NUL is allowed nowhere in a head (RFC 9110, section 5.5).
const MALFORMED: &[u8] = b"\0\r\n\r\n";

/// hyper answers 414 to a target longer than 65 534 bytes.
const HYPER_MAX_TARGET: usize = 65_534;
const TARGET: &[u8] = &[b'a'; 64];
const AFTER_TARGET: &[u8] = b" HTTP/1.1\r\ncontent-length: -\r\n\r\n";

/// hyper answers 431 to more than 100 fields, or more than it was told.
const HYPER_MAX_HEADERS: usize = 100;
const FIELD: &[u8] = b"a:\r\n";

/// A sequence of bytes to be read: `rest`, then `unit` so many times, then `last`.
pub(super) struct Refusal {
    rest: &'static [u8],
    unit: &'static [u8],
    repeats: usize,
    last: &'static [u8],
}

impl Refusal {
    /// 400, anywhere in a head.
    pub(super) fn malformed() -> Self {
        Self { rest: MALFORMED, unit: b"", repeats: 0, last: b"" }
    }

    /// 414, within the target.
    pub(super) fn target_too_long() -> Self {
        Self { rest: b"", unit: TARGET, repeats: HYPER_MAX_TARGET / TARGET.len() + 1, last: AFTER_TARGET }
    }

    /// 431, among the fields. `line_end` completes the line at hand.
    pub(super) fn too_large(line_end: &'static [u8], max_headers: usize) -> Self {
        Self { rest: line_end, unit: FIELD, repeats: max_headers.max(HYPER_MAX_HEADERS) + 1, last: MALFORMED }
    }

    /// Fills `buf`. Nothing more to read is the end of the stream.
    pub(super) fn read(&mut self, buf: &mut ReadBuf<'_>) {
        while buf.remaining() > 0 {
            if self.rest.is_empty() {
                if self.repeats > 0 {
                    self.repeats -= 1;
                    self.rest = self.unit;
                } else {
                    self.rest = std::mem::take(&mut self.last);
                }
            }
            let (now, rest) = self.rest.split_at(self.rest.len().min(buf.remaining()));
            if now.is_empty() {
                return;
            }
            buf.put_slice(now);
            self.rest = rest;
        }
    }
}
