//! Header maps as policies see and edit them, of calls and of messages.

use crate::call::request;
use crate::plugin::bindings::types;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;
use std::borrow::Cow;

/// All values of a field as one (RFC 9110, section 5.3; cookies by RFC 6265, section 5.4).
pub fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(first.as_bytes().into()) };
    let separator: &[u8] = if name == COOKIE { b"; " } else { b", " };
    let mut all = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        all.extend_from_slice(separator);
        all.extend_from_slice(value.as_bytes());
    }
    Some(all.into())
}

/// An edit whose name and value can be in a header.
enum Checked {
    Set(HeaderName, HeaderValue),
    Append(HeaderName, HeaderValue),
    Remove(HeaderName),
}

/// Makes all of the edits, or none.
///
/// # Errors
/// A field is not a policy's to change, or its bytes are not valid.
pub fn apply(headers: &mut HeaderMap, edits: &[types::Edit]) -> Result<(), String> {
    let checked: SmallVec<[Checked; 4]> = edits.iter().map(checked).collect::<Result<_, _>>()?;
    // What `HeaderMap` takes at most is far above what a caller or an endpoint may send.
    let too_many = |_| "there are too many fields".to_owned();
    checked.into_iter().try_for_each(|edit| match edit {
        Checked::Set(name, value) => headers.try_insert(name, value).map(drop).map_err(too_many),
        Checked::Append(name, value) => headers.try_append(name, value).map(drop).map_err(too_many),
        Checked::Remove(name) => {
            headers.remove(&name);
            Ok(())
        }
    })
}

fn checked(edit: &types::Edit) -> Result<Checked, String> {
    let field = |name: &str, value: &[u8]| {
        let name = request::editable_name(name)?;
        let value = request::editable_value(&name, value)?;
        Ok::<_, String>((name, value))
    };
    Ok(match edit {
        types::Edit::Set((name, value)) => field(name, value).map(|(name, value)| Checked::Set(name, value))?,
        types::Edit::Append((name, value)) => field(name, value).map(|(name, value)| Checked::Append(name, value))?,
        types::Edit::Remove(name) => Checked::Remove(request::editable_name(name)?),
    })
}

/// Text as bytes.
pub fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}
