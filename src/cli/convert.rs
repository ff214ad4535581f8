//! `weigh convert`

use std::path::{Path, PathBuf};

use crate::base::{Error, Result, text, units};
use crate::cli::assignment;
use crate::cli::context::{Context, Outcome};
use crate::cli::progress::Progress;
use crate::family::mapping::ModelPart;
use crate::model::{DType, FormatId};
use crate::ops::convert::loss::LossKind;
use crate::ops::convert::report::{NoteRow, PartFacts};
use crate::ops::convert::{self, ConvertReport, JoinReport, Options};
use crate::ops::part::Part;
use crate::quant::pack::{Form, PackOptions, Scales};
use crate::quant::recipe::TensorType;
use crate::render::{Audience, Cell, Column, Report, Section, Tone};

/// The number of worst tensors shown to people.
const WORST: usize = 10;

/// The arguments that a join does not take: the parts have made all choices.
const JOIN_CONFLICTS: [&str; 19] = [
    "input",
    "to",
    "target",
    "force",
    "verify",
    "shard_size",
    "part",
    "strict",
    "keep_names",
    "metadata",
    "stored",
    "pre",
    "arch_table",
    "base",
    "mmproj",
    "imatrix",
    "scale",
    "group_size",
    "asymmetric",
];

/// Convert between formats, types and layouts
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "weigh convert [OPTIONS] <IN> [ADAPTER]... <OUT>",
    after_help = "The format follows OUT's extension; an OUT that is a folder, ends in / or has no extension is a Hugging Face folder.

