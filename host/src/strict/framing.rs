//! Follows the framing of a stream of HTTP/1 requests: where each head and body ends, and whether every byte on the way
//! may stand there (RFC 9112).
//!
//! The state can be left and taken up again between any two bytes, keeps nothing of the stream but a short word, and
//! allocates nothing. Lines are checked a run at a time; bodies are skipped.

mod body;

use super::{
    Limits, Violation,
    refusal::Refusal,
    text::{Word, is_target, is_token, not_text, run, text, whole_line},
};

/// Follows one connection.
pub(super) struct Framing {
    limits: Limits,
    at: At,
    message: Message,
    word: Word,
    field: Field,
    /// Bytes of the version, of "chunked", digits of a length or of a chunk size seen so far.
    matched: usize,
    /// White space ended the number of a length.
    ended: bool,
    /// Bytes left of a body or a chunk; while a chunk's size is read, that size.
    left: u64,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The first of a message, or of an empty line before it.
    Start,
    /// The LF of an empty line before a message.
    StartLf,
    Method,
    Target,
    Version,
    /// The LF of a request or field line.
    LineLf,
    /// The first of a field line, or of the empty line.
    Line,
    Name,
    Value,
    /// The LF of the empty line.
    EndLf,
    Body,
    ChunkSize,
    /// White space between a chunk's size and an extension.
    ChunkSpace,
    ChunkExtension,
    /// The LF of a chunk's first line.
    ChunkLf,
    ChunkData,
    /// The CR after a chunk's data, and its LF.
    ChunkEndCr,
    ChunkEndLf,
    /// What follows CONNECT: not ours to read.
    Tunnel,
}

/// Facts of the request at hand.
#[derive(Default)]
struct Message {
    /// Of the head so far; of the trailers once they began.
    head_bytes: usize,
    target_bytes: usize,
    headers: usize,
    connect: bool,
    http10: bool,
    host: bool,
    chunked: bool,
    content_length: Option<u64>,
    trailers: bool,
}

/// The header field at hand, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Other,
    Host,
    ContentLength,
    TransferEncoding,
}

impl Field {
    fn named(name: &[u8]) -> Self {
        // Lengths first: they tell most names apart.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => Self::Host,
            14 if name.eq_ignore_ascii_case(b"content-length") => Self::ContentLength,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => Self::TransferEncoding,
            _ => Self::Other,
        }
    }
}

/// A violation.
pub(super) struct Stop {
    pub(super) violation: Violation,
    /// So many of the bytes given may be passed on.
    pub(super) at: usize,
    /// What should follow them; `None` where a head was passed on before, so that no answer can be provoked.
    pub(super) refusal: Option<Refusal>,
}

impl Framing {
    /// Whether a head has begun and not ended.
    pub(super) fn is_in_head(&self) -> bool {
        let line = [At::Method, At::Target, At::Version, At::LineLf, At::Line, At::Name, At::Value, At::EndLf];
        line.contains(&self.at) && !self.message.trailers
    }

