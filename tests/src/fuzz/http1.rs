//! Makes streams of HTTP/1 requests: good ones, bad ones, and good ones with a few bytes changed.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::Shown;

/// What a smuggler would have the service see.
pub const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: one\r\n\r\n";

/// A stream as a caller sends it.
#[derive(Clone)]
pub struct Stream {
    requests: Vec<Vec<u8>>,
    changes: Vec<Change>,
    cuts: Vec<(Index, bool)>,
    /// The caller leaves after this part of it.
    leaves: Option<Index>,
}

/// One change of a byte string.
#[derive(Clone, Debug)]
pub enum Change {
    Replace(Index, Vec<u8>),
    Insert(Index, Vec<u8>),
    Delete(Index, u8),
    /// Puts a part of it somewhere else, once more.
    Repeat(Index, u8, Index),
}

impl Change {
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Replace(at, with) => {
                let at = place(*at, bytes);
                let end = bytes.len().min(at + with.len());
                bytes.splice(at..end, with.iter().copied());
            }
            Self::Insert(at, what) => {
                let at = place(*at, bytes);
                bytes.splice(at..at, what.iter().copied());
            }
            Self::Delete(at, length) => {
                let at = place(*at, bytes);
                bytes.drain(at..bytes.len().min(at + usize::from(*length)));
            }
            Self::Repeat(at, length, to) => {
                let (at, to) = (place(*at, bytes), place(*to, bytes));
                let part = bytes[at..bytes.len().min(at + usize::from(*length))].to_vec();
                bytes.splice(to..to, part);
            }
        }
    }
}

/// A place in the bytes, their end included.
fn place(index: Index, bytes: &[u8]) -> usize {
    index.index(bytes.len() + 1)
}

impl Stream {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.requests.concat();
        for change in &self.changes {
            change.apply(&mut bytes);
        }
        if let Some(leaves) = self.leaves {
            bytes.truncate(place(leaves, &bytes));
        }
        bytes
    }

    /// Where the bytes are cut, in order, and whether there is a pause.
    pub fn cuts(&self) -> Vec<(usize, bool)> {
        let bytes = self.bytes();
        let mut cuts: Vec<_> = self.cuts.iter().map(|(at, pause)| (place(*at, &bytes), *pause)).collect();
        cuts.sort_unstable();
        cuts
    }

    pub fn leaves(&self) -> bool {
        self.leaves.is_some()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, cuts {:?}, leaves {}", Shown(self.bytes()), self.cuts(), self.leaves())
    }
}

pub fn stream() -> impl Strategy<Value = Stream> {
    let changes = prop_oneof![1 => Just(Vec::new()), 1 => vec(change(PIECES), 1..4)];
    let requests = vec(prop_oneof![4 => good_request(), 2 => odd_request()], 1..5);
    let cuts = vec((any::<Index>(), prop::bool::weighted(0.2)), 0..6);
    let leaves = prop::option::weighted(0.1, any::<Index>());
    (requests, changes, cuts, leaves).prop_map(|(requests, changes, cuts, leaves)| Stream {
        requests,
        changes,
        cuts,
        leaves,
    })
}

/// Bytes that mean something in HTTP/1.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"#",
    b"0",
    b"9",
    b"\x0b",
    b"\x7f",
    b"\xff",
    b"\xe2\x80\xa8",
    b"\r\n\r\n",
    b"\r\n ",
    b"0\r\n\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1\r\n",
    b"host: two\r\n",
    b"\r\nhost: one\r\n",
    b"\r\ncontent-length: 3\r\n",
    b"\r\ncontent-length: 0",
    b"\r\ntransfer-encoding: chunked\r\n",
    b"\r\nTransfer-Encoding:\tchunked ",
    b"\r\nconnection: close",
    b"\r\nconnection: content-length, host",
    b"ffffffffffffffff",
    HIDDEN.as_bytes(),
];

/// One change; `pieces` are what it puts in, besides single bytes.
pub fn change(pieces: &'static [&'static [u8]]) -> impl Strategy<Value = Change> {
    let piece =
        || prop_oneof![3 => select(pieces).prop_map(<[u8]>::to_vec), 1 => any::<u8>().prop_map(|byte| vec![byte])];
    prop_oneof![
        (any::<Index>(), piece()).prop_map(|(at, with)| Change::Replace(at, with)),
        (any::<Index>(), piece()).prop_map(|(at, what)| Change::Insert(at, what)),
        (any::<Index>(), 1..8u8).prop_map(|(at, length)| Change::Delete(at, length)),
        (any::<Index>(), 1..60u8, any::<Index>()).prop_map(|(at, length, to)| Change::Repeat(at, length, to)),
    ]
}

