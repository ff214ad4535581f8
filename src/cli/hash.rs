//! `weigh hash`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;

use crate::base::{ErrorKind, text};
use crate::cli::context::{Context, Outcome as CommandOutcome, Status};
use crate::family::tables::Tables;
use crate::ops::hash::{self, Algorithm, FileHash, FileHashes, HashReport, Manifest, Outcome, label, line_name};
use crate::render::{Audience, Cell, Column, Output, Report, Section};

/// Hash tensors and models (compatible with llama-gguf-hash), or whole files with --file
///
/// Without --file, a model's hash covers the bytes of its tensors, not its file: names, metadata and layout do not count, so that editing
/// metadata does not change it. --file gives the digests that model hubs and sha256sum show.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status with --check, as in llama-gguf-hash: 0 all hashes match, 1 a hash differs, \
3 the manifest does not list the model, 4 it has no known hash, 5 it cannot be read.

Examples:
  weigh hash model.gguf > model.gguf.manifest
  weigh hash model.gguf --check model.gguf.manifest
  weigh hash --file model.gguf > SHA256SUMS      # sha256sum -c and `weigh verify --manifest` read it
  weigh hash model.safetensors --algorithm xxh64 --no-layer
  weigh hash Llama-3.2-1B/ llama-bf16.gguf --content --no-layer   # equal hashes: equal weights")]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Hash algorithm, repeatable (default: sha256; with --check, the strongest in the manifest)
    #[arg(long, short, value_enum, value_name = "NAME")]
    algorithm: Vec<AlgorithmArg>,
    /// Compare with the hashes in MANIFEST, written by an earlier run
    #[arg(long, short, value_name = "MANIFEST")]
    check: Option<PathBuf>,
    /// Hash whole files, like sha256sum and in its output format
    #[arg(long, conflicts_with_all = ["check", "no_layer", "content"])]
    file: bool,
    /// Print only the hash of the model, not of each tensor
    #[arg(long, visible_alias = "no-tensors")]
    no_layer: bool,
    /// Hash the weights independently of how they are stored: sharding, order, Hugging Face or GGUF
    #[arg(long)]
    content: bool,
    /// Load an additional architecture table, for --content
    #[arg(long, value_name = "FILE", requires = "content")]
    arch_table: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AlgorithmArg {
    Sha256,
    Blake3,
    Sha1,
    Xxh64,
    /// llama.cpp's identifier of the model's tensors, a version 5 UUID
    Uuid,
}

impl AlgorithmArg {
    fn resolve(self) -> Algorithm {
        match self {
            Self::Sha256 => Algorithm::Sha256,
            Self::Blake3 => Algorithm::Blake3,
            Self::Sha1 => Algorithm::Sha1,
            Self::Xxh64 => Algorithm::Xxh64,
            Self::Uuid => Algorithm::Uuid,
        }
    }
}

/// Exit statuses of llama-gguf-hash for an unusable manifest.
const UNKNOWN_HASH: u8 = 4;
const MANIFEST_UNREADABLE: u8 = 5;

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> CommandOutcome {
    let manifest = match args.check.as_deref().map(Manifest::read).transpose() {
        Ok(manifest) => manifest,
        Err(error) => {
            context.report_error(&error);
            let unknown = error.kind() == ErrorKind::Malformed;
            return Ok(Status::Other(if unknown { UNKNOWN_HASH } else { MANIFEST_UNREADABLE }));
        }
    };
    let progress = context.progress(&args.paths);
    let add = |bytes, total| progress.add(bytes, total);
    let options = hash::Options {
        algorithms: args.algorithm.iter().map(|algorithm| algorithm.resolve()).collect(),
        tensors: !args.no_layer,
        content: args.content,
        tables: Tables::with_file(args.arch_table.as_deref())?,
        manifest: manifest.as_ref(),
        progress: Some(&add),
    };
    if args.file {
        return files(args, &options.algorithms, context);
    }
    let mut of_tensors = !args.content && manifest.is_none() && context.output() == Output::Table;
    context.each(&args.paths, |context, path| {
        let reader = context.open(path)?;
        if std::mem::take(&mut of_tensors) {
            context.warn("these are hashes of the tensors, not of the files (--file gives those)");
        }
        let mut status = Status::Done;
        for report in hash::hashes(&reader, path, &options)? {
            status = match (status, report.outcome) {
                (status, None | Some(Outcome::Success)) => status,
                (_, Some(Outcome::Failure)) | (Status::Found, _) => Status::Found,
                (_, Some(outcome)) => Status::Other(outcome.status()),
            };
            context.emit(&View { report, path, check: args.check.as_deref().zip(manifest.as_ref()) }, path)?;
        }
        Ok(status)
    })
}

