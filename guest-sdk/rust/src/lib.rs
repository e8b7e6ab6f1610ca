//! Write tendon consumers in Rust: one function, and one line that exports it.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use tendon_sdk::{Event, Result, emit, state};
//!
//! #[derive(Deserialize)]
//! struct Order {
//!     cents: u64,
//! }
//!
//! fn handle(event: &Event) -> Result<()> {
//!     let order: Order = event.json()?; // what is no order is rejected
//!     let total = state::get_json::<u64>("total")?.unwrap_or(0) + order.cents;
//!     state::set_json("total", &total)?;
//!     if total > 1_000_000 {
//!         emit::json("alerts", 1, &event.foreign_id, &total)?;
//!     }
//!     log::info!("{} cents", order.cents);
//!     Ok(())
//! }
//!
//! tendon_sdk::handler!(handle);
//! # fn main() {
//! # let mut host = tendon_sdk::testing::Host::new();
//! # host.handle(handle, &tendon_sdk::testing::event(1, "x", r#"{"cents":7}"#)).unwrap();
//! # assert_eq!(host.json::<u64>("total"), Some(7));
//! # }
//! ```
//!
//! Build it as a `cdylib` for `wasm32-wasip2`. Everything that the function writes is committed with the consumer's
//! cursor when it returns `Ok`, and undone when it does not. An error that `?` passes on is tried again later;
//! [`Error::reject`] and [`OrReject`] say that trying again would not help.
//!
//! On any other target the same calls go to a host in memory: see [`testing`].

#[cfg(any(test, all(feature = "allocator", target_arch = "wasm32", not(target_feature = "atomics"))))]
mod allocator;
mod bindings;
pub mod config;
pub mod emit;
mod error;
mod event;
mod export;
#[cfg(target_arch = "wasm32")]
mod guest;
mod logger;
pub mod state;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

#[cfg(target_arch = "wasm32")]
pub(crate) use guest as host;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use testing as host;

pub use bindings::imports::tendon::consumer::types::{Entry, Event, NewEvent, Timestamp};
pub use error::{Error, OrReject, Result};
pub use log;

#[doc(hidden)]
pub mod __private {
    //! What the macros expand to.
    pub use crate::{
        bindings::{batch_consumer, consumer, imports, lifecycle},
        export::{handle_batch, handle_one, init_error, prepare},
    };
}
