//! What every exchange of a soak has to satisfy, whatever is being swapped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail, ensure};

use super::timeline::Timeline;
use crate::client::Response;
use crate::traffic::versions;

/// Where a request goes. The names of the routes' hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Through all reference policies, and twice through the plugin that is swapped. Nothing may go wrong here.
    Main,
    /// Through a plugin that goes bad at times, with `on-error = "reject"`.
    Strict,
    /// The same with `on-error = "skip"`: nothing may go wrong here either.
    Lenient,
}

impl Target {
    pub fn host(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Strict => "strict",
            Self::Lenient => "lenient",
        }
    }
}

/// How many broken laws are told in full.
const EXAMPLES: usize = 10;

/// Versions of what is swapped, and what was seen.
#[derive(Debug)]
pub struct Judge {
    /// Of the plugin on the main route.
    pub words: Timeline,
    /// Of the configuration of its policies.
    pub tags: Timeline,
    /// Of the plugin on the other routes.
    pub guards: Timeline,
    pub sent: AtomicU64,
    /// Clear refusals by a policy that had gone bad.
    pub refused: AtomicU64,
    broken: AtomicU64,
    examples: Mutex<Vec<String>>,
}

/// What was live when an exchange began.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    word: usize,
    tag: usize,
    guard: usize,
}

/// A mark that a policy left, as in `a.7:v1`: name of the policy and version of its configuration, version of its plugin.
#[derive(Debug)]
struct Mark {
    policy: String,
    tag: String,
    word: String,
}

impl Judge {
    pub fn new(word: &str, tag: &str) -> Self {
        Self {
            words: Timeline::new(word),
            tags: Timeline::new(tag),
            guards: Timeline::new(word),
            sent: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            examples: Mutex::default(),
        }
    }

    /// An exchange begins.
    pub fn begin(&self) -> Begun {
        self.sent.fetch_add(1, Ordering::Relaxed);
        Begun { word: self.words.begin(), tag: self.tags.begin(), guard: self.guards.begin() }
    }

    /// An exchange has ended.
    pub fn end(&self, target: Target, begun: Begun, response: &Result<Response>) {
        let judged = match response {
            Ok(response) => self.judge(target, begun, response),
            Err(error) => Err(anyhow::anyhow!("no answer: {error:#}")),
        };
        if let Err(error) = judged {
            self.breaks(&format!("route {:?}: {error:#}", target.host()));
        }
    }

    pub fn breaks(&self, law: &str) {
        self.broken.fetch_add(1, Ordering::Relaxed);
        let mut examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
        if examples.len() < EXAMPLES {
            examples.push(law.to_owned());
        }
    }

    /// How often a law was broken, and the first times in words.
    pub fn broken(&self) -> (u64, Vec<String>) {
        let examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
        (self.broken.load(Ordering::Relaxed), examples.clone())
    }

    fn judge(&self, target: Target, begun: Begun, response: &Response) -> Result<()> {
        ensure!(response.broken.is_none(), "the answer breaks off: {response:?}");
        let guards = self.guards.allowed(begun.guard);
        let was_bad = guards.iter().any(|word| is_bad(word));
        if target == Target::Strict && response.status == 503 && was_bad {
            let error = response.json().map(|json| json["error"].clone()).unwrap_or_default();
            ensure!(
                response.header("x-weir-error") == Some("policy") && error == "policy",
                "a refusal that is not clear: {response:?}"
            );
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        ensure!(response.status == 200, "{response:?}");
        let marks = marks(response)?;
        let (policies, words): (&[&str], _) = match target {
            Target::Main => (&["a", "b", "b", "a"], self.words.allowed(begun.word)),
            Target::Strict => (&["strict", "strict"], guards),
            Target::Lenient => (&["lenient", "lenient"], guards),
        };
        // A policy that went bad may be skipped in one hook, and so leave less.
        let complete = marks.iter().map(|mark| mark.policy.as_str()).eq(policies.iter().copied());
        ensure!(complete || (target == Target::Lenient && was_bad), "not every policy has worked: {marks:?}");
        let Some(first) = marks.first() else { return Ok(()) };
        ensure!(
            marks.iter().all(|mark| (&mark.word, &mark.tag) == (&first.word, &first.tag)),
            "a mixture of versions: {marks:?}"
        );
        ensure!(words.contains(&first.word), "version {} when only {words:?} can be live", first.word);
        if target == Target::Main {
            let tags = self.tags.allowed(begun.tag);
            ensure!(tags.contains(&first.tag), "configuration {} when only {tags:?} can be live", first.tag);
        }
        Ok(())
    }
}

/// Versions that are accepted and then do not work.
pub fn is_bad(word: &str) -> bool {
    word.starts_with("crash") || word.starts_with("spin")
}

/// The version of the plugin and of the configuration that answered.
pub fn seen(response: &Response) -> Option<(String, String)> {
    let first = marks(response).ok()?.into_iter().next()?;
    Some((first.word, first.tag))
}

fn marks(response: &Response) -> Result<Vec<Mark>> {
    let parse = |mark: &String| {
        let parts = mark.split_once(':').and_then(|(of, word)| Some((of.split_once('.')?, word)));
        let Some(((policy, tag), word)) = parts else { bail!("not a mark: {mark:?}") };
        Ok(Mark { policy: policy.to_owned(), tag: tag.to_owned(), word: word.to_owned() })
    };
    versions(response).iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue, StatusCode, Version};
    use serde_json::json;
    use std::time::Duration;

