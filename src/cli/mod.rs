//! The commands: arguments -> operation -> render. Only this layer uses clap and progress bars.
//!
//! Each command is a module with its clap `Args`, `run(&args, &mut Context) -> Outcome`, and the [`crate::render::Report`] implementation of its
//! result, and is listed in `Command` and `dispatch`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Mutex;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::base::threads::lock;
use crate::base::{Error, ErrorKind, text};
use crate::render::Output;
use crate::source::remote;
use context::{Context, Failure, Outcome, Status};

mod archs;
mod assignment;
#[cfg(feature = "tui")]
mod browse;
#[cfg(feature = "catalog")]
mod catalog;
mod completions;
mod context;
mod convert;
mod count;
mod diff;
mod fit;
mod formats;
mod hash;
mod hints;
mod hist;
mod info;
mod ls;
mod man;
mod meta;
mod options;
mod progress;
mod report;
mod sarif;
mod show;
pub mod signals;
mod stats;
mod types;
mod usage;
mod verify;

/// The command line arguments.
#[derive(Debug, Parser)]
#[command(name = "weigh", version, about, propagate_version = false, max_term_width = 110, arg_required_else_help = true)]
#[command(
    after_help = "PATH is a file, a folder or one part of a set (a shard, a split, an index): weigh opens the whole model and recognises its format by content.\n\
PATH may also be an address: ORG/NAME or hf://ORG/NAME[@REVISION][/PATH] on the Hugging Face Hub, https://, s3://, gs://, az://.\n\
Exit status: 0 success, 1 success with findings (a difference, a broken rule, a truncated file), 2 error."
)]
struct Cli {
    #[command(flatten)]
    global: options::Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Info(info::Args),
    Ls(ls::Args),
    Count(count::Args),
    Stats(stats::Args),
    Show(show::Args),
    Meta(meta::Args),
    Hist(hist::Args),
    Diff(diff::Args),
    Fit(Box<fit::Args>),
    Report(report::Args),
    Verify(verify::Args),
    Hash(hash::Args),
    Convert(Box<convert::Args>),
    #[cfg(feature = "catalog")]
    Catalog(catalog::Args),
    #[cfg(feature = "tui")]
    Browse(browse::Args),
    Types(types::Args),
    Formats(formats::Args),
    Archs(archs::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    /// Refuses an output format that the command does not have.
    fn takes(&self, format: Output) -> Result<(), Error> {
        let writes = match self {
            Self::Verify(_) => return Ok(()),
            Self::Report(_) => "an HTML page",
            Self::Completions(_) => "a script",
            Self::Man(_) => "a manual page",
            Self::Hist(args) if args.draws() => "a picture",
            _ if format == Output::Sarif => return Err(Error::argument("sarif is a format of `weigh verify` only")),
            _ => return Ok(()),
        };
        match format {
            Output::Table => Ok(()),
            _ => Err(Error::argument(format!("this command writes {writes}, which has no other format"))),
        }
    }
}

fn dispatch(command: Command, context: &mut Context<'_>) -> Outcome {
    match command {
        Command::Info(args) => info::run(&args, context),
        Command::Ls(args) => ls::run(&args, context),
        Command::Count(args) => count::run(&args, context),
        Command::Hist(args) => hist::run(&args, context),
        Command::Fit(args) => fit::run(&args, context),
        Command::Report(args) => report::run(&args, context),
        Command::Diff(args) => diff::run(&args, context),
        Command::Stats(args) => stats::run(&args, context),
        Command::Show(args) => show::run(&args, context),
        Command::Meta(args) => meta::run(args, context),
        Command::Verify(args) => verify::run(&args, context),
        Command::Hash(args) => hash::run(&args, context),
        Command::Convert(args) => convert::run(&args, context),
        #[cfg(feature = "catalog")]
        Command::Catalog(args) => catalog::run(&args, context),
        #[cfg(feature = "tui")]
        Command::Browse(args) => browse::run(&args, context),
        Command::Types(args) => types::run(&args, context),
        Command::Formats(args) => formats::run(&args, context),
        Command::Archs(args) => archs::run(&args, context),
        Command::Completions(args) => completions::run(&args, context),
        Command::Man(args) => man::run(&args, context),
    }
}

/// Runs the command line `args`, as [`status`] does.
pub fn run<I, T>(args: I, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    ExitCode::from(status(args, out, err))
}

/// Runs the command line `args` (the program name first): results go to `out`, messages to `err`.
///
/// Returns the exit status: 0 success, 1 success with findings, 2 error. A closed pipe as `out` is not an error.
pub fn status<I, T>(args: I, out: &mut dyn Write, err: &mut dyn Write) -> u8
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let args: Vec<OsString> = args.into_iter().map(concealed).collect();
    let cli = parse(&args).or_else(|error| match usage::with_info(&args, &error) {
        Some(args) => parse(&args),
        None => Err(error),
    });
    let cli = match cli {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, out, err),
    };
    remote::use_cache(cli.global.cache());
    let mut context = Context::new(out, err, cli.global.renderer(), cli.global.quiet(), cli.global.root());
    if let Err(error) = cli.command.takes(context.output()) {
        return fail(&mut context, &error);
    }
    if let Some(fewer) = cli.global.start_threads() {
        context.warn(&fewer);
    }
    let outcome = dispatch(cli.command, &mut context).and_then(|status| {
        context.finish()?;
        Ok(status)
    });
    match outcome {
        Ok(Status::Done) => 0,
        Ok(Status::Found) => 1,
        Ok(Status::Failed) => 2,
        Ok(Status::Other(status)) => status,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(Failure::Output(error)) => fail(&mut context, &unwritten(&error)),
        Err(Failure::Weigh(error)) => fail(&mut context, &error),
    }
}

/// Parses arguments.
fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    /// Kept, as making it and freeing it take as many instructions as reading a small model.
    static COMMAND: Mutex<Option<clap::Command>> = Mutex::new(None);
    let mut command = lock(&COMMAND);
    let command = command.get_or_insert_with(Cli::command);
    let mut matches = command.try_get_matches_from_mut(args)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(command))
}

/// Returns an argument as it may be shown: the credentials and the query of a URL are kept apart.
fn concealed(argument: impl Into<OsString>) -> OsString {
    let argument = argument.into();
    argument.to_str().and_then(remote::conceal).map_or(argument, OsString::from)
}

fn unwritten(error: &io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot write the output: {error}"))
}

fn fail(context: &mut Context<'_>, error: &Error) -> u8 {
    context.report_error(error);
    2
}

/// Returns the clap command, for completions, man pages and docs/options.md.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Prints help and version as results, and mistakes in the arguments to `err`.
fn refuse(error: &clap::Error, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    if error.use_stderr() {
        // The message quotes arguments, which may be untrusted.
        let (what, hint) = usage::message(error);
        let _ = writeln!(err, "weigh: {}", text::escape(&what));
        if !hint.is_empty() {
            let _ = writeln!(err, "hint: {}", text::escape(&hint));
        }
        2
    } else {
        match write!(out, "{}", error.render()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let _ = writeln!(err, "weigh: {}", unwritten(&error));
                2
            }
            _ => 0,
        }
    }
}
