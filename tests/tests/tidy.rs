//! Holds the tree to its own rules: sizes, edges between modules, documentation, nothing left to do.

use std::{
    fs,
    path::{Path, PathBuf},
};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// A crate's name, and the only folders that may name it, below host/src.
const EDGES: [(&str, &[&str]); 4] =
    [("wasmtime", &["runtime/"]), ("wasmtime_wasi", &["runtime/"]), ("sqlx", &["backend/"]), ("clap", &["cli/"])];

/// What core must not name.
const ABOVE_CORE: [&str; 9] = [
    "crate::backend",
    "crate::runtime",
    "crate::config",
    "crate::server",
    "crate::cli",
    "crate::host",
    "crate::deploy",
    "axum",
    "sqlx",
];
const CORE: [&str; 33] = [
    "batch",
    "cache",
    "changes",
    "clock",
    "committer",
    "consumer",
    "consumer/calling",
    "consumer/failure",
    "consumer/gathering",
    "consumer/parking",
    "consumer/redrive",
    "consumer/share",
    "consumer/suspect",
    "dead_letter",
    "deployment",
    "emitted",
    "error",
    "event",
    "filter",
    "handler",
    "limits",
    "metrics",
    "owner",
    "parked",
    "policy",
    "source",
    "store",
    "tailer",
    "tenant",
    "topology",
    "view",
    "supervisor",
    "suspicion",
];

/// Spelt in pieces, so that this file does not name what it forbids.
fn banned() -> [(String, &'static str); 5] {
    [
        (["to", "do!("].concat(), "do it, or leave it out"),
        (["unimple", "mented!("].concat(), "what cannot be done is an impl that does not exist"),
        (["FIX", "ME"].concat(), "fix it"),
        (["#[ig", "nore"].concat(), "a test that does not run proves nothing"),
        (["thread::sl", "eep("].concat(), "wait for what you wait for"),
    ]
}

struct File {
    path: String,
    text: String,
}

impl File {
    /// The lines that are not an inline test module.
    fn code(&self) -> Vec<&str> {
        self.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().collect()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files() -> Vec<File> {
    let mut found = Vec::new();
    for folder in ["host/src", "guest-sdk/rust/src", "tests", "examples"] {
        collect(&root().join(folder), &mut found);
    }
    assert!(found.len() > 40, "only {} files were found: this test looks in the wrong place", found.len());
    found
}

fn collect(folder: &Path, found: &mut Vec<File>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root()).unwrap().display().to_string();
            found.push(File { path, text });
        }
    }
}

fn check(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn files_and_functions_fit_a_reader() {
    let mut problems = Vec::new();
    for file in files() {
        let code = file.code();
        if code.len() > FILE_LINES_MAX {
            problems.push(format!("{}: {} lines, at most {FILE_LINES_MAX}: split it by noun", file.path, code.len()));
        }
        problems.extend(long_functions(&code).iter().map(|(line, length)| {
            format!("{}:{line}: a function of {length} lines, at most {FUNCTION_LINES_MAX}", file.path)
        }));
    }
    check(&problems);
}

/// Functions that are too long, by their first line: from `fn` to the brace at the same indentation.
fn long_functions(code: &[&str]) -> Vec<(usize, usize)> {
    let mut long = Vec::new();
    for (at, line) in code.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words = line.trim_start();
        let is_function = [
            "fn ",
            "pub fn ",
            "async fn ",
            "pub async fn ",
            "pub(crate) fn ",
            "pub(super) fn ",
            "pub(super) async fn ",
            "pub(crate) async fn ",
            "const fn ",
            "pub const fn ",
        ]
        .iter()
        .any(|start| words.starts_with(start));
        if !is_function {
            continue;
        }
        let end = format!("{}}}", " ".repeat(indent));
        let length = code[at..].iter().position(|line| *line == end).unwrap_or(0) + 1;
        if length > FUNCTION_LINES_MAX {
            long.push((at + 1, length));
        }
    }
    long
}

