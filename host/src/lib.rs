//! tendon runs event consumers as sandboxed WebAssembly components. The host owns the streams and the cursors; a
//! consumer's state, the events it emits and its cursor are committed together or not at all.
//!
//! The map. Edges depend on runtime and backend, those on core, core on nothing here; a test holds it to that.
//!
//! | core | |
//! |---|---|
//! | [`tenant`], [`event`], [`error`] | names, events, the one error |
//! | [`source`], [`store`] | the two ports; [`changes`] and [`deployment`] are what a commit carries |
//! | [`handler`], [`view`], [`limits`] | whatever handles events, its view of the state, what it may use |
//! | [`policy`], [`batch`], [`clock`] | the loop's decisions, as pure functions, and its time |
//! | [`tailer`] | reads a stream once for all its consumers |
//! | [`committer`] | merges the commits of many shards into one transaction |
//! | [`consumer`] | THE loop |
//! | **edges** | |
//! | [`config`] | `tendon.toml` and what is wrong with it |
//! | [`event_file`] | events as lines of JSON |

pub mod batch;
pub mod changes;
pub mod clock;
pub mod config;
pub mod deployment;
pub mod error;
pub mod event;
pub mod event_file;
pub mod handler;
pub mod limits;
pub mod policy;
pub mod source;
pub mod store;
pub mod tenant;
pub mod view;
