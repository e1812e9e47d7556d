//! A second reading of a stream of HTTP/1 requests: strict RFC 9112 over all of the bytes at once, and by intent not in
//! the way in which the host does it.

use std::fmt;

/// One request whose head is complete and well-formed.
#[derive(Clone, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    pub target: Vec<u8>,
    pub http10: bool,
    /// Names in lower case, values without white space around them.
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// In chunks.
    pub chunked: bool,
    /// All of its body came.
    pub whole: bool,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, target, fields, body, .. } = self;
        write!(f, "{method} {} {{", target.escape_ascii())?;
        fields.iter().try_for_each(|(name, value)| write!(f, " {name}: {};", value.escape_ascii()))?;
        let whole = if self.whole { "" } else { ", not whole" };
        write!(f, " }} with {} bytes{whole}", body.len())
    }
}

impl Asked {
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_slice()).collect()
    }

    /// Whether a list field has this element, in any case.
    pub fn lists(&self, name: &str, element: &str) -> bool {
        let mut elements = self.values(name).into_iter().flat_map(|value| value.split(|byte| *byte == b','));
        elements.any(|given| given.trim_ascii().eq_ignore_ascii_case(element.as_bytes()))
    }
}

/// What comes after the last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing.
    Clean,
    /// Something that is still to be completed: a head, or the last request's body.
    Open,
    /// Something that is no request.
    Malformed,
    /// Whatever the other end of a tunnel makes of it.
    Tunnel,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub asked: Vec<Asked>,
    pub end: End,
}

/// Why reading stopped.
enum Stop {
    /// The bytes are at their end.
    Open,
    Malformed,
}

type Read<T> = Result<T, Stop>;

const MAX_HEAD: usize = 64 * 1024;
const MAX_FIELDS: usize = 100;
const MAX_TARGET: usize = 8 * 1024;

/// Reads all that is there, within the limits that a node has if its configuration sets none.
pub fn read(bytes: &[u8]) -> Reading {
    let mut asked = Vec::new();
    let mut rest = bytes;
    let end = loop {
        let before = rest;
        while let Some(after) = rest.strip_prefix(b"\r\n") {
            rest = after;
        }
        if rest.is_empty() {
            break End::Clean;
        }
        let skipped = before.len() - rest.len();
        let mut request = match head(&mut rest, skipped) {
            Ok(request) => request,
            Err(Stop::Open) => break End::Open,
            Err(Stop::Malformed) => break End::Malformed,
        };
        let read = body(&mut rest, &mut request);
        request.whole = read.is_ok();
        let connect = request.method == "CONNECT";
        asked.push(request);
        match read {
            Ok(()) if connect => break End::Tunnel,
            Ok(()) => {}
            Err(Stop::Open) => break End::Open,
            Err(Stop::Malformed) => break End::Malformed,
        }
    };
    Reading { asked, end }
}

/// A line without its CRLF. What cannot stand in any line is told even before its end is there.
fn line<'a>(rest: &mut &'a [u8]) -> Read<&'a [u8]> {
    let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n' | 0..=8 | 11..=31 | 127));
    let Some(end) = end else { return Err(Stop::Open) };
    let (line, after) = rest.split_at(end);
    match after {
        [b'\r', b'\n', after @ ..] => {
            *rest = after;
            Ok(line)
        }
        [b'\r'] => Err(Stop::Open),
        _ => Err(Stop::Malformed),
    }
}

fn head(rest: &mut &[u8], skipped: usize) -> Read<Asked> {
    let start = rest.len() + skipped;
    let mut request = request_line(rest)?;
    request.fields = fields(rest, start)?;
    let lengths = request.values("content-length");
    let codings = request.values("transfer-encoding");
    let framed = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => true,
        ([length], []) => number(length).is_some(),
        ([], [coding]) => coding.eq_ignore_ascii_case(b"chunked") && !request.http10,
        _ => false,
    };
    let hosts = request.values("host").len();
    let addressed = hosts == 1 || (hosts == 0 && request.http10);
    let empty = codings.is_empty() && lengths.iter().all(|length| number(length) == Some(0));
    let tunnels_nothing = request.method != "CONNECT" || empty;
    request.chunked = !codings.is_empty();
    if framed && addressed && tunnels_nothing { Ok(request) } else { Err(Stop::Malformed) }
}

fn request_line(rest: &mut &[u8]) -> Read<Asked> {
    let given = *rest;
    let line = match line(rest) {
        // It may be wrong already, and it may not: both are fine with a line that does not end.
        Err(Stop::Open) if given.len() > MAX_TARGET => return Err(Stop::Malformed),
        line => line?,
    };
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else { return Err(Stop::Malformed) };
    let has_target =
        (1..=MAX_TARGET).contains(&target.len()) && !target.iter().any(|byte| matches!(byte, b'#' | b'\t'));
    let http10 = version == b"HTTP/1.0";
    if !is_token(method) || !has_target || !(http10 || version == b"HTTP/1.1") {
        return Err(Stop::Malformed);
    }
    Ok(Asked {
        method: String::from_utf8_lossy(method).into_owned(),
        target: target.to_vec(),
        http10,
        fields: Vec::new(),
        body: Vec::new(),
        chunked: false,
        whole: false,
    })
}

/// Field lines up to the empty one. `start` is how much was left where the section began.
fn fields(rest: &mut &[u8], start: usize) -> Read<Vec<(String, Vec<u8>)>> {
    let mut fields = Vec::new();
    loop {
        let given = line(rest);
        if start - rest.len() > MAX_HEAD {
            return Err(Stop::Malformed);
        }
        let given = given?;
        if given.is_empty() {
            return Ok(fields);
        }
        let colon = given.iter().position(|byte| *byte == b':').ok_or(Stop::Malformed)?;
        let (name, value) = given.split_at(colon);
        if !is_token(name) || fields.len() == MAX_FIELDS {
            return Err(Stop::Malformed);
        }
        fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value[1..].trim_ascii().to_vec()));
    }
}

fn body(rest: &mut &[u8], request: &mut Asked) -> Read<()> {
    if !request.chunked {
        let length = request.values("content-length").first().and_then(|length| number(length)).unwrap_or(0);
        request.body = take(rest, length)?.to_vec();
        return Ok(());
    }
    loop {
        let first = line(rest)?;
        let digits = first.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extension) = first.split_at(digits);
        let extension_follows = extension.trim_ascii_start().first().is_none_or(|byte| *byte == b';');
        let white_space_only = !extension.is_empty() && extension.trim_ascii().is_empty();
        if !(1..=16).contains(&digits) || !extension_follows || white_space_only {
            return Err(Stop::Malformed);
        }
        let size = std::str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
        let size = size.ok_or(Stop::Malformed)?;
        if size == 0 {
            let trailers = fields(rest, rest.len())?;
            let framing = ["content-length", "transfer-encoding", "host"];
            let frames = trailers.iter().any(|(name, _)| framing.contains(&name.as_str()));
            return if frames { Err(Stop::Malformed) } else { Ok(()) };
        }
        request.body.extend_from_slice(take(rest, size)?);
        match rest {
            [b'\r', b'\n', after @ ..] => *rest = after,
            [] | [b'\r'] => return Err(Stop::Open),
            _ => return Err(Stop::Malformed),
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Read<&'a [u8]> {
    let length = usize::try_from(length).map_err(|_| Stop::Open)?;
    let (taken, after) = rest.split_at_checked(length).ok_or(Stop::Open)?;
    *rest = after;
    Ok(taken)
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn is_token(text: &[u8]) -> bool {
    let mark = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(mark)
}