    /// Whether nothing of the next message has come.
    pub(super) fn is_between(&self) -> bool {
        self.at == At::Start
    }

    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            at: At::Start,
            message: Message::default(),
            word: Word::default(),
            field: Field::Other,
            matched: 0,
            ended: false,
            left: 0,
        }
    }

    /// The bytes that follow are no HTTP, or not known to be.
    pub(super) fn is_tunnel(&self) -> bool {
        self.at == At::Tunnel
    }

    /// Follows these bytes and returns how many belong to requests: all, unless CONNECT is among them.
    pub(super) fn check(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        let mut rest = bytes;
        let mut head_end = None;
        while let Some(&next) = rest.first() {
            let offset = bytes.len() - rest.len();
            let ends_head = self.at == At::EndLf && !self.message.trailers;
            let taken = match self.step(next, rest) {
                Ok(0) => return Ok(offset),
                Ok(taken) => taken,
                Err(violation) => return Err(self.stop(violation, offset, head_end)),
            };
            if ends_head {
                head_end = Some(offset);
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(bytes.len())
    }

    /// `head_end` is where the last LF of the request's head is, if it is among the bytes checked just now: leaving it
    /// out takes back the whole request.
    fn stop(&self, violation: Violation, offset: usize, head_end: Option<usize>) -> Stop {
        if self.message.trailers || !self.in_head() {
            return Stop { violation, at: head_end.unwrap_or(offset), refusal: head_end.map(|_| Refusal::malformed()) };
        }
        let too_large = |line_end| Refusal::too_large(line_end, self.limits.max_headers);
        let refusal = match (violation, self.at) {
            (Violation::TargetTooLong | Violation::HeadTooLarge, At::Target) => Refusal::target_too_long(),
            (Violation::HeadTooLarge | Violation::TooManyHeaders, At::Line) => too_large(b""),
            (Violation::HeadTooLarge, At::Name) => too_large(b":\r\n"),
            (Violation::HeadTooLarge, At::Value) => too_large(b"\r\n"),
            (Violation::HeadTooLarge, At::LineLf) => too_large(b"\n"),
            _ => Refusal::malformed(),
        };
        Stop { violation, at: offset, refusal: Some(refusal) }
    }

    /// A head, or the trailers, which have the same form.
    fn in_head(&self) -> bool {
        use At::*;
        matches!(self.at, Start | StartLf | Method | Target | Version | LineLf | Line | Name | Value | EndLf)
    }

    /// Follows `rest` a little further; `next` is its first byte. Returns how many bytes it took: none only before a
    /// tunnel. Fails only at that first byte.
    fn step(&mut self, next: u8, rest: &[u8]) -> Result<usize, Violation> {
        if !self.in_head() {
            return self.step_body(next, rest);
        }
        let room = self.limits.max_head_bytes.saturating_sub(self.message.head_bytes);
        let rest = rest.get(..room).unwrap_or(rest);
        if rest.is_empty() {
            return Err(Violation::HeadTooLarge);
        }
        let taken = self.step_head(next, rest, room)?;
        self.message.head_bytes += taken;
        Ok(taken)
    }

    fn step_head(&mut self, next: u8, rest: &[u8], room: usize) -> Result<usize, Violation> {
        match self.at {
            At::Start => match next {
                b'\r' => self.at = At::StartLf,
                b'\n' => return Err(Violation::BareLineFeed),
                _ => {
                    self.word.clear();
                    self.at = At::Method;
                    return self.step_head(next, rest, room);
                }
            },
            At::StartLf => self.line_feed(next, At::Start)?,
            At::Method => {
                let run = run(rest, is_token);
                self.word.extend(run);
                if !run.is_empty() {
                    return Ok(run.len());
                }
                if next != b' ' || self.word.is_empty() {
                    return Err(not_text(next).unwrap_or(Violation::BadMethod));
                }
                self.message.connect = self.word.kept() == b"CONNECT";
                self.at = At::Target;
            }
            At::Target => return self.step_target(next, rest),
            At::Version if self.matched == 0 && rest.starts_with(b"HTTP/1.1\r\n") => {
                self.word.clear();
                self.at = At::Line;
                return Ok(10);
            }
            At::Version => self.step_version(next)?,
            At::LineLf => self.line_feed(next, At::Line)?,
            At::Line => return self.step_line(next, rest, room),
            At::Name => {
                let run = run(rest, is_token);
                self.word.extend(run);
                if !run.is_empty() {
                    return Ok(run.len());
                }
                if next != b':' || self.word.is_empty() {
                    return Err(not_text(next).unwrap_or(Violation::BadFieldName));
                }
                self.begin_value()?;
            }
            At::Value => return self.step_value(next, rest),
            _ => self.end_head(next)?,
        }
        Ok(1)
    }

    fn line_feed(&mut self, next: u8, then: At) -> Result<(), Violation> {
        if next != b'\n' {
            return Err(Violation::BareCarriageReturn);
        }
        self.at = then;
        if then == At::Line {
            self.word.clear();
        }
        Ok(())
    }

    fn step_target(&mut self, next: u8, rest: &[u8]) -> Result<usize, Violation> {
        let run = run(rest, is_target);
        if run.is_empty() {
            if next != b' ' || self.message.target_bytes == 0 {
                return Err(not_text(next).unwrap_or(Violation::BadTarget));
            }
            self.matched = 0;
            self.at = At::Version;
            return Ok(1);
        }
        let room = self.limits.max_target_bytes.saturating_sub(self.message.target_bytes);
        if room == 0 {
            return Err(Violation::TargetTooLong);
        }
        let taken = run.len().min(room);
        self.message.target_bytes += taken;
        Ok(taken)
    }

    fn step_version(&mut self, next: u8) -> Result<(), Violation> {
        const VERSION: &[u8] = b"HTTP/1.";
        match (VERSION.get(self.matched), next) {
            (Some(expected), _) if *expected == next => {}
            (None, b'0' | b'1') if self.matched == VERSION.len() => {
                self.message.http10 = next == b'0';
            }
            (None, b'\r') if self.matched > VERSION.len() => self.at = At::LineLf,
            _ => return Err(not_text(next).unwrap_or(Violation::BadVersion)),
        }
        self.matched += 1;
        Ok(())
    }

    fn step_line(&mut self, next: u8, rest: &[u8], room: usize) -> Result<usize, Violation> {
        match next {
            // The LF that ends the head must fit too, for once it is there nothing could be answered.
            b'\r' if room < 2 => return Err(Violation::HeadTooLarge),
            b'\r' => {
                self.at = At::EndLf;
                return Ok(1);
            }
            b' ' | b'\t' => return Err(Violation::ObsoleteFold),
            _ if !is_token(next) => return Err(not_text(next).unwrap_or(Violation::BadFieldName)),
            _ if self.message.headers >= self.limits.max_headers => {
                return Err(Violation::TooManyHeaders);
            }
            _ => self.message.headers += 1,
        }
        // The usual case at once: all of a line that does not bear on the framing.
        if let Some((name, length)) = whole_line(rest) {
            match Field::named(name) {
                Field::Other => return Ok(length),
                Field::Host if !self.message.host && !self.message.trailers => {
                    self.message.host = true;
                    return Ok(length);
                }
                _ => {}
            }
        }
        self.word.extend(&[next]);
        self.at = At::Name;
        Ok(1)
    }

    /// The colon after a field's name.
    fn begin_value(&mut self) -> Result<(), Violation> {
        let message = &mut self.message;
        self.field = Field::named(self.word.kept());
        match self.field {
            Field::Other => {}
            _ if message.trailers => return Err(Violation::FramingTrailer),
            Field::Host => {
                if std::mem::replace(&mut message.host, true) {
                    return Err(Violation::RepeatedHost);
                }
            }
            Field::ContentLength => {
                if message.chunked {
                    return Err(Violation::LengthAndTransferEncoding);
                }
                if message.content_length.replace(0).is_some() {
                    return Err(Violation::RepeatedContentLength);
                }
            }
            Field::TransferEncoding => {
                if message.content_length.is_some() {
                    return Err(Violation::LengthAndTransferEncoding);
                }
                if message.http10 || std::mem::replace(&mut message.chunked, true) {
                    return Err(Violation::BadTransferEncoding);
                }
            }
        }
        self.matched = 0;
        self.ended = false;
        self.at = At::Value;
        Ok(())
    }

    fn step_value(&mut self, next: u8, rest: &[u8]) -> Result<usize, Violation> {
        match self.field {
            Field::Other | Field::Host => {
                let run = text(rest);
                if !run.is_empty() {
                    return Ok(run.len());
                }
            }
            Field::ContentLength => {
                if self.step_content_length(next)? {
                    return Ok(1);
                }
            }
            Field::TransferEncoding => {
                if self.step_transfer_encoding(next)? {
                    return Ok(1);
                }
            }
        }
        match next {
            b'\r' => self.at = At::LineLf,
            b'\n' => return Err(Violation::BareLineFeed),
            _ => return Err(Violation::ControlCharacter),
        }
        Ok(1)
    }

    /// False at the end of the value.
    fn step_content_length(&mut self, next: u8) -> Result<bool, Violation> {
        match next {
            b'0'..=b'9' if !self.ended => {
                let length = self.message.content_length.unwrap_or_default();
                self.message.content_length = Some(
                    length
                        .checked_mul(10)
                        .and_then(|length| length.checked_add(u64::from(next - b'0')))
                        .ok_or(Violation::BadContentLength)?,
                );
                self.matched += 1;
                Ok(true)
            }
            b' ' | b'\t' => {
                self.ended = self.matched > 0;
                Ok(true)
            }
            b'\r' if self.matched > 0 => Ok(false),
            _ => Err(not_text(next).unwrap_or(Violation::BadContentLength)),
        }
    }

    /// False at the end of the value.
    fn step_transfer_encoding(&mut self, next: u8) -> Result<bool, Violation> {
        const CHUNKED: &[u8] = b"chunked";
        match (CHUNKED.get(self.matched), next) {
            (Some(expected), _) if *expected == next.to_ascii_lowercase() => {
                self.matched += 1;
                Ok(true)
            }
            (_, b' ' | b'\t') if self.matched == 0 || self.matched == CHUNKED.len() => Ok(true),
            (None, b'\r') => Ok(false),
            _ => Err(not_text(next).unwrap_or(Violation::BadTransferEncoding)),
        }
    }

    /// The LF of the empty line.
    fn end_head(&mut self, next: u8) -> Result<(), Violation> {
        if next != b'\n' {
            return Err(Violation::BareCarriageReturn);
        }
        let message = &self.message;
        if message.trailers {
            self.begin();
            return Ok(());
        }
        if !message.host && !message.http10 {
            return Err(Violation::MissingHost);
        }
        let length = message.content_length.unwrap_or_default();
        if message.connect {
            if message.chunked || length > 0 {
                return Err(Violation::ConnectWithBody);
            }
            self.at = At::Tunnel;
        } else if message.chunked {
            self.begin_chunk();
        } else if length > 0 {
            self.left = length;
            self.at = At::Body;
        } else {
            self.begin();
        }
        Ok(())
    }

    /// Another message.
    fn begin(&mut self) {
        self.message = Message::default();
        self.at = At::Start;
    }
}
