//! `Deserialize` and `JsonSchema` without dependencies of the author's own.
//!
//! The real derives name their crates by path, and a derive cannot add an attribute to the item it stands on. So each of
//! ours derives on a hidden copy of the item, which can carry the attributes (`crate`, and serde's `remote`), and has the
//! item's own implementation call the copy's.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Attribute, Data, DeriveInput, Error, Fields, Meta, Result, parse_quote};

pub fn deserialize(item: DeriveInput) -> Result<TokenStream> {
    let this = item.ident.clone();
    let copy = copy_of(&item, &["doc", "serde"])?;
    let name = &copy.ident;
    let remote = this.to_string();
    let default = default_of(&item, &copy);
    Ok(quote! {
        const _: () = {
            #[derive(::weir_sdk::serde::Deserialize)]
            #[serde(crate = "::weir_sdk::serde", remote = #remote)]
            #[allow(dead_code)]
            #copy

            #default

            impl<'de> ::weir_sdk::serde::Deserialize<'de> for #this {
                fn deserialize<D: ::weir_sdk::serde::Deserializer<'de>>(deserializer: D) -> ::std::result::Result<Self, D::Error> {
                    #name::deserialize(deserializer)
                }
            }
        };
    })
}

pub fn json_schema(item: DeriveInput) -> Result<TokenStream> {
    let this = item.ident.clone();
    let mut copy = copy_of(&item, &["doc", "serde", "schemars"])?;
    let title = this.to_string();
    if !mentions(&copy.attrs, "rename") {
        copy.attrs.push(parse_quote!(#[schemars(rename = #title)]));
    }
    let name = &copy.ident;
    let default = default_of(&item, &copy);
    Ok(quote! {
        const _: () = {
            #[derive(::weir_sdk::schemars::JsonSchema)]
            #[schemars(crate = "::weir_sdk::schemars")]
            #[allow(dead_code)]
            #copy

            #default

            impl ::weir_sdk::schemars::JsonSchema for #this {
                fn schema_name() -> ::std::borrow::Cow<'static, str> {
                    <#name as ::weir_sdk::schemars::JsonSchema>::schema_name()
                }

                fn schema_id() -> ::std::borrow::Cow<'static, str> {
                    <#name as ::weir_sdk::schemars::JsonSchema>::schema_id()
                }

                fn inline_schema() -> bool {
                    <#name as ::weir_sdk::schemars::JsonSchema>::inline_schema()
                }

                fn json_schema(generator: &mut ::weir_sdk::schemars::SchemaGenerator) -> ::weir_sdk::schemars::Schema {
                    <#name as ::weir_sdk::schemars::JsonSchema>::json_schema(generator)
                }
            }
        };
    })
}

/// The item under another name, with those attributes that the real derive looks at, and Weir's habits.
fn copy_of(item: &DeriveInput, looks_at: &[&str]) -> Result<DeriveInput> {
    if !item.generics.params.is_empty() {
        return Err(Error::new_spanned(&item.generics, "a configuration is one concrete type, without generics"));
    }
    let mut copy = item.clone();
    copy.ident = format_ident!("__Weir{}", item.ident);
    let relevant = |attribute: &Attribute| looks_at.iter().any(|name| attribute.path().is_ident(name));
    let mut flattened = false;
    let mut keep = |attributes: &mut Vec<Attribute>| {
        attributes.retain(relevant);
        flattened |= mentions(attributes, "flatten");
    };
    match &mut copy.data {
        Data::Struct(data) => data.fields.iter_mut().for_each(|field| keep(&mut field.attrs)),
        Data::Enum(data) => {
            for variant in &mut data.variants {
                keep(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| keep(&mut field.attrs));
            }
        }
        Data::Union(data) => {
            return Err(Error::new_spanned(data.union_token, "a configuration is a struct or an enum"));
        }
    }
    copy.attrs.retain(relevant);
    if !mentions(&copy.attrs, "rename_all") && !mentions(&copy.attrs, "transparent") {
        copy.attrs.push(parse_quote!(#[serde(rename_all = "kebab-case")]));
    }
    if matches!(copy.data, Data::Enum(_)) && !mentions(&copy.attrs, "rename_all_fields") {
        copy.attrs.push(parse_quote!(#[serde(rename_all_fields = "kebab-case")]));
    }
    // serde refuses the two together (and a newtype has no fields to deny).
    let named = !matches!(&copy.data, Data::Struct(data) if !matches!(data.fields, Fields::Named(_)));
    if named && !flattened && !mentions(&copy.attrs, "deny_unknown_fields") && !mentions(&copy.attrs, "transparent") {
        copy.attrs.push(parse_quote!(#[serde(deny_unknown_fields)]));
    }
    Ok(copy)
}

/// The real derives ask a container with `#[serde(default)]` for its default values; the copy takes them from the item.
fn default_of(item: &DeriveInput, copy: &DeriveInput) -> Option<TokenStream> {
    let Data::Struct(data) = &item.data else { return None };
    let Fields::Named(fields) = &data.fields else {
        return None;
    };
    if !words(&item.attrs).any(|(word, value)| word == "default" && !value) {
        return None;
    }
    let (this, name) = (&item.ident, &copy.ident);
    let fields: Vec<_> = fields.named.iter().filter_map(|field| field.ident.as_ref()).collect();
    Some(quote! {
        impl ::std::default::Default for #name {
            fn default() -> Self {
                let #this { #(#fields),* } = <#this as ::std::default::Default>::default();
                Self { #(#fields),* }
            }
        }
    })
}

/// Whether one of the serde or schemars attributes holds this word.
fn mentions(attributes: &[Attribute], wanted: &str) -> bool {
    words(attributes).any(|(word, _)| word == wanted)
}

/// The words in serde and schemars attributes, and whether a value follows: `rename = "a", default` has `rename` with one, and
/// `default` without.
fn words(attributes: &[Attribute]) -> impl Iterator<Item = (String, bool)> {
    let lists = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::List(list) if attribute.path().is_ident("serde") || attribute.path().is_ident("schemars") => {
            Some(list.tokens.clone())
        }
        _ => None,
    });
    lists.flat_map(|tokens| {
        let next = tokens.clone().into_iter().skip(1).map(|token| token.to_string() == "=").chain([false]);
        tokens.into_iter().map(|token| token.to_string()).zip(next).collect::<Vec<_>>()
    })
}
