//! The command line: `tendon VERB` for an author's loop, `tendon NOUN VERB` for operations. A file per verb or noun.

pub mod build;
mod client;
pub mod compile_worker;
pub mod completions;
pub mod config;
pub mod consumer;
pub mod cursor;
pub mod dev;
pub mod dlq;
pub mod doctor;
mod engine;
pub mod event;
mod hosting;
pub mod inspect;
mod logs;
pub mod new;
pub mod output;
pub mod problem;
mod rebuild;
pub mod run;
pub mod state;
pub mod stream;
pub mod test;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{ArgAction, Args, Parser, Subcommand};

use self::{
    output::{Color, Format, Output},
    problem::Exit,
};
use crate::{
    config::{Components, Config, FILE_NAME},
    error::{Error, Result},
    tenant::TenantId,
};

/// Runs event consumers as sandboxed WebAssembly components. A consumer's state, the events that it emits and its
/// cursor are committed together or not at all.
///
/// Exit codes: 0 done, 1 failed, 2 invalid input (flags, config, a component), 3 environment (a store, the API, a
/// toolchain, a port).
#[derive(Debug, Parser)]
#[command(name = "tendon", version, max_term_width = 100, propagate_version = false)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

/// Flags of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The config [default: tendon.toml in this folder, or in DIR where a command takes one]
    #[arg(short, long, global = true, value_name = "FILE", env = "TENDON_CONFIG")]
    pub config: Option<PathBuf>,
    /// The running host's API, such as http://127.0.0.1:7070 [default: found through the store]
    #[arg(long, global = true, value_name = "URL", value_parser = api)]
    pub api: Option<String>,
    /// Whose consumers and streams are meant [default: default]
    #[arg(long, global = true, value_name = "T", value_parser = tenant)]
    pub tenant: Option<TenantId>,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Log more: -v debug, -vv trace
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// How data is written: table or json
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    #[arg(hide_possible_values = true)]
    pub output: Format,
    /// The same as -o json
    #[arg(long, global = true, conflicts_with = "output")]
    pub json: bool,
    /// When errors and logs are coloured: auto, always or never; NO_COLOR is respected
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    #[arg(hide_possible_values = true)]
    pub color: Color,
}

fn api(text: &str) -> Result<String, String> {
    let url: axum::http::Uri = text.parse().map_err(|_| "expected a URL such as http://127.0.0.1:7070")?;
    let is_good = url.scheme_str() == Some("http") && url.host().is_some();
    if is_good { Ok(text.to_owned()) } else { Err("expected a URL such as http://127.0.0.1:7070".to_owned()) }
}

fn tenant(text: &str) -> Result<TenantId> {
    text.parse().map(TenantId)
}

/// What there is to do.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a folder with a consumer that builds, its test, its config and some events
    New(new::Args),
    /// Build a folder's components
    Build(build::Args),
    /// Build, import the sample events once, run, and reload what changes
    Dev(dev::Args),
    /// Run a component against events, and print its effects
    Test(test::Args),
    /// Say what a component is, and what is guaranteed for its effects
    Inspect(inspect::Args),
    /// Run the host
    Run(run::Args),
    /// Append, import, list and follow events
    Event(event::Args),
    /// List streams, check that one can be read, make its table, prune it
    Stream(stream::Args),
    /// List, show, pause, resume, reset and remove consumers, and skip what blocks them
    Consumer(consumer::Args),
    /// See where a consumer is
    Cursor(cursor::Args),
    /// See what a consumer could not handle and set aside, have it handled again, or purge it
    Dlq(dlq::Args),
    /// See what a consumer keeps
    State(state::Args),
    /// Check, show or describe tendon.toml
    Config(config::Args),
    /// Look at toolchains, config, stores and the system's limits, and say how to repair them
    Doctor(doctor::Args),
    /// Print a shell's completions
    Completions(completions::Args),
    /// Compile a component that a host has given to this process
    #[command(hide = true)]
    CompileWorker(compile_worker::Args),
}

