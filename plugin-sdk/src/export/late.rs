//! How the hooks that exchanges wait for are exported: as wit-bindgen does it, but for the call in which the host lets the
//! guest free an answer. An answer is kept until its hook is entered again, and freed then.
//!
//! wit-bindgen's `export!` finds a macro for each interface by a path that it is given. `late` is such a path.

/// Exports one hook. `$hook` and `$free` are wit-bindgen's functions; the arguments those of the flattened signature.
#[doc(hidden)]
#[macro_export]
macro_rules! export_late {
    ($policy:ident $module:ident $name:literal $hook:ident $free:ident ($($argument:ident: $type:ty),*)) => {
        const _: () = {
            use ::std::sync::atomic::{AtomicPtr, Ordering::Relaxed};
            use $crate::bindings::$module::exports::weir::policy::$module as hook;

            static ANSWER: AtomicPtr<u8> = AtomicPtr::new(::std::ptr::null_mut());

            #[unsafe(export_name = $name)]
            unsafe extern "C" fn export($($argument: $type),*) -> *mut u8 {
                let former = ANSWER.load(Relaxed);
                // SAFETY: the host has read the former answer before it calls again, and frees none itself, since there is
                // no function for it. The arguments are those that the host has made for this call.
                unsafe {
                    if !former.is_null() {
                        hook::$free::<$policy>(former);
                    }
                    let answer = hook::$hook::<$policy>($($argument),*);
                    ANSWER.store(answer, Relaxed);
                    answer
                }
            }
        };
    };
}

/// For each hook a path as wit-bindgen makes them, with another macro at its end.
macro_rules! late {
    ($module:ident, $macro:ident as $expected:ident) => {
        pub mod $module {
            pub mod exports {
                pub mod weir {
                    pub mod policy {
                        pub mod $module {
                            pub use $crate::$macro as $expected;
                        }
                    }
                }
            }
        }
    };
}

late!(on_request, export_on_request_late as __export_weir_policy_on_request_0_1_0_cabi);
late!(pick, export_pick_late as __export_weir_policy_pick_0_1_0_cabi);
late!(on_attempt, export_on_attempt_late as __export_weir_policy_on_attempt_0_1_0_cabi);
late!(on_outcome, export_on_outcome_late as __export_weir_policy_on_outcome_0_1_0_cabi);
late!(on_response, export_on_response_late as __export_weir_policy_on_response_0_1_0_cabi);

#[doc(hidden)]
#[macro_export]
macro_rules! export_on_request_late {
    ($policy:ident with_types_in $($path:tt)*) => {
        $crate::export_late!(
            $policy on_request "weir:policy/on-request@0.1.0#on-request" _export_on_request_cabi __post_return_on_request
            (id: i64, kind: i32, route: i32, service: i32, attempt: i32, deadline: i64, memo: i64,
             fields: *mut u8, count: usize)
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! export_pick_late {
    ($policy:ident with_types_in $($path:tt)*) => {
        $crate::export_late!(
            $policy pick "weir:policy/pick@0.1.0#pick" _export_pick_cabi __post_return_pick
            (id: i64, kind: i32, route: i32, service: i32, attempt: i32, deadline: i64, memo: i64,
             tried: *mut u8, tries: usize, fields: *mut u8, count: usize)
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! export_on_attempt_late {
    ($policy:ident with_types_in $($path:tt)*) => {
        $crate::export_late!(
            $policy on_attempt "weir:policy/on-attempt@0.1.0#on-attempt" _export_on_attempt_cabi __post_return_on_attempt
            (id: i64, kind: i32, route: i32, service: i32, attempt: i32, deadline: i64, memo: i64,
             endpoint: i32, fields: *mut u8, count: usize)
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! export_on_outcome_late {
    ($policy:ident with_types_in $($path:tt)*) => {
        $crate::export_late!(
            $policy on_outcome "weir:policy/on-outcome@0.1.0#on-outcome" _export_on_outcome_cabi __post_return_on_outcome
            (id: i64, kind: i32, route: i32, service: i32, attempt: i32, deadline: i64, memo: i64,
             endpoint: i32, status: i32, grpc: i32, failure: i32, latency: i64, repeatable: i32,
             fields: *mut u8, count: usize)
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! export_on_response_late {
    ($policy:ident with_types_in $($path:tt)*) => {
        $crate::export_late!(
            $policy on_response "weir:policy/on-response@0.1.0#on-response" _export_on_response_cabi
            __post_return_on_response
            (id: i64, kind: i32, route: i32, service: i32, attempt: i32, deadline: i64, memo: i64,
             fields: *mut u8, count: usize)
        );
    };
}
