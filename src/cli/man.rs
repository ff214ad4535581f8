//! `weigh man [COMMAND]`

use crate::base::Error;
use crate::cli::context::{Context, Outcome, Status};

/// Print the manual page of weigh or of one command, as roff
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh man ls | man -l -
  weigh man meta set > weigh-meta-set.1")]
pub(super) struct Args {
    /// Command, and its subcommand
    command: Vec<String>,
    /// List the commands that have a page
    #[arg(long, conflicts_with = "command")]
    list: bool,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    let mut whole = super::command();
    whole.build();
    if args.list {
        for name in pages(&whole) {
            writeln!(context.out(), "{name}")?;
        }
        return Ok(Status::Done);
    }
    let mut page = &whole;
    for name in args.command.iter().flat_map(|names| names.split_whitespace()) {
        let found = page.find_subcommand(name);
        page = found.ok_or_else(|| Error::argument(format!("no command named {name}")).hint("`weigh --help` lists them"))?;
    }
    let source = concat!("weigh ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(page.clone()).source(source).render(context.out())?;
    Ok(Status::Done)
}

/// Returns the names of all commands and subcommands.
fn pages(command: &clap::Command) -> Vec<String> {
    let own = command.get_subcommands().filter(|sub| sub.get_name() != "help");
    let named = |sub: &clap::Command| {
        let below = pages(sub).into_iter().map(|name| format!("{} {name}", sub.get_name())).collect::<Vec<_>>();
        std::iter::once(sub.get_name().to_owned()).chain(below).collect::<Vec<_>>()
    };
    own.flat_map(named).collect()
}
