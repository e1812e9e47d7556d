//! Where a request wants to go.

use crate::response::{ErrorKind, ProxyError};
use bytes::{BufMut, BytesMut};
use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri, Version};
use std::net::Ipv6Addr;

/// The target of a request, whatever form it came in (RFC 9112, section 3.2).
///
/// It has one reading. An absolute target overrules `host`, as callers that use the listener as an HTTP proxy expect; on
/// HTTP/2 the two must agree. Names have letters, digits, `-`, `.`, `_` and `~` only: RFC 3986 allows more, but no name
/// that resolves has them, and others take `a,b` for two hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    authority: HeaderValue,
    /// Bytes of the authority that are the host, without a dot at the end.
    host_bytes: usize,
    /// The host, where it was not in lower case.
    lower_case: Option<Box<str>>,
    path_and_query: PathAndQuery,
}

impl Target {
    /// # Errors
    /// Bad request: the request names no host or no path, two of them, or one that is malformed.
    pub fn of(parts: &Parts) -> Result<Self, ProxyError> {
        find(parts).map_err(|message| ProxyError::new(ErrorKind::BadRequest, message))
    }

    /// Host and port as the caller gave them; empty if it gave none, as it may in HTTP/1.0.
    pub fn authority(&self) -> &str {
        text(&self.authority)
    }

    /// What `host` has to be on the way to the service.
    pub fn host_field(&self) -> &HeaderValue {
        &self.authority
    }

    /// In lower case, without port and without a dot at the end; IPv6 addresses in brackets.
    pub fn host(&self) -> &str {
        match &self.lower_case {
            Some(host) => host,
            None => self.authority().get(..self.host_bytes).unwrap_or_default(),
        }
    }

    /// Begins with `/`, or is `*` (OPTIONS only).
    pub fn path(&self) -> &str {
        self.path_and_query.path()
    }

    pub fn path_and_query(&self) -> &str {
        self.path_and_query.as_str()
    }

    /// The path and query for a service that is not to see a prefix of the path.
    ///
    /// The prefix is taken off in whole segments, and only where the path begins with it: `/users` leaves `/1` of
    /// `/users/1`, `/` of `/users`, and `/usersx` as it is.
    pub fn without_prefix(&self, prefix: &str) -> PathAndQuery {
        let path_and_query = &self.path_and_query;
        let prefix = prefix.trim_end_matches('/');
        let rest = path_and_query.as_str().strip_prefix(prefix).filter(|_| !prefix.is_empty());
        match rest.map(|rest| (rest, rest.as_bytes().first())) {
            Some((rest, Some(b'/'))) => rest.try_into().unwrap_or_else(|_| path_and_query.clone()),
            Some((rest, None | Some(b'?'))) => with_slash(rest).unwrap_or_else(|| path_and_query.clone()),
            _ => path_and_query.clone(),
        }
    }
}

fn find(parts: &Parts) -> Result<Target, String> {
    let host = host_field(parts)?;
    let (authority, host_bytes) = match (parts.uri.authority().map(http::uri::Authority::as_str), host) {
        // Always a valid value, for it has fewer characters to choose from.
        (Some(authority), _) => {
            let authority = HeaderValue::from_str(authority).map_err(|_| "the target's authority is malformed")?;
            let host_bytes = host_bytes(&authority)?;
            (authority, host_bytes)
        }
        (None, Some((host, host_bytes))) => (host.clone(), host_bytes),
        (None, None) => (HeaderValue::from_static(""), 0),
    };
    let path_and_query = path_and_query(parts)?;
    if parts.version == Version::HTTP_2 {
        match host {
            // RFC 9113, section 8.3.1.
            Some((host, _)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => {
                return Err(format!("host {:?} is not the same as :authority {:?}", text(host), text(&authority)));
            }
            _ if authority.is_empty() => return Err("neither :authority nor host names a host".into()),
            _ => {}
        }
    }
    let host = text(&authority).get(..host_bytes).unwrap_or_default();
    let lower_case = host.bytes().any(|byte| byte.is_ascii_uppercase()).then(|| host.to_ascii_lowercase().into());
    Ok(Target { authority, host_bytes, lower_case, path_and_query })
}

/// The `host` field, which has to be there once in HTTP/1.1 (RFC 9112, section 3.2) and nowhere twice.
///
/// With the bytes of it that are the host.
fn host_field(parts: &Parts) -> Result<Option<(&HeaderValue, usize)>, String> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("there is more than one host field".into());
    }
    match host {
        Some(host) => Ok(Some((host, host_bytes(host)?))),
        None if parts.version == Version::HTTP_11 => Err("there is no host field".into()),
        None => Ok(None),
    }
}