Examples:
  weigh convert model.safetensors model.gguf
  weigh convert model-f16.gguf model-q4_k_m.gguf --type Q4_K_M
  weigh convert model.gguf folder/ --type BF16 --shard-size 5GB
  weigh convert base-folder adapter-folder merged.gguf --type Q8_0
  weigh convert adapter-folder adapter.gguf --base base-folder
  weigh convert folder model.gguf --mmproj mmproj.gguf --type Q8_0
  weigh convert model.gguf out.gguf --type IQ2_XS --imatrix imatrix.gguf --dry-run
  weigh convert folder out/ --type FP8 --shard-size 5GB --part 2/7   (on one of seven machines)
  weigh convert --join out/                                           (when all parts are written)"
)]
pub(super) struct Args {
    /// Model to convert: a file, a folder or one part of a set
    #[arg(value_name = "IN", required_unless_present = "join")]
    input: Option<PathBuf>,
    /// File or folder to write; any LoRA adapters to merge into the model go before it
    #[arg(value_name = "OUT", required_unless_present_any = ["mmproj", "join"])]
    paths: Vec<PathBuf>,
    /// Output format, gguf or safetensors (default: from OUT's name), or mlx: a folder with weights packed as MLX has them
    #[arg(long, value_name = "FORMAT")]
    to: Option<String>,
    /// Type (F32 F16 BF16 Q8_0 ...), llama.cpp file type (Q4_K_M IQ4_XS ...), or, to a folder, packing for engines (FP8 FP8_BLOCK INT8 INT4 NVFP4
    /// MXFP4 MXFP8 ...) of the output (default: the stored types)
    #[arg(long = "type", short, value_name = "TYPE")]
    target: Option<String>,
    /// Show the plan without writing anything
    #[arg(long)]
    dry_run: bool,
    /// Overwrite existing output and remove its stale files, which the plan lists
    #[arg(long)]
    force: bool,
    /// Read the output back and compare it before renaming it into place
    #[arg(long)]
    verify: bool,
    /// Split the output into files of at most SIZE: 5GB, 500MB, 2GiB
    #[arg(long, value_name = "SIZE")]
    shard_size: Option<String>,
    /// Write only part I of N, with a manifest: whole files of the output, so that N machines share the work. Needs --shard-size
    #[arg(long, value_name = "I/N")]
    part: Option<Part>,
    /// Check that all parts of OUT are of one plan and whole, write the index, and remove the manifests
    #[arg(long, value_name = "OUT", conflicts_with_all = JOIN_CONFLICTS)]
    join: Option<PathBuf>,
    /// Refuse any loss beyond that of the requested type
    #[arg(long)]
    strict: bool,
    /// Keep tensor names and layouts as they are
    #[arg(long)]
    keep_names: bool,
    /// Set a metadata key of the output (repeatable)
    #[arg(long, value_name = "KEY=TYPE:VALUE")]
    metadata: Vec<String>,
    /// Copy packed weights as stored, with their scales, instead of unpacking them
    #[arg(long)]
    stored: bool,
    /// Name of the pre-tokenizer, needed if it is not recognised
    #[arg(long, value_name = "NAME")]
    pre: Option<String>,
    /// Give every token of a SentencePiece-style tokenizer.json the same score, as llama.cpp's converter does
    #[arg(long)]
    equal_scores: bool,
    /// Load an additional architecture table
    #[arg(long, value_name = "FILE")]
    arch_table: Option<PathBuf>,
    /// Base model of a LoRA adapter to convert to GGUF: a folder with config.json, or a GGUF
    #[arg(long, value_name = "FOLDER")]
    base: Option<PathBuf>,
    /// Write the encoder of pictures or sounds to FILE as well; without FILE, to OUT instead of the text model. From a GGUF to a folder: read it
    /// from FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    mmproj: Option<Option<PathBuf>>,
    /// Write only the layers that predict further tokens (MTP, NextN), with the embeddings, the last norm and the output matrix: a draft model
    #[arg(long, conflicts_with_all = ["no_mtp", "mmproj"])]
    mtp: bool,
    /// Leave out the layers that predict further tokens
    #[arg(long)]
    no_mtp: bool,
    #[command(flatten)]
    pack: PackArgs,
    #[command(flatten)]
    quantise: QuantiseArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Packing for engines that serve safetensors")]
struct PackArgs {
    /// Reach of a scale: tensor, channel or block128 for FP8, channel for integers (default: channel for FP8 and INT8)
    #[arg(long, value_name = "REACH")]
    scale: Option<String>,
    /// Values per scale of an integer type (default: 128 for INT4, 64 with --to mlx)
    #[arg(long, value_name = "N")]
    group_size: Option<u64>,
    /// Give integers a zero point for each scale
    #[arg(long)]
    asymmetric: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Quantisation, as in llama-quantize")]
struct QuantiseArgs {
    /// Use one type for all quantised tensors instead of a mix
    #[arg(long)]
    pure: bool,
    /// Weight quantisation errors by an importance matrix
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Type of tensors whose name matches GLOB (repeatable, the first match wins)
    #[arg(long, value_name = "GLOB=TYPE")]
    tensor_type: Vec<String>,
    /// Type of the output matrix
    #[arg(long, value_name = "TYPE")]
    output_tensor_type: Option<String>,
    /// Type of the token embeddings
    #[arg(long, value_name = "TYPE")]
    token_embedding_type: Option<String>,
    /// Leave the output matrix as it is
    #[arg(long)]
    leave_output_tensor: bool,
    /// Allow quantising tensors that are already quantised
    #[arg(long)]
    allow_requantize: bool,
    /// Do not measure the quantisation error
    #[arg(long)]
    no_quality: bool,
}

impl Args {
    /// Resolves the options for an output.
    fn resolve(&self, out: &Path) -> Result<Options> {
        let dtype = |name: &Option<String>| name.as_deref().map(str::parse::<DType>).transpose();
        let quantise = &self.quantise;
        let mlx = self.to.as_deref() == Some("mlx");
        let to = if mlx { Some(FormatId::Safetensors) } else { self.to.as_deref().map(convert::format_named).transpose()? };
        let pack = PackOptions {
            form: if mlx { Form::Mlx } else { Form::CompressedTensors },
            scale: self.pack.scale.as_deref().map(str::parse::<Scales>).transpose()?,
            group: self.pack.group_size,
            asymmetric: self.pack.asymmetric,
        };
        let (target, packing) = convert::request(self.target.as_deref(), out, to, &pack)?;
        Ok(Options {
            to,
            target,
            packing,
            pure: quantise.pure,
            imatrix: quantise.imatrix.clone(),
            tensor_types: quantise.tensor_type.iter().map(|text| TensorType::parse(text)).collect::<Result<_>>()?,
            output_tensor_type: dtype(&quantise.output_tensor_type)?,
            token_embedding_type: dtype(&quantise.token_embedding_type)?,
            leave_output_tensor: quantise.leave_output_tensor,
            allow_requantize: quantise.allow_requantize,
            shard_bytes: self.shard_size.as_deref().map(units::parse_bytes).transpose()?,
            force: self.force,
            verify: self.verify,
            pre: self.pre.clone(),
            equal_scores: self.equal_scores,
            arch_table: self.arch_table.clone(),
            base: self.base.clone(),
            metadata: self.metadata.iter().map(|text| assignment::parse(text)).collect::<Result<_>>()?,
            strict: self.strict,
            keep_names: self.keep_names,
            projector: false,
            model_part: match (self.mtp, self.no_mtp) {
                (true, _) => ModelPart::MtpAlone,
                (_, true) => ModelPart::WithoutMtp,
                _ => ModelPart::Whole,
            },
            stored: self.stored,
            no_quality: quantise.no_quality,
        })
    }
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    if let Some(out) = &args.join {
        let progress = Progress::new(context.quiet());
        let joined = convert::join(out, args.dry_run, &|bytes, all| progress.add(bytes, all));
        progress.finish();
        return context.emit_done(&joined?, out, out);
    }
    let mut paths = args.paths.clone();
    let encoder = args.mmproj.iter().flatten().next();
    let Some(out) = paths.last().or(encoder) else {
        return Err(Error::argument("convert needs an output: weigh convert IN OUT").into());
    };
    let options = args.resolve(out)?;
    if let Some(packing) = options.packing.filter(|_| args.mmproj.is_some()) {
        return Err(Error::argument(format!("the encoder of pictures or sounds is not packed: {packing} is for the whole model")).into());
    }
    // `convert IN --mmproj FILE` and `convert IN FILE --mmproj` write the encoder alone.
    let (options, mut projector) = match (&args.mmproj, paths.len()) {
        (None, _) => (options, None),
        (Some(Some(file)), 0) => {
            paths.push(file.clone());
            (options.for_projector(), None)
        }
        (Some(None), _) => (options.for_projector(), None),
        (Some(Some(file)), _) => {
            let own = options.for_projector();
            (options, Some((file, own)))
        }
    };
    if projector.is_some() && args.part.is_some() {
        let message = "the parts of one output are shared, not two outputs: convert the encoder by itself, without OUT";
        return Err(Error::argument(message).into());
    }
    let (Some(input), Some((output, adapters))) = (&args.input, paths.split_last()) else {
        return Err(Error::argument("convert needs an output: weigh convert IN OUT").into());
    };
    // A plan that needs the config reports its errors itself.
    let mut stored = context.open_unwarned(input)?;
    // From GGUF back to a folder, the encoder is a second input.
    if let Some((file, _)) = projector.take_if(|_| stored.model().format == FormatId::Gguf) {
        stored = stored.with_projector(crate::format::open(file)?)?;
    }
    context.warn_of_missing(&stored);
    if args.keep_names {
        context.warn_of_config(&stored);
    }
    let adapters = adapters.iter().map(|path| context.open(path)).collect::<Result<_>>()?;
    // Both are planned before either is written.
    let projector =
        projector.map(|(file, options)| convert::prepare(context.open_unwarned(input)?, Vec::new(), file, &options, None)).transpose()?;
    let (reader, plan) = convert::prepare(stored, adapters, output, &options, args.part)?;
    if args.dry_run {
        if let Some(tensor) = &plan.lacks_imatrix {
            context.warn(&format!("this needs an importance matrix: the type of {tensor} has too few bits to do without one"));
        }
        let mut report = ConvertReport::planned(&reader, &plan)?;
        report.mmproj = projector.map(|(reader, plan)| ConvertReport::planned(&reader, &plan).map(Box::new)).transpose()?;
        context.emit(&report, input)
    } else {
        let bytes_out = plan.bytes_out() + projector.as_ref().map_or(0, |(_, plan)| plan.bytes_out());
        let progress = Progress::new(context.quiet());
        let add = |bytes| progress.add(bytes, bytes_out);
        let done = convert::run(&reader, &plan, &add).and_then(|mut report| {
            report.mmproj = projector.map(|(reader, plan)| convert::run(&reader, &plan, &add).map(Box::new)).transpose()?;
            Ok(report)
        });
        progress.finish();
        context.emit_done(&done?, input, output)
    }
}

/// The number of losses shown to people.
const LOSSES_SHOWN: usize = 20;

impl Report for ConvertReport {
    const ROWS: Option<&'static str> = Some("tensors");

