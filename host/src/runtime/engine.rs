//! The engine: one per process. It compiles components away from the data plane, one at a time, and remembers them.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::Semaphore;
use wasmtime::component::{Component, InstancePre, Linker};

use super::{
    code::{self, Sealed},
    code_cache::CodeCache,
    compiler::{Artifact, Compiler, compile_apart},
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
    error::{Error, Kind, Result},
    limits::Limits,
    metrics::CompileMetrics,
    store::Digest,
};

/// How many compiled components are remembered beside those that run. A Rust guest's code takes 0.1 to 0.4 MB, an
/// interpreter's up to 36.
const REMEMBERED: usize = 16;
/// Raised with every change of what the gate refuses or an inspection says: what is kept was let in by the one before.
const GATE: u32 = 1;
/// Components that were refused and are not compiled again before their limits change.
const REFUSED: usize = 64;
/// The stack of a guest's own code; its host calls run on the rest of the fiber's.
const GUEST_STACK_BYTES: usize = 512 * 1024;
const FIBER_STACK_BYTES: usize = 2 * 1024 * 1024;

/// What every engine is set to, wherever it compiles: machine code is of these settings.
pub(super) fn settings() -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config
        .epoch_interruption(true)
        .wasm_memory64(false)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES);
    config
}

/// Compiles components, and bounds the instances that are made of them. A clone is the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    compiler: Compiler,
    cache: Option<CodeCache>,
    metrics: CompileMetrics,
    engine: wasmtime::Engine,
    /// What machine code depends on beside the component: this version of wasmtime, the settings, the processor.
    settings: String,
    linker: Linker<Ctx>,
    ticker: Arc<Ticker>,
    /// One compilation at a time: two would take the cores from the guests that run.
    turn: Arc<Semaphore>,
    remembered: Mutex<VecDeque<Arc<Code>>>,
    refused: Mutex<VecDeque<Refusal>>,
}

