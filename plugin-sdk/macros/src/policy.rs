use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::parse::{Parse, ParseStream};
use syn::{
    Error, Expr, ExprArray, ExprLit, FnArg, Ident, ImplItem, ImplItemFn, Item, ItemImpl, Lit, LitInt, LitStr, Result,
    Token,
};

/// A method of `Policy`, and how it is written.
struct Hook {
    name: &'static str,
    /// After `&self`.
    inputs: usize,
    signature: &'static str,
}

/// Every policy has it, so it is no export of its own.
const CONFIGURE: Hook =
    Hook { name: "configure", inputs: 1, signature: "fn configure(&mut self, needs: &mut Needs) -> Result<()>" };

const HOOKS: [Hook; 9] = [
    Hook { name: "on_request", inputs: 1, signature: "fn on_request(&self, exchange: &Exchange) -> Result<Verdict>" },
    Hook {
        name: "on_endpoints",
        inputs: 2,
        signature: "fn on_endpoints(&self, service: ServiceId, endpoints: &[Endpoint]) -> Result<()>",
    },
    Hook {
        name: "pick",
        inputs: 2,
        signature: "fn pick(&self, exchange: &Exchange, tried: &[EndpointId]) -> Result<Option<EndpointId>>",
    },
    Hook {
        name: "on_attempt",
        inputs: 2,
        signature: "fn on_attempt(&self, exchange: &Exchange, endpoint: EndpointId) -> Result<Attempt>",
    },
    Hook {
        name: "on_outcome",
        inputs: 2,
        signature: "fn on_outcome(&self, exchange: &Exchange, outcome: &Outcome) -> Result<Decision>",
    },
    Hook {
        name: "on_response",
        inputs: 2,
        signature: "fn on_response(&self, exchange: &Exchange, response: &Response) -> Result<Verdict>",
    },
    Hook {
        name: "on_body",
        inputs: 3,
        signature: "fn on_body(&self, exchange: &Exchange, of: BodyOf, body: &[u8]) -> Result<BodyVerdict>",
    },
    Hook {
        name: "on_complete",
        inputs: 2,
        signature: "fn on_complete(&self, exchange: &Exchange, completion: &Completion)",
    },
    Hook { name: "tick", inputs: 0, signature: "fn tick(&self)" },
];

/// Hooks whose answers are freed late, by `weir_sdk::export::late`.
const LATE: [&str; 5] = ["on_request", "pick", "on_attempt", "on_outcome", "on_response"];

/// What can be read beside headers and trailers, as in `wit/types.wit`.
const OF_REQUEST: [&str; 8] =
    [":method", ":path", ":authority", ":protocol", ":peer", ":identity", ":service", ":route"];
const OF_RESPONSE: [&str; 3] = [":status", ":service", ":endpoint"];

/// Milliseconds.
const SHORTEST_TICK: u64 = 10;
const LARGEST_BODY: u64 = 1 << 20;

#[derive(Default)]
pub struct Arguments {
    reads: Option<Argument<Vec<LitStr>>>,
    reads_response: Option<Argument<Vec<LitStr>>>,
    tick: Option<Argument<LitInt>>,
    max_body: Option<Argument<LitInt>>,
}