    fn sections(&self) -> Vec<Section<'_>> {
        let mut sections = vec![self.tensor_table()];
        sections.extend(self.worst_table());
        sections.extend(self.lossy_table());
        for (key, title, notes) in [
            ("dropped", "Not in the output", &self.dropped),
            ("padded", "Zero-padded", &self.padded),
            ("made_up", "Added, not in the input", &self.made_up),
            ("remarks", "Notes", &self.remarks),
        ] {
            sections.extend((!notes.is_empty()).then(|| note_table(key, title, notes)));
        }
        sections.extend(self.removed_table());
        sections.push(Section::text(self.summary()));
        sections.extend(self.mmproj.iter().map(|mmproj| Section::text(mmproj.summary())));
        sections
    }
}

/// Returns the columns of error figures, the same as in `diff`.
fn figure_columns() -> [Column; 5] {
    [
        Column::number("max_abs"),
        Column::number("rmse").optional(),
        Column::number("relative_rmse").titled("rel. rmse"),
        Column::number("cosine").optional(),
        Column::number("snr_db").titled("snr dB"),
    ]
}

fn figures(quality: Option<&convert::quality::Quality>) -> Vec<Cell<'_>> {
    let values = quality.map(|q| [q.max_abs, q.rmse, q.relative_rmse, q.cosine, q.snr_db]).unwrap_or_default();
    values.into_iter().zip([4, 4, 4, 6, 4]).map(|(value, digits)| Cell::maybe(value, |value| Cell::float(value, digits))).collect()
}

