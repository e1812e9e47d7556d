//! Why a request got no answer, in plain words, and whether the endpoint may have seen it.

use std::error::Error;
use std::io;
use std::time::Duration;
use thiserror::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendFailure {
    /// No connection could be made.
    Connect,
    /// The connect timeout passed.
    ConnectTimeout,
    /// The endpoint, or what lies between, broke off.
    Reset,
    /// What the endpoint sent is not the HTTP that was expected.
    Protocol,
    /// This node has too much to do: too many connections, too many that wait for one.
    Overload,
    /// The body to be sent broke off on the caller's side. Says nothing about the endpoint.
    Upload,
}

#[derive(Debug, Clone, Error)]
#[error("{message}")]
pub struct SendError {
    pub failure: SendFailure,
    /// False only where it is certain that the endpoint did not get the request (RFC 9113 section 8.7 for HTTP/2).
    pub reached: bool,
    /// Names the endpoint and the cause.
    pub message: String,
}

impl SendError {
    fn new(failure: SendFailure, message: String) -> Self {
        Self { failure, reached: true, message }
    }

    pub(super) fn unreached(self) -> Self {
        Self { reached: false, ..self }
    }

    pub(super) fn connect(address: &str, patience: Duration, error: &io::Error) -> Self {
        let exhausted = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        let (failure, cause) = match error.kind() {
            io::ErrorKind::TimedOut => (SendFailure::ConnectTimeout, format!("no answer within {patience:?}")),
            _ if exhausted => (SendFailure::Overload, root_cause(error)),
            _ => (SendFailure::Connect, root_cause(error)),
        };
        Self::new(failure, format!("cannot connect to {address}: {cause}")).unreached()
    }

    pub(super) fn overload(address: &str, cause: &str) -> Self {
        let message = format!("too many requests to {address} at once: {cause}");
        Self::new(SendFailure::Overload, message).unreached()
    }

    /// The connection was closed before the request was written to it.
    pub(super) fn unsent(address: &str, error: &hyper::Error) -> Self {
        let cause = root_cause(error);
        let message = format!("{address} closed the connection before the request was sent: {cause}");
        Self::new(SendFailure::Reset, message).unreached()
    }

    /// New connections to `address` are closed as soon as they are made.
    pub(super) fn closed(address: &str) -> Self {
        let message = format!("{address} closes every connection at once");
        Self::new(SendFailure::Reset, message).unreached()
    }

    /// An HTTP/1.1 exchange broke after the request was, at least in part, written.
    pub(super) fn http1(address: &str, error: &hyper::Error) -> Self {
        if error.is_user() {
            return Self::upload(address, root_cause(error));
        }
        if error.is_parse() {
            return Self::malformed(address, "HTTP/1.1", root_cause(error));
        }
        let message = if error.is_incomplete_message() {
            format!("{address} closed the connection before it answered")
        } else {
            broken(address, error)
        };
        Self::new(SendFailure::Reset, message)
    }

    /// An HTTP/2 stream, or its connection, broke.
    pub(super) fn http2(address: &str, error: &hyper::Error) -> Self {
        if error.is_timeout() {
            let message = format!("{address} left pings unanswered");
            return Self::new(SendFailure::Reset, message);
        }
        let Some(cause) = find_h2(error) else {
            let message = broken(address, error);
            return Self::new(SendFailure::Reset, message);
        };
        let reason = cause.reason().unwrap_or(h2::Reason::INTERNAL_ERROR);
        match (cause.is_go_away(), cause.is_reset(), cause.is_remote()) {
            // h2 gives a stream the peer's GOAWAY only if the stream is above the last one that the peer took up.
            (true, _, true) => {
                let message = format!("{address} is closing the connection: {}", root_cause(cause));
                Self::new(SendFailure::Reset, message).unreached()
            }
            (_, true, true) => {
                let failure = match reason {
                    h2::Reason::HTTP_1_1_REQUIRED => SendFailure::Protocol,
                    _ => SendFailure::Reset,
                };
                let message = format!("{address} reset the stream: {}", root_cause(cause));
                Self { reached: reason != h2::Reason::REFUSED_STREAM, ..Self::new(failure, message) }
            }
            // A reset that neither the peer nor h2 asked for: hyper's, when the body to be sent fails.
            (_, true, false) if !cause.is_library() => Self::upload(address, "the caller's body failed".to_owned()),
            _ => Self::malformed(address, "HTTP/2", root_cause(cause)),
        }
    }

    fn upload(address: &str, cause: String) -> Self {
        let message = format!("the body for {address} broke off: {cause}");
        Self::new(SendFailure::Upload, message)
    }

    fn malformed(address: &str, protocol: &str, cause: String) -> Self {
        let message = format!("{address} does not speak {protocol} as it should: {cause}");
        Self::new(SendFailure::Protocol, message)
    }
}

fn broken(address: &str, error: &hyper::Error) -> String {
    format!("the connection to {address} broke: {}", root_cause(error))
}

fn find_h2(error: &hyper::Error) -> Option<&h2::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// An error and what it comes from, the outermost first.
fn causes<'error>(error: &'error (dyn Error + 'static)) -> impl Iterator<Item = &'error (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause: &&'error (dyn Error + 'static)| cause.source())
}

/// The innermost cause, without the system's error number.
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    let text = causes(error).last().unwrap_or(error).to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_ascii_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_is_told_in_plain_words() {
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let error = SendError::connect("127.0.0.1:3201", Duration::from_secs(1), &refused);
        assert_eq!(error.to_string(), "cannot connect to 127.0.0.1:3201: connection refused");
        assert_eq!((error.failure, error.reached), (SendFailure::Connect, false));
    }

    #[test]
    fn lack_of_file_descriptors_is_not_held_against_the_endpoint() {
        let lack = io::Error::from_raw_os_error(libc::EMFILE);
        let error = SendError::connect("127.0.0.1:3201", Duration::from_secs(1), &lack);
        assert_eq!((error.failure, error.reached), (SendFailure::Overload, false));
    }
}
