//! A strict reading of what a caller gets back over HTTP/1.

use anyhow::{Context, Result, bail, ensure};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, values without white space around them.
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_slice()).collect()
    }

    /// The only value of a field, as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.values(name)[..] {
            [value] => std::str::from_utf8(value).ok(),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub struct Answers<'a> {
    /// Those that are complete, but for interim ones.
    pub finals: Vec<Answer>,
    /// Bytes after them: part of one more answer, or of a tunnel.
    pub rest: &'a [u8],
    /// The answer that switched protocols is the last, and what follows it is no HTTP.
    pub switched: bool,
}

/// Reads all that is there. `methods` are those of the requests in their order, which decide who gets a body; `closed`
/// says that nothing more will come, and so ends an answer that nothing else ends.
pub fn read<'a>(bytes: &'a [u8], methods: &[&str], closed: bool) -> Result<Answers<'a>> {
    let mut answers = Answers { finals: Vec::new(), rest: bytes, switched: false };
    while !answers.switched && !answers.rest.is_empty() {
        let method = methods.get(answers.finals.len()).copied().unwrap_or_default();
        let number = answers.finals.len() + 1;
        let Some((answer, rest)) = one(answers.rest, method, closed).with_context(|| format!("answer {number}"))?
        else {
            break;
        };
        answers.rest = rest;
        answers.switched = answer.status == 101;
        if answer.status >= 200 || answers.switched {
            answers.finals.push(answer);
        }
    }
    Ok(answers)
}

fn one<'a>(bytes: &'a [u8], method: &str, closed: bool) -> Result<Option<(Answer, &'a [u8])>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        ensure!(b"HTTP/1.".starts_with(bytes) || bytes.starts_with(b"HTTP/1."), "no status line");
        return Ok(None);
    };
    let (head, rest) = (&bytes[..end], &bytes[end + 4..]);
    let mut lines = split(head);
    let status = status(lines.next().unwrap_or_default())?;
    let fields: Vec<(String, Vec<u8>)> = lines.map(field).collect::<Result<_>>()?;
    let mut answer = Answer { status, fields, body: Vec::new() };
    let rest = match (answer.values("content-length")[..].as_ref(), answer.values("transfer-encoding")[..].as_ref()) {
        (lengths, codings) if status < 200 || status == 204 => {
            ensure!(lengths.is_empty() && codings.is_empty(), "{status} with a body");
            Some(rest)
        }
        _ if method == "HEAD" || status == 304 => Some(rest),
        ([length], []) => {
            let length: usize = std::str::from_utf8(length)?.parse().context("content-length")?;
            rest.split_at_checked(length).map(|(body, rest)| {
                answer.body = body.to_vec();
                rest
            })
        }
        ([], [coding]) => {
            ensure!(*coding == b"chunked", "transfer-encoding {:?}", coding.escape_ascii().to_string());
            chunks(rest, &mut answer.body)?
        }
        ([], []) => {
            answer.body = rest.to_vec();
            closed.then_some(&[][..])
        }
        _ => bail!("content-length and transfer-encoding contradict each other or repeat"),
    };
    Ok(rest.map(|rest| (answer, rest)))
}

/// The lines of a head.
fn split(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(head);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return rest.take() };
        rest = Some(&bytes[end + 2..]);
        Some(&bytes[..end])
    })
}

fn status(line: &[u8]) -> Result<u16> {
    let line = std::str::from_utf8(line)?;
    let mut words = line.splitn(3, ' ');
    let version = words.next().unwrap_or_default();
    ensure!(matches!(version, "HTTP/1.1" | "HTTP/1.0"), "status line {line:?}");
    let status = words.next().unwrap_or_default();
    ensure!(status.len() == 3 && words.next().is_some(), "status line {line:?}");
    let status = status.parse()?;
    ensure!((100..600).contains(&status), "status line {line:?}");
    Ok(status)
}

fn field(line: &[u8]) -> Result<(String, Vec<u8>)> {
    let shown = || line.escape_ascii().to_string();
    let colon = line.iter().position(|byte| *byte == b':').with_context(|| format!("no colon in {:?}", shown()))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    ensure!(!name.is_empty() && name.iter().all(token), "the name in {:?}", shown());
    ensure!(value.iter().all(|byte| (*byte >= b' ' && *byte != 127) || *byte == b'\t'), "the value in {:?}", shown());
    Ok((String::from_utf8_lossy(name).to_ascii_lowercase(), value.trim_ascii().to_vec()))
}

/// What follows the last chunk and its trailers, once they are there.
fn chunks<'a>(mut rest: &'a [u8], body: &mut Vec<u8>) -> Result<Option<&'a [u8]>> {
    loop {
        let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&rest[..end])?;
        let size = usize::from_str_radix(size, 16).with_context(|| format!("chunk size {size:?}"))?;
        rest = &rest[end + 2..];
        if size == 0 {
            break;
        }
        let Some((chunk, after)) = rest.split_at_checked(size) else { return Ok(None) };
        let Some((line_end, after)) = after.split_at_checked(2) else { return Ok(None) };
        ensure!(line_end == b"\r\n", "a chunk is longer than its size");
        body.extend_from_slice(chunk);
        rest = after;
    }
    loop {
        let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let (line, after) = (&rest[..end], &rest[end + 2..]);
        rest = after;
        if line.is_empty() {
            return Ok(Some(rest));
        }
        field(line)?;
    }
}
