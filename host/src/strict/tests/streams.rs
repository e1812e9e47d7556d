//! Random streams: well-formed ones, and those with a few bytes changed.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

/// A stream of well-formed requests, and the bodies in it.
fn stream(random: &mut StdRng) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut stream = Vec::new();
    let mut bodies = Vec::new();
    for _ in 0..random.random_range(1..5) {
        if random.random_ratio(1, 4) {
            stream.extend_from_slice(b"\r\n");
        }
        let target = ["/", "/a/b?c=d&e", "http://a/b", "*", "/%00~!$'()[]", "/\u{e9}"];
        let method = ["GET", "POST", "OPTIONS", "X-ANY!"][random.random_range(0..4)];
        stream.extend_from_slice(method.as_bytes());
        stream.push(b' ');
        stream.extend_from_slice(target[random.random_range(0..target.len())].as_bytes());
        stream.extend_from_slice(b" HTTP/1.1\r\nHoSt:a\r\n");
        for _ in 0..random.random_range(0..6) {
            let fields = [
                "a:\r\n",
                "content-lengths: 5, 5\r\n",
                "b: \t c\td \r\n",
                "host-: \u{fc}\r\n",
                "transfer-encodings: x\r\n",
                "a-rather-long-name-of-a-field: \"v:\\\"\"\r\n",
            ];
            stream.extend_from_slice(fields[random.random_range(0..fields.len())].as_bytes());
        }
        let body: Vec<u8> = (0..random.random_range(0..40)).map(|_| random.random()).collect();
        match random.random_range(0..3) {
            0 => {
                stream.extend_from_slice(b"\r\n");
                bodies.push(Vec::new());
                continue;
            }
            1 => {
                let length = format!("Content-Length: \t0{} \r\n\r\n", body.len());
                stream.extend_from_slice(length.as_bytes());
                stream.extend_from_slice(&body);
            }
            _ => {
                stream.extend_from_slice(b"transfer-encoding:Chunked \r\n\r\n");
                for chunk in body.chunks(random.random_range(1..20)) {
                    let extension = ["", ";a", " ;a=\"b c\"", "\t;"][random.random_range(0..4)];
                    let line = format!("{:02X}{extension}\r\n", chunk.len());
                    stream.extend_from_slice(line.as_bytes());
                    stream.extend_from_slice(chunk);
                    stream.extend_from_slice(b"\r\n");
                }
                let trailers = ["", "t: u\r\n", "t:\r\nhosts: u\r\n"][random.random_range(0..3)];
                stream.extend_from_slice(format!("00\r\n{trailers}\r\n").as_bytes());
            }
        }
        bodies.push(body);
    }
    (stream, bodies)
}

fn pieces<'a>(random: &mut StdRng, mut stream: &'a [u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let longest = [2, 10, 1000][random.random_range(0..3)];
    while !stream.is_empty() {
        let (piece, rest) = stream.split_at(random.random_range(1..=longest).min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

#[tokio::test]
async fn well_formed_requests_pass_unchanged() {
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..2_000 {
        let (stream, bodies) = stream(&mut random);
        let pieces = pieces(&mut random, &stream);
        let read = read_all(&pieces).await;
        let unchanged = read.end.is_ok() && read.bytes == stream;
        assert!(unchanged, "{}", stream.escape_ascii());
        let outcome = serve_strictly(&pieces, Limits::default()).await;
        assert_eq!((outcome.bodies, outcome.violation), (bodies, None));
    }
}

fn mutate(random: &mut StdRng, stream: &mut Vec<u8>) {
    const BYTES: &[u8] = b"\r\n\0 \t:;,0aG\x7f\xff";
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=stream.len());
        let end = (at + random.random_range(0..4)).min(stream.len());
        let with = BYTES[random.random_range(0..BYTES.len())];
        let with = [with].repeat(random.random_range(0..2));
        stream.splice(at..end, with);
    }
}

#[tokio::test]
async fn mutated_requests_pass_up_to_a_violation() {
    const REFUSAL: &[u8] = b"\0\r\n\r\n";
    let mut random = StdRng::seed_from_u64(2);
    let (mut refused, mut failed) = (0, 0);
    for _ in 0..5_000 {
        let (mut stream, _) = stream(&mut random);
        mutate(&mut random, &mut stream);
        let pieces = pieces(&mut random, &stream);
        let read = read_all(&pieces).await;
        let same = read.bytes.iter().zip(&stream).take_while(|(a, b)| a == b);
        let added = &read.bytes[same.count()..];
        match (read.violation, read.end) {
            (None, end) => assert!(end.is_ok() && read.bytes == stream),
            (Some(_), Ok(_)) => {
                refused += 1;
                assert!(read.bytes.ends_with(REFUSAL) && added.len() <= REFUSAL.len());
            }
            (Some(_), Err(_)) => {
                failed += 1;
                assert_eq!(added, b"");
            }
        }
        let statuses = serve_strictly(&pieces, Limits::default()).await.statuses;
        let refusals = statuses.iter().filter(|status| **status == 400);
        assert!(refusals.count() <= 1 && statuses.iter().rev().skip(1).all(|status| *status == 200));
    }
    assert!(refused > 1_000 && failed > 100, "{refused} refused, {failed} too late");
}