fn path_and_query(parts: &Parts) -> Result<PathAndQuery, String> {
    let Parts { method, uri, version, .. } = parts;
    if method == Method::CONNECT {
        return connect_path(uri);
    }
    match uri.scheme_str() {
        None if uri.authority().is_some() && *version != Version::HTTP_2 => {
            return Err(format!("target {:?} has to begin with \"/\" or \"http://\"", uri.to_string()));
        }
        // On HTTP/2 https is what the caller used up to whatever took TLS off.
        None | Some("http") => {}
        Some("https") if *version == Version::HTTP_2 => {}
        Some(scheme) => {
            return Err(format!(
                "target has scheme {scheme:?}; call the service by http, TLS is not for the proxy to begin"
            ));
        }
    }
    let given = uri.path_and_query();
    match given.map_or("/", PathAndQuery::as_str) {
        "*" if method != Method::OPTIONS => Err(format!("target \"*\" is for OPTIONS, not for {method}")),
        // As after `http://user-service?a=1`, which has no path.
        query if query.starts_with('?') => with_slash(query).ok_or_else(|| "the target is malformed".into()),
        _ => Ok(given.cloned().unwrap_or(PathAndQuery::from_static("/"))),
    }
}

/// CONNECT names host and port, and nothing else (RFC 9112, section 3.2.3).
fn connect_path(uri: &Uri) -> Result<PathAndQuery, String> {
    let has_port = uri.port_u16().is_some();
    if uri.scheme().is_some() || uri.path_and_query().is_some() || !has_port {
        return Err("the target of CONNECT has to be host:port".into());
    }
    Ok(PathAndQuery::from_static("/"))
}

fn with_slash(query: &str) -> Option<PathAndQuery> {
    let mut path = BytesMut::with_capacity(query.len() + 1);
    path.put_u8(b'/');
    path.put_slice(query.as_bytes());
    PathAndQuery::from_maybe_shared(path.freeze()).ok()
}

/// How much of an authority is its host, without a dot at the end. Empty is valid: a target need not name a host.
fn host_bytes(authority: &HeaderValue) -> Result<usize, String> {
    let text = text(authority);
    let malformed = || format!("host {text:?} has to be a name or an address, and a port if need be");
    if text.is_empty() {
        return if authority.is_empty() { Ok(0) } else { Err("the host has characters that are not ASCII".into()) };
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(malformed)?;
            address.parse::<Ipv6Addr>().map_err(|_| malformed())?;
            (address.len() + 2, port)
        }
        None => {
            let host = text.find(':').unwrap_or(text.len());
            let (name, port) = text.split_at_checked(host).ok_or_else(malformed)?;
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)) {
                return Err(malformed());
            }
            (name.strip_suffix('.').unwrap_or(name).len(), port)
        }
    };
    // RFC 3986, section 3.2.3: the number may be missing.
    let valid = match port.strip_prefix(':') {
        Some(digits) => {
            digits.len() <= 5
                && digits.bytes().all(|byte| byte.is_ascii_digit())
                && (digits.is_empty() || digits.parse::<u16>().is_ok())
        }
        None => port.is_empty(),
    };
    if host == 0 || !valid { Err(malformed()) } else { Ok(host) }
}

