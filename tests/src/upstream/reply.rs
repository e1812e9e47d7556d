//! A scripted response, and its body piece by piece.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

/// A response, with the ways in which it may go wrong.
#[derive(Clone, Debug)]
pub struct Reply {
    pub(super) interim: Vec<(u16, Vec<(String, String)>)>,
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) content: Content,
    pub(super) framing: Framing,
    pub(super) trailers: Vec<(String, String)>,
    pub(super) pace: Option<(usize, Duration)>,
    pub(super) cut: Option<(u64, Cut)>,
    pub(super) closing: Closing,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Bytes(Bytes),
    /// So many bytes of [`pattern`], made as they are sent.
    Pattern(u64),
}

/// How the end of an HTTP/1.1 body is told (RFC 9112 section 6); HTTP/2 sends `content-length` for the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    ContentLength,
    Chunked,
    UntilClose,
}

/// How a body ends too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Stall,
    Reset,
    Truncate,
}

/// What happens to the connection after a complete response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    KeepAlive,
    Silent,
    Announced,
}

impl Reply {
    /// An empty response with its length announced, on a connection that stays open.
    pub fn new(status: u16) -> Self {
        Self {
            interim: Vec::new(),
            status,
            headers: Vec::new(),
            content: Content::Bytes(Bytes::new()),
            framing: Framing::ContentLength,
            trailers: Vec::new(),
            pace: None,
            cut: None,
            closing: Closing::KeepAlive,
        }
    }

    /// Adds a field; a name may come several times.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.content = Content::Bytes(body.into());
        self
    }

    pub fn json(self, value: &Value) -> Self {
        self.header("content-type", "application/json").body(value.to_string())
    }

    /// A body of so many bytes of [`pattern`], which never is in memory as a whole.
    pub fn huge(mut self, length: u64) -> Self {
        self.content = Content::Pattern(length);
        self
    }

    /// Sends the body in chunks and without announcing its length.
    pub fn chunked(mut self) -> Self {
        self.framing = Framing::Chunked;
        self
    }

    /// Sends the body without announcing its length; the end of the connection ends it.
    pub fn until_close(mut self) -> Self {
        self.framing = Framing::UntilClose;
        self
    }

    /// Adds a trailer, which HTTP/1.1 can only carry after chunks.
    pub fn trailer(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.trailers.push((name.into(), value.into()));
        self.chunked()
    }

    /// Sends an interim response with one field first, for instance `103` and a `link`.
    pub fn interim(mut self, status: u16, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.interim.push((status, vec![(name.into(), value.into())]));
        self
    }

    /// Sends `piece` bytes of the body at a time, with a pause before each.
    pub fn trickle(mut self, piece: usize, pause: Duration) -> Self {
        self.pace = Some((piece.max(1), pause));
        self
    }

    /// Sends nothing more after so many bytes of the body, and keeps the connection.
    pub fn stall_after(mut self, bytes: u64) -> Self {
        self.cut = Some((bytes, Cut::Stall));
        self
    }

    /// Breaks off after so many bytes of the body: TCP RST, or RST_STREAM with INTERNAL_ERROR. It comes 100 ms
    /// later than the bytes, because a reset makes the peer's kernel throw away what was not read yet.
    pub fn reset_after(mut self, bytes: u64) -> Self {
        self.cut = Some((bytes, Cut::Reset));
        self
    }

    /// Closes in the ordinary way after so many bytes of the body, though more were announced (on HTTP/2,
    /// which has no such thing for one stream, RST_STREAM with CANCEL).
    pub fn truncate_after(mut self, bytes: u64) -> Self {
        self.cut = Some((bytes, Cut::Truncate));
        self
    }

    /// Closes the connection after the response without having said so (GOAWAY on HTTP/2).
    pub fn close_silently(mut self) -> Self {
        self.closing = Closing::Silent;
        self
    }

    /// Closes the connection after the response and says so with `connection: close`.
    pub fn announce_close(mut self) -> Self {
        self.closing = Closing::Announced;
        self
    }

    pub(super) fn length(&self) -> u64 {
        match &self.content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Pattern(length) => *length,
        }
    }

    pub(super) fn pieces(&self) -> Pieces<'_> {
        Pieces { reply: self, sent: 0 }
    }
}

/// The body of a reply, piece by piece, as its pace and its cut have it.
pub(super) struct Pieces<'a> {
    reply: &'a Reply,
    sent: u64,
}

pub(super) enum Piece {
    Data(Bytes),
    Cut(Cut),
    End,
}

impl Pieces<'_> {
    pub(super) async fn next(&mut self) -> Piece {
        const PIECE: u64 = 64 * 1024;
        let length = self.reply.length();
        let (limit, cut) = match self.reply.cut {
            Some((limit, cut)) if limit < length => (limit, Some(cut)),
            _ => (length, None),
        };
        let left = limit - self.sent;
        if left == 0 {
            return cut.map_or(Piece::End, Piece::Cut);
        }
        let size = match self.reply.pace {
            Some((piece, pause)) => {
                tokio::time::sleep(pause).await;
                left.min(piece as u64)
            }
            None => left.min(PIECE),
        };
        let data = match &self.reply.content {
            Content::Bytes(bytes) => bytes.slice(self.sent as usize..(self.sent + size) as usize),
            Content::Pattern(_) => pattern(self.sent, size as usize),
        };
        self.sent += size;
        Piece::Data(data)
    }
}

/// `length` bytes of an endless sequence from `offset` on; its period is a prime, so that a piece that was lost,
/// repeated or moved shows.
pub fn pattern(offset: u64, length: usize) -> Bytes {
    const PERIOD: u64 = 251;
    (offset..).take(length).map(|at| (at % PERIOD) as u8).collect()
}

/// Waits before a reset until the peer will have read what was sent.
pub(super) async fn let_arrive() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}
