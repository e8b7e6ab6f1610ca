//! The guests of `tests/guests`, built once, and handlers made of them.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tendon::{
    clock::Clock,
    deployment::StateScope,
    event::{Cursor, Event, EventId, StreamName, Timestamp},
    limits::Limits,
    runtime::{Compiler, Engine, GuestFactory},
    store::Store,
    tenant::{ConsumerId, ShardId, StreamId, TenantId},
    view::{View, ViewSpec},
};

/// A guest of `tests/guests`.
#[derive(Clone, Copy, Debug)]
pub enum Guest {
    /// One event a call; with `init`.
    Hostile,
    /// Many events a call; without `init`.
    Batch,
    /// What the proofs measure, one event a call; with `init`.
    Bench,
    /// The same, many events a call.
    BenchBatch,
}

impl Guest {
    fn name(self) -> &'static str {
        match self {
            Self::Hostile => "hostile",
            Self::Batch => "batch",
            Self::Bench => "bench",
            Self::BenchBatch => "bench_batch",
        }
    }

    /// The component's bytes.
    pub fn component(self) -> Result<Bytes> {
        let path = built()?.join(self.name()).with_extension("wasm");
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(bytes.into())
    }
}

/// The engine of this process.
pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        Engine::new(Compiler::Here, None).unwrap_or_else(|error| std::panic::panic_any(format!("{error:?}")))
    })
}

/// The folder with the built guests. The first caller of all test processes builds them, the others wait for it.
fn built() -> Result<&'static Path> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = BUILT.get() {
        return Ok(folder);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests are in a workspace")?;
    let target = target_dir(root).join("guests");
    build(&root.join("tests/guests"), &target)?;
    Ok(BUILT.get_or_init(|| target.join("wasm32-wasip2/release")))
}

fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// Builds a workspace of guests, unless another process does: cargo itself sees whether there is anything to do.
pub fn build(workspace: &Path, target: &Path) -> Result<()> {
    fs::create_dir_all(target)?;
    let lock = File::create(target.join("build.lock"))?;
    lock.lock()?;
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--target", "wasm32-wasip2"])
        .current_dir(workspace)
        .env("CARGO_TARGET_DIR", target)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .context("run cargo")?;
    ensure!(built.status.success(), "build the guests: {}", String::from_utf8_lossy(&built.stderr));
    Ok(())
}

/// What a guest is run with.
pub struct Setup {
    /// Which one.
    pub guest: Guest,
    /// What it does: see `tests/guests/behaviours`.
    pub behaviour: &'static str,
    /// What it may use.
    pub limits: Limits,
    /// Which state it sees.
    pub scope: StateScope,
    /// Where its state is.
    pub store: Arc<dyn Store>,
}

impl Setup {
    /// The view of one shard of a consumer `acme/test` that may emit to the stream `out`.
    pub fn view(&self) -> Result<View> {
        let tenant = TenantId("acme".parse()?);
        let consumer = ConsumerId { tenant: tenant.clone(), name: "test".parse()? };
        let granted: HashSet<StreamName> = HashSet::from(["out".parse()?]);
        Ok(View::new(ViewSpec {
            store: self.store.clone(),
            shard: ShardId { consumer, index: 0 },
            scope: self.scope,
            stream: StreamId { tenant, name: "in".parse()? },
            incarnation: (1, 0),
            granted: Arc::new(granted),
            limits: Arc::new(self.limits.clone()),
            clock: Clock::System,
            emitted: None,
        }))
    }

    /// Compiles the guest, and configures its behaviour.
    pub async fn factory(&self, engine: &Engine) -> Result<GuestFactory> {
        let compiled = engine.compile(self.guest.component()?, &self.limits).await?;
        let config = BTreeMap::from([("behaviour".to_owned(), self.behaviour.to_owned())]);
        Ok(GuestFactory::new(engine, compiled, config, &self.limits)?)
    }
}

/// The n-th event of a stream, about a thing, with a payload.
pub fn event(n: u64, foreign_id: &str, metadata: impl Into<Bytes>) -> Event {
    Event {
        id: EventId(n.to_string().into()),
        cursor: Cursor(n.to_be_bytes().to_vec().into()),
        r#type: 1,
        foreign_id: foreign_id.into(),
        timestamp: Timestamp(i64::try_from(n).unwrap_or(0) * 1_000_000),
        metadata: metadata.into(),
        headers: Vec::new(),
    }
}

/// A guest with a core module beside its own that has so many functions, each of which takes the compiler some time.
pub fn bomb(functions: usize) -> Bytes {
    let body =
        "(local i32) ".to_owned() + &"local.get 0 i32.const 7 i32.mul i32.const 3 i32.xor local.set 0 ".repeat(60);
    let text = format!("(module {})", format!("(func {body}) ").repeat(functions));
    let module = wat::parse_str(text).unwrap();
    let mut bytes = Guest::Hostile.component().unwrap().to_vec();
    bytes.push(1);
    let mut length = module.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(module);
    bytes.into()
}
