//! `weigh convert`

use std::path::{Path, PathBuf};

use crate::base::{Error, Result, text, units};
use crate::cli::assignment;
use crate::cli::context::{Context, Outcome};
use crate::family::mapping::ModelPart;
use crate::model::{DType, FormatId};
use crate::ops::compare::{self, Comparison};
use crate::ops::convert::loss::LossKind;
use crate::ops::convert::quality::Quality;
use crate::ops::convert::report::{NoteRow, PartFacts};
use crate::ops::convert::size::SizedMix;
use crate::ops::convert::{self, ConvertReport, JoinReport, Options, SizeTarget};
use crate::ops::part::Part;
use crate::quant::pack::{Form, PackOptions, Scales};
use crate::quant::recipe::{Target, TensorType};
use crate::render::{Audience, Cell, Column, Report, Section, Tone};
use crate::write::output as write;

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

/// The arguments that a comparison of file types does not take.
const COMPARE_CONFLICTS: [&str; 12] =
    ["paths", "to", "target", "target_size", "target_bpw", "like", "save_mix", "shard_size", "keep_split", "part", "mmproj", "no_quality"];

/// Convert between formats, types and layouts
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "weigh convert [OPTIONS] <IN> [ADAPTER]... <OUT>",
    after_help = "The format follows OUT's extension; an OUT that is a folder, ends in / or has no extension is a Hugging Face folder. OUT
may be in a bucket: s3://, gs:// or az://.

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
    #[arg(value_name = "OUT", required_unless_present_any = ["mmproj", "join", "compare"])]
    paths: Vec<PathBuf>,
    /// Output format, gguf or safetensors (default: from OUT's name), or mlx: a folder with weights packed in MLX's format
    #[arg(long, value_name = "FORMAT")]
    to: Option<String>,
    /// Type of the output: a tensor type (F32 F16 BF16 Q8_0 ...), a file type of llama.cpp (Q4_K_M IQ4_XS ..., `weigh types --file-types` lists
    /// them) or, for a folder, a packing for inference engines (FP8 FP8_BLOCK INT8 INT4 NVFP4 MXFP4 MXFP8 ...); by default as stored
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
    /// Write only part I of N, with a manifest, so that N machines share the work; a part consists of whole files, so --shard-size is required
    #[arg(long, value_name = "I/N")]
    part: Option<Part>,
    /// Check that the parts of OUT are complete and of the same plan, write the index, and remove the manifests
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
    /// Also write the vision or audio encoder to FILE; without FILE, write it to OUT instead of the text model. From a GGUF to a folder: read it
    /// from FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    mmproj: Option<Option<PathBuf>>,
    /// Write only the multi-token prediction layers (MTP, NextN), with the embeddings, the final norm and the output matrix: a draft model
    #[arg(long, conflicts_with_all = ["no_mtp", "mmproj"])]
    mtp: bool,
    /// Leave out the multi-token prediction layers (MTP, NextN)
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
    /// Granularity of scales: tensor, channel or block128 for FP8, channel for integers (default: channel for FP8 and INT8)
    #[arg(long, value_name = "REACH")]
    scale: Option<String>,
    /// Values per scale of an integer type (default: 128 for INT4, 64 with --to mlx)
    #[arg(long, value_name = "N")]
    group_size: Option<u64>,
    /// Use a zero point for each scale of an integer type
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
    /// Type of tensors whose name matches PATTERN, a glob or a regular expression (repeatable, the first match wins)
    #[arg(long, value_name = "PATTERN=TYPE")]
    tensor_type: Vec<String>,
    /// Read further such patterns, separated by spaces or newlines, from FILE
    #[arg(long, value_name = "FILE")]
    tensor_type_file: Option<PathBuf>,
    /// Use importance only for tensors whose name contains NAME (repeatable)
    #[arg(long, value_name = "NAME", requires = "imatrix", conflicts_with = "exclude_weights")]
    include_weights: Vec<String>,
    /// Do not use importance for tensors whose name contains NAME (repeatable)
    #[arg(long, value_name = "NAME", requires = "imatrix")]
    exclude_weights: Vec<String>,
    /// Leave out these layers and renumber the others
    #[arg(long, value_name = "L,...", value_delimiter = ',')]
    prune_layers: Vec<u64>,
    /// Split the output like the input
    #[arg(long, conflicts_with_all = ["shard_size", "part"])]
    keep_split: bool,
    /// Set a metadata key of the output as llama-quantize does: int is u32, float f32, str string (repeatable)
    #[arg(long, value_name = "KEY=TYPE:VALUE")]
    override_kv: Vec<String>,
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
    /// Choose the types that minimise the error for files of at most SIZE in total: 6GB, 500MB, 2GiB
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["target_bpw", "like", "target", "pure"])]
    target_size: Option<String>,
    /// The same, for files of at most BITS bits per weight
    #[arg(long, value_name = "BITS", value_parser = positive, conflicts_with_all = ["like", "target", "pure"])]
    target_bpw: Option<f64>,
    /// Types to choose from (default: Q2_K Q3_K IQ4_XS Q4_K Q5_K Q6_K Q8_0)
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',')]
    types: Vec<String>,
    /// Give each tensor the type of the tensor of the same name in FILE
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "pure"])]
    like: Option<PathBuf>,
    /// Write the chosen types to FILE, for --tensor-type-file
    #[arg(long, value_name = "FILE")]
    save_mix: Option<PathBuf>,
    /// Measure size and error of the model in each of these file types, without writing anything
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',', conflicts_with_all = COMPARE_CONFLICTS)]
    compare: Vec<String>,
    /// Do not measure the quantisation error
    #[arg(long)]
    no_quality: bool,
}

