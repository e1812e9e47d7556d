//! The field `tracestate` (W3C Trace Context, section 3.3): what is kept of it.

use std::borrow::Cow;

/// Members in a list.
const MEMBERS: usize = 32;
/// Characters that are sent on: what every participant has to be able to.
const LENGTH: usize = 512;
/// A member longer than this is the first to go when the whole is too long.
const LONG_MEMBER: usize = 128;

/// What to send on of the field as received: the same, or less where it is too long. `None`: it is malformed or empty, and
/// is dropped as a whole. A key that occurs twice is for its owner to settle and stays.
pub fn kept(received: &[u8]) -> Option<Cow<'_, str>> {
    let received = std::str::from_utf8(received).ok()?;
    let members =
        || received.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty());
    let number = members().take(MEMBERS + 1).count();
    if number == 0 || number > MEMBERS || !members().all(is_member) {
        return None;
    }
    if received.len() <= LENGTH {
        return Some(Cow::Borrowed(received));
    }
    let mut members: Vec<&str> = members().collect();
    while members.iter().map(|member| member.len() + 1).sum::<usize>() > LENGTH + 1 {
        let last = members.iter().rposition(|member| member.len() > LONG_MEMBER);
        members.remove(last.unwrap_or(members.len() - 1));
    }
    if members.is_empty() { None } else { Some(Cow::Owned(members.join(","))) }
}

fn is_member(member: &str) -> bool {
    member.split_once('=').is_some_and(|(key, value)| is_key(key) && is_value(value))
}

/// A key, or a tenant's at a vendor. Level 2 of the specification lets any of them begin with a digit.
fn is_key(key: &str) -> bool {
    match key.split_once('@') {
        Some((tenant, vendor)) => is_name(tenant, 241) && is_name(vendor, 14),
        None => is_name(key, 256),
    }
}

fn is_name(name: &str, longest: usize) -> bool {
    let of_name = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/');
    name.len() <= longest
        && name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name.bytes().all(of_name)
}

fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len()) && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=')
}