struct Argument<T> {
    name: Ident,
    value: T,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut arguments = Self::default();
        while !input.is_empty() {
            let name: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            match name.to_string().as_str() {
                "reads" => once(&mut arguments.reads, name, fields(input, &OF_REQUEST, true)?)?,
                "reads_response" => once(&mut arguments.reads_response, name, fields(input, &OF_RESPONSE, false)?)?,
                "tick" => {
                    once(&mut arguments.tick, name, within(input.parse()?, SHORTEST_TICK, u64::MAX, "milliseconds")?)?
                }
                "max_body" => once(&mut arguments.max_body, name, within(input.parse()?, 1, LARGEST_BODY, "bytes")?)?,
                other => {
                    let message = format!(
                        "unknown argument `{other}`; there are `reads`, `reads_response`, `tick` and `max_body`"
                    );
                    return Err(Error::new(name.span(), message));
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(arguments)
    }
}

fn once<T>(argument: &mut Option<Argument<T>>, name: Ident, value: T) -> Result<()> {
    if argument.is_some() {
        return Err(Error::new(name.span(), format!("`{name}` is given twice")));
    }
    *argument = Some(Argument { name, value });
    Ok(())
}

fn within(number: LitInt, least: u64, most: u64, unit: &str) -> Result<LitInt> {
    let value: u64 = number.base10_parse()?;
    if value < least {
        return Err(Error::new(number.span(), format!("at least {least} {unit}")));
    }
    if value > most {
        return Err(Error::new(number.span(), format!("at most {most} {unit}")));
    }
    Ok(number)
}

fn fields(input: ParseStream<'_>, special: &[&str], attributes: bool) -> Result<Vec<LitStr>> {
    let array: ExprArray = input.parse()?;
    let field = |element| match element {
        Expr::Lit(ExprLit { lit: Lit::Str(name), .. }) => match problem(&name.value(), special, attributes) {
            None => Ok(name),
            Some(problem) => Err(Error::new(name.span(), problem)),
        },
        other => Err(Error::new_spanned(other, "a field is named by a string, as in \"authorization\"")),
    };
    array.elems.into_iter().map(field).collect()
}

/// What is wrong with the name of a field.
fn problem(name: &str, special: &[&str], attributes: bool) -> Option<String> {
    if name.chars().any(|c| c.is_ascii_uppercase()) {
        return Some("names of fields are written in lower case".to_owned());
    }
    if name.starts_with(':') {
        return (!special.contains(&name))
            .then(|| format!("there is no field `{name}` here; there are {}", special.join(", ")));
    }
    if name.starts_with('@') {
        return (!attributes).then(|| "attributes belong to the request: `reads = [\"@name\"]`".to_owned());
    }
    // A token of RFC 9110, section 5.6.2.
    let valid = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c));
    (!valid).then(|| format!("\"{name}\" is not the name of a field"))
}