impl QuantiseArgs {
    fn tensor_types(&self) -> Result<Vec<TensorType>> {
        let mut types: Vec<TensorType> = self.tensor_type.iter().map(|text| TensorType::parse(text)).collect::<Result<_>>()?;
        if let Some(file) = &self.tensor_type_file {
            types.extend(TensorType::read_file(file)?);
        }
        Ok(types)
    }

    fn size(&self) -> Result<Option<SizeTarget>> {
        if !self.types.is_empty() && self.target_size.is_none() && self.target_bpw.is_none() {
            return Err(Error::argument("--types is for --target-size and --target-bpw"));
        }
        let bytes = self.target_size.as_deref().map(units::parse_bytes).transpose()?;
        Ok(bytes.map(SizeTarget::Bytes).or(self.target_bpw.map(SizeTarget::BitsPerWeight)))
    }
}

/// Parses a number of bits.
fn positive(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|bits: &f64| bits.is_finite() && *bits > 0.0).ok_or_else(|| "expected a finite number above 0".to_owned())
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
            tensor_types: quantise.tensor_types()?,
            include_weights: quantise.include_weights.clone(),
            exclude_weights: quantise.exclude_weights.clone(),
            prune_layers: quantise.prune_layers.clone(),
            keep_split: quantise.keep_split,
            size: quantise.size()?,
            candidate_types: quantise.types.iter().map(|name| name.parse()).collect::<Result<_>>()?,
            like: quantise.like.clone(),
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
            metadata: {
                let set = self.metadata.iter().map(|text| assignment::parse(text));
                set.chain(quantise.override_kv.iter().map(|text| assignment::parse_override(text))).collect::<Result<_>>()?
            },
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
        let progress = context.progress(&[]);
        let joined = convert::join(out, args.dry_run, &|bytes, all| progress.add(bytes, all))?;
        return context.emit_done(&joined, out, out);
    }
    if let (Some(input), [_, ..]) = (&args.input, &args.quantise.compare[..]) {
        return run_comparison(input, &args.quantise.compare, &args.resolve(Path::new("out.gguf"))?, context);
    }
    let mut paths = args.paths.clone();
    let encoder = args.mmproj.iter().flatten().next();
    let Some(out) = paths.last().or(encoder) else {
        return Err(Error::argument("convert needs an output: weigh convert IN OUT").into());
    };
    let options = args.resolve(out)?;
    if let Some(packing) = options.packing.filter(|_| args.mmproj.is_some()) {
        return Err(
            Error::argument(format!("the vision or audio encoder cannot be packed by itself: {packing} is for the whole model")).into()
        );
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
    if let Some(path) = &args.quantise.save_mix {
        write::write_whole(path, plan.mix_text().as_bytes(), args.force, &plan.inputs)?;
    }
    if args.dry_run {
        if let Some(tensor) = &plan.lacks_imatrix {
            context.warn(&format!("this needs an importance matrix: the type of {tensor} has too few bits to do without one"));
        }
        let mut report = match plan.mix {
            Some(_) if plan.quality => convert::measure(&reader, &plan, &|_| {})?,
            _ => ConvertReport::planned(&reader, &plan)?,
        };
        report.mmproj = projector.map(|(reader, plan)| ConvertReport::planned(&reader, &plan).map(Box::new)).transpose()?;
        context.emit(&report, input)
    } else {
        let bytes_out = plan.bytes_out() + projector.as_ref().map_or(0, |(_, plan)| plan.bytes_out());
        let progress = context.progress(&[]);
        let add = |bytes| progress.add(bytes, bytes_out);
        let mut report = convert::run(&reader, &plan, &add)?;
        report.mmproj = projector.map(|(reader, plan)| convert::run(&reader, &plan, &add).map(Box::new)).transpose()?;
        context.emit_done(&report, input, output)
    }
}

fn run_comparison(input: &Path, names: &[String], options: &Options, context: &mut Context<'_>) -> Outcome {
    let targets = names.iter().map(|name| name.parse()).collect::<Result<Vec<Target>>>()?;
    let model = context.open(input)?;
    let total = model.model().shards.iter().map(|shard| shard.bytes).sum::<u64>().saturating_mul(targets.len() as u64);
    let progress = context.progress(&[]);
    let compared = compare::compare(&model, &targets, options, &|bytes| progress.add(bytes, total))?;
    context.emit(&compared, input)
}

