//! How large heads may be.

use super::*;

fn limits() -> Limits {
    Limits { max_target_bytes: 20, max_head_bytes: 100, max_headers: 3 }
}

#[tokio::test]
async fn what_is_larger_than_a_limit_is_answered_414_or_431() {
    use Violation::*;
    let fits = |head: String| (head, 200, None);
    let pad = |length: usize| {
        let head = format!("{HEAD}a: \r\n\r\n");
        head.replace("a: ", &format!("a: {}", "x".repeat(length - head.len())))
    };
    let cases = [
        fits(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(19))),
        (format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(20)), 414, Some(TargetTooLong)),
        (format!("GET /{}", "x".repeat(70_000)), 414, Some(TargetTooLong)),
        fits(format!("{HEAD}a: b\r\nc: d\r\n\r\n")),
        (format!("{HEAD}a: b\r\nc: d\r\ne: f\r\n\r\n"), 431, Some(TooManyHeaders)),
        fits(pad(100)),
        (pad(101), 431, Some(HeadTooLarge)),
        (pad(102), 431, Some(HeadTooLarge)),
        (pad(103), 431, Some(HeadTooLarge)),
        (pad(104), 431, Some(HeadTooLarge)),
        (pad(9_000), 431, Some(HeadTooLarge)),
        (format!("{HEAD}{}: b\r\n\r\n", "x".repeat(200)), 431, Some(HeadTooLarge)),
        (format!("{}{HEAD}", "\r\n".repeat(60)), 400, Some(HeadTooLarge)),
        (format!("{} / HTTP/1.1\r\nhost: a\r\n\r\n", "X".repeat(200)), 400, Some(HeadTooLarge)),
    ];
    for (head, status, violation) in cases {
        let begun = usize::from(status == 200);
        let pieces: Vec<_> = head.as_bytes().chunks(7).collect();
        let mut ways = vec![vec![head.as_bytes()], pieces];
        if head.len() < 1_000 {
            ways.extend(cuts(head.as_bytes()));
        }
        for pieces in ways {
            let outcome = serve_strictly(&pieces, limits()).await;
            assert_eq!(outcome.statuses, [status], "{pieces:?}");
            assert_eq!(outcome.violation, violation, "{pieces:?}");
            assert_eq!(outcome.begun.len(), begun, "{pieces:?}");
        }
    }
}

#[tokio::test]
async fn limits_count_anew_for_each_request_and_for_trailers() {
    let requests = format!("{HEAD}a: b\r\nc: d\r\n\r\n").repeat(9);
    let outcome = serve_strictly(&[requests.as_bytes()], limits()).await;
    assert_eq!(outcome.statuses, [200; 9]);

    let body = "1\r\na\r\n".repeat(50);
    let body = format!("{body}0\r\nt: u\r\nt: u\r\nt: u\r\n");
    let outcome = serve_strictly(&[chunked(&format!("{body}\r\n")).as_bytes()], limits()).await;
    assert_eq!(outcome.statuses, [200]);
    let outcome = serve_strictly(&[chunked(&format!("{body}t: u\r\n\r\n")).as_bytes()], limits()).await;
    assert_eq!(outcome.violation, Some(Violation::TooManyHeaders));
    assert_eq!((outcome.begun.len(), outcome.statuses), (0, vec![400]));
}

#[test]
fn a_head_that_stalls_is_given_up_and_the_time_between_requests_is_not_counted() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let limit = std::time::Duration::from_millis(20);
        let (mut caller, socket) = tokio::io::duplex(1024);
        let mut strict = Strict::new(socket, Bytes::new(), Limits::default()).head_timeout(limit);
        let mut read = vec![0; 1024];
        let idle = tokio::time::timeout(limit * 3, strict.read(&mut read)).await;
        assert!(idle.is_err(), "an idle connection is hyper's to close");
        caller.write_all(format!("{HEAD}\r\nGET /slow").as_bytes()).await.unwrap();
        assert!(strict.read(&mut read).await.unwrap() > HEAD.len());
        let stalled = strict.read(&mut read).await.unwrap_err();
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
    });
}
