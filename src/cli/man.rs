//! `weigh man [COMMAND]`

use crate::base::Error;
use crate::cli::context::{Context, Outcome, Status};

/// Print the manual page of weigh or of one command, as roff
///
/// For example: weigh man ls | man -l -
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Command
    command: Option<String>,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    let mut whole = super::command();
    whole.build();
    let page = match &args.command {
        None => whole,
        Some(name) => {
            let found = whole.find_subcommand(name).cloned();
            found.ok_or_else(|| Error::argument(format!("no command named {name}")).hint("`weigh --help` lists them"))?
        }
    };
    clap_mangen::Man::new(page).render(context.out())?;
    Ok(Status::Done)
}
