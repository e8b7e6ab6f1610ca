//! The engine: one per process. It compiles components away from the data plane, one at a time, and remembers them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::Semaphore;
use wasmtime::component::{Component, InstancePre, Linker};

use super::{
    context::Ctx,
    gate,
    imports::{
        self,
        exports::tendon::consumer::{batch_handler, handler, lifecycle},
    },
    inspection::{HandlerKind, Inspection, inspect},
    ticker::Ticker,
    trap,
};
use crate::{
    error::{Error, Result},
    limits::Limits,
    store::Digest,
};

/// How many compiled components are remembered beside those that run. A Rust guest's code takes 0.1 to 0.4 MB, an
/// interpreter's up to 36.
const REMEMBERED: usize = 16;
/// The stack of a guest's own code; its host calls run on the rest of the fiber's.
const GUEST_STACK_BYTES: usize = 512 * 1024;
const FIBER_STACK_BYTES: usize = 2 * 1024 * 1024;

/// Compiles components, and bounds the instances that are made of them. A clone is the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    engine: wasmtime::Engine,
    linker: Linker<Ctx>,
    ticker: Arc<Ticker>,
    /// One compilation at a time: two would take the cores from the guests that run.
    turn: Arc<Semaphore>,
    remembered: Mutex<VecDeque<Arc<Code>>>,
}

/// A component that passed the gate and is ready to be instantiated.
#[derive(Clone)]
pub struct Compiled {
    code: Arc<Code>,
    compiled_in: Duration,
}

struct Code {
    inspection: Inspection,
    pre: InstancePre<Ctx>,
    entry: EntryIndices,
    lifecycle: Option<lifecycle::GuestIndices>,
}

/// Where a component's events go in.
pub(super) enum EntryIndices {
    /// One a call.
    Handler(handler::GuestIndices),
    /// Many a call.
    Batch(batch_handler::GuestIndices),
}

impl Compiled {
    /// The SHA-256 of its bytes.
    pub fn digest(&self) -> Digest {
        self.code.inspection.digest
    }

    /// What it is.
    pub fn inspection(&self) -> &Inspection {
        &self.code.inspection
    }

    /// How long compiling took; zero when it was remembered.
    pub fn compiled_in(&self) -> Duration {
        self.compiled_in
    }

    /// What instances are made of.
    pub(super) fn pre(&self) -> &InstancePre<Ctx> {
        &self.code.pre
    }

    /// Where its events go in.
    pub(super) fn entry(&self) -> &EntryIndices {
        &self.code.entry
    }

    /// Where `init` is, if it has one.
    pub(super) fn lifecycle(&self) -> Option<&lifecycle::GuestIndices> {
        self.code.lifecycle.as_ref()
    }
}

impl Engine {
    /// Makes the process's engine, and starts its ticker.
    pub fn new() -> Result<Self> {
        let mut config = wasmtime::Config::new();
        config
            .epoch_interruption(true)
            .wasm_memory64(false)
            .max_wasm_stack(GUEST_STACK_BYTES)
            .async_stack_size(FIBER_STACK_BYTES);
        let failed = |error: wasmtime::Error| Error::invalid("set the engine up").because(error);
        let engine = wasmtime::Engine::new(&config).map_err(failed)?;
        let linker = imports::linker(&engine)?;
        let weak = engine.weak();
        let ticker = Ticker::start(move || {
            if let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
            }
        })?;
        let (turn, remembered) = (Arc::new(Semaphore::new(1)), Mutex::default());
        Ok(Self(Arc::new(Inner { engine, linker, ticker: Arc::new(ticker), turn, remembered })))
    }

    /// Compiles a component, on a thread of its own, after those that were asked for before; one that is remembered
    /// costs only its digest. What is no guest of this host is `Invalid`, what is too large `Limit`.
    pub async fn compile(&self, bytes: Bytes, limits: &Limits) -> Result<Compiled> {
        gate::check_size(bytes.len() as u64, limits)?;
        let mine = bytes.clone();
        let digest = off_the_data_plane(move || Ok(Digest::of(&mine))).await?;
        if let Some(compiled) = self.remembered(&digest) {
            return Ok(compiled);
        }
        let turn = self.0.turn.clone().acquire_owned().await;
        let turn = turn.map_err(|error| Error::unavailable("wait for the compiler").because(error))?;
        let engine = self.clone();
        off_the_data_plane(move || {
            let _turn = turn;
            // Somebody else may have had it compiled meanwhile.
            if let Some(compiled) = engine.remembered(&digest) {
                return Ok(compiled);
            }
            let began = Instant::now();
            let code = Arc::new(engine.compile_now(&bytes)?);
            engine.remember(code.clone());
            Ok(Compiled { code, compiled_in: began.elapsed() })
        })
        .await
    }

    /// A component that was compiled before and is still remembered.
    pub fn remembered(&self, digest: &Digest) -> Option<Compiled> {
        let mut remembered = self.0.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let at = remembered.iter().position(|code| code.inspection.digest == *digest)?;
        let code = remembered.remove(at)?;
        remembered.push_front(code.clone());
        Some(Compiled { code, compiled_in: Duration::ZERO })
    }

    fn remember(&self, code: Arc<Code>) {
        let mut remembered = self.0.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.push_front(code);
        remembered.truncate(REMEMBERED);
    }

    fn compile_now(&self, bytes: &[u8]) -> Result<Code> {
        let inspection = inspect(bytes)?;
        let component = Component::from_binary(&self.0.engine, bytes)
            .map_err(|error| Error::invalid(format!("not a valid component: {}", error.root_cause())))?;
        let misfit = |error: wasmtime::Error| {
            Error::invalid(format!("the component does not fit tendon:consumer 0.1: {}", trap::chain(&error)))
                .help("build it against the WIT of this version, with the SDK of this version")
        };
        let pre = self.0.linker.instantiate_pre(&component).map_err(misfit)?;
        let entry = match inspection.handler {
            HandlerKind::Handler => EntryIndices::Handler(handler::GuestIndices::new(&pre).map_err(misfit)?),
            HandlerKind::BatchHandler => EntryIndices::Batch(batch_handler::GuestIndices::new(&pre).map_err(misfit)?),
        };
        let lifecycle = match inspection.lifecycle {
            true => Some(lifecycle::GuestIndices::new(&pre).map_err(misfit)?),
            false => None,
        };
        Ok(Code { inspection, pre, entry, lifecycle })
    }

    /// wasmtime's own.
    pub(super) fn inner(&self) -> &wasmtime::Engine {
        &self.0.engine
    }

    /// The clock of all calls.
    pub(super) fn ticker(&self) -> &Arc<Ticker> {
        &self.0.ticker
    }
}

/// Runs work that would hold the data plane up. A compiler that panics is a component that is refused.
async fn off_the_data_plane<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::invalid("the compiler ended before the component was compiled").because(error))?
}