impl ConvertReport {
    /// Returns the table of tensors: for people only in a dry run; afterwards the rest matters more.
    fn tensor_table(&self) -> Section<'_> {
        let mut columns = vec![Column::name("name"), Column::text("from"), Column::text("to"), Column::text("shape")];
        let transforms = self.tensors.iter().any(|row| !row.transforms.is_empty());
        if transforms {
            columns.push(Column::value("transforms").optional());
        }
        columns.extend(figure_columns().map(|column| column.only(Audience::Scripts)));
        let rows = self.tensors.iter().map(|row| {
            let mut cells =
                vec![Cell::text(row.name.clone()), Cell::text(row.from.clone()), Cell::text(row.to.clone()), Cell::shape(&row.shape)];
            cells.extend(transforms.then(|| Cell::text(row.transforms.join(", "))));
            cells.extend(figures(row.quality.as_ref()));
            cells
        });
        let table = Section::table("tensors", columns).rows(rows);
        if self.dry_run { table } else { table.only(Audience::Scripts) }
    }

    fn worst_table(&self) -> Option<Section<'_>> {
        let total = self.quality.as_ref()?;
        let mut worst: Vec<_> = self.tensors.iter().filter_map(|row| Some((row, row.quality.as_ref()?))).collect();
        // Tensors without a figure (all zeros, NaN) come first.
        worst.sort_by(|(_, a), (_, b)| {
            let figure = |quality: &convert::quality::Quality| quality.relative_rmse.unwrap_or(f64::INFINITY);
            figure(b).total_cmp(&figure(a))
        });
        let mut columns = vec![Column::name("name"), Column::text("to")];
        columns.extend(figure_columns());
        let rows = worst.iter().take(WORST).map(|(row, quality)| {
            let mut cells = vec![Cell::text(row.name.clone()), Cell::text(row.to.clone())];
            cells.extend(figures(Some(quality)));
            cells
        });
        let mut all = vec![Cell::text(format!("all {} quantised tensors", worst.len())), Cell::empty()];
        all.extend(figures(Some(total)));
        let title = if worst.len() > WORST {
            format!("Quantisation error ({WORST} worst tensors, and overall)")
        } else {
            "Quantisation error".into()
        };
        Some(Section::table("quality", columns).rows(rows).rows([all]).titled(title).only(Audience::People))
    }

    fn lossy_table(&self) -> Option<Section<'_>> {
        let columns = vec![
            Column::name("tensor"),
            Column::text("kind"),
            Column::text("from"),
            Column::text("to"),
            Column::number("bits_per_weight").titled("bits/weight").optional(),
            Column::value("message"),
        ];
        let rows = self.lossy.iter().take(LOSSES_SHOWN).map(|lossy| {
            let kind = match lossy.kind {
                LossKind::Fallback => "fallback",
                LossKind::UnsupportedDtype => "unsupported",
                LossKind::Overflow => "overflow",
                LossKind::Flush => "flush",
            };
            vec![
                Cell::text(lossy.tensor.clone()),
                Cell::text(kind).tone(if lossy.exact { Tone::Faint } else { Tone::Caution }),
                Cell::text(lossy.from.clone()),
                Cell::text(lossy.to.clone()),
                Cell::maybe(lossy.bits_per_weight, |bits| Cell::text(format!("{bits:+}"))),
                Cell::text(lossy.message.clone()),
            ]
        });
        let mut table = Section::table("lossy", columns).rows(rows).titled("Fallbacks and losses").only(Audience::People);
        if let Some(more) = self.lossy.len().checked_sub(LOSSES_SHOWN).filter(|more| *more > 0) {
            table = table.footer(format!("{more} more (--json lists all)"));
        }
        (!self.lossy.is_empty()).then_some(table)
    }

    fn removed_table(&self) -> Option<Section<'_>> {
        let rows = self.removed.iter().map(|path| vec![Cell::text(path.to_string_lossy().into_owned())]);
        let title = if self.dry_run { "Stale files that would be removed" } else { "Stale files removed" };
        let table = Section::table("removed", vec![Column::value("file")]).rows(rows).titled(title).only(Audience::People);
        (!self.removed.is_empty()).then_some(table)
    }

    fn summary(&self) -> String {
        let files = match self.output.as_slice() {
            [file] => text::escape(&file.to_string_lossy()).into_owned(),
            [first, rest @ ..] => format!("{} and {} more files", text::escape(&first.to_string_lossy()), rest.len()),
            [] => "nothing".to_owned(),
        };
        let verb = if self.dry_run { "would write" } else { "wrote" };
        if let Some(PartFacts { part, shards: 0, all_shards, .. }) = &self.part {
            let count = units::counted(*all_shards as u64, "weight file");
            return format!("part {part} has no weight files: the output has {count}");
        }
        let tensors = units::grouped(self.tensors.len() as u64);
        let verified = if self.verified { ", read back and compared" } else { "" };
        let part = self.part.as_ref().map(|part| format!(" (part {}: {} of {} weight files)", part.part, part.shards, part.all_shards));
        let part = part.unwrap_or_default();
        format!("{verb} {files}{part}: {tensors} tensors, {} -> {}{verified}", units::bytes(self.bytes_in), units::bytes(self.bytes_out))
    }
}

impl Report for JoinReport {
    const ROWS: Option<&'static str> = Some("output");

    fn sections(&self) -> Vec<Section<'_>> {
        let rows = self.output.iter().map(|path| vec![Cell::text(path.to_string_lossy().into_owned())]);
        let table = Section::table("output", vec![Column::value("file")]).rows(rows).only(Audience::Scripts);
        let (verb, files) = (if self.dry_run { "could join" } else { "joined" }, units::counted(self.output.len() as u64, "file"));
        let parts = units::counted(self.parts as u64, "part");
        vec![
            table,
            Section::text(format!("{verb} {parts}: {files}, {}, all of the recorded size and digest", units::bytes(self.bytes_out))),
        ]
    }
}

fn note_table<'a>(key: &'static str, title: &'static str, notes: &'a [NoteRow]) -> Section<'a> {
    let rows = notes.iter().map(|note| vec![Cell::text(note.name.clone()), Cell::text(note.message.clone())]);
    Section::table(key, vec![Column::name("name"), Column::value("message")]).rows(rows).titled(title).only(Audience::People)
}