    /// An answer with these marks on the request and on the response.
    fn answer(status: u16, request: &[&str], response: &[&str]) -> Response {
        let fields: Vec<_> = request.iter().map(|mark| json!(["x-version", mark])).collect();
        let mut headers = HeaderMap::new();
        for mark in response {
            headers.append("x-version", HeaderValue::from_str(mark).unwrap());
        }
        Response {
            version: Version::HTTP_11,
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: json!({ "headers": fields, "error": "policy" }).to_string().into(),
            trailers: HeaderMap::new(),
            interim: Vec::new(),
            head_after: Duration::ZERO,
            end_after: Duration::ZERO,
            broken: None,
        }
    }

    fn breaks(judge: &Judge, target: Target, begun: Begun, response: Response) -> bool {
        let before = judge.broken().0;
        judge.end(target, begun, &Ok(response));
        judge.broken().0 > before
    }

    #[test]
    fn a_mixture_and_a_version_out_of_its_time_are_found() {
        let judge = Judge::new("v0", "0");
        let whole = |word: &str| {
            answer(
                200,
                &[&format!("a.0:{word}"), &format!("b.0:{word}")],
                &[&format!("b.0:{word}"), &format!("a.0:{word}")],
            )
        };
        let early = judge.begin();
        assert!(!breaks(&judge, Target::Main, early, whole("v0")));
        assert!(breaks(&judge, Target::Main, early, whole("v1")), "nobody has announced it");
        judge.words.announce("v1");
        assert!(!breaks(&judge, Target::Main, early, whole("v1")));
        let mixed = answer(200, &["a.0:v0", "b.0:v1"], &["b.0:v1", "a.0:v1"]);
        assert!(breaks(&judge, Target::Main, early, mixed));
        let mixed = answer(200, &["a.0:v1", "b.1:v1"], &["b.1:v1", "a.0:v1"]);
        assert!(breaks(&judge, Target::Main, early, mixed), "two configurations");
        judge.words.settle();
        assert!(breaks(&judge, Target::Main, judge.begin(), whole("v0")), "it was replaced before");
        assert!(breaks(&judge, Target::Main, early, answer(200, &["a.0:v1"], &["a.0:v1"])), "one policy is missing");
        assert!(breaks(&judge, Target::Main, early, answer(503, &[], &[])));
    }

    #[test]
    fn a_refusal_is_clear_and_comes_only_while_the_policy_is_bad() {
        let judge = Judge::new("v0", "0");
        let begun = judge.begin();
        let refusal = |error: &'static str| {
            let mut response = answer(503, &[], &[]);
            response.headers.insert("x-weir-error", HeaderValue::from_static(error));
            response
        };
        assert!(breaks(&judge, Target::Strict, begun, refusal("policy")));
        judge.guards.announce("crash-1");
        assert!(!breaks(&judge, Target::Strict, begun, refusal("policy")));
        assert!(breaks(&judge, Target::Strict, begun, refusal("internal")));
        assert!(breaks(&judge, Target::Lenient, begun, refusal("policy")), "it may be skipped");
        assert!(!breaks(&judge, Target::Lenient, begun, answer(200, &[], &["lenient.0:crash-1"])));
        judge.guards.announce("v2");
        judge.guards.settle();
        assert!(breaks(&judge, Target::Strict, judge.begin(), refusal("policy")));
    }
}
