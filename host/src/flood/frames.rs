//! The frames of a connection: where each begins, and what it is good for.

/// A change of settings may touch every stream.
pub(super) const SETTINGS_COST: u32 = 50;
/// Data that was sent may be answered by updates of two windows and a few pings that measure the way.
pub(super) const PER_DATA_SENT: u32 = 8;
/// A peer may update both windows each time that it has read a KiB of a large frame.
pub(super) const PER_KIB_SENT: u32 = 2;
pub(super) const PER_HEAD_SENT: u32 = 2;

/// The types of RFC 9113, section 6.
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// The head of a frame, as far as it matters here.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Head {
    pub length: u32,
    pub kind: u8,
    pub flags: u8,
}

impl Head {
    fn parse(bytes: [u8; 9]) -> Self {
        let [a, b, c, kind, flags, ..] = bytes;
        Self { length: u32::from_be_bytes([0, a, b, c]), kind, flags }
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Carries fields.
    fn is_block(self) -> bool {
        matches!(self.kind, HEADERS | PUSH_PROMISE | CONTINUATION)
    }

    pub fn cost(self) -> u32 {
        match self.kind {
            DATA => u32::from(self.length == 0 && !self.has(END_STREAM)),
            HEADERS => 0,
            SETTINGS if !self.has(ACK) => SETTINGS_COST,
            _ => 1,
        }
    }

    pub fn worth(self) -> u32 {
        match self.kind {
            DATA if self.length > 0 => PER_DATA_SENT + self.length / 1024 * PER_KIB_SENT,
            HEADERS => PER_HEAD_SENT,
            _ => 0,
        }
    }
}

/// Finds the frames in one direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The head of the next frame, as far as it is there.
    next: [u8; 9],
    have: usize,
    /// The frame that is under way, and how much of it is still to come.
    current: Option<Head>,
    rest: u32,
    /// Whether the first frame is there.
    begun: bool,
    /// A block of fields goes on in the next frame.
    in_block: bool,
    /// Blocks that have ended.
    pub heads: u64,
}

impl Frames {
    pub fn after(preface: u32) -> Self {
        Self { rest: preface, ..Self::default() }
    }

    /// Waits for the rest of a head, or for the first frame.
    pub fn is_in_head(&self) -> bool {
        !self.begun || self.in_block || (self.rest > 0 && self.current.is_some_and(Head::is_block))
    }

    /// Nothing is half there: another frame could come.
    pub fn is_between(&self) -> bool {
        self.begun && !self.in_block && self.rest == 0 && self.have == 0
    }

    pub fn follow(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) {
        while !bytes.is_empty() {
            if self.rest > 0 {
                let length = bytes.len().min(self.rest as usize);
                bytes = bytes.get(length..).unwrap_or_default();
                self.rest -= length as u32;
            } else if let Some((byte, more)) = bytes.split_first() {
                if let Some(place) = self.next.get_mut(self.have) {
                    *place = *byte;
                }
                (self.have, bytes) = (self.have + 1, more);
                if self.have < self.next.len() {
                    continue;
                }
                let head = Head::parse(self.next);
                (self.have, self.rest, self.current) = (0, head.length, Some(head));
                each(head);
            }
            if self.rest == 0
                && let Some(head) = self.current.take()
            {
                self.end(head);
            }
        }
    }

    fn end(&mut self, head: Head) {
        self.begun = true;
        if head.is_block() {
            self.in_block = !head.has(END_HEADERS);
            self.heads += u64::from(!self.in_block);
        }
    }
}
