//! Bodies: of a known length, or chunked (RFC 9112, sections 6.2 and 7.1).

use super::{
    super::text::{not_text, text},
    At, Framing, Violation,
};

impl Framing {
    pub(super) fn begin_chunk(&mut self) {
        self.left = 0;
        self.matched = 0;
        self.at = At::ChunkSize;
    }

    /// As `step`, outside heads.
    pub(super) fn step_body(&mut self, next: u8, rest: &[u8]) -> Result<usize, Violation> {
        match self.at {
            At::Body | At::ChunkData => {
                let taken = usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()));
                self.left -= taken as u64;
                match self.at {
                    At::Body if self.left == 0 => self.begin(),
                    At::ChunkData if self.left == 0 => self.at = At::ChunkEndCr,
                    _ => {}
                }
                return Ok(taken);
            }
            At::ChunkSize => self.step_chunk_size(next)?,
            At::ChunkSpace => match next {
                b' ' | b'\t' => {}
                b';' => self.at = At::ChunkExtension,
                _ => return Err(not_text(next).unwrap_or(Violation::BadChunkExtension)),
            },
            At::ChunkExtension => {
                let run = text(rest);
                if !run.is_empty() {
                    return Ok(run.len());
                }
                match next {
                    b'\r' => self.at = At::ChunkLf,
                    b'\n' => return Err(Violation::BareLineFeed),
                    _ => return Err(Violation::ControlCharacter),
                }
            }
            At::ChunkLf if next != b'\n' => return Err(Violation::BareCarriageReturn),
            At::ChunkLf if self.left > 0 => self.at = At::ChunkData,
            At::ChunkLf => {
                self.message.trailers = true;
                self.message.head_bytes = 0;
                self.message.headers = 0;
                self.word.clear();
                self.at = At::Line;
            }
            At::ChunkEndCr if next == b'\r' => self.at = At::ChunkEndLf,
            At::ChunkEndLf if next == b'\n' => self.begin_chunk(),
            At::ChunkEndCr | At::ChunkEndLf => return Err(Violation::BadChunkEnd),
            _ => return Ok(0),
        }
        Ok(1)
    }

    fn step_chunk_size(&mut self, next: u8) -> Result<(), Violation> {
        /// As many as 2^64 needs.
        const MAX_DIGITS: usize = 16;
        match (char::from(next).to_digit(16), next) {
            (Some(digit), _) if self.matched < MAX_DIGITS => {
                self.left = (self.left << 4) | u64::from(digit);
                self.matched += 1;
            }
            (None, b';') if self.matched > 0 => self.at = At::ChunkExtension,
            (None, b' ' | b'\t') if self.matched > 0 => self.at = At::ChunkSpace,
            (None, b'\r') if self.matched > 0 => self.at = At::ChunkLf,
            _ => return Err(not_text(next).unwrap_or(Violation::BadChunkSize)),
        }
        Ok(())
    }
}
