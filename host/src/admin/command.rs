//! What an operator can change: `POST /plugins/{name}/revert`, `…/pin` and `…/unpin`.

use super::{Admin, error, json, not_allowed};
use crate::reload::command::{Action, CommandError};
use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use std::net::{IpAddr, Ipv6Addr};

/// Where commands are given, for the list of pages.
pub const PAGES: [&str; 3] = ["POST /plugins/{name}/revert", "POST /plugins/{name}/pin", "POST /plugins/{name}/unpin"];

/// What the path of a command says.
struct Asked {
    plugin: String,
    verb: Verb,
}

#[derive(Clone, Copy)]
enum Verb {
    Revert,
    Pin,
    Unpin,
}

impl Admin {
    /// `None`: the path is not that of a command.
    pub(super) async fn command<B>(&self, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
        let Asked { plugin, verb } = asked(request.uri().path())?;
        if request.method() != Method::POST {
            return Some(not_allowed("POST", "commands are given with POST"));
        }
        if let Err(why) = check_origin(request.uri(), request.headers()) {
            return Some(error(StatusCode::FORBIDDEN, "forbidden", why));
        }
        let action = match action(verb, request.uri().query().unwrap_or_default()) {
            Ok(action) => action,
            Err(why) => return Some(error(StatusCode::BAD_REQUEST, "bad-request", &why)),
        };
        Some(match self.commands.give(&plugin, action).await {
            Ok(()) => json(
                StatusCode::OK,
                &json!({ "generation": self.node.generation(), "plugin": self.plugin_named(&plugin) }),
            ),
            Err(why) => {
                let (status, kind) = match &why {
                    CommandError::Unknown(_) => (StatusCode::NOT_FOUND, "not-found"),
                    CommandError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
                    CommandError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
                    CommandError::Late => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
                };
                error(status, kind, &why.to_string())
            }
        })
    }
}

fn asked(path: &str) -> Option<Asked> {
    let (plugin, verb) = path.strip_prefix("/plugins/")?.rsplit_once('/')?;
    let verb = match verb {
        "revert" => Verb::Revert,
        "pin" => Verb::Pin,
        "unpin" => Verb::Unpin,
        _ => return None,
    };
    Some(Asked { plugin: percent_decode_str(plugin).decode_utf8().ok()?.into_owned(), verb })
}

fn action(verb: Verb, query: &str) -> Result<Action, String> {
    let digest = match query.split_once('=') {
        None if query.is_empty() => None,
        Some(("digest", digest)) if !digest.is_empty() && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Some(digest.to_ascii_lowercase())
        }
        _ => return Err(format!("{query:?} is not understood: write ?digest= and the beginning of a digest")),
    };
    match (verb, digest) {
        (Verb::Revert, digest) => Ok(Action::Revert(digest)),
        (Verb::Unpin, digest) => Ok(Action::Unpin(digest)),
        (Verb::Pin, None) => Ok(Action::Pin),
        (Verb::Pin, Some(_)) => Err("what serves is pinned: `revert` chooses another version".to_owned()),
    }
}

/// There is no login, and a browser on this machine reaches loopback: what a web page may have sent is refused, also by a
/// name that its owner has pointed here.
fn check_origin(uri: &Uri, headers: &HeaderMap) -> Result<(), &'static str> {
    let from_elsewhere = |site: &http::HeaderValue| !matches!(site.as_bytes(), b"same-origin" | b"none");
    if headers.contains_key(header::ORIGIN) || headers.get_all("sec-fetch-site").iter().any(from_elsewhere) {
        return Err("commands are not taken from web pages");
    }
    let of_field = headers.get_all(header::HOST).iter().map(|host| host.as_bytes());
    let mut hosts = of_field.chain(uri.authority().map(|authority| authority.as_str().as_bytes())).peekable();
    let is_named = hosts.peek().is_some();
    if is_named && hosts.all(is_this_machine) {
        Ok(())
    } else {
        Err("the host of a command is an IP address or localhost")
    }
}

fn is_this_machine(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    let host = authority.host();
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok()
        || in_brackets.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(target: &str, fields: &[(&'static str, &'static str)]) -> bool {
        let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        check_origin(&target.parse().unwrap(), &fields.collect()).is_ok()
    }

    #[test]
    fn commands_come_from_this_machine_and_from_no_web_page() {
        for host in ["127.0.0.1:9900", "127.0.0.1", "[::1]:9900", "10.1.2.3:9900", "localhost:9900", "LocalHost"] {
            let host = Box::leak(host.to_owned().into_boxed_str());
            assert!(checked("/", &[("host", host)]), "{host}");
            assert!(checked("/", &[("host", host), ("sec-fetch-site", "none")]), "{host}");
            for (name, value) in [
                ("origin", "http://evil.example"),
                ("origin", "null"),
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-site", "same-site"),
            ] {
                assert!(!checked("/", &[("host", host), (name, value)]), "{host} {name} {value}");
            }
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:9900", "evil@127.0.0.1.example", "", " "]
        {
            let host = Box::leak(host.to_owned().into_boxed_str());
            assert!(!checked("/", &[("host", host)]), "{host}");
        }
        assert!(!checked("/", &[]), "a request without a host");
        assert!(!checked("/", &[("host", "127.0.0.1"), ("host", "evil.example")]));
        assert!(!checked("http://evil.example/", &[("host", "127.0.0.1")]), "the target's authority counts");
    }

    #[test]
    fn a_command_names_a_plugin_and_perhaps_a_digest() {
        let of = |path: &str| asked(path).map(|asked| asked.plugin);
        assert_eq!(of("/plugins/a%20b/revert").as_deref(), Some("a b"));
        assert!(of("/plugins/revert").is_none() && of("/plugins/a/rewind").is_none() && of("/plugins").is_none());
        assert_eq!(action(Verb::Revert, "digest=AB12"), Ok(Action::Revert(Some("ab12".into()))));
        assert_eq!(action(Verb::Unpin, ""), Ok(Action::Unpin(None)));
        for query in ["digest=", "digest=xyz", "digest", "generation=1", "digest=ab&digest=cd"] {
            assert!(action(Verb::Revert, query).is_err(), "{query}");
        }
        assert!(action(Verb::Pin, "digest=ab").is_err());
    }
}