/// What a component was refused for, under which limits.
struct Refusal {
    digest: Digest,
    limits: (Duration, u64),
    message: String,
    help: Option<String>,
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
    /// Makes the process's engine, and starts its ticker. A cache is used only by what is compiled apart.
    pub fn new(compiler: Compiler, cache: Option<CodeCache>) -> Result<Self> {
        let failed = |error: wasmtime::Error| Error::invalid("set the engine up").because(error);
        let engine = wasmtime::Engine::new(&settings()).map_err(failed)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let settings = format!("{} {GATE} {:016x}", env!("CARGO_PKG_VERSION"), hasher.finish());
        let linker = imports::linker(&engine)?;
        let weak = engine.weak();
        let ticker = Ticker::start(move || {
            if let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
            }
        })?;
        let (turn, remembered, refused) = (Arc::new(Semaphore::new(1)), Mutex::default(), Mutex::default());
        let ticker = Arc::new(ticker);
        Ok(Self(Arc::new(Inner {
            compiler,
            cache,
            metrics: CompileMetrics::default(),
            engine,
            settings,
            linker,
            ticker,
            turn,
            remembered,
            refused,
        })))
    }

    /// Compiles a component, after those that were asked for before; one that is remembered costs only its digest. What is no guest
    /// of this host is `Invalid`, what is too large, or too much to compile, `Limit`.
    pub async fn compile(&self, bytes: Bytes, limits: &Limits) -> Result<Compiled> {
        gate::check_size(bytes.len() as u64, limits)?;
        let mine = bytes.clone();
        let digest = off_the_data_plane(move || Ok(Digest::of(&mine))).await?;
        if let Some(compiled) = self.remembered(&digest) {
            return Ok(compiled);
        }
        if let Some(error) = self.refusal(&digest, limits) {
            return Err(error);
        }
        // What is kept waits for nobody's compilation.
        if let Some(code) = self.load(digest).await? {
            self.0.metrics.kept.inc();
            return Ok(Compiled { code: self.remember(code), compiled_in: Duration::ZERO });
        }
        let turn = self.0.turn.clone().acquire_owned().await;
        // Held until it is remembered, so that nobody who waited compiles it again.
        let _turn = turn.map_err(|error| Error::unavailable("wait for the compiler").because(error))?;
        // Somebody else may have had it compiled meanwhile.
        if let Some(compiled) = self.remembered(&digest) {
            return Ok(compiled);
        }
        let began = Instant::now();
        let metrics = &self.0.metrics;
        let code = match &self.0.compiler {
            Compiler::Here => self.compile_here(bytes).await,
            Compiler::Apart(binary) => self.compile_apart(binary, &bytes, limits, digest).await,
        };
        let refuse = |error: &Error| {
            metrics.refused.inc();
            self.refuse(digest, limits, error);
        };
        let (code, compiled_in) = (code.inspect_err(refuse)?, began.elapsed());
        metrics.compiled.inc();
        metrics.seconds.observe(compiled_in.as_secs_f64());
        Ok(Compiled { code: self.remember(code), compiled_in })
    }

    async fn compile_apart(&self, binary: &Path, bytes: &Bytes, limits: &Limits, digest: Digest) -> Result<Code> {
        let artifact = compile_apart(binary, bytes, limits).await?;
        self.take(artifact, digest).await
    }

    async fn compile_here(&self, bytes: Bytes) -> Result<Code> {
        let engine = self.clone();
        let compile = move || {
            let inspection = inspect(&bytes)?;
            let component = Component::from_binary(&engine.0.engine, &bytes)
                .map_err(|error| Error::invalid(format!("not a valid component: {}", error.root_cause())))?;
            engine.link(inspection, &component)
        };
        off_the_data_plane(compile).await
    }

    /// What is in the cache of a component.
    async fn load(&self, digest: Digest) -> Result<Option<Code>> {
        let Some(cache) = self.0.cache.clone() else { return Ok(None) };
        let engine = self.clone();
        let load = move || {
            let Some((inspection, sealed)) = cache.load(&digest, &engine.0.settings) else { return Ok(None) };
            let code = engine.code(inspection, &sealed);
            Ok(code.inspect_err(|error| tracing::warn!(%digest, "compiled anew: {}", error.chain())).ok())
        };
        off_the_data_plane(load).await
    }

    /// Takes over what was compiled apart.
    async fn take(&self, mut artifact: Artifact, digest: Digest) -> Result<Code> {
        let engine = self.clone();
        let take = move || {
            artifact.inspection.digest = digest;
            let failed = |error| Error::unavailable("the machine code finds no room in memory").because(error);
            let sealed = Sealed::copy(&mut &artifact.code[..], artifact.code.len() as u64).map_err(failed)?;
            let code = engine.code(artifact.inspection.clone(), &sealed)?;
            if let Some(cache) = &engine.0.cache {
                cache.keep(&artifact, &engine.0.settings);
            }
            Ok(code)
        };
        off_the_data_plane(take).await
    }

    fn code(&self, inspection: Inspection, sealed: &Sealed) -> Result<Code> {
        let component = code::load(&self.0.engine, sealed).map_err(|error| {
            Error::corrupt(format!("the machine code is not this engine's: {}", trap::chain(&error)))
        })?;
        self.link(inspection, &component)
    }

    /// What it was refused for that took too much to compile: it would take as much again.
    fn refusal(&self, digest: &Digest, limits: &Limits) -> Option<Error> {
        let refused = self.0.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = (limits.compile_cpu, limits.compile_memory_bytes);
        let refusal = refused.iter().find(|refusal| refusal.digest == *digest && refusal.limits == limits)?;
        let error = Error::limit(&refusal.message);
        Some(match &refusal.help {
            Some(help) => error.help(help),
            None => error,
        })
    }

    fn refuse(&self, digest: Digest, limits: &Limits, error: &Error) {
        if error.kind() != Kind::Limit {
            return;
        }
        let limits = (limits.compile_cpu, limits.compile_memory_bytes);
        let (message, help) = (error.chain(), error.way_out().map(str::to_owned));
        let mut refused = self.0.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.push_front(Refusal { digest, limits, message, help });
        refused.truncate(REFUSED);
    }

    /// A component that was compiled before and is still remembered.
    pub fn remembered(&self, digest: &Digest) -> Option<Compiled> {
        let mut remembered = self.0.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let at = remembered.iter().position(|code| code.inspection.digest == *digest)?;
        let code = remembered.remove(at)?;
        remembered.push_front(code.clone());
        Some(Compiled { code, compiled_in: Duration::ZERO })
    }

    fn remember(&self, code: Code) -> Arc<Code> {
        let code = Arc::new(code);
        let mut remembered = self.0.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.push_front(code.clone());
        remembered.truncate(REMEMBERED);
        code
    }

    fn link(&self, inspection: Inspection, component: &Component) -> Result<Code> {
        let misfit = |error: wasmtime::Error| {
            Error::invalid(format!("the component does not fit tendon:consumer 0.1: {}", trap::chain(&error)))
                .help("build it against the WIT of this version, with the SDK of this version")
        };
        let pre = self.0.linker.instantiate_pre(component).map_err(misfit)?;
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

    /// What it counts.
    pub fn metrics(&self) -> &CompileMetrics {
        &self.0.metrics
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
