//! What wit-bindgen makes of `wit/`: one module for the imports and one for each hook, so that a component exports just
//! the hooks it has. The SDK's own types hide all of this.

pub mod imports {
    wit_bindgen::generate!({ path: "../wit", world: "imports", generate_all });
}

macro_rules! hook {
    ($module:ident, $world:literal) => {
        pub mod $module {
            wit_bindgen::generate!({
                path: "../wit",
                world: $world,
                with: { "weir:policy/types@0.1.0": crate::bindings::imports::weir::policy::types },
                pub_export_macro: true,
                default_bindings_module: "weir_sdk::bindings",
            });
        }
    };
}

hook!(base, "base");
hook!(on_request, "with-on-request");
hook!(on_endpoints, "with-on-endpoints");
hook!(pick, "with-pick");
hook!(on_attempt, "with-on-attempt");
hook!(on_outcome, "with-on-outcome");
hook!(on_response, "with-on-response");
hook!(on_body, "with-on-body");
hook!(on_complete, "with-on-complete");
hook!(tick, "with-tick");
