//! CloudEvents 1.0 over HTTP, in binary and in structured mode, as far as a proxy has to know them: events are kept as
//! they came, and refused if they are none.
//!
//! Attribute names and the required ones: CloudEvents 1.0.2, "Context Attributes"; modes: its HTTP Protocol Binding,
//! section 3; the key: its Partitioning extension.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// What a message says of itself as a CloudEvent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Source and id, which together are unique.
    pub id: String,
    /// Of the Partitioning extension.
    pub key: Option<String>,
}

/// The event that a message is, if it claims to be one.
///
/// # Errors
/// It claims so, and is none: what is missing or wrong.
pub fn event(headers: &HeaderMap, body: &[u8]) -> Result<Option<Event>, String> {
    if is(headers, STRUCTURED) {
        let event = serde_json::from_slice(body).map_err(|error| format!("it is not JSON: {error}"))?;
        let Value::Object(event) = event else { return Err("it is not a JSON object".into()) };
        return structured(&event).map(Some);
    }
    if !headers.contains_key("ce-specversion") {
        return Ok(None);
    }
    let value = |name: &str| {
        let value = headers.get(format!("ce-{name}")).map(|value| value.to_str());
        match value {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text.to_owned())),
            Some(Err(_)) => Err(format!("field \"ce-{name}\" is not ASCII: percent-encode it")),
        }
    };
    check(|name| value(name), "ce-").map(Some)
}

/// An event in JSON.
///
/// # Errors
/// As [`event`] has them.
pub fn structured(event: &Map<String, Value>) -> Result<Event, String> {
    let value = |name: &str| match event.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("attribute {name:?} is not a string")),
    };
    if event.contains_key("data") && event.contains_key("data_base64") {
        return Err("it has both \"data\" and \"data_base64\"".into());
    }
    check(value, "")
}

fn check(value: impl Fn(&str) -> Result<Option<String>, String>, prefix: &str) -> Result<Event, String> {
    for name in REQUIRED {
        match value(name)?.as_deref() {
            None | Some("") => return Err(format!("{:?} is missing or empty", format!("{prefix}{name}"))),
            Some(version) if name == "specversion" && version != "1.0" => {
                return Err(format!("{prefix}specversion is {version:?}, and only \"1.0\" is known"));
            }
            Some(_) => {}
        }
    }
    let (source, id) = (value("source")?.unwrap_or_default(), value("id")?.unwrap_or_default());
    Ok(Event { id: format!("{source}#{id}"), key: value("partitionkey")?.filter(|key| !key.is_empty()) })
}

/// Whether it is a batch of events.
pub fn is_batch(headers: &HeaderMap) -> bool {
    is(headers, BATCH)
}

/// The content type of one event in JSON.
pub const CONTENT_TYPE_OF_EVENT: &str = "application/cloudevents+json; charset=utf-8";

fn is(headers: &HeaderMap, media_type: &str) -> bool {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media_type)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn binary(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    const GOOD: [(&str, &str); 4] =
        [("ce-specversion", "1.0"), ("ce-id", "7"), ("ce-source", "/orders"), ("ce-type", "order.created")];

    #[test]
    fn what_claims_nothing_is_no_event() {
        assert_eq!(event(&binary(&[("content-type", "application/json")]), b"{").unwrap(), None);
        assert_eq!(event(&binary(&[("ce-id", "7")]), b"").unwrap(), None);
    }

    #[test]
    fn source_and_id_tell_events_apart() {
        let found = event(&binary(&GOOD), b"anything").unwrap().unwrap();
        assert_eq!(found, Event { id: "/orders#7".into(), key: None });
        let keyed = [&GOOD[..], &[("ce-partitionkey", "customer-1")]].concat();
        assert_eq!(event(&binary(&keyed), b"").unwrap().unwrap().key.as_deref(), Some("customer-1"));
    }

    #[test]
    fn an_event_without_a_required_attribute_is_refused_by_its_name() {
        for missing in REQUIRED.iter().skip(1) {
            let fields: Vec<_> = GOOD.into_iter().filter(|(name, _)| *name != format!("ce-{missing}")).collect();
            assert!(event(&binary(&fields), b"").unwrap_err().contains(missing), "{missing}");
            let mut json = json!({ "specversion": "1.0", "id": "7", "source": "/orders", "type": "order.created" });
            json.as_object_mut().unwrap().remove(*missing);
            assert!(structured(json.as_object().unwrap()).unwrap_err().contains(missing), "{missing}");
        }
    }

    #[test]
    fn a_structured_event_has_to_be_one() {
        let kind = binary(&[("content-type", "Application/CloudEvents+JSON; charset=utf-8")]);
        let good = json!({ "specversion": "1.0", "id": "7", "source": "/orders", "type": "t", "data": { "a": 1 } });
        assert_eq!(event(&kind, good.to_string().as_bytes()).unwrap().unwrap().id, "/orders#7");
        for (body, why) in [
            ("", "not JSON"),
            ("[]", "not a JSON object"),
            (r#"{"specversion":"0.3","id":"7","source":"s","type":"t"}"#, "0.3"),
            (r#"{"specversion":"1.0","id":7,"source":"s","type":"t"}"#, "not a string"),
            (r#"{"specversion":"1.0","id":"7","source":"s","type":"t","data":1,"data_base64":""}"#, "both"),
        ] {
            let refused = event(&kind, body.as_bytes()).unwrap_err();
            assert!(refused.contains(why), "{body}: {refused}");
        }
    }
}
