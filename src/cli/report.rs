//! `weigh report`

use std::path::PathBuf;

use crate::base::Result;
use crate::cli::context::{Context, Outcome, Status};
use crate::cli::progress::Progress;
use crate::family::hyperparameters;
use crate::format::Reader;
use crate::ops::{count, diff, info, stats, weights};
use crate::render::html;
use crate::write::output;
use crate::write::output::{Output, Target};

/// One self-contained HTML page with pictures, of one model or of two
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh report model.gguf -o model.html
  weigh report model-f16.gguf model-q4_k_m.gguf -o cost.html")]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    a: PathBuf,
    /// Another model, to be compared with it
    b: Option<PathBuf>,
    /// The page; standard output if not given
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a page that is there already
    #[arg(long, requires = "output")]
    force: bool,
    /// A quick look: about a million elements of each tensor
    #[arg(long, conflicts_with = "b")]
    sample: bool,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    let a = context.open(&args.a)?;
    let b = args.b.as_deref().map(|b| context.open(b)).transpose()?;
    let inputs: Vec<PathBuf> = a.inputs().chain(b.iter().flat_map(Reader::inputs)).map(|input| input.path().to_path_buf()).collect();
    if let Some(path) = &args.output {
        output::check(path, args.force, &inputs)?; // before all of the model is read
    }
    let page = match b {
        None => one(a, args, context)?,
        Some(b) => two(a, b, context)?,
    };
    match &args.output {
        None => context.out().write_all(page.as_bytes())?,
        Some(path) => {
            let mut output = Output::begin(vec![Target { path: path.clone(), bytes: page.len() as u64 }], args.force, &inputs)?;
            output.write(0, page.as_bytes())?;
            output.commit()?;
        }
    }
    Ok(Status::Done)
}

fn one(stored: Reader, args: &Args, context: &mut Context<'_>) -> Result<String> {
    let (info, count) = (info::info(&stored)?, count::count(&stored)?);
    context.warn_packing(&args.a, info.packing.as_ref());
    let reader = weights::weights(stored)?;
    let tensors: Vec<_> = reader.model().tensors.iter().collect();
    let progress = Progress::new(tensors.iter().filter_map(|tensor| tensor.len_bytes).sum(), context.quiet());
    let options = stats::Options {
        sample: args.sample.then_some(stats::SAMPLE),
        progress: Some(&|bytes| progress.add(bytes)),
        ..stats::Options::default()
    };
    let stats = stats::stats(&reader, &tensors, &options);
    progress.finish();
    let components = hyperparameters::components(reader.model());
    Ok(html::model(&html::ModelPage { info: &info, count: &count, stats: &stats?, components: &components }))
}

fn two(a: Reader, b: Reader, context: &mut Context<'_>) -> Result<String> {
    let infos = [info::info(&a)?, info::info(&b)?];
    for (path, info) in [&a.model().path, &b.model().path].into_iter().zip(&infos) {
        context.warn_packing(path, info.packing.as_ref());
    }
    let counts = [count::count(&a)?, count::count(&b)?];
    let (a, b, note) = diff::sides(a, b)?;
    let progress = Progress::new(diff::work(&a, &b), context.quiet());
    let options = diff::Options { progress: Some(&|bytes| progress.add(bytes)), ..diff::Options::default() };
    let diff = diff::diff(&a, &b, &options);
    progress.finish();
    let mut diff = diff?;
    diff.notes.extend(note.map(str::to_owned));
    Ok(html::pair(&html::PairPage { infos: [&infos[0], &infos[1]], counts: [&counts[0], &counts[1]], diff: &diff }))
}
