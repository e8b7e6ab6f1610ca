//! Components are compiled in a process of their own, which a bad one may end, and kept in a folder that nobody else can write to.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use tempfile::TempDir;
use tendon::{
    backend::{Database, Options},
    deployment::StateScope,
    error::{Error, Kind},
    limits::Limits,
    runtime::{CodeCache, Compiled, Compiler, Engine, GuestFactory},
};
use tendon_tests::{
    binary,
    guests::{Guest, Setup, bomb, event},
    project::{self, Project, get, subject},
};

/// Compiles apart, or from what is kept.
async fn compile(binary: &Path, cache: Option<&Path>, bytes: Bytes, limits: &Limits) -> Result<Compiled, Error> {
    let cache = cache.map(CodeCache::open).transpose()?;
    let engine = Engine::new(Compiler::Apart(binary.to_owned()), cache)?;
    engine.compile(bytes, limits).await
}

#[tokio::test]
async fn what_is_compiled_apart_runs() {
    let database = Database::open("memory:", Options::default()).await.unwrap();
    let (guest, limits, scope) = (Guest::Hostile, Limits::default(), StateScope::Consumer);
    let setup = Setup { guest, behaviour: "append", limits, scope, store: database.store() };
    let component = setup.guest.component().unwrap();
    let engine = Engine::new(Compiler::Apart(binary::tendon().to_owned()), None).unwrap();
    let compiled = engine.compile(component, &setup.limits).await.unwrap();
    assert!(compiled.compiled_in() > Duration::ZERO);
    let config = [("behaviour".to_owned(), setup.behaviour.to_owned())].into();
    let factory = GuestFactory::new(&engine, compiled, config, &setup.limits).unwrap();
    let mut handler = tendon::handler::HandlerFactory::create(&factory, setup.view().unwrap()).await.unwrap();
    let handled = handler.handle(&[event(1, "a", "x")]).await;
    assert_eq!((handled.done, handled.failure.is_none()), (1, true));
}

#[tokio::test]
async fn a_component_that_takes_too_long_to_compile_is_refused_and_nothing_else_happens() {
    let limits = Limits { compile_cpu: Duration::from_secs(1), ..Limits::default() };
    let error = compile(binary::tendon(), None, bomb(20_000), &limits).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Limit, "{error:?}");
    assert!(error.to_string().contains("more CPU than 1s, its limits.compile-cpu"), "{error}");
    assert!(error.way_out().unwrap().contains("raise `compile-cpu`"));
    // The control: the same within its limits, but smaller.
    compile(binary::tendon(), None, bomb(10), &limits).await.unwrap();
}

#[tokio::test]
async fn a_component_that_takes_too_much_memory_to_compile_is_refused() {
    let limits = Limits { compile_memory_bytes: 192 << 20, ..Limits::default() };
    let error = compile(binary::tendon(), None, bomb(20_000), &limits).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Limit, "{error:?}");
    assert!(error.to_string().contains("more memory than 192.0 MiB, its limits.compile-memory"), "{error}");
    compile(binary::tendon(), None, bomb(10), &limits).await.unwrap();
}

#[tokio::test]
async fn what_is_no_guest_is_refused_in_the_same_words_wherever_it_is_compiled() {
    let here = Engine::new(Compiler::Here, None).unwrap();
    for bytes in [&b""[..], b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0", b"(module)", b"\0asm\x0d\0\x01\0\x07\x01"] {
        let apart = compile(binary::tendon(), None, Bytes::from_static(bytes), &Limits::default()).await.err().unwrap();
        let here = here.compile(Bytes::from_static(bytes), &Limits::default()).await.err().unwrap();
        assert_eq!((apart.kind(), apart.chain(), apart.way_out()), (here.kind(), here.chain(), here.way_out()));
    }
}

#[tokio::test]
async fn a_compiler_that_ends_is_a_component_that_is_refused() {
    let error = compile(Path::new("/bin/false"), None, bomb(1), &Limits::default()).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    assert!(error.to_string().contains("the compiler ended"), "{error}");
    let error = compile(Path::new("/nowhere"), None, bomb(1), &Limits::default()).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
}