impl Report for Comparison {
    const ROWS: Option<&'static str> = Some("types");

    fn sections(&self) -> Vec<Section<'_>> {
        let columns = vec![
            Column::name("type"),
            Column::number("bytes").titled("size"),
            Column::number("bits_per_weight").titled("bits/weight"),
            Column::number("loss").titled("expected loss"),
            Column::number("relative_rmse").titled("rel. rmse"),
            Column::number("snr_db").titled("snr dB"),
            Column::number("memory_bytes").titled("memory"),
            Column::value("worst").titled("largest output errors"),
        ];
        let rows = self.types.iter().map(|cost| {
            let quality =
                |figure: fn(&Quality) -> Option<f64>| Cell::maybe(cost.quality.as_ref().and_then(figure), |value| Cell::float(value, 4));
            let worst = cost.worst.iter().map(|worst| format!("{} ({} {})", worst.name, worst.to, units::general(worst.output_error, 2)));
            vec![
                Cell::text(cost.name.clone()),
                Cell::bytes(cost.bytes),
                Cell::maybe(cost.bits_per_weight, |bits| Cell::float(bits, 4)),
                Cell::maybe(cost.loss, |loss| Cell::float(loss, 4)),
                quality(|quality| quality.relative_rmse),
                quality(|quality| quality.snr_db),
                Cell::maybe(cost.memory_bytes, Cell::bytes),
                Cell::text(worst.collect::<Vec<_>>().join(", ")),
            ]
        });
        let mut table = Section::table("types", columns).rows(rows);
        if let Some(context) = self.context {
            table = table.footer(format!("memory: of llama.cpp with a context of {} tokens", units::grouped(context)));
        }
        vec![table]
    }
}

/// The number of losses, and of notes of a kind, shown to people.
const ROWS_SHOWN: usize = 20;

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
        sections.extend(self.mix.as_ref().map(|mix| Section::prose(mix_line(mix))));
        sections.extend(self.cost_line().map(Section::prose));
        sections.push(Section::prose(self.summary()));
        sections.extend(self.mmproj.iter().map(|mmproj| Section::prose(mmproj.summary())));
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

    /// Returns the line on what quantisation costs as a whole.
    fn cost_line(&self) -> Option<String> {
        let (bits, loss) = (self.bits_per_weight?, self.loss?);
        let error = self.quality.as_ref()?.relative_rmse.map(|error| format!(", relative RMSE {}", units::general(error, 4)));
        Some(format!("{} bits per weight: loss {}{}", units::general(bits, 4), units::general(loss, 4), error.unwrap_or_default()))
    }

    fn lossy_table(&self) -> Option<Section<'_>> {
        let columns = vec![
            Column::name("tensor"),
            Column::text("kind"),
            Column::text("from"),
            Column::text("to"),
            Column::number("bits_per_weight").titled("bits/weight").optional(),
            Column::sentence("message"),
        ];
        let rows = self.lossy.iter().take(ROWS_SHOWN).map(|lossy| {
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
        let table = Section::table("lossy", columns).rows(rows).titled("Fallbacks and losses").only(Audience::People);
        (!self.lossy.is_empty()).then(|| with_more(table, self.lossy.len()))
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
        let tensors = units::counted(self.tensors.len() as u64, "tensor");
        let verified = if self.verified { ", read back and compared" } else { "" };
        let part = self.part.as_ref().map(|part| format!(" (part {}: {} of {} weight files)", part.part, part.shards, part.all_shards));
        let part = part.unwrap_or_default();
        format!("{verb} {files}{part}: {tensors}, {} -> {}{verified}", units::bytes(self.bytes_in), units::bytes(self.bytes_out))
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
            Section::prose(format!("{verb} {parts}: {files}, {}, all of the recorded size and digest", units::bytes(self.bytes_out))),
        ]
    }
}

/// Returns the line on a mix that was chosen for a size.
fn mix_line(mix: &SizedMix) -> String {
    let gap = match mix.gap {
        Some(gap) => format!("at most {} above the least possible", units::percent(gap, 2)),
        None => "the least possible".to_owned(),
    };
    format!("types chosen for at most {} bytes: expected loss {}, {gap}", units::grouped(mix.target_bytes), units::general(mix.loss, 4))
}

/// Says how many rows a table lacks.
fn with_more(table: Section<'_>, rows: usize) -> Section<'_> {
    match rows.saturating_sub(ROWS_SHOWN) {
        0 => table,
        more => table.footer(format!("{more} more (--json lists all)")),
    }
}

fn note_table<'a>(key: &'static str, title: &'static str, notes: &'a [NoteRow]) -> Section<'a> {
    let rows = notes.iter().take(ROWS_SHOWN).map(|note| vec![Cell::text(note.name.clone()), Cell::text(note.message.clone())]);
    let table =
        Section::table(key, vec![Column::name("name"), Column::sentence("message")]).rows(rows).titled(title).only(Audience::People);
    with_more(table, notes.len())
}
