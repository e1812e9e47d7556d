//! Writes values the way the file would: for `Serialize`.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use serde::{Serialize, Serializer};

pub(super) fn duration<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

/// A path of which `None` means that there is none.
pub(super) fn path_or_off<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => serializer.collect_str(&path.display()),
        None => serializer.serialize_str("off"),
    }
}

/// A timeout of which `None` means that there is none.
pub(super) fn timeout<S: Serializer>(timeout: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match timeout {
        Some(timeout) => duration(timeout, serializer),
        None => serializer.serialize_str("none"),
    }
}

/// The same, of which an outer `None` is left out (with `skip_serializing_if`).
pub(super) fn optional_timeout<S: Serializer>(
    timeout: &Option<Option<Duration>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    self::timeout(&timeout.flatten(), serializer)
}

/// A duration of which `None` is left out (with `skip_serializing_if`).
pub(super) fn optional_duration<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => self::duration(duration, serializer),
        None => serializer.serialize_none(),
    }
}

pub(super) fn each<T: Display, S: Serializer>(items: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(items.iter().map(T::to_string))
}

/// What is shared.
pub(super) fn items<T: Serialize, S: Serializer>(items: &[Arc<T>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(items.iter().map(|item| &**item))
}

pub(super) fn headers<S: Serializer>(headers: &[(HeaderName, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.iter().map(|(name, value)| (name.as_str(), value)))
}

/// What can be turned off.
pub(super) fn or_off<T: Serialize, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => value.serialize(serializer),
        None => serializer.serialize_str("off"),
    }
}
