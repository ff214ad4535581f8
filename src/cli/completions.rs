//! `weigh completions SHELL`

use clap_complete::Shell;

use crate::cli::context::{Context, Outcome, Status};

/// Print a shell completion script
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh completions bash > /etc/bash_completion.d/weigh
  weigh completions zsh > ~/.zfunc/_weigh")]
pub(super) struct Args {
    /// Shell
    shell: Shell,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    // Into memory first: the generator panics if a write fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "weigh", &mut script);
    context.out().write_all(&script)?;
    Ok(Status::Done)
}