/// A request that any node has to forward, and any service to answer.
fn good_request() -> impl Strategy<Value = Vec<u8>> {
    let method =
        select(&["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "REPORT", "get", "X!#$%&'*+-.^_`|~9"][..]);
    let target = select(
        &["/", "/a", "/a/../b", "/%2e%2E/x", "//one/a", "/a?b=/c?d", "/a;b=c", "http://one/abs", "http://one?x"][..],
    );
    let host = select(&["one", "ONE", "one:80", "one."][..]);
    let fields = vec(select(GOOD_FIELDS), 0..4);
    let body = prop_oneof![
        2 => Just((String::new(), Vec::new())),
        1 => bytes().prop_map(|body| (format!("content-length: {}\r\n", body.len()), body)),
        2 => (select(&["chunked", "Chunked", "\t CHUNKED \t"][..]), chunks()).prop_map(|(name, body)| (format!("Transfer-Encoding:{name}\r\n"), body)),
    ];
    (method, target, host, fields, body, prop::bool::weighted(0.1)).prop_map(
        |(method, target, host, fields, (framing, body), empty_line)| {
            let before = if empty_line { "\r\n" } else { "" };
            let head =
                format!("{before}{method} {target} HTTP/1.1\r\nHost: {host}\r\n{}{framing}\r\n", fields.concat());
            [head.into_bytes(), body].concat()
        },
    )
}

const GOOD_FIELDS: &[&str] = &[
    "x-a: 1\r\n",
    "X-A:2\r\n",
    "x-b:\r\n",
    "x-b: \t a \"b\\\" , c \t \r\n",
    "x-c: \u{e9}\u{2028}\r\n",
    "accept: */*\r\n",
    "cookie: a=b\r\n",
    "connection: keep-alive, x-a\r\n",
    "connection: keep-alive\r\nkeep-alive: timeout=1\r\n",
    "connection: te\r\nte: trailers, deflate\r\n",
    "proxy-connection: close\r\n",
    "upgrade: websocket\r\n",
    "connection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n",
    "connection: host, content-length, transfer-encoding, cookie\r\n",
    "trailer: x-t\r\n",
    "expect: 100-continue\r\n",
    "x-forwarded-for: 6.6.6.6\r\n",
    "x-service-name: root\r\n",
    "content-length-: 7\r\n",
    "content_length: 7\r\n",
];

/// A request that is wrong, or at least unusual, in some way.
fn odd_request() -> impl Strategy<Value = Vec<u8>> {
    let method = select(&["GET", "POST", "HEAD", "OPTIONS", "CONNECT", "PRI", "G(T", "", "GET "][..]);
    let target = select(
        &[
            "/",
            "*",
            "one:80",
            "one",
            "",
            "http://",
            "http://none/",
            "https://one/",
            "ftp://one/",
            "/ x",
            "/#a",
            "/\u{e9}",
            "http://a@one/",
            "/\0",
            "?",
            "http://one:x/",
        ][..],
    );
    let version =
        select(&["HTTP/1.1", "HTTP/1.0", "HTTP/1.1 ", "HTTP/2.0", "HTTP/1.2", "http/1.1", "HTTP/01.1", ""][..]);
    let host = select(&["one", "one", "none", "clean", "a,b", "[::1]", "", "one\u{b}", "one, two"][..]);
    let lines = vec(select(ODD_FIELDS), 0..5);
    let body = prop_oneof![Just(Vec::new()), bytes(), chunks(), Just(HIDDEN.as_bytes().to_vec())];
    let usual = |odd: f64| prop::bool::weighted(odd);
    (method, target, (version, usual(0.2)), host, lines, body, (usual(0.3), usual(0.3))).prop_map(
        |(method, target, (version, odd_version), host, lines, body, (odd_method, odd_target))| {
            let method = if odd_method { method } else { "POST" };
            let target = if odd_target { target } else { "/odd" };
            let version = if odd_version { version } else { "HTTP/1.1" };
            let head = format!("{method} {target} {version}\r\nhost: {host}\r\n{}\r\n", lines.concat());
            [head.into_bytes(), body].concat()
        },
    )
}

const ODD_FIELDS: &[&str] = &[
    "x-a: 1\r\n",
    "connection: close\r\n",
    "host: one\r\n",
    "content-length: 3\r\n",
    "content-length: 3\r\n",
    "content-length: 03\r\n",
    "content-length: +3\r\n",
    "content-length: 3, 3\r\n",
    "content-length: 18446744073709551616\r\n",
    "content-length: 18446744073709551615\r\n",
    "content-length:\r\n",
    "content-length : 3\r\n",
    "transfer-encoding: chunked\r\n",
    "transfer-encoding: chunked\r\n",
    "transfer-encoding: chunked, chunked\r\n",
    "transfer-encoding: gzip, chunked\r\n",
    "transfer-encoding: identity\r\n",
    "transfer-encoding:\r\n",
    "transfer-encoding: \"chunked\"\r\n",
    "transfer-encoding: x\r\n chunked\r\n",
    " transfer-encoding: chunked\r\n",
    "x-fold: a\r\n b\r\n",
    "x\0: a\r\n",
    "no colon\r\n",
    ": empty\r\n",
    "x-lf: a\n",
    "x-cr: a\rb\r\n",
    "x-weir-timeout: soon\r\n",
    "grpc-timeout: 1\r\n",
    "expect: 200-ok\r\n",
    "upgrade: websocket\r\nconnection: upgrade\r\n",
];

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..20),
        Just(HIDDEN.as_bytes().to_vec()),
        (1..3usize).prop_map(|length| vec![b'x'; length * 40_000]),
    ]
}

/// A chunked body, good but for what it looks like.
fn chunks() -> impl Strategy<Value = Vec<u8>> {
    let extension = select(&["", "", ";a", ";a=b", " ;a", ";a=\"\t;\"", ";\u{e9}"][..]);
    let zeros = select(&["", "", "0", "00000000"][..]);
    let chunk = (bytes(), extension, zeros, any::<bool>()).prop_map(|(bytes, extension, zeros, upper)| {
        if bytes.is_empty() {
            return Vec::new();
        }
        let size = if upper { format!("{:X}", bytes.len()) } else { format!("{:x}", bytes.len()) };
        [format!("{zeros}{size}{extension}\r\n").as_bytes(), &bytes, b"\r\n"].concat()
    });
    let trailers = select(&["", "", "x-t: 1\r\n", "x-t: 1\r\nx-t: 2\r\n", "x-u:\r\n"][..]);
    let last = select(&["0", "0", "000", "0;last"][..]);
    (vec(chunk, 0..4), last, trailers).prop_map(|(chunks, last, trailers)| {
        [chunks.concat(), format!("{last}\r\n{trailers}\r\n").into_bytes()].concat()
    })
}
