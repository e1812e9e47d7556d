//! What is malformed is refused, however it is cut into reads.

use super::*;

/// Malformed heads: the line or lines after [`HEAD`], or a whole head if it has a request line of its own.
fn malformed_heads() -> Vec<(String, Violation)> {
    use Violation::*;
    let after_head = [
        ("a: b\n\r\n", BareLineFeed),
        ("a: b\r\n\n", BareLineFeed),
        ("a: b\n\n", BareLineFeed),
        ("a: b\rc: d\r\n\r\n", BareCarriageReturn),
        ("a: b\r\r\n\r\n", BareCarriageReturn),
        ("a: b\r\n\r\r\n", BareCarriageReturn),
        ("a\r: b\r\n\r\n", BadFieldName),
        ("a: b\0c\r\n\r\n", ControlCharacter),
        ("a: b\x01c\r\n\r\n", ControlCharacter),
        ("a: \x7f\r\n\r\n", ControlCharacter),
        ("a\0: b\r\n\r\n", ControlCharacter),
        ("a : b\r\n\r\n", BadFieldName),
        ("a\t: b\r\n\r\n", BadFieldName),
        (": b\r\n\r\n", BadFieldName),
        ("a b: c\r\n\r\n", BadFieldName),
        ("a(b): c\r\n\r\n", BadFieldName),
        ("\u{e9}: c\r\n\r\n", BadFieldName),
        ("no-colon\r\n\r\n", BadFieldName),
        ("a: b\r\n c\r\n\r\n", ObsoleteFold),
        ("a: b\r\n\tc\r\n\r\n", ObsoleteFold),
        (" a: b\r\n\r\n", ObsoleteFold),
        ("content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", LengthAndTransferEncoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", LengthAndTransferEncoding),
        ("content-length: 5\r\ncontent-length: 5\r\n\r\n", RepeatedContentLength),
        ("content-length: 5\r\ncontent-length: 6\r\n\r\n", RepeatedContentLength),
        ("content-length: 5, 5\r\n\r\n", BadContentLength),
        ("content-length: +5\r\n\r\n", BadContentLength),
        ("content-length: -5\r\n\r\n", BadContentLength),
        ("content-length: 0x5\r\n\r\n", BadContentLength),
        ("content-length: 5 5\r\n\r\n", BadContentLength),
        ("content-length: 5a\r\n\r\n", BadContentLength),
        ("content-length:\r\n\r\n", BadContentLength),
        ("content-length: 18446744073709551616\r\n\r\n", BadContentLength),
        ("transfer-encoding: gzip, chunked\r\n\r\n", BadTransferEncoding),
        ("transfer-encoding: chunked, chunked\r\n\r\n", BadTransferEncoding),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", BadTransferEncoding),
        ("transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n", BadTransferEncoding),
        ("transfer-encoding: ,chunked\r\n\r\n", BadTransferEncoding),
        ("transfer-encoding: identity\r\n\r\n", BadTransferEncoding),
        ("transfer-encoding: xchunked\r\n\r\n", BadTransferEncoding),
        ("transfer-encoding: chunkedx\r\n\r\n", BadTransferEncoding),
        ("transfer-encoding: chun ked\r\n\r\n", BadTransferEncoding),
        ("transfer-encoding: \x0bchunked\r\n\r\n", ControlCharacter),
        ("transfer-encoding : chunked\r\n\r\n", BadFieldName),
        ("host: b\r\n\r\n", RepeatedHost),
    ];
    let whole = [
        ("\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", BareLineFeed),
        ("\rGET / HTTP/1.1\r\nhost: a\r\n\r\n", BareCarriageReturn),
        ("GET / HTTP/1.1\nhost: a\r\n\r\n", BareLineFeed),
        ("GET /\r\n\r\n", BadTarget),
        ("GET / HTTP/1.1\r\n\r\n", MissingHost),
        (" GET / HTTP/1.1\r\nhost: a\r\n\r\n", BadMethod),
        ("G\0T / HTTP/1.1\r\nhost: a\r\n\r\n", ControlCharacter),
        ("GET  / HTTP/1.1\r\nhost: a\r\n\r\n", BadTarget),
        ("GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n", BadTarget),
        ("GET / x HTTP/1.1\r\nhost: a\r\n\r\n", BadVersion),
        ("GET /\tHTTP/1.1\r\nhost: a\r\n\r\n", BadTarget),
        ("GET /\x01 HTTP/1.1\r\nhost: a\r\n\r\n", ControlCharacter),
        ("GET /\x7f HTTP/1.1\r\nhost: a\r\n\r\n", ControlCharacter),
        ("GET / HTTP/1.1 \r\nhost: a\r\n\r\n", BadVersion),
        ("GET / HTTP/1.2\r\nhost: a\r\n\r\n", BadVersion),
        ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", BadVersion),
        ("GET / http/1.1\r\nhost: a\r\n\r\n", BadVersion),
        ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", BadTransferEncoding),
        ("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\ncontent-length: 3\r\n\r\nabc", ConnectWithBody),
    ];
    let after_head = after_head.map(|(lines, violation)| (format!("{HEAD}{lines}"), violation));
    let whole = whole.map(|(head, violation)| (head.to_owned(), violation));
    after_head.into_iter().chain(whole).collect()
}

/// Malformed chunked bodies, and what ends them.
fn malformed_bodies() -> Vec<(&'static str, Violation)> {
    use Violation::*;
    vec![
        ("x\r\nabc\r\n0\r\n\r\n", BadChunkSize),
        ("\r\nabc\r\n0\r\n\r\n", BadChunkSize),
        (";a\r\nabc\r\n0\r\n\r\n", BadChunkSize),
        (" 3\r\nabc\r\n0\r\n\r\n", BadChunkSize),
        ("-3\r\nabc\r\n0\r\n\r\n", BadChunkSize),
        ("+3\r\nabc\r\n0\r\n\r\n", BadChunkSize),
        ("0x3\r\nabc\r\n0\r\n\r\n", BadChunkSize),
        ("3_0\r\nabc\r\n0\r\n\r\n", BadChunkSize),
        ("00000000000000003\r\nabc\r\n0\r\n\r\n", BadChunkSize),
        ("fffffffffffffffff\r\nabc\r\n0\r\n\r\n", BadChunkSize),
        ("3 \r\nabc\r\n0\r\n\r\n", BadChunkExtension),
        ("3 3\r\nabc\r\n0\r\n\r\n", BadChunkExtension),
        ("3;a\0b\r\nabc\r\n0\r\n\r\n", ControlCharacter),
        ("3;a\nabc\r\n0\r\n\r\n", BareLineFeed),
        ("3;a\rb\r\nabc\r\n0\r\n\r\n", BareCarriageReturn),
        ("3\nabc\r\n0\r\n\r\n", BareLineFeed),
        ("3\r\r\nabc\r\n0\r\n\r\n", BareCarriageReturn),
        ("3\r\nabcd\r\n0\r\n\r\n", BadChunkEnd),
        ("3\r\nabc\n0\r\n\r\n", BadChunkEnd),
        ("3\r\nabc0\r\n\r\n", BadChunkEnd),
        ("3\r\nabc\r0\r\n\r\n", BadChunkEnd),
        ("0\r\n\n", BareLineFeed),
        ("0\r\na: b\n\r\n", BareLineFeed),
        ("0\r\na: b\nc: d\r\n\r\n", BareLineFeed),
        ("0\r\na: b\r\n c\r\n\r\n", ObsoleteFold),
        ("0\r\na : b\r\n\r\n", BadFieldName),
        ("0\r\na: \0\r\n\r\n", ControlCharacter),
        ("0\r\ncontent-length: 3\r\n\r\n", FramingTrailer),
        ("0\r\nTransfer-Encoding: chunked\r\n\r\n", FramingTrailer),
        ("0\r\nhost: b\r\n\r\n", FramingTrailer),
        ("0\r\n\rX", BareCarriageReturn),
    ]
}

#[tokio::test]
async fn a_malformed_head_is_answered_400_and_never_handed_over() {
    for (head, violation) in malformed_heads() {
        // As a smuggler would go on: the end of a chunked body, and a request hidden in it.
        let bytes = format!("{head}0\r\n\r\nGET /hidden HTTP/1.1\r\nhost: a\r\n\r\n");
        let expected = Outcome { statuses: vec![400], violation: Some(violation), ..Outcome::default() };
        for pieces in cuts(bytes.as_bytes()) {
            assert_eq!(serve_strictly(&pieces, Limits::default()).await, expected, "{pieces:?}");
        }
    }
}

#[tokio::test]
async fn requests_before_a_malformed_one_are_answered_first() {
    for (head, violation) in malformed_heads() {
        let bytes = format!("POST /first HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok{head}");
        let expected = Outcome {
            begun: vec!["/first".to_owned()],
            bodies: vec![b"ok".to_vec()],
            statuses: vec![200, 400],
            violation: Some(violation),
        };
        for pieces in cuts(bytes.as_bytes()) {
            assert_eq!(serve_strictly(&pieces, Limits::default()).await, expected, "{pieces:?}");
        }
    }
}

#[tokio::test]
async fn a_malformed_body_read_together_with_its_head_is_never_handed_over() {
    for (body, violation) in malformed_bodies() {
        let outcome = serve_strictly(&[chunked(body).as_bytes()], Limits::default()).await;
        let expected = Outcome { statuses: vec![400], violation: Some(violation), ..Outcome::default() };
        assert_eq!(outcome, expected, "{body:?}");
    }
}

#[tokio::test]
async fn a_malformed_body_never_completes_and_ends_the_connection() {
    for (body, violation) in malformed_bodies() {
        let bytes = format!("{}GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n", chunked(body));
        for pieces in cuts(bytes.as_bytes()) {
            let outcome = serve_strictly(&pieces, Limits::default()).await;
            assert_eq!(outcome.bodies, Vec::<Vec<u8>>::new(), "{pieces:?}");
            assert_eq!(outcome.statuses, [400], "{pieces:?}");
            assert_eq!(outcome.violation, Some(violation), "{pieces:?}");
            assert!(!outcome.begun.contains(&"/hidden".to_owned()), "{pieces:?}");
        }
    }
}

#[tokio::test]
async fn a_body_found_malformed_too_late_fails_the_read() {
    let head = chunked("");
    let Read { bytes, end, .. } = read_all(&[head.as_bytes(), b"1\r\na\r\nx\r\n", b"more"]).await;
    assert_eq!(bytes, format!("{head}1\r\na\r\n").into_bytes());
    let error = end.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(error.get_ref().unwrap().downcast_ref::<Violation>(), Some(&Violation::BadChunkSize));
}

#[tokio::test]
async fn a_caller_that_stays_gets_its_answers_then_400_and_the_end() {
    let (mut client, server) = tokio::io::duplex(1024);
    let strict = Strict::new(server, Bytes::new(), Limits::default());
    let client = async move {
        let requests = format!("{HEAD}\r\n{HEAD}a: b\n\r\n{HEAD}\r\n");
        client.write_all(requests.as_bytes()).await.unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        answers
    };
    let (outcome, answers) = tokio::join!(serve(strict, Rc::default(), false), client);
    let answers: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(answers, ["200", "400"]);
    assert_eq!(outcome.begun, ["/"]);
}