#[test]
fn a_compiler_can_compute_and_nothing_else() {
    let scratch = TempDir::new().unwrap();
    let mut probe = Command::new(env!("CARGO_BIN_EXE_confined"));
    let output = probe.arg(scratch.path().join("written")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, ["free: compute thread signal memory read list write connect listen run", "confined: compute"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("an empty file"), "{output:?}");
}

/// A folder with what the hostile guest was compiled to.
struct Kept {
    folder: TempDir,
    component: Bytes,
}

impl Kept {
    async fn new() -> Self {
        let kept = Self { folder: TempDir::new().unwrap(), component: Guest::Hostile.component().unwrap() };
        let compiled = compile(binary::tendon(), Some(&kept.path()), kept.component.clone(), &Limits::default()).await;
        assert!(compiled.unwrap().compiled_in() > Duration::ZERO);
        kept
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("code")
    }

    /// The one file with machine code.
    fn file(&self) -> PathBuf {
        let files = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut files = files.filter(|path| path.extension().is_some_and(|extension| extension == "code"));
        let file = files.next().unwrap();
        assert!(files.next().is_none());
        file
    }

    /// Whether a host that cannot compile has the component all the same.
    async fn is_loaded(&self) -> bool {
        let nowhere = Path::new("/nowhere");
        match compile(nowhere, Some(&self.path()), self.component.clone(), &Limits::default()).await {
            Ok(compiled) => {
                assert_eq!(compiled.compiled_in(), Duration::ZERO);
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
                false
            }
        }
    }
}

#[tokio::test]
async fn what_was_compiled_is_compiled_no_more() {
    let kept = Kept::new().await;
    assert!(kept.is_loaded().await);
    for path in [kept.path(), kept.path().join("key"), kept.file()] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o077, 0);
    }
    fs::remove_file(kept.file()).unwrap();
    assert!(!kept.is_loaded().await, "the control");
}

#[tokio::test]
async fn a_file_that_was_changed_by_one_bit_is_not_run() {
    let kept = Kept::new().await;
    let (file, whole) = (kept.file(), fs::read(kept.file()).unwrap());
    let mut random = fastrand::Rng::with_seed(7);
    for n in 0..300 {
        let mut flipped = whole.clone();
        // The first flips are of what a file says of itself, and of its MAC.
        let at = match n {
            0..100 => n,
            100..132 => whole.len() - 1 - (n - 100),
            _ => random.usize(..whole.len()),
        };
        flipped[at] ^= 1 << random.u8(..8);
        fs::write(&file, &flipped).unwrap();
        assert!(!kept.is_loaded().await, "byte {at}");
    }
    for cut in [0, 11, 12, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..cut]).unwrap();
        assert!(!kept.is_loaded().await, "cut at {cut}");
    }
    fs::write(&file, [&whole[..], b"x"].concat()).unwrap();
    assert!(!kept.is_loaded().await, "longer than it was");
    fs::write(&file, &whole).unwrap();
    assert!(kept.is_loaded().await, "the control");
}

#[tokio::test]
async fn a_file_of_another_folder_or_component_or_owner_s_rights_is_not_run() {
    let (kept, other) = (Kept::new().await, Kept::new().await);
    let whole = fs::read(kept.file()).unwrap();
    fs::copy(other.file(), kept.file()).unwrap();
    assert!(!kept.is_loaded().await, "another folder has another key");
    fs::write(kept.file(), &whole).unwrap();
    fs::set_permissions(kept.file(), Permissions::from_mode(0o640)).unwrap();
    assert!(!kept.is_loaded().await, "a group that may read may not be one that may write, but is no owner");
    fs::set_permissions(kept.file(), Permissions::from_mode(0o600)).unwrap();
    assert!(kept.is_loaded().await, "the control");

    let (file, moved) = (kept.file(), kept.folder.path().join("moved"));
    fs::rename(&file, &moved).unwrap();
    symlink(&moved, &file).unwrap();
    assert!(!kept.is_loaded().await, "a link to a good file");
    fs::remove_file(&file).unwrap();
    fs::rename(&moved, &file).unwrap();
    assert!(kept.is_loaded().await, "the control");

    // Of another component, under this one's name.
    let bench = Guest::Bench.component().unwrap();
    compile(binary::tendon(), Some(&kept.path()), bench, &Limits::default()).await.unwrap();
    let others = fs::read_dir(kept.path()).unwrap().map(|entry| entry.unwrap().path());
    let bench = others.filter(|path| path.extension().is_some() && *path != file).next().unwrap();
    fs::copy(&bench, &file).unwrap();
    assert!(!kept.is_loaded().await);
}

#[tokio::test]
async fn a_folder_that_others_may_write_to_is_refused_with_a_way_out() {
    let kept = Kept::new().await;
    for (path, mode) in [(kept.path(), 0o770), (kept.path().join("key"), 0o604)] {
        let before = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = CodeCache::open(&kept.path()).err().unwrap();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains(&format!("with mode {mode:o}")), "{error}");
        assert!(error.way_out().unwrap().contains("chmod"), "{error}");
        fs::set_permissions(&path, before).unwrap();
    }
    assert!(kept.is_loaded().await, "the control");
}

/// A project whose machine code is kept beside its config.
fn project(consumer: &str) -> Project {
    let config = subject(consumer).replace("[host]", "[host]\n        code-cache = \"code\"");
    Project::new(&config)
}

/// How many components a host has compiled, and how many it had.
fn counts(api: &str) -> (u64, u64) {
    let mut counts = Vec::new();
    let text = get(api, "/metrics", &format!("Host: {api}\r\n"));
    for name in ["tendon_components_compiled_total ", "tendon_components_kept_total "] {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        counts.push(line.parse().unwrap());
    }
    (counts[0], counts[1])
}

