//! What can be wrong with a request.

use std::fmt;

#[cfg(doc)]
use super::Limits;

/// What was wrong with a request. Sections are those of RFC 9112.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// LF without CR before it (2.2).
    BareLineFeed,
    /// CR without LF after it (2.2).
    BareCarriageReturn,
    /// NUL, DEL or another control character where text is expected.
    ControlCharacter,
    /// The method is not a token (3.1).
    BadMethod,
    /// The request target is empty, or holds white space or a fragment (3.2).
    BadTarget,
    /// Neither `HTTP/1.0` nor `HTTP/1.1` (2.3).
    BadVersion,
    /// A field name is empty, not a token, or not followed at once by a colon (5.1).
    BadFieldName,
    /// A line begins with white space (5.2).
    ObsoleteFold,
    /// `content-length` is not a number below 2^64 (6.2).
    BadContentLength,
    /// `content-length` is given twice, equal or not (6.3).
    RepeatedContentLength,
    /// Both `content-length` and `transfer-encoding` are given (6.3).
    LengthAndTransferEncoding,
    /// `transfer-encoding` is not exactly `chunked`, once, in HTTP/1.1 (6.1).
    BadTransferEncoding,
    /// HTTP/1.1 without `host` (3.2).
    MissingHost,
    /// `host` is given twice (3.2).
    RepeatedHost,
    /// CONNECT with a body (RFC 9110, section 9.3.6).
    ConnectWithBody,
    /// A chunk size is not 1 to 16 hexadecimal digits (7.1).
    BadChunkSize,
    /// White space after a chunk size is not followed by an extension (7.1.1).
    BadChunkExtension,
    /// A chunk's data is not followed by CRLF (7.1).
    BadChunkEnd,
    /// A trailer would change the framing or routing of its request (7.1.2).
    FramingTrailer,
    /// The target is longer than [`Limits::max_target_bytes`].
    TargetTooLong,
    /// The head is larger than [`Limits::max_head_bytes`].
    HeadTooLarge,
    /// The head has more fields than [`Limits::max_headers`].
    TooManyHeaders,
}

impl Violation {
    /// The status of the answer, where one can still be given.
    pub fn status(self) -> http::StatusCode {
        match self {
            Self::TargetTooLong => http::StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge | Self::TooManyHeaders => http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => http::StatusCode::BAD_REQUEST,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::BareLineFeed => "a line ends in LF without CR",
            Self::BareCarriageReturn => "CR is not followed by LF",
            Self::ControlCharacter => "a control character in the head or in a chunk extension",
            Self::BadMethod => "the method is not a token",
            Self::BadTarget => "the request target is empty, or holds white space or a fragment",
            Self::BadVersion => "the version is neither HTTP/1.0 nor HTTP/1.1",
            Self::BadFieldName => "a field name is not a token followed by a colon",
            Self::ObsoleteFold => "a header line begins with white space",
            Self::BadContentLength => "content-length is not a number",
            Self::RepeatedContentLength => "content-length is given twice",
            Self::LengthAndTransferEncoding => "content-length and transfer-encoding are both given",
            Self::BadTransferEncoding => "transfer-encoding is not \"chunked\", once, and in HTTP/1.1",
            Self::MissingHost => "HTTP/1.1 without host",
            Self::RepeatedHost => "host is given twice",
            Self::ConnectWithBody => "CONNECT with a body",
            Self::BadChunkSize => "a chunk size is not 1 to 16 hexadecimal digits",
            Self::BadChunkExtension => "white space after a chunk size",
            Self::BadChunkEnd => "a chunk's data is not followed by CRLF",
            Self::FramingTrailer => "content-length, transfer-encoding or host among the trailers",
            Self::TargetTooLong => "the request target is too long",
            Self::HeadTooLarge => "the head is too large",
            Self::TooManyHeaders => "too many header fields",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed request: {}", self.reason())
    }
}

impl std::error::Error for Violation {}