#[test]
fn crates_stay_where_they_belong() {
    let mut problems = Vec::new();
    for file in files().iter().filter(|file| file.path.starts_with("host/src/")) {
        let path = &file.path["host/src/".len()..];
        for (name, folders) in EDGES {
            if folders.iter().any(|folder| path.starts_with(folder)) {
                continue;
            }
            problems.extend(names(file, name).map(|line| format!("{}:{line}: names {name}", file.path)));
        }
        if CORE.iter().any(|module| path == format!("{module}.rs")) {
            for name in ABOVE_CORE {
                problems.extend(names(file, name).map(|line| format!("{}:{line}: core names {name}", file.path)));
            }
        }
    }
    check(&problems);
}

/// The lines, comments apart, that use a crate or module.
fn names(file: &File, name: &str) -> impl Iterator<Item = usize> {
    let used = [format!("{name}::"), format!("use {name};"), format!("use {name} ")];
    let lines = file.text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    let hits = lines.filter(|(_, line)| used.iter().any(|used| is_word(line, used))).map(|(at, _)| at + 1);
    hits.collect::<Vec<_>>().into_iter()
}

fn is_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|before| before.is_alphanumeric() || before == '_')
    })
}

#[test]
fn nothing_is_left_to_do() {
    let mut problems = Vec::new();
    for file in files() {
        for (at, line) in file.text.lines().enumerate() {
            for (word, instead) in banned() {
                // What a guest does to be looked at is its own business.
                if line.contains(&word) && !file.path.starts_with("tests/guests/") {
                    problems.push(format!("{}:{}: {word}: {instead}", file.path, at + 1));
                }
            }
            if line.trim_start().starts_with("#[allow(") && !line.contains("reason") {
                problems.push(format!("{}:{}: an allow without a reason", file.path, at + 1));
            }
        }
    }
    check(&problems);
}

#[test]
fn the_sdk_speaks_the_contract_itself() {
    let contract = fs::read_to_string(root().join("wit/tendon.wit")).unwrap();
    let copy = fs::read_to_string(root().join("guest-sdk/rust/wit/tendon.wit")).unwrap();
    assert_eq!(contract, copy, "guest-sdk/rust/wit differs from wit/");
}

#[test]
fn every_path_that_the_readme_names_is_there() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    // Its fenced blocks are about folders that their commands make.
    let prose: String = text.split("```").step_by(2).collect();
    let code = prose.split('`').skip(1).step_by(2);
    let links = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let is_path = |text: &&str| {
        let is_name = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
        // The last two are made: by `cargo prove`, and by `tendon new`.
        is_name && text.contains('/') && !text.starts_with("docs/proofs") && !text.starts_with("counter/")
    };
    let folders = ["host", "tests"].into_iter().filter(|folder| prose.contains(&format!("`{folder}`")));
    let local = links.filter(|link| !link.contains("://"));
    let named: Vec<&str> = code.filter(is_path).chain(local).chain(folders).collect();
    assert!(named.len() >= 6, "only {named:?} were found: this test looks in the wrong way");
    let missing: Vec<String> = named
        .iter()
        .filter(|path| !root().join(path).exists())
        .map(|path| format!("README.md names {path}, which is not there"))
        .collect();
    check(&missing);
}

#[test]
fn tidy_itself_finds_what_it_looks_for() {
    let long = format!("fn f() {{\n{}}}\n", "    x();\n".repeat(FUNCTION_LINES_MAX));
    assert_eq!(long_functions(&long.lines().collect::<Vec<_>>()), [(1, FUNCTION_LINES_MAX + 2)]);
    let file =
        File { path: String::new(), text: "// sqlx::query\nlet x = sqlx::query();\nlet y = my_sqlx::z();\n".into() };
    assert_eq!(names(&file, "sqlx").collect::<Vec<_>>(), [2]);
}