#[test]
fn a_restart_compiles_nothing_and_a_folder_that_is_not_one_s_own_keeps_it_from_starting() {
    let project = project("");
    for wanted in [(1, 0), (0, 1)] {
        let host = project::Host::start(&project, &["run"]);
        let api = host.address();
        project.import("events.jsonl", [project::event("a", "append")]);
        project.at_head("1");
        assert_eq!(counts(&api), wanted);
        assert_eq!(host.terminate(), Some(0));
    }
    fs::set_permissions(project.path("code"), Permissions::from_mode(0o777)).unwrap();
    let refused = project.run(&["run", "--until-head"]);
    let says = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{says}");
    assert!(says.contains("with mode 777") && says.contains("chmod"), "{says}");
    let checks = project.run(&["doctor", "-o", "json"]).stdout;
    assert!(String::from_utf8_lossy(&checks).contains("with mode 777"));
}

#[test]
fn a_component_that_the_compiler_dies_of_is_refused_and_the_one_that_runs_runs_on() {
    let project = project("limits = { compile-cpu = \"1s\" }");
    let host = project.host();
    project.import("first.jsonl", [project::event("a", "append")]);
    project.at_head("1");
    project.write("guest.wasm", bomb(20_000));
    host.line("refused subject: compiling it takes more CPU than 1s, its limits.compile-cpu");
    project.import("next.jsonl", [project::event("a", "append")]);
    project.at_head("2");
    let shown = project.consumer("subject", "refused", |consumer| !consumer["refused"].is_null());
    assert!(shown["refused"]["help"].as_str().unwrap().contains("raise `compile-cpu`"), "{shown}");
    assert_eq!(host.terminate(), Some(0));
}

/// A program in the place of the compiler.
fn script(folder: &TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("compiler");
    fs::write(&path, format!("#!/bin/sh\necho >> {}/calls\n{text}\n", folder.path().display())).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    path
}

#[tokio::test]
async fn whatever_the_compiler_answers_the_host_lives() {
    let real = binary::tendon().display();
    let good = format!("{real} compile-worker $2 $3 | /usr/bin/head -1; echo this is no machine code");
    let limits = Limits { compile_cpu: Duration::from_secs(1), ..Limits::default() };
    for (text, kind, says) in [
        ("kill -9 $$", Kind::Limit, "the compiler was killed"),
        ("kill -11 $$", Kind::Invalid, "the compiler ended"),
        ("echo no room 1>&2; exit 3", Kind::Unavailable, "the compiler cannot work: no room"),
        ("exec /usr/bin/yes x", Kind::Limit, "more than 256 MiB of machine code"),
        ("exec /bin/sleep 60", Kind::Limit, "has not ended after 4s, 4 times its limits.compile-cpu"),
        ("/usr/bin/head -c 3000000 /dev/zero", Kind::Corrupt, "makes no sense"),
        ("echo '{}'", Kind::Corrupt, "makes no sense"),
        (&good, Kind::Corrupt, "is not this engine's"),
    ] {
        let folder = TempDir::new().unwrap();
        let error =
            compile(&script(&folder, text), None, Guest::Bench.component().unwrap(), &limits).await.err().unwrap();
        assert_eq!(error.kind(), kind, "{text}: {error:?}");
        assert!(error.to_string().contains(says), "{text}: {error}");
    }
}

#[tokio::test]
async fn what_takes_too_much_to_compile_is_not_compiled_again_within_the_same_limits() {
    let folder = TempDir::new().unwrap();
    let engine = Engine::new(Compiler::Apart(script(&folder, "kill -9 $$")), None).unwrap();
    let component = Guest::Bench.component().unwrap();
    let calls = || fs::read_to_string(folder.path().join("calls")).unwrap().lines().count();
    let first = engine.compile(component.clone(), &Limits::default()).await.err().unwrap();
    let again = engine.compile(component.clone(), &Limits::default()).await.err().unwrap();
    assert_eq!((first.chain(), first.way_out(), calls()), (again.chain(), again.way_out(), 1));
    let more = Limits { compile_cpu: Duration::from_secs(61), ..Limits::default() };
    engine.compile(component, &more).await.err().unwrap();
    assert_eq!(calls(), 2);
}

#[tokio::test]
async fn a_key_that_was_cut_is_made_anew_and_what_was_torn_is_removed() {
    let kept = Kept::new().await;
    fs::write(kept.path().join("key"), "short").unwrap();
    assert!(!kept.is_loaded().await);
    assert_eq!(fs::metadata(kept.path().join("key")).unwrap().len(), 64);
    let (old, new) = (kept.path().join(".tmpOLD"), kept.path().join(".tmpNEW"));
    for (path, age) in [(&old, 7_200), (&new, 60)] {
        let file = fs::File::create(path).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    compile(binary::tendon(), Some(&kept.path()), kept.component.clone(), &Limits::default()).await.unwrap();
    assert_eq!((old.exists(), new.exists()), (false, true));
    assert!(kept.is_loaded().await);
}
