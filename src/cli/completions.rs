//! `weigh completions SHELL`

use clap_complete::Shell;

use crate::cli::context::{Context, Outcome, Status};

/// Print a shell completion script
///
/// bash: weigh completions bash > /etc/bash_completion.d/weigh
#[derive(Debug, clap::Args)]
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
