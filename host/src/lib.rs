//! tendon runs event consumers as sandboxed WebAssembly components. The host owns the streams and the cursors; a
//! consumer's state, the events it emits and its cursor are committed together or not at all.
//!
//! The map. Edges depend on runtime and backend, those on core, core on nothing here; a test holds it to that.
//!
//! | core | |
//! |---|---|
//! | [`tenant`], [`event`], [`error`] | names, events, the one error |
//! | [`source`], [`store`] | the two ports; [`changes`] and [`deployment`] are what a commit carries |
//! | [`handler`], [`view`], [`limits`] | whatever handles events, its view of the state, what it may use; `cache` is what a view remembers, `scan` merges it with a store |
//! | [`dead_letter`], [`parked`] | what a consumer goes on without, for good or until its key goes on |
//! | [`filter`] | which events a consumer is called with |
//! | [`topology`], [`emitted`] | how a consumer is divided into shards, and what it knows of the past |
//! | [`policy`], [`batch`], [`clock`] | the loop's decisions, as pure functions, and its time |
//! | [`tailer`] | reads a stream once for all its consumers |
//! | [`committer`] | merges the commits of many shards into one transaction |
//! | [`metrics`] | what the loop counts |
//! | [`owner`], [`suspicion`] | who runs shards, whether that process is still there, and what it may have ended of |
//! | [`shard`], [`consumer`] | one part of a consumer, and THE loop that runs it, with `calling` for its handler, `failure`, `park`, `redrive` and `suspect` for what could not be handled; `in_flight` holds its commits that are not answered yet |
//! | [`supervisor`] | keeps a shard's loop running, and says why it stands |
//! | **runtime and backend** | |
//! | [`runtime`] | runs components; the only place that knows wasmtime |
//! | [`backend`] | the databases; the only place that knows SQL |
//! | **edges** | |
//! | [`config`] | `tendon.toml` and what is wrong with it |
//! | [`event_file`] | events as lines of JSON |
//! | [`deploy`], [`start`] | how a component becomes what a consumer runs, and where that begins |
//! | [`host`], `open` | a running host, with what an operator can do to it (`moves`, `reset`, `prune`), and the stores and streams that it has open; [`watch`] follows its files, [`head`] waits until it has nothing left to do |
//! | [`notice`], [`telemetry`] | what a host tells of itself |
//! | [`server`] | the one HTTP/JSON API |
//! | [`cli`] | the command line |

pub mod backend;
pub mod batch;
mod cache;
pub mod changes;
pub mod cli;
pub mod clock;
pub mod committer;
pub mod config;
pub mod consumer;
pub mod dead_letter;
pub mod deploy;
pub mod deployment;
pub mod emitted;
pub mod error;
pub mod event;
pub mod event_file;
pub mod filter;
pub mod handler;
pub mod head;
pub mod host;
mod in_flight;
pub mod limits;
pub mod metrics;
pub mod notice;
mod open;
pub mod owner;
pub mod parked;
pub mod policy;
pub mod runtime;
mod scan;
pub mod server;
pub mod shard;
pub mod source;
pub mod start;
pub mod store;
pub mod supervisor;
pub mod suspicion;
pub mod tailer;
pub mod telemetry;
pub mod tenant;
pub mod topology;
pub mod view;
pub mod watch;
