//! The macros of `weir-sdk`; its documentation describes them.

mod derive;
mod policy;

use proc_macro::TokenStream;
use syn::{DeriveInput, Item, parse_macro_input};

/// Makes a component of an `impl Policy for …`: exports the hooks that are written, and no others.
///
/// Arguments, all optional:
///
/// * `reads = ["authorization", ":path"]`: the request fields that the policy reads.
/// * `reads_response = ["retry-after"]`: the response fields that it reads.
/// * `tick = 1000`: call `tick` every so many milliseconds, at least 10.
/// * `max_body = 65536`: the largest body, in bytes, that `on_body` is given; at most 1 MiB.
///
/// The plugin's name, version and summary are those of its crate.
#[proc_macro_attribute]
pub fn policy(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let arguments = parse_macro_input!(arguments as policy::Arguments);
    let item = parse_macro_input!(item as Item);
    policy::expand(arguments, item).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// serde's `Deserialize`, with the habits of Weir's configuration: names in kebab-case, and unknown keys are errors. A
/// `#[serde(rename_all = …)]` of your own is honoured; `#[serde(flatten)]` gives up that unknown keys are errors, since any
/// may be meant for the flattened part. Needs no dependency on serde.
#[proc_macro_derive(Deserialize, attributes(serde, schemars))]
pub fn deserialize(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as DeriveInput);
    derive::deserialize(item).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// schemars' `JsonSchema`, with the same habits as [`macro@Deserialize`]. Needs no dependency on schemars.
#[proc_macro_derive(JsonSchema, attributes(serde, schemars))]
pub fn json_schema(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as DeriveInput);
    derive::json_schema(item).unwrap_or_else(syn::Error::into_compile_error).into()
}
