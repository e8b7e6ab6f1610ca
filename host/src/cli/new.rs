//! `tendon new NAME`: a folder with a consumer that builds, its test, its config and some events.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde::Serialize;

use super::{Ctx, output::Format, problem::Exit};
use crate::{
    error::{Error, Result},
    tenant::Name,
};

/// What the new folder is to contain.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The consumer's name, of a-z, 0-9 and -, and its folder's [default: with --here, this folder's name]
    #[arg(required_unless_present_any = ["list", "here"])]
    pub name: Option<String>,
    /// The language: rust
    #[arg(short, long, value_name = "LANGUAGE", value_enum, default_value_t = Template::Rust)]
    #[arg(hide_possible_values = true)]
    pub template: Template,
    /// Only list the templates
    #[arg(long, conflicts_with_all = ["name", "here"])]
    pub list: bool,
    /// Use this folder, which must be empty, instead of a new one
    #[arg(long)]
    pub here: bool,
    /// Depend on an SDK in this folder instead of the published one
    #[arg(long, value_name = "DIR", env = "TENDON_SDK")]
    pub sdk: Option<PathBuf>,
}

/// What a consumer can begin as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Template {
    /// A Rust library that counts events per foreign id.
    #[default]
    Rust,
}

#[derive(Serialize)]
struct Listed {
    name: Template,
    what: &'static str,
}

#[derive(Debug, Serialize)]
struct Created {
    name: String,
    folder: PathBuf,
    files: Vec<&'static str>,
}

/// The Rust template's files. `NAME`, `CRATE` and `SDK` in the first two are replaced.
const RUST: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("template/rust/Cargo.toml.txt")),
    ("tendon.toml", include_str!("template/rust/tendon.toml.txt")),
    ("src/lib.rs", include_str!("template/rust/lib.rs")),
    ("events.jsonl", include_str!("template/rust/events.jsonl")),
    (".gitignore", include_str!("template/rust/gitignore.txt")),
];

/// Makes the folder.
pub fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    if args.list {
        let listed = [Listed { name: Template::Rust, what: "counts events per foreign id, with a native unit test" }];
        ctx.out.list(&listed, &["template", "what it is"], |item| vec!["rust".to_owned(), item.what.to_owned()])?;
        return Ok(Exit::Ok);
    }
    let here =
        std::env::current_dir().map_err(|error| Error::unavailable("there is no current folder").because(error))?;
    let own = || here.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = args.name.clone().or_else(own).unwrap_or_default();
    let folder = if args.here { here } else { here.join(&name) };
    let created = create(&folder, &name, args.sdk.as_deref())?;
    match ctx.out.format {
        Format::Json => ctx.out.json(&created)?,
        Format::Table => {
            let inside = if args.here { "." } else { &name };
            ctx.out.talk(format_args!("created {name} in {}: {}", folder.display(), created.files.join(", ")));
            ctx.out.talk(format_args!("next: tendon dev {inside}"));
        }
    }
    Ok(Exit::Ok)
}

/// Writes the Rust template into an empty or new folder.
fn create(folder: &Path, name: &str, sdk: Option<&Path>) -> Result<Created> {
    let name: Name = name.parse()?;
    if !name.as_str().starts_with(|first: char| first.is_ascii_lowercase()) {
        return Err(Error::invalid(format!("`{name}` cannot name a Rust crate: it must begin with a letter")));
    }
    refuse_content(folder)?;
    let sdk = match sdk {
        Some(path) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            if !path.join("Cargo.toml").is_file() {
                return Err(Error::invalid(format!("there is no SDK in {}", path.display()))
                    .help("name the folder that has the SDK's Cargo.toml: guest-sdk/rust in a checkout"));
            }
            format!("{{ path = {:?} }}", path.display().to_string())
        }
        None => format!("\"{}\"", sdk_version()),
    };
    let crate_name = name.as_str().replace('-', "_");
    for (file, text) in RUST {
        let text = text.replace("{NAME}", name.as_str()).replace("{CRATE}", &crate_name).replace("{SDK}", &sdk);
        write(&folder.join(file), &text)?;
    }
    let files = RUST.iter().map(|(file, _)| *file).collect();
    Ok(Created { name: name.to_string(), folder: folder.to_owned(), files })
}

/// The SDK is released with the host: a minor version of one fits that of the other.
fn sdk_version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"))
}

fn refuse_content(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Error::invalid(format!("{} cannot be used", folder.display())).because(error));
        }
    };
    let foreign = entries.flatten().find(|entry| entry.file_name() != ".git");
    match foreign {
        None => Ok(()),
        Some(entry) => {
            let found = entry.file_name();
            Err(Error::invalid(format!("{} is not empty: it has {}", folder.display(), found.display()))
                .help("choose another name, or an empty folder"))
        }
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(file, text))
        .map_err(|error| Error::unavailable(format!("{} cannot be written", file.display())).because(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Components};

    #[test]
    fn the_template_s_config_and_events_are_good() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("word-count");
        create(&folder, "word-count", None).unwrap();
        let config = config::read(&folder.join("tendon.toml"), Components::MayBeMissing).unwrap();
        let consumer = config.consumers.values().next().unwrap();
        assert_eq!(consumer.id.name.as_str(), "word-count");
        assert!(consumer.component.ends_with("target/wasm32-wasip2/release/word_count.wasm"));
        let stream = config.stream(&consumer.stream).unwrap();
        let events = fs::read(stream.sample.as_ref().unwrap()).unwrap();
        assert_eq!(crate::event_file::read("events.jsonl", &events[..], &stream.id).unwrap().len(), 10);
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("tendon-sdk = \"0.1\"") && !manifest.contains('{'), "{manifest}");
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".git")).unwrap();
        create(folder.path(), "a", None).unwrap();
        let error = create(folder.path(), "a", None).unwrap_err();
        assert!(error.to_string().contains("is not empty"), "{error}");
    }

    #[test]
    fn a_name_that_no_crate_can_have_is_refused() {
        for name in ["", "A", "1st", "../x", "a_b"] {
            assert!(create(Path::new("/nowhere"), name, None).is_err(), "{name}");
        }
        assert!(create(Path::new("/nowhere"), "a", Some(Path::new("/nowhere"))).is_err());
    }
}
