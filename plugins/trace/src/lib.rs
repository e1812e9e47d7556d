//! Continues or starts a trace, tells the service about it, and records spans of what it samples.

mod context;
mod dialect;
mod span;
#[cfg(test)]
mod tests;
mod tracestate;

use context::{Caller, Context, TraceId};
use dialect::Dialect;
use span::Open;
use std::borrow::Cow;
use std::cell::{RefCell, RefMut};
use weir_sdk::prelude::*;
use weir_sdk::{Edit, Slots};

/// Sampled exchanges that are under way at a time, for each worker. Above that, exchanges go without a span.
const OPEN: usize = 4096;

/// What to sample, and in which fields a trace is handed on.
#[derive(Deserialize, JsonSchema)]
#[serde(default)]
struct Trace {
    /// The share of traces to record, from 0 to 1. It is decided by the trace id, so that all hops agree.
    #[schemars(range(min = 0, max = 1))]
    sample: f64,
    /// The fields in which traces are received and handed on. W3C comes first whatever the order, then the others in
    /// theirs: the first that holds a trace is continued, and all are written.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    dialects: Vec<Dialect>,
    /// Do as the caller has decided, where it has.
    parent_based: bool,
    /// Put the trace id on the exchange's record, as the attribute `trace-id`.
    record: bool,
    #[serde(skip)]
    open: RefCell<Slots<Open>>,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            sample: 0.01,
            dialects: vec![Dialect::W3c],
            parent_based: true,
            record: true,
            open: RefCell::new(Slots::new(OPEN)),
        }
    }
}

#[policy]
impl Policy for Trace {
    fn configure(&mut self, needs: &mut Needs) -> Result<()> {
        if self.dialects.is_empty() {
            return Err(Error::at("/dialects", "name at least one of \"w3c\", \"x-trace\" and \"b3\""));
        }
        if !(0.0..=1.0).contains(&self.sample) {
            return Err(Error::at("/sample", "a share is between 0 and 1"));
        }
        self.dialects.sort_by_key(|dialect| *dialect != Dialect::W3c);
        for field in self.dialects.iter().flat_map(|dialect| dialect.fields()) {
            needs.read(*field);
        }
        let records = self.sample > 0.0 || self.parent_based;
        if records {
            needs.read(":method");
            needs.read(":path");
            needs.read_response(":endpoint");
            // Read with an outcome, and not with a request: what is not sampled has none, so that calls pay nothing.
            needs.read_response("@message-id");
            needs.read_response("@channel");
        }
        needs.skip = Skip {
            on_attempt: !records,
            on_outcome: !records,
            on_complete: !records,
            without_memo: true,
            ..Skip::default()
        };
        Ok(())
    }

    fn on_request(&self, exchange: &Exchange) -> Result<Verdict> {
        let received = self.dialects.iter().find_map(|dialect| Some((*dialect, dialect.read(exchange)?)));
        let context = self.context(received.map(|(_, caller)| caller).unwrap_or_default());
        let mut amendment = Amendment { edits: self.edits(context), ..Amendment::default() };

        // Without the `traceparent` that it came with, a `tracestate` means nothing.
        let state = exchange.field("tracestate");
        let kept = state.filter(|_| matches!(received, Some((Dialect::W3c, _)))).and_then(tracestate::kept);
        match &kept {
            Some(Cow::Borrowed(_)) => {}
            Some(Cow::Owned(shorter)) => amendment = amendment.set("tracestate", shorter.as_str()),
            None if state.is_some() => amendment = amendment.remove("tracestate"),
            None => {}
        }
        if self.record {
            let id = String::from_utf8(context.trace.hex().to_vec())?;
            amendment.attributes = vec![("trace-id".to_owned(), id)];
        }
        if context.sampled && trace::enabled() {
            self.begin(exchange, context, kept.as_deref().unwrap_or_default());
        }
        Ok(amendment.into())
    }

    fn on_attempt(&self, exchange: &Exchange, _: EndpointId) -> Result<Attempt> {
        let Some(mut open) = self.open(exchange) else {
            return Ok(Attempt::Proceed);
        };
        open.attempt = random::next().max(1);
        Ok(Attempt::Amend(self.edits(open.context.child(open.attempt))))
    }

    fn on_outcome(&self, exchange: &Exchange, outcome: &Outcome) -> Result<Decision> {
        if let Some(mut open) = self.open(exchange) {
            trace::emit(&open.outcome(exchange, outcome));
        }
        Ok(Decision::Accept)
    }

    fn on_complete(&self, exchange: &Exchange, completion: &Completion) {
        if let Some(open) = self.open(exchange) {
            trace::emit(&open.complete(exchange, completion));
            drop(open);
            self.open.borrow_mut().remove(exchange.memo());
        }
    }
}

impl Trace {
    /// The exchange's own span in the caller's trace, or in a new one.
    fn context(&self, caller: Caller) -> Context {
        let Caller { trace, span: parent, sampled, random } = caller;
        let trace = if trace == TraceId::default() { TraceId::random() } else { trace };
        let sampled = sampled.filter(|_| self.parent_based).unwrap_or_else(|| self.samples(trace));
        Context { trace, span: random::next().max(1), parent, sampled, random }
    }

    fn samples(&self, trace: TraceId) -> bool {
        trace.randomness() >= ((1.0 - self.sample) * (1u64 << 56) as f64) as u64
    }

    fn edits(&self, context: Context) -> Vec<Edit> {
        let mut edits = Vec::with_capacity(4);
        for dialect in &self.dialects {
            dialect.write(context, &mut edits);
        }
        edits
    }

    /// Keeps what spans will be made of. Apart from what every exchange takes.
    #[cold]
    fn begin(&self, exchange: &Exchange, context: Context, state: &str) {
        if let Ok(memo) = self.open.borrow_mut().insert(Open::new(exchange, context, state)) {
            exchange.remember(memo);
        }
    }

    fn open(&self, exchange: &Exchange) -> Option<RefMut<'_, Open>> {
        let open = RefMut::filter_map(self.open.borrow_mut(), |slots| slots.get_mut(exchange.memo())).ok()?;
        (open.exchange == exchange.id).then_some(open)
    }
}
