use std::fmt;

/// What went wrong in a hook, or what is wrong with a configuration. Any `std::error::Error` converts with `?`; [`Error::new`] makes one of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pointer: String,
    message: String,
}

/// The result of a hook. An error is handled by the policy's `on-error`: the exchange is refused, or the policy skipped.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(message: impl Into<String>) -> Self {
        Self { pointer: String::new(), message: message.into() }
    }

    /// A problem of the configuration at this JSON Pointer (RFC 6901), as in `/backoff/initial`.
    pub fn at(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }

    /// The JSON Pointer given to [`Error::at`]; empty for all other errors.
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.pointer)?;
        }
        f.write_str(&self.message)
    }
}

// `Error` itself is not a `std::error::Error`, which is what lets every one of those convert into it.
impl<E: Into<Box<dyn std::error::Error>>> From<E> for Error {
    fn from(error: E) -> Self {
        Self::new(error.into().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_strings_convert() {
        fn number(text: &str) -> Result<u32> {
            if text.is_empty() {
                return Err("nothing".into());
            }
            let number: u32 = text.parse()?;
            (number < 10).then_some(number).ok_or_else(|| format!("{number} is too much"))?;
            Err(Error::at("/number", "is never right"))?
        }
        let message = |text| number(text).err().map(|error| error.to_string());
        assert_eq!(message("").as_deref(), Some("nothing"));
        assert_eq!(message("x").as_deref(), Some("invalid digit found in string"));
        assert_eq!(message("12").as_deref(), Some("12 is too much"));
        assert_eq!(message("1").as_deref(), Some("/number: is never right"));
    }
}
