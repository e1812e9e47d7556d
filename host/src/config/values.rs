//! Reads single values: text, numbers, durations, sizes, addresses, and lists of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use toml::de::DeValue;

use super::names::{Kind, suggest};
use super::reader::{Fields, Value};

/// No duration in the file is longer: 30 days. It keeps every `now + timeout` far inside the
/// clock's range.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// No name is longer, in bytes. Names become header values, metric labels and parts of URLs.
const LONGEST_NAME: usize = 128;

pub(super) const NAME_HINT: &str = "a name is 1 to 128 visible ASCII characters, no spaces";

pub(super) fn string(value: &Value<'_>) -> Option<String> {
    text(value, "a string", "put it in quotes")
}

fn text(value: &Value<'_>, expected: &str, hint: &str) -> Option<String> {
    match value.node.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        _ => value.mistyped(expected, hint),
    }
}

pub(super) fn boolean(value: &Value<'_>) -> Option<bool> {
    match value.node.get_ref() {
        DeValue::Boolean(boolean) => Some(*boolean),
        _ => value.mistyped("true or false", "write it without quotes"),
    }
}

/// A whole number inside `range`.
pub(super) fn integer<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&Value<'_>) -> Option<T> {
    move |value| {
        let DeValue::Integer(integer) = value.node.get_ref() else {
            return value.mistyped("a whole number", "write it without quotes or a decimal point");
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => within(value, number, &range, u64::to_string),
            Err(_) => value.fail(format!("{integer} is out of range"), range_hint(&range, u64::to_string)),
        }
    }
}

/// A number of bytes inside `range`: `"64KiB"`, or an integer.
pub(super) fn size<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&Value<'_>) -> Option<T> {
    const HINT: &str = "write it as in \"64KiB\", \"16MiB\" or \"1GB\"";
    move |value| {
        if matches!(value.node.get_ref(), DeValue::Integer(_)) {
            let bytes = integer::<u64>(0..=u64::MAX)(value)?;
            return within(value, bytes, &range, show_size);
        }
        let text = text(value, "a size", HINT)?;
        match text.parse::<ByteSize>() {
            Ok(size) => within(value, size.as_u64(), &range, show_size),
            Err(_) => value.fail(format!("{text:?} is not a size"), HINT),
        }
    }
}

fn within<T: TryFrom<u64>>(
    value: &Value<'_>,
    number: u64,
    range: &RangeInclusive<u64>,
    show: fn(&u64) -> String,
) -> Option<T> {
    match T::try_from(number) {
        Ok(number_in_type) if range.contains(&number) => Some(number_in_type),
        _ => value.fail(format!("{} is out of range", show(&number)), range_hint(range, show)),
    }
}

fn range_hint(range: &RangeInclusive<u64>, show: fn(&u64) -> String) -> String {
    format!("from {} to {}", show(range.start()), show(range.end()))
}

fn show_size(bytes: &u64) -> String {
    ByteSize(*bytes).to_string()
}

/// A duration of 0 to 30 days.
pub(super) fn duration(value: &Value<'_>) -> Option<Duration> {
    const HINT: &str = "write it with a unit, as in \"250ms\", \"5s\" or \"1h\"";
    let text = text(value, "a duration", HINT)?;
    match parse_duration(&text) {
        Some(duration) if duration <= LONGEST => Some(duration),
        Some(_) => value.fail(format!("{text:?} is too long"), "the longest is \"30days\""),
        None => value.fail(format!("{text:?} is not a duration"), HINT),
    }
}

/// A duration above zero.
pub(super) fn timeout(value: &Value<'_>) -> Option<Duration> {
    let duration = duration(value)?;
    if duration.is_zero() {
        return value.fail("a timeout of zero would fail everything", "write a duration above zero");
    }
    Some(duration)
}

/// The same where there may be none. The inner `None` is the word `"none"`.
pub(super) fn timeout_or_none(value: &Value<'_>) -> Option<Option<Duration>> {
    if matches!(value.node.get_ref(), DeValue::String(word) if word == "none") {
        return Some(None);
    }
    let duration = duration(value)?;
    if duration.is_zero() {
        return value.fail("a timeout of zero would fail everything", "write \"none\" to set no limit");
    }
    Some(Some(duration))
}

fn parse_duration(text: &str) -> Option<Duration> {
    // humantime panics when a sum ends exactly at the limit of `Duration`. Sixty-four bytes of
    // numbers under a thousand million cannot come near, whatever the units.
    let compact: String = text.split_whitespace().collect();
    let small = |digits: &str| digits.len() <= 9;
    let safe = compact.len() <= 64 && compact.split(|c: char| !c.is_ascii_digit()).all(small);
    // A bare "0" is the one number that humantime takes without a unit.
    if !safe || compact == "0" {
        return None;
    }
    humantime::parse_duration(&compact).ok()
}