pub fn expand(arguments: Arguments, item: Item) -> Result<TokenStream> {
    let item = match item {
        Item::Impl(item) if is_policy(&item) => item,
        other => {
            let message = "`#[policy]` stands on an `impl Policy for …`";
            return Err(match other {
                Item::Impl(item) => Error::new(item.impl_token.span, message),
                other => Error::new_spanned(other, message),
            });
        }
    };
    if !item.generics.params.is_empty() {
        return Err(Error::new_spanned(&item.generics, "a policy is one concrete type, without generics"));
    }
    let methods: Vec<&ImplItemFn> = item
        .items
        .iter()
        .filter_map(|item| if let ImplItem::Fn(method) = item { Some(method) } else { None })
        .collect();
    for method in &methods {
        check(method)?;
    }
    let written = |hook: &str| methods.iter().find(|method| method.sig.ident == hook);
    check_arguments(&arguments, |hook| written(hook).map(|method| &method.sig.ident))?;

    let this = &item.self_ty;
    let reads = arguments.reads.map(|reads| reads.value).unwrap_or_default();
    let reads_response = arguments.reads_response.map(|reads| reads.value).unwrap_or_default();
    let tick = arguments.tick.map_or_else(|| quote!(0), |Argument { value, .. }| quote!(#value));
    let max_body = arguments.max_body.map_or_else(|| quote!(0), |Argument { value, .. }| quote!(#value));
    let hooks = HOOKS.iter().map(|hook| hook.name).filter(|hook| written(hook).is_some());
    let exports = std::iter::once("base").chain(hooks).map(|hook| {
        let module = format_ident!("{hook}");
        let path = if LATE.contains(&hook) { quote!(export::late) } else { quote!(bindings) };
        quote!(::weir_sdk::bindings::#module::export!(WeirComponent with_types_in ::weir_sdk::#path::#module);)
    });

    Ok(quote! {
        #item

        impl ::weir_sdk::policy::Described for #this {
            const NAME: &'static str = env!("CARGO_PKG_NAME");
            const VERSION: &'static str = env!("CARGO_PKG_VERSION");
            const SUMMARY: &'static str = env!("CARGO_PKG_DESCRIPTION");
            const READS: &'static [&'static str] = &[#(#reads),*];
            const READS_RESPONSE: &'static [&'static str] = &[#(#reads_response),*];
            const TICK: u64 = #tick;
            const MAX_BODY: u32 = #max_body;
        }

        // Off Wasm only tests use the policy; without them it would be called dead code.
        #[cfg(not(target_family = "wasm"))]
        const _: fn(&[u8]) -> ::weir_sdk::Result<(#this, ::weir_sdk::Needs)> = ::weir_sdk::policy::configure::<#this>;

        #[cfg(target_family = "wasm")]
        const _: () = {
            ::std::thread_local! {
                static SLOT: ::weir_sdk::export::Slot<#this> = const { ::std::cell::OnceCell::new() };
            }

            impl ::weir_sdk::export::Component for #this {
                fn slot() -> &'static ::std::thread::LocalKey<::weir_sdk::export::Slot<Self>> {
                    &SLOT
                }
            }

            type WeirComponent = ::weir_sdk::export::Exported<#this>;
            #(#exports)*
        };
    })
}

fn is_policy(item: &ItemImpl) -> bool {
    matches!(&item.trait_, Some((None, path, _)) if path.segments.last().is_some_and(|segment| segment.ident == "Policy"))
}

/// That a method is a hook and has its shape. Its types are left to the compiler.
fn check(method: &ImplItemFn) -> Result<()> {
    let name = &method.sig.ident;
    let Some(hook) = HOOKS.iter().chain([&CONFIGURE]).find(|hook| name == hook.name) else {
        let names: Vec<&str> = HOOKS.iter().map(|hook| hook.name).collect();
        let message = format!(
            "there is no hook `{name}`; there are `configure`, `{}`. What else a policy needs goes into another `impl`",
            names.join("`, `")
        );
        return Err(Error::new(name.span(), message));
    };
    let receiver = matches!(method.sig.inputs.first(), Some(FnArg::Receiver(_)));
    if !receiver || method.sig.inputs.len() != hook.inputs + 1 {
        return Err(Error::new(name.span(), format!("this hook is written `{}`", hook.signature)));
    }
    Ok(())
}

/// That arguments and hooks need each other.
fn check_arguments<'a>(arguments: &Arguments, written: impl Fn(&str) -> Option<&'a Ident>) -> Result<()> {
    let Arguments { reads, reads_response, tick, max_body } = arguments;
    let any = |hooks: &[&str]| hooks.iter().any(|hook| written(hook).is_some());
    if let Some(reads) = reads
        && !any(&["on_request", "pick", "on_attempt"])
    {
        return Err(Error::new(
            reads.name.span(),
            "request fields are given to `on_request`, `pick` and `on_attempt`: none is written",
        ));
    }
    if let Some(reads) = reads_response
        && !any(&["on_outcome", "on_response"])
    {
        return Err(Error::new(
            reads.name.span(),
            "response fields are given to `on_outcome` and `on_response`: none is written",
        ));
    }
    match (tick, written("tick")) {
        (Some(tick), None) => {
            return Err(Error::new(tick.name.span(), "`tick` asks for a hook that is not written: `fn tick(&self)`"));
        }
        (None, Some(hook)) => {
            return Err(Error::new(hook.span(), "say how often: `#[policy(tick = 1000)]`, in milliseconds"));
        }
        _ => {}
    }
    match (max_body, written("on_body")) {
        (Some(max), None) => {
            Err(Error::new(max.name.span(), "`max_body` is for a hook that is not written: `on_body`"))
        }
        (None, Some(hook)) => {
            Err(Error::new(hook.span(), "say how large a body may be: `#[policy(max_body = 65536)]`, in bytes"))
        }
        _ => Ok(()),
    }
}
