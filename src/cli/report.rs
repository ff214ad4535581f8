//! `weigh report`

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use crate::base::{Error, Result};
use crate::cli::context::{Context, Outcome, Status};
use crate::format::Reader;
use crate::ops::{compare, convert, diff, info, overview, stats};
use crate::quant::recipe::Target;
use crate::render::html;
use crate::write::output;

/// Write a self-contained HTML page about one model or a comparison of two
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh report model.gguf -o model.html
  weigh report model-f16.gguf model-q4_k_m.gguf -o cost.html
  weigh report model-f16.gguf --compare Q3_K_M,Q4_K_M,Q6_K -o types.html")]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    a: PathBuf,
    /// Second model, to compare with
    b: Option<PathBuf>,
    /// Show size and error of the model in each of these file types instead, as measured by `weigh convert --compare`
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',', conflicts_with_all = ["b", "sample"])]
    compare: Vec<String>,
    /// Write the page to FILE (default: standard output)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite an existing page
    #[arg(long, requires = "output")]
    force: bool,
    /// Read only a sample: about a million elements of each tensor
    #[arg(long, conflicts_with = "b")]
    sample: bool,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    if args.output.is_none() && io::stdout().is_terminal() {
        return Err(Error::argument("the HTML page cannot be shown in a terminal").hint("-o model.html writes it to a file").into());
    }
    let a = context.open(&args.a)?;
    let b = args.b.as_deref().map(|b| context.open(b)).transpose()?;
    let inputs: Vec<PathBuf> = [Some(&a), b.as_ref()].into_iter().flatten().flat_map(Reader::input_paths).collect();
    if let Some(path) = &args.output {
        output::check(path, args.force, &inputs)?; // before all of the model is read
    }
    let progress = context.progress(&[]);
    let advance = |bytes, all| progress.add(bytes, all);
    let (page, infos) = match &b {
        None if !args.compare.is_empty() => {
            let targets = args.compare.iter().map(|name| name.parse()).collect::<Result<Vec<Target>>>()?;
            let found = compare::compare(&a, &targets, &convert::Options::default(), &|_| {})?;
            let info = info::info(&a)?;
            (html::costs(info.name.as_deref().unwrap_or(&info.path), &found), vec![info])
        }
        None => {
            let options = stats::Options {
                sample: args.sample.then_some(stats::SAMPLE_ELEMENTS),
                progress: Some(&advance),
                ..stats::Options::default()
            };
            let found = overview::overview(&a, &options)?;
            (html::model(&found), vec![found.info])
        }
        Some(b) => {
            let found = overview::comparison(&a, b, &diff::Options { progress: Some(&advance), ..diff::Options::default() })?;
            (html::pair(&found), found.infos.into())
        }
    };
    for (path, info) in [&args.a].into_iter().chain(&args.b).zip(&infos) {
        context.warn_packing(path, info.packing.as_ref());
    }
    match &args.output {
        None => context.out().write_all(page.as_bytes())?,
        Some(path) => {
            output::write_whole(path, page.as_bytes(), args.force, &inputs)?;
            return context.wrote(path, page.len());
        }
    }
    Ok(Status::Done)
}
