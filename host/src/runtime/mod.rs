//! Runs components. The only place that knows wasmtime.
//!
//! | | |
//! |---|---|
//! | `gate` | refuses what is no guest, with a sentence that says why and what to do |
//! | [`Inspection`] | what a component is, as far as its bytes tell |
//! | [`Engine`] | one per process: compiles, and remembers what it compiled |
//! | [`Compiler`] | where components are compiled: `worker` is the process that does, `confine` what it gives up first |
//! | [`CodeCache`] | machine code on the disk; `code` is where it becomes a component |
//! | [`GuestFactory`] | makes instances of a compiled component; an instance is a [`crate::handler::Handler`] |
//! | `imports` | what a guest may call: state, emit, log, config |
//! | `meter`, `memory` | what a guest may use, and the ends of those that use more |
//! | `trap` | why a guest ended, as a failure that an operator can read |

mod call;
mod code;
mod code_cache;
mod compiler;
mod confine;
mod context;
mod engine;
mod factory;
mod gate;
mod imports;
mod inspection;
mod instance;
mod memory;
mod meter;
mod output;
mod start;
mod ticker;
mod trap;
mod watchdog;
mod worker;

pub use code_cache::CodeCache;
pub use compiler::Compiler;
pub use confine::Confined;
pub use engine::{Compiled, Engine};
pub use factory::GuestFactory;
pub use inspection::{Guarantee, HandlerKind, Inspection, Tool, inspect};
pub use worker::serve as serve_compiler;
