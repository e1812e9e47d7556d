//! Upgrades and CONNECT.

use super::*;

#[tokio::test]
async fn bytes_after_an_upgrade_are_left_alone() {
    let request = format!("{HEAD}upgrade: x\r\nconnection: upgrade\r\n\r\n");
    let frames = b"\x81\x05\0\r\n\nhello";
    let mut strict = Strict::new(Pieces::new(&[frames]), request.clone().into(), Limits::default());
    let mut read = vec![0; request.len()];
    strict.read_exact(&mut read).await.unwrap();
    strict.switch().passthrough().unwrap();
    let mut tunnelled = Vec::new();
    strict.read_to_end(&mut tunnelled).await.unwrap();
    assert_eq!((read, tunnelled), (request.into_bytes(), frames.to_vec()));
}

#[tokio::test]
async fn an_upgrade_with_early_bytes_that_are_not_http_is_refused() {
    let request = format!("{HEAD}upgrade: x\r\nconnection: upgrade\r\n\r\n\x01\x05");
    let mut strict = Strict::new(Pieces::default(), request.into(), Limits::default());
    let mut read = Vec::new();
    strict.read_to_end(&mut read).await.unwrap();
    assert_eq!(strict.switch().passthrough(), Err(Violation::ControlCharacter));
}

#[tokio::test]
async fn what_follows_connect_waits_for_the_tunnel() {
    let head = "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n";
    for pieces in cuts(format!("{head}\x16\x03\x01\0\n").as_bytes()) {
        // Also as a prefix that is read in small steps.
        let prefix = Bytes::copy_from_slice(pieces[0]);
        let mut strict = Strict::new(Pieces::new(&pieces[1..]), prefix, Limits::default());
        let mut read = Vec::new();
        let mut small = [0; 3];
        let mut step = async || {
            let read = strict.read(&mut small);
            tokio::select! { biased; length = read => Some(length.unwrap()), () = async {} => None }
                .map(|length| small[..length].to_vec())
        };
        while let Some(bytes) = step().await {
            read.extend(bytes);
        }
        assert_eq!(read, head.as_bytes(), "{pieces:?}");
        strict.switch().passthrough().unwrap();
        let mut tunnelled = Vec::new();
        strict.read_to_end(&mut tunnelled).await.unwrap();
        assert_eq!(tunnelled, b"\x16\x03\x01\0\n", "{pieces:?}");
    }
}
