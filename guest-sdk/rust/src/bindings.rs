//! What `wit-bindgen` makes of the contract: the imports once, and the exports of each world on top of them.
#![allow(missing_docs, unsafe_code, unreachable_pub, unused_imports, reason = "generated code")]
#![allow(clippy::indexing_slicing, clippy::useless_conversion, clippy::unwrap_used, reason = "generated code")]

pub mod imports {
    wit_bindgen::generate!({
        path: "wit",
        world: "imports",
        generate_all,
        additional_derives: [PartialEq],
    });
}

macro_rules! exports {
    ($module:ident, $world:literal, $bindings:literal) => {
        pub mod $module {
            wit_bindgen::generate!({
                path: "wit",
                world: $world,
                pub_export_macro: true,
                default_bindings_module: $bindings,
                with: {
                    "tendon:consumer/types@0.1.0": crate::bindings::imports::tendon::consumer::types,
                    "tendon:consumer/state@0.1.0": crate::bindings::imports::tendon::consumer::state,
                    "tendon:consumer/emit@0.1.0": crate::bindings::imports::tendon::consumer::emit,
                    "tendon:consumer/log@0.1.0": crate::bindings::imports::tendon::consumer::log,
                    "tendon:consumer/config@0.1.0": crate::bindings::imports::tendon::consumer::config,
                },
            });
        }
    };
}

exports!(consumer, "consumer", "tendon_sdk::__private::consumer");
exports!(batch_consumer, "batch-consumer", "tendon_sdk::__private::batch_consumer");

/// `init` by itself: a guest that has one is the union of this world and of its handler's.
pub mod lifecycle {
    wit_bindgen::generate!({
        inline: "package tendon:sdk; world initialised { export tendon:consumer/lifecycle@0.1.0; }",
        path: "wit",
        pub_export_macro: true,
        default_bindings_module: "tendon_sdk::__private::lifecycle",
    });
}