/// What a command works with.
#[derive(Clone, Debug)]
pub struct Ctx {
    /// The flags of every command.
    pub globals: Globals,
    /// Where data and talk go.
    pub out: Output,
}

impl Ctx {
    fn new(globals: Globals) -> Self {
        let format = if globals.json { Format::Json } else { globals.output };
        let out = Output { format, quiet: globals.quiet };
        Self { globals, out }
    }

    /// The config file: the one that was named, else the one of a folder.
    pub fn config_file(&self, folder: &Path) -> PathBuf {
        // `./tendon.toml` is shown as people write it.
        let file = || if folder == Path::new(".") { PathBuf::from(FILE_NAME) } else { folder.join(FILE_NAME) };
        self.globals.config.clone().unwrap_or_else(file)
    }

    /// Reads the config that was named, else the one of this folder.
    pub fn config(&self, components: Components) -> Result<Config> {
        crate::config::read(&self.config_file(Path::new(".")), components)
    }

    /// The query of a list: the tenant where one is named, all where not.
    fn one_tenant(&self) -> client::Query {
        self.globals.tenant.iter().map(|tenant| ("tenant", tenant.to_string())).collect()
    }

    /// Whose consumers and streams are meant.
    pub fn tenant(&self) -> TenantId {
        self.globals.tenant.clone().unwrap_or_default()
    }
}

/// Runs what the process's arguments ask for.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // Nobody reads it: there is nobody to tell. Help and version are no errors.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(Exit::Invalid as u8));
        }
    };
    let ctx = Ctx::new(cli.globals);
    let exit = match &cli.verb {
        Verb::CompileWorker(args) => compile_worker::run(args),
        _ => block_on(cli.verb.run(&ctx)),
    };
    let exit = exit.unwrap_or_else(|error| {
        problem::report(&error, ctx.out.format, ctx.globals.color.on_stderr());
        Exit::of(&error)
    });
    ExitCode::from(exit as u8)
}

fn block_on(work: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::unavailable("the system gives no threads").because(error))?;
    runtime.block_on(work)
}

impl Verb {
    async fn run(self, ctx: &Ctx) -> Result<Exit> {
        match self {
            Self::New(args) => new::run(args, ctx),
            Self::Build(args) => build::run(args, ctx).await,
            Self::Dev(args) => dev::run(args, ctx).await,
            Self::Test(args) => test::run(args, ctx).await,
            Self::Inspect(args) => inspect::run(args, ctx),
            Self::Run(args) => run::run(args, ctx).await,
            Self::Event(args) => event::run(args, ctx).await,
            Self::Stream(args) => stream::run(args, ctx).await,
            Self::Consumer(args) => consumer::run(args, ctx).await,
            Self::Cursor(args) => cursor::run(args, ctx).await,
            Self::Dlq(args) => dlq::run(args, ctx).await,
            Self::State(args) => state::run(args, ctx).await,
            Self::Config(args) => config::run(args, ctx),
            Self::Doctor(args) => doctor::run(args, ctx).await,
            Self::Completions(args) => completions::run(args, ctx),
            Self::CompileWorker(args) => compile_worker::run(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_is_sound_and_every_flag_has_help() {
        Cli::command().debug_assert();
        check(&Cli::command());
    }

    fn check(command: &clap::Command) {
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
        }
        for below in command.get_subcommands() {
            assert!(command.get_name() == "tendon" || below.get_about().is_some(), "{} has no help", below.get_name());
            check(below);
        }
    }

    #[test]
    fn global_flags_stand_before_and_after_a_verb() {
        for line in ["tendon -c a.toml --json config show", "tendon config show -c a.toml --json"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let ctx = Ctx::new(cli.globals);
            assert_eq!(ctx.out.format, Format::Json);
            assert_eq!(ctx.config_file(Path::new("x")), Path::new("a.toml"));
        }
        assert_eq!(Ctx::new(Globals::default()).config_file(Path::new(".")), Path::new("tendon.toml"));
        assert!(Cli::try_parse_from(["tendon", "config", "show", "--tenant", "A B"]).is_err());
    }
}