/// A name as it may stand in a header, a metric label or a URL.
pub(super) fn name(value: &Value<'_>) -> Option<String> {
    let name = string(value)?;
    match check_name(&name) {
        Ok(()) => Some(name),
        Err(message) => value.fail(message, NAME_HINT),
    }
}

pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("the name is empty")
    } else if name.len() > LONGEST_NAME {
        Err("the name is too long")
    } else if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        Err("the name has a character that is not allowed")
    } else {
        Ok(())
    }
}

/// The name of something that the file defines elsewhere.
pub(super) fn reference(kind: Kind) -> impl Fn(&Value<'_>) -> Option<String> {
    move |value| {
        let name = string(value)?;
        value.reader.refer(kind, &name, value.at());
        Some(name)
    }
}

/// One of a few words.
pub(super) fn choice<T: Copy>(choices: &'static [(&'static str, T)]) -> impl Fn(&Value<'_>) -> Option<T> {
    move |value| {
        let word = string(value)?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == word) {
            return Some(*choice);
        }
        let hint = suggest(&word, choices.iter().map(|(name, _)| *name)).unwrap_or_default();
        value.fail(format!("unknown value {word:?}"), hint)
    }
}

pub(super) fn path(value: &Value<'_>) -> Option<PathBuf> {
    let path = string(value)?;
    if path.is_empty() || path.contains('\0') {
        return value.fail("not a path", "name a file or directory");
    }
    Some(PathBuf::from(path))
}

/// The path of a URL, or the front of one: begins with `/`.
pub(super) fn url_path(value: &Value<'_>) -> Option<String> {
    let path = string(value)?;
    let valid = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#');
    match path.strip_prefix('/') {
        Some(_) if valid => Some(path),
        Some(_) => value.fail(
            format!("{path:?} is not a path"),
            "a path has no query, fragment or spaces; write other characters as in %20",
        ),
        None => value.fail(format!("{path:?} does not begin with a slash"), format!("write \"/{path}\"")),
    }
}

/// An IP address and port to listen on.
pub(super) fn socket_address(value: &Value<'_>) -> Option<SocketAddr> {
    const HINT: &str = "write an IP address and a port, as in \"127.0.0.1:15001\" or \"[::1]:15001\"";
    let text = text(value, "an address", HINT)?;
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => value.fail(format!("{text:?} is not an address"), HINT),
    }
}

/// `host:port` to connect to; the host, a name or an IP address, is resolved when it is used.
pub(super) fn host_and_port(value: &Value<'_>) -> Option<String> {
    const HINT: &str = "write host and port, as in \"127.0.0.1:3201\" or \"users.local:80\"";
    let address = text(value, "an address", HINT)?;
    if let Some((_, rest)) = address.split_once("://") {
        return value.fail(format!("{address:?} is not host:port"), format!("write {rest:?}, without a scheme"));
    }
    let is_name = |host: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        !host.is_empty() && host.len() <= 253 && host.bytes().all(allowed)
    };
    let port = match (address.parse::<SocketAddr>(), address.rsplit_once(':')) {
        (Ok(ip), _) => Some(ip.port()),
        (Err(_), Some((host, port))) if is_name(host) => port.parse().ok(),
        _ => None,
    };
    match port {
        Some(1..) => Some(address),
        _ => value.fail(format!("{address:?} is not host:port"), HINT),
    }
}

/// An array; elements that cannot be read are reported and left out.
pub(super) fn list<'a, T>(read: impl Fn(&Value<'a>) -> Option<T>) -> impl Fn(&Value<'a>) -> Option<Vec<T>> {
    move |value| {
        let items = value.items("an array", "put it in [ ]")?;
        Some(items.iter().filter_map(&read).collect())
    }
}

/// A table with keys of the author's choosing and strings for values.
pub(super) fn strings(value: &Value<'_>) -> Option<BTreeMap<String, String>> {
    let entries = value.entries()?;
    Some(entries.into_iter().filter_map(|(key, _, value)| Some((key.to_owned(), string(&value)?))).collect())
}

/// A table with the fields that `read` asks for.
pub(super) fn table<'a, T>(read: impl Fn(&mut Fields<'a>) -> Option<T>) -> impl Fn(&Value<'a>) -> Option<T> {
    move |value| value.fields(&read)
}
