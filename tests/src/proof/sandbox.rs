//! What the sandbox keeps away from the host, and what it costs: machine code that was tampered with, components that the compiler
//! dies of, and a restart that compiles nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use tendon::{
    config::{self, Components},
    error::Kind,
    host::Host,
    limits::Limits,
    runtime::{CodeCache, Compiler, Engine},
};

use super::{Scale, report::Report};
use crate::{
    binary,
    guests::{Guest, bomb},
};

/// Functions of a component that takes the compiler several seconds.
const BOMB_FUNCTIONS: usize = 30_000;

/// Runs all of it.
pub(super) fn prove(report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if report.wants("flips") {
            flips(report).await?;
        }
        if report.wants("bombs") {
            bombs(report).await?;
        }
        if report.wants("restart") {
            restart(report).await?;
        }
        Ok(())
    })
}

/// A file of the cache with one bit that is another one, again and again. Whoever cannot compile has nothing else to run.
async fn flips(report: &mut Report) -> Result<()> {
    let flips = if report.scale() == Scale::Full { 3_000 } else { 200 };
    let folder = tempfile::tempdir()?;
    let cache = folder.path().join("code");
    let component = Guest::Bench.component()?;
    let compiler = Compiler::Apart(binary::tendon().to_owned());
    Engine::new(compiler, Some(CodeCache::open(&cache)?))?.compile(component.clone(), &Limits::default()).await?;
    let file = one_file(&cache)?;
    let whole = fs::read(&file)?;
    let mut random = fastrand::Rng::with_seed(report.seed());
    let mut run = 0;
    for _ in 0..flips {
        let mut flipped = whole.clone();
        flipped[random.usize(..whole.len())] ^= 1 << random.u8(..8);
        fs::write(&file, flipped)?;
        run += u64::from(is_loaded(&cache, &component).await?);
    }
    fs::write(&file, &whole)?;
    report.beside("bits of a file of the code cache that were flipped, one at a time", flips.to_string());
    report.count("of those files, run", 0, run);
    report.count("control, the file as it was: run", 1, is_loaded(&cache, &component).await?.into());
    Ok(())
}

fn one_file(cache: &Path) -> Result<PathBuf> {
    let files: Vec<PathBuf> = fs::read_dir(cache)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let mut files = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "code"));
    files.next().ok_or_else(|| anyhow::anyhow!("nothing was kept"))
}

async fn is_loaded(cache: &Path, component: &Bytes) -> Result<bool> {
    let engine = Engine::new(Compiler::Apart("/nowhere".into()), Some(CodeCache::open(cache)?))?;
    match engine.compile(component.clone(), &Limits::default()).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == Kind::Unavailable => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Components that take too much to compile, and how much longer than they may.
async fn bombs(report: &mut Report) -> Result<()> {
    let bounds = [
        ("CPU", Limits { compile_cpu: Duration::from_secs(1), ..Limits::default() }),
        ("memory", Limits { compile_memory_bytes: 160 << 20, ..Limits::default() }),
    ];
    let engine = Engine::new(Compiler::Apart(binary::tendon().to_owned()), None)?;
    let (mut refused, component) = (0, bomb(BOMB_FUNCTIONS));
    for (what, limits) in &bounds {
        let began = Instant::now();
        let error = engine.compile(component.clone(), limits).await.err();
        refused += u64::from(error.is_some_and(|error| error.kind() == Kind::Limit));
        report.beside(&format!("until one was refused that takes too much {what}"), seconds(began.elapsed()));
    }
    report.count("components that take too much to compile: refused", 2, refused);
    let began = Instant::now();
    engine.compile(component, &Limits::default()).await?;
    report.beside("control, the same one within the limits: compiled in", seconds(began.elapsed()));
    Ok(())
}

fn seconds(took: Duration) -> String {
    format!("{:.2} s", took.as_secs_f64())
}

/// A host with many consumers, each with a component of its own, that starts for the first time, and again.
async fn restart(report: &mut Report) -> Result<()> {
    let consumers = if report.scale() == Scale::Full { 100 } else { 5 };
    let folder = tempfile::tempdir()?;
    let mut text = "[store.main]\nurl = \"sqlite://host.db\"\n[stream.events]\n".to_owned();
    for n in 0..consumers {
        fs::write(folder.path().join(format!("{n}.wasm")), numbered(n)?)?;
        text += &format!(
            "[consumer.c{n}]\ncomponent = \"{n}.wasm\"\nstream = \"events\"\nconfig = {{ does = \"count\" }}\n"
        );
    }
    fs::write(folder.path().join("tendon.toml"), text)?;
    let (first, compiled) = start(folder.path()).await?;
    report.count("a host with consumers of as many components: compiled", consumers, compiled);
    report.beside("until it had started", seconds(first));
    let (again, compiled) = start(folder.path()).await?;
    report.count("when it started again: compiled", 0, compiled);
    report.at_most(&format!("until its {consumers} consumers had started again"), "s", 1.0, again.as_secs_f64());
    Ok(())
}

/// The benchmarks' guest with a number in it: a component of its own for each.
fn numbered(n: u64) -> Result<Vec<u8>> {
    let mut component = Guest::Bench.component()?.to_vec();
    component.extend([0, 10, 1, b'n']);
    component.extend(n.to_le_bytes());
    Ok(component)
}

/// How long a host takes to start, and how many components it compiles for that.
async fn start(folder: &Path) -> Result<(Duration, u64)> {
    let config = config::read(&folder.join("tendon.toml"), Components::MustExist)?;
    let began = Instant::now();
    let cache = CodeCache::open(&folder.join("code"))?;
    let engine = Engine::new(Compiler::Apart(binary::tendon().to_owned()), Some(cache))?;
    let metrics = engine.metrics().clone();
    let host = Host::open(config, engine).await?;
    let notices = host.start().await?;
    let took = began.elapsed();
    ensure!(notices.is_empty(), "{notices:?}");
    host.stop().await;
    Ok((took, metrics.compiled.get()))
}
