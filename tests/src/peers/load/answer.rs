//! Finds the end of an HTTP/1.1 answer, and checks that it is the one that the services give.

use anyhow::{Context, Result, ensure};

use crate::peers::endpoints::BODY;

/// What is read at a time; no answer is longer.
pub const BUFFER: usize = 8192;

/// Whether an answer is complete with these bytes; an error if it is another than the expected one.
pub fn is_complete(bytes: &[u8]) -> Result<bool> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes)? else {
        ensure!(bytes.len() < BUFFER, "a head of more than {BUFFER} bytes");
        return Ok(false);
    };
    ensure!(head.code == Some(200), "status {}", head.code.unwrap_or_default());
    let content = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let content = content.context("an answer without content-length")?.value;
    ensure!(content == BODY.to_string().as_bytes(), "a body of {} bytes", content.escape_ascii());
    ensure!(bytes.len() <= length + BODY, "more than one answer");
    Ok(bytes.len() == length + BODY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says_and_any_other_is_an_error() {
        let answer = |status: &str, length: usize| {
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nx: y\r\n\r\n");
            [head.as_bytes(), &vec![b'x'; length]].concat()
        };
        let good = answer("200 OK", BODY);
        assert!(is_complete(&good).unwrap());
        for part in [0, 1, 20, good.len() - BODY, good.len() - 1] {
            assert!(!is_complete(&good[..part]).unwrap(), "{part} bytes");
        }
        assert!(is_complete(&[good, vec![b'x']].concat()).is_err());
        assert!(is_complete(&answer("503 Service Unavailable", BODY)).is_err());
        assert!(is_complete(&answer("200 OK", 3)).is_err());
        assert!(is_complete(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
