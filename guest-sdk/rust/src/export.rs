//! The macros that export a handler, and what they expand to.

use std::hint::black_box;

use crate::{
    Error, Event, Result,
    bindings::imports::tendon::consumer::types::{BatchFailure, Failure},
    logger,
};

/// A function that handles many events: the number is the index of the one that failed.
type BatchHandler = fn(&[Event]) -> Result<(), (usize, Error)>;

/// Exports a function as the consumer's handler: `fn handle(event: &Event) -> Result<()>`, called once for each event.
/// With `init = f` also `fn f() -> Result<()>`, called once for each instance before its first event.
///
/// ```
/// # use tendon_sdk::{Event, Result};
/// fn handle(event: &Event) -> Result<()> {
///     log::info!("{} is about {}", event.id, event.foreign_id);
///     Ok(())
/// }
///
/// fn init() -> Result<()> {
///     Ok(())
/// }
///
/// tendon_sdk::handler!(handle, init = init);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! handler {
    ($handle:path) => {
        $crate::__export!(handler, consumer, $handle);
    };
    ($handle:path, init = $init:path) => {
        $crate::__export!(handler, consumer, $handle, $init);
    };
}

/// Exports a function that handles many events a call: `fn handle(events: &[Event]) -> Result<(), (usize, Error)>`,
/// all or nothing, where the number is the index of the event that failed. For bulk work; `handler!` is the default.
/// With `init = f` also `fn f() -> Result<()>`, called once for each instance before its first event.
///
/// ```
/// # use tendon_sdk::{Error, Event, state};
/// fn handle(events: &[Event]) -> Result<(), (usize, Error)> {
///     for (index, event) in events.iter().enumerate() {
///         let number: u64 = event.json().map_err(|error| (index, error))?;
///         state::set(&event.foreign_id, number.to_string());
///     }
///     Ok(())
/// }
///
/// tendon_sdk::batch_handler!(handle);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! batch_handler {
    ($handle:path) => {
        $crate::__export!(batch_handler, batch_consumer, $handle);
    };
    ($handle:path, init = $init:path) => {
        $crate::__export!(batch_handler, batch_consumer, $handle, $init);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($kind:ident, $world:ident, $handle:path $(, $init:path)?) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = {
            $crate::__check!($kind, $handle);
            $(const _: fn() -> $crate::Result<()> = $init;)?
        };
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct TendonGuest;
            $crate::__implement!($kind, $world, $handle);
            $(
                impl $crate::__private::lifecycle::exports::tendon::consumer::lifecycle::Guest for TendonGuest {
                    fn init() -> ::std::result::Result<(), ::std::string::String> {
                        $crate::__private::prepare();
                        $init().map_err($crate::__private::init_error)
                    }
                }
                $crate::__private::lifecycle::export!(TendonGuest with_types_in $crate::__private::lifecycle);
            )?
            $crate::__private::$world::export!(TendonGuest with_types_in $crate::__private::$world);
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __check {
    (handler, $handle:path) => {
        const _: fn(&$crate::Event) -> $crate::Result<()> = $handle;
    };
    (batch_handler, $handle:path) => {
        const _: fn(&[$crate::Event]) -> ::std::result::Result<(), (usize, $crate::Error)> = $handle;
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __implement {
    (handler, $world:ident, $handle:path) => {
        impl $crate::__private::$world::exports::tendon::consumer::handler::Guest for TendonGuest {
            fn handle(
                event: $crate::Event,
            ) -> ::std::result::Result<(), $crate::__private::imports::tendon::consumer::types::Failure> {
                $crate::__private::prepare();
                $crate::__private::handle_one($handle, &event)
            }
        }
    };
    (batch_handler, $world:ident, $handle:path) => {
        impl $crate::__private::$world::exports::tendon::consumer::batch_handler::Guest for TendonGuest {
            fn handle_batch(
                events: ::std::vec::Vec<$crate::Event>,
            ) -> ::std::result::Result<(), $crate::__private::imports::tendon::consumer::types::BatchFailure> {
                $crate::__private::prepare();
                $crate::__private::handle_batch($handle, &events)
            }
        }
    };
}

/// Before each call: the logger is there.
pub fn prepare() {
    logger::install();
}

/// A call of a handler. It is not inlined, so that a backtrace shows the author's function by its name.
pub fn handle_one(handle: fn(&Event) -> Result<()>, event: &Event) -> Result<(), Failure> {
    black_box(handle)(event).map_err(Error::into_failure)
}

/// A call of a batch handler, likewise.
pub fn handle_batch(handle: BatchHandler, events: &[Event]) -> Result<(), BatchFailure> {
    black_box(handle)(events).map_err(|(index, error)| BatchFailure {
        index: u32::try_from(index).unwrap_or(u32::MAX),
        failure: error.into_failure(),
    })
}

/// The error of `init`, as it crosses to the host.
pub fn init_error(error: Error) -> String {
    error.to_string()
}