fn files(args: &Args, algorithms: &[Algorithm], context: &mut Context<'_>) -> CommandOutcome {
    context.each(&args.paths, |context, path| {
        let progress = context.progress(&args.paths);
        let (reports, unopened) = hash::hash_files(path, algorithms, &|bytes, total| progress.add(bytes, total))?;
        if let Some(error) = unopened {
            context.warn(&format!("{error}; only this file is hashed"));
        }
        for report in reports {
            context.emit(&report, path)?;
        }
        Ok(Status::Done)
    })
}

#[derive(Serialize)]
struct View<'a> {
    #[serde(flatten)]
    report: HashReport,
    #[serde(skip)]
    path: &'a Path,
    #[serde(skip)]
    check: Option<(&'a Path, &'a Manifest)>,
}

impl View<'_> {
    /// Returns hash, name and verdict of every tensor, then of the model.
    fn lines(&self) -> impl Iterator<Item = (&str, String, Option<hash::Verdict>)> {
        let tensors =
            self.report.tensors.iter().map(|tensor| (tensor.hash.as_str(), line_name(self.path, Some(&tensor.name)), tensor.verdict));
        tensors.chain([(self.report.model.as_str(), line_name(self.path, None), self.report.model_verdict)])
    }
}

impl Report for View<'_> {
    const ROWS: Option<&'static str> = Some("tensors");

    fn sections(&self) -> Vec<Section<'_>> {
        let content = self.report.content;
        let label = label(self.report.algorithm, content);
        let mut lines = String::new();
        // Writing to a String cannot fail.
        if let Some((path, manifest)) = self.check {
            let known: Vec<_> = manifest.algorithms(content).iter().map(|algorithm| algorithm.name()).collect();
            let _ = writeln!(lines, "manifest  {}  {}", text::escape(&path.to_string_lossy()), known.join("  "));
        }
        for (hash, name, verdict) in self.lines() {
            let verdict = verdict.map_or(String::new(), |verdict| format!("  -  {verdict}"));
            let _ = writeln!(lines, "{label:<8}  {hash}  {name}{verdict}");
        }
        if let Some(((path, _), outcome)) = self.check.zip(self.report.outcome) {
            let _ = writeln!(lines, "\nVerification results for {} - {outcome}", text::escape(&path.to_string_lossy()));
        }
        let columns = vec![Column::text("algorithm"), Column::text("hash"), Column::text("name"), Column::text("verdict")];
        let rows = self.lines().map(|(hash, name, verdict)| {
            vec![
                Cell::text(label.clone()),
                Cell::text(hash.to_owned()),
                Cell::text(name),
                Cell::maybe(verdict, |verdict| Cell::text(verdict.to_string())),
            ]
        });
        vec![Section::text(lines), Section::table("tensors", columns).rows(rows).only(Audience::Scripts)]
    }
}

impl Report for FileHashes {
    const ROWS: Option<&'static str> = Some("files");

    fn sections(&self) -> Vec<Section<'_>> {
        let line = |row: &FileHash| {
            let name = text::escape(&row.file).into_owned();
            match self.algorithm {
                Algorithm::Blake3 => format!("BLAKE3 ({name}) = {}\n", row.hash), // its digests are as long as those of SHA-256
                _ => format!("{}  {name}\n", row.hash),
            }
        };
        let columns = vec![Column::text("algorithm"), Column::text("hash"), Column::number("bytes"), Column::text("file")];
        let rows = self.files.iter().map(|row| {
            let algorithm = Cell::text(self.algorithm.name());
            vec![algorithm, Cell::text(row.hash.clone()), Cell::bytes(row.bytes), Cell::text(row.file.clone())]
        });
        vec![
            Section::text(self.files.iter().map(line).collect::<String>()),
            Section::table("files", columns).rows(rows).only(Audience::Scripts),
        ]
    }
}