/// Visible ASCII only; otherwise nothing, which no caller takes for a host.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    /// A request as hyper's server gives it. `target` is the request target of HTTP/1, or a whole URI on HTTP/2.
    fn parts(version: Version, method: &str, target: &str, hosts: &[&[u8]]) -> Parts {
        let mut parts = Request::new(()).into_parts().0;
        parts.version = version;
        parts.method = method.parse().unwrap();
        parts.uri = target.parse().unwrap();
        for host in hosts {
            parts.headers.append(HOST, HeaderValue::from_bytes(host).unwrap());
        }
        parts
    }

    fn http1(target: &str, host: &str) -> Result<Target, ProxyError> {
        Target::of(&parts(Version::HTTP_11, "GET", target, &[host.as_bytes()]))
    }

    fn http2(target: &str, hosts: &[&[u8]]) -> Result<Target, ProxyError> {
        Target::of(&parts(Version::HTTP_2, "GET", target, hosts))
    }

    fn is_bad(target: Result<Target, ProxyError>) -> bool {
        target.is_err_and(|error| error.kind == ErrorKind::BadRequest && !error.message.is_empty())
    }

    #[test]
    fn the_host_field_names_the_host_of_an_origin_form_target() {
        let target = http1("/users/1?a=%20b", "user-service:8080").unwrap();
        assert_eq!((target.authority(), target.host()), ("user-service:8080", "user-service"));
        assert_eq!((target.path(), target.path_and_query()), ("/users/1", "/users/1?a=%20b"));
        assert_eq!(target.host_field(), "user-service:8080");
    }

    #[test]
    fn an_absolute_target_overrules_the_host_field() {
        let target = http1("http://user-service:80/users/1", "other").unwrap();
        assert_eq!((target.authority(), target.host(), target.path()), ("user-service:80", "user-service", "/users/1"));
        assert_eq!(http1("http://user-service", "other").unwrap().path_and_query(), "/");
        assert_eq!(http1("http://user-service?a=1", "other").unwrap().path_and_query(), "/?a=1");
        assert_eq!(http1("HTTP://user-service/", "other").unwrap().host(), "user-service");
    }

    #[test]
    fn a_host_is_compared_without_case_port_and_last_dot() {
        for (authority, host) in [
            ("User-Service:80", "user-service"),
            ("user-service.", "user-service"),
            ("A.B.:1", "a.b"),
            ("a_b~c", "a_b~c"),
            ("a:", "a"),
            ("127.0.0.1:3201", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[2001:DB8::1]:65535", "[2001:db8::1]"),
        ] {
            let target = http1("/", authority).unwrap();
            assert_eq!((target.host(), target.authority()), (host, authority));
            assert_eq!(http2(&format!("http://{authority}/"), &[]).unwrap().host(), host);
        }
    }

    #[test]
    fn a_malformed_host_is_refused() {
        let hosts = [
            "user:password@a",
            "@a",
            "a,b",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a;b",
            "a%41",
            ":80",
            ".",
            "a:b",
            "a:80:80",
            "a:99999",
            "a:-1",
            "a:+80",
            "a:000080",
            "::1",
            "[::1",
            "[]",
            "[::1]a",
            "[::1]:x",
            "[::1%25eth0]",
            "[1.2.3.4]",
            "ä",
            "a\tb",
            "http://a",
            "*",
        ];
        for host in hosts {
            assert!(is_bad(http1("/", host)), "{host}");
            assert!(is_bad(http1("http://fine/", host)), "{host} beside an absolute target");
        }
        assert!(is_bad(Target::of(&parts(Version::HTTP_11, "GET", "/", &[b"a\xff"]))));
        for target in ["http://user:password@a/", "http://a@b/", "http://a,b/", "http://a:99999/"] {
            assert!(is_bad(http1(target, "a")), "{target}");
            assert!(is_bad(http2(target, &[])), "{target}");
        }
    }

    #[test]
    fn a_host_field_comes_once() {
        let with = |version, hosts: &[&[u8]]| Target::of(&parts(version, "GET", "/", hosts));
        assert!(is_bad(with(Version::HTTP_11, &[])));
        assert!(is_bad(with(Version::HTTP_11, &[b"a", b"a"])));
        assert!(is_bad(with(Version::HTTP_10, &[b"a", b"b"])));
        assert!(is_bad(http2("http://a/", &[b"a", b"a"])));
        assert!(is_bad(Target::of(&parts(Version::HTTP_11, "GET", "http://a/", &[]))));
        assert_eq!(with(Version::HTTP_10, &[]).unwrap().host(), "");
        assert_eq!(with(Version::HTTP_11, &[b""]).unwrap().host(), "", "a target without a host has an empty field");
    }

    #[test]
    fn authority_and_host_agree_on_http2() {
        assert_eq!(http2("http://a:80/x", &[]).unwrap().authority(), "a:80");
        assert_eq!(http2("http://a/x", &[b"A"]).unwrap().host(), "a");
        assert_eq!(http2("/x", &[b"a"]).unwrap().host(), "a");
        assert_eq!(http2("https://a/x", &[]).unwrap().path(), "/x");
        assert!(is_bad(http2("http://a/", &[b"b"])));
        assert!(is_bad(http2("http://a/", &[b"a:80"])));
        assert!(is_bad(http2("/x", &[])));
        assert!(is_bad(http2("/x", &[b""])));
    }

    #[test]
    fn the_proxy_does_not_begin_tls() {
        for target in ["https://a/", "ftp://a/", "ws://a/"] {
            let error = http1(target, "a").unwrap_err();
            assert!(error.message.contains(target.split(':').next().unwrap()), "{error}");
        }
        assert!(is_bad(http2("ftp://a/", &[])));
    }

    #[test]
    fn each_form_of_target_has_its_method() {
        let of = |method, target| Target::of(&parts(Version::HTTP_11, method, target, &[b"a"]));
        assert_eq!(of("OPTIONS", "*").unwrap().path_and_query(), "*");
        assert!(is_bad(of("GET", "*")));
        assert_eq!(of("CONNECT", "b:443").unwrap().authority(), "b:443");
        for target in ["b", "/b", "http://b:443/", "b:"] {
            assert!(is_bad(of("CONNECT", target)), "CONNECT {target}");
        }
        for target in ["b:443", "b"] {
            assert!(is_bad(of("GET", target)), "GET {target}");
        }
        let on_http2 = Target::of(&parts(Version::HTTP_2, "CONNECT", "b:443", &[]));
        assert_eq!(on_http2.unwrap().host(), "b");
    }

    #[test]
    fn a_path_that_looks_like_a_host_stays_a_path() {
        let target = http1("//evil/x", "a").unwrap();
        assert_eq!((target.host(), target.path_and_query()), ("a", "//evil/x"));
    }

    #[test]
    fn a_prefix_is_taken_off_in_whole_segments() {
        let stripped =
            |target: &str, prefix: &str| http1(target, "a").unwrap().without_prefix(prefix).as_str().to_owned();
        for (target, prefix, expected) in [
            ("/users/1", "/users", "/1"),
            ("/users/1", "/users/", "/1"),
            ("/users", "/users", "/"),
            ("/users/", "/users", "/"),
            ("/users?a=1", "/users", "/?a=1"),
            ("/users/1?a=/users", "/users", "/1?a=/users"),
            ("/users//1", "/users", "//1"),
            ("/usersx", "/users", "/usersx"),
            ("/Users/1", "/users", "/Users/1"),
            ("/other?/users/1", "/users", "/other?/users/1"),
            ("/a/b/c", "/a/b", "/c"),
            ("/a", "/a/b", "/a"),
            ("/users/1", "/", "/users/1"),
            ("/", "/", "/"),
            ("/a?b", "", "/a?b"),
        ] {
            assert_eq!(stripped(target, prefix), expected, "{target} without {prefix}");
        }
        let everything = Target::of(&parts(Version::HTTP_11, "OPTIONS", "*", &[b"a"])).unwrap();
        assert_eq!(everything.without_prefix("/users").as_str(), "*");
    }
}
