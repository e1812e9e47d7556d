use super::account::{BURST, PER_SECOND};
use super::frames::*;
use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::Instant;

const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

fn frame(kind: u8, flags: u8, length: u32) -> Vec<u8> {
    let [_, a, b, c] = length.to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, 1];
    frame.resize(9 + length as usize, 0xff);
    frame
}

fn kinds(frames: &mut Frames, bytes: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    frames.follow(bytes, |head| found.push(head.kind));
    found
}

#[test]
fn frames_are_found_however_the_bytes_are_split() {
    let mut stream = vec![0xff; PREFACE_LENGTH as usize];
    for (kind, length) in [(SETTINGS, 0), (HEADERS, 300), (DATA, 70_000), (DATA, 0), (PING, 8)] {
        stream.extend(frame(kind, END_HEADERS, length));
    }
    for size in [1, 2, 8, 9, 10, 24, 1000, stream.len()] {
        let mut frames = Frames::after(PREFACE_LENGTH);
        let found: Vec<u8> = stream.chunks(size).flat_map(|chunk| kinds(&mut frames, chunk)).collect();
        assert_eq!(found, [SETTINGS, HEADERS, DATA, DATA, PING], "{size}");
        assert!(!frames.is_in_head());
    }
}

#[test]
fn a_head_is_under_way_until_its_block_has_ended() {
    let mut frames = Frames::after(0);
    assert!(frames.is_in_head(), "the first frame is to come");
    kinds(&mut frames, &frame(SETTINGS, 0, 6));
    assert!(!frames.is_in_head());
    let headers = frame(HEADERS, 0, 10);
    kinds(&mut frames, headers.get(..15).unwrap());
    assert!(frames.is_in_head());
    kinds(&mut frames, headers.get(15..).unwrap());
    assert!(frames.is_in_head());
    kinds(&mut frames, &frame(CONTINUATION, 0, 0));
    assert!(frames.is_in_head());
    kinds(&mut frames, &frame(CONTINUATION, END_HEADERS, 0));
    assert!(!frames.is_in_head());
    kinds(&mut frames, frame(DATA, 0, 10).get(..12).unwrap());
    assert!(!frames.is_in_head(), "a body may take its time");
}

fn guarded() -> (DuplexStream, Guard<DuplexStream>) {
    let (peer, node) = duplex(1 << 20);
    (peer, Guard::new(node, Bytes::new(), Peer::Server))
}

/// Sends frames of a kind; says whether the guard lets all of them pass.
async fn passes(peer: &mut DuplexStream, guard: &mut Guard<DuplexStream>, frame: &[u8], count: usize) -> bool {
    for _ in 0..count {
        peer.write_all(frame).await.unwrap();
        let mut read = vec![0; frame.len()];
        if guard.read_exact(&mut read).await.is_err() {
            return false;
        }
    }
    true
}

#[tokio::test]
async fn what_carries_nothing_is_bounded_and_what_does_is_not() {
    for (kind, length, limit) in
        [(PING, 8, BURST), (WINDOW_UPDATE, 4, BURST), (DATA, 0, BURST), (SETTINGS, 0, BURST / SETTINGS_COST)]
    {
        let (mut peer, mut guard) = guarded();
        assert!(passes(&mut peer, &mut guard, &frame(kind, 0, length), limit as usize).await, "{kind}");
        assert!(!passes(&mut peer, &mut guard, &frame(kind, 0, length), 10 * limit as usize).await, "{kind}");
        assert!(guard.flooded().get());
    }
    for (kind, flags) in [(DATA, 0), (DATA, END_STREAM), (HEADERS, END_HEADERS)] {
        let (mut peer, mut guard) = guarded();
        assert!(passes(&mut peer, &mut guard, &frame(kind, flags, 1), 2 * BURST as usize).await, "{kind}");
    }
}

#[test]
fn time_and_what_was_sent_allow_for_more() {
    let mut account = Account { left: 1, filled: Instant::now() };
    assert!(account.take(1) && !account.take(1));
    account.add(Head { length: 1, kind: DATA, flags: 0 }.worth());
    assert!(account.take(PER_DATA_SENT) && !account.take(1));
    std::thread::sleep(Duration::from_millis(20));
    assert!(account.take(PER_SECOND / 50));
    account.add(u32::MAX);
    assert_eq!(account.left, BURST);
}

#[test]
fn windows_may_be_updated_in_small_steps_however_large_the_frames_are() {
    const STEP: u32 = 2 * 1024;
    for length in [STEP, 16 * 1024, 64 * 1024, 1 << 20] {
        let mut account = Account { left: 0, filled: Instant::now() };
        for _ in 0..100 {
            account.add(Head { length, kind: DATA, flags: 0 }.worth());
            // Of the stream and of the connection, and a ping.
            assert!((0..length / STEP * 2 + 1).all(|_| account.take(1)), "{length}");
        }
    }
}

#[tokio::test]
async fn what_is_sent_is_counted() {
    let (mut peer, mut guard) = guarded();
    guard.account.left = 0;
    let sent = [vec![0; PREFACE_LENGTH as usize], frame(DATA, 0, 100), frame(HEADERS, 0, 5)].concat();
    guard.write_all(&sent).await.unwrap();
    assert_eq!(guard.account.left, PER_DATA_SENT + PER_HEAD_SENT);
    peer.read_exact(&mut vec![0; sent.len()]).await.unwrap();
}

#[tokio::test]
async fn a_head_that_stalls_is_given_up() {
    let (mut peer, guard) = guarded();
    let mut guard = guard.head_timeout(Duration::from_millis(20));
    peer.write_all(&frame(SETTINGS, 0, 0)).await.unwrap();
    peer.write_all(&frame(HEADERS, 0, 3)).await.unwrap();
    let mut read = Vec::new();
    assert_eq!(guard.read_to_end(&mut read).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn who_floods_is_told_between_two_frames() {
    let (settings, pings) = (frame(SETTINGS, 0, 0), frame(PING, 0, 8).repeat(4 * BURST as usize));
    let headers = frame(HEADERS, END_HEADERS, 5);
    for (sent, told) in [(settings.len(), true), (settings.len() + 4, false), (settings.len() + 11, false)] {
        let (mut peer, node) = duplex(1 << 20);
        let mut guard = Guard::new(node, Bytes::new(), Peer::Client);
        guard.write_all(&[&settings[..], &headers].concat()[..sent]).await.unwrap();
        peer.write_all(&[&[0xff; PREFACE_LENGTH as usize][..], &pings].concat()).await.unwrap();
        let error = tokio::io::copy(&mut guard, &mut tokio::io::sink()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(guard);
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).await.unwrap();
        assert_eq!(&heard[sent..], if told { CALM } else { &[] }, "after {sent} bytes");
    }
}
