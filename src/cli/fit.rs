//! `weigh fit`

use std::path::PathBuf;

use clap::ValueEnum;

use crate::base::units::{bytes, grouped, parse_bytes};
use crate::base::{Error, Result};
use crate::cli::context::{Context, Outcome, Status};
use crate::model::DType;
use crate::ops::fit::{self, Fit, Options, devices, vllm};
use crate::quant::recipe::{FILE_TYPES, Target};
use crate::render::{Audience, Cell, Column, Fact, Report, Section, Tone};

/// Show how much memory a model needs, and what fits
///
/// Weights, KV cache and states are those that llama.cpp allocates, to the byte; its compute buffer is modelled. A safetensors folder counts as
/// the GGUF that it would be converted to. Only headers are read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 1 if --memory or --gpu is given and the model, or no listed file type of it, fits.

Examples:
  weigh fit model.gguf --context 32768
  weigh fit model.gguf --gpu \"RTX 4090\" --context max --kv-type Q8_0
  weigh fit folder --memory 8GB --all-types
  weigh fit folder --type Q4_K_M --type Q6_K --memory 8GB
  weigh fit moe.gguf --memory 12GB --layers-on-gpu 49 --n-cpu-moe 30
  weigh fit folder --engine vllm --gpu H100 --devices 2")]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Total context of all sequences in tokens, or max (default: the context that the model is trained for)
    #[arg(long, short = 'c', value_name = "N|max")]
    context: Option<String>,
    /// Number of sequences
    #[arg(long, value_name = "N", default_value_t = 1)]
    parallel: u64,
    /// Type of cached keys and values, or one for each: F16 Q8_0 Q4_0, or Q8_0,F16
    #[arg(long, value_name = "TYPE", default_value = "F16")]
    kv_type: String,
    /// File type that the model could be converted to (repeatable)
    #[arg(long = "type", short, value_name = "TYPE", conflicts_with = "all_types")]
    types: Vec<String>,
    /// List all file types of llama-quantize; with --memory, those that fit are listed anyway if the model does not fit
    #[arg(long)]
    all_types: bool,
    /// Memory to fit in: 8GB, 24GiB
    #[arg(long, value_name = "SIZE", conflicts_with = "gpu")]
    memory: Option<String>,
    /// Device to fit in, by name (repeatable)
    #[arg(long, value_name = "NAME")]
    gpu: Vec<String>,
    /// Layers on the device: first the output, then the layers from the last one
    #[arg(long, value_name = "N")]
    layers_on_gpu: Option<u64>,
    /// Keep the experts of the first N layers on the host; everything else is on the device, unless --layers-on-gpu is given
    #[arg(long, value_name = "N", default_value_t = 0)]
    n_cpu_moe: u64,
    /// Maximum number of tokens in a batch
    #[arg(long, value_name = "N", default_value_t = 2048)]
    batch: u64,
    /// Maximum number of tokens computed at a time
    #[arg(long, value_name = "N", default_value_t = 512)]
    ubatch: u64,
    /// Compute attention without storing its scores
    #[arg(long, value_name = "on|off", value_enum, default_value_t = Switch::On)]
    flash_attn: Switch,
    /// Cache the whole context in layers with a sliding window
    #[arg(long)]
    swa_full: bool,
    /// Vision or audio encoder beside the model
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// Engine that runs the model
    #[arg(long, value_enum, default_value_t = Engine::LlamaCpp)]
    engine: Engine,
    /// Fraction of the memory that vLLM uses
    #[arg(long, value_name = "SHARE", default_value_t = 0.9)]
    gpu_memory_utilization: f64,
    /// Number of devices that vLLM splits layers over, each with the given memory
    #[arg(long, value_name = "N", default_value_t = 1)]
    devices: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    #[value(name = "llama.cpp")]
    LlamaCpp,
    Vllm,
}

impl Args {
    fn resolve(&self) -> Result<Options> {
        let context = match self.context.as_deref() {
            None | Some("max") => None,
            Some(text) => Some(text.parse().map_err(|_| Error::argument(format!("expected a number of tokens or max, found {text}")))?),
        };
        let types = if self.all_types {
            FILE_TYPES.iter().map(Target::Mix).collect()
        } else {
            self.types.iter().map(|name| name.parse()).collect::<Result<_>>()?
        };
        Ok(Options {
            context,
            parallel: self.parallel,
            kv_types: kv_types(&self.kv_type)?,
            flash_attention: self.flash_attn == Switch::On,
            swa_full: self.swa_full,
            batch: self.batch,
            ubatch: self.ubatch,
            types,
            memory: self.memory_bytes()?,
            layers_on_device: self.layers_on_gpu,
            experts_on_host: self.n_cpu_moe,
            vllm: (self.engine == Engine::Vllm).then_some(vllm::Engine { utilization: self.gpu_memory_utilization, devices: self.devices }),
        })
    }

    fn memory_bytes(&self) -> Result<Option<u64>> {
        match &self.memory {
            Some(text) => parse_bytes(text).map(Some),
            None => devices::memory(&self.gpu),
        }
    }
}

/// Parses the types of keys and values: one for both, or two.
fn kv_types(text: &str) -> Result<[DType; 2]> {
    let (keys, values) = text.split_once(',').unwrap_or((text, text));
    Ok([keys.trim().parse()?, values.trim().parse()?])
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    let options = args.resolve()?;
    let projector = args.mmproj.as_deref().map(crate::format::open_headers).transpose()?;
    context.each(&args.paths, |context, path| {
        let reader = context.open_headers(path)?;
        let fit = fit::fit(&reader, projector.as_ref(), &options)?;
        context.emit(&fit, path)?;
        Ok(if fit.memory.is_some() && fit.fits_somehow() != Some(true) { Status::Found } else { Status::of_headers(&reader) })
    })
}

impl Report for Fit {
    fn sections(&self) -> Vec<Section<'_>> {
        let types = vec![
            Column::text("type"),
            Column::number("bytes").titled("weights"),
            Column::number("total_bytes").titled("total"),
            Column::text("fits"),
        ];
        let rows = self.options.iter().map(|row| {
            vec![Cell::text(row.name.clone()), Cell::bytes(row.bytes), Cell::bytes(row.total_bytes), Cell::maybe(row.fits, Cell::flag)]
        });
        let mut sections = vec![
            Section::facts("fit", self.for_people()).only(Audience::People),
            Section::facts("fit", self.for_scripts()).only(Audience::Scripts),
        ];
        if !self.options.is_empty() {
            sections.push(Section::table("options", types).rows(rows));
        }
        sections
    }
}

impl Fit {
    fn for_scripts(&self) -> Vec<Fact<'_>> {
        vec![
            Fact::named("path", Cell::text(self.path.clone())),
            Fact::named("context", Cell::count(self.context)),
            Fact::named("parallel", Cell::count(self.parallel)),
            Fact::named("embeddings_bytes", Cell::bytes(self.weights.embeddings)),
            Fact::named("layers_bytes", Cell::bytes(self.weights.layers)),
            Fact::named("output_bytes", Cell::bytes(self.weights.output)),
            Fact::named("kv_bytes", Cell::bytes(self.kv_bytes)),
            Fact::named("state_bytes", Cell::bytes(self.state_bytes)),
            Fact::named("compute_bytes", Cell::maybe(self.compute_bytes, Cell::bytes)),
            Fact::named("total_bytes", Cell::bytes(self.total_bytes)),
            Fact::named("per_token_bytes", Cell::bytes(self.per_token_bytes)),
            Fact::named("fits", Cell::maybe(self.fits, Cell::flag)),
            Fact::named("layers_on_device", Cell::maybe(self.layers_on_device, Cell::count)),
            Fact::named("max_context", Cell::maybe(self.max_context, Cell::count)),
        ]
    }

    fn for_people(&self) -> Vec<Fact<'_>> {
        let mut facts = Vec::new();
        let mut add = |name: &'static str, text: String| facts.push(Fact::named(name, Cell::text(text)));
        let sequences = if self.parallel > 1 { format!(", shared by {} sequences", self.parallel) } else { String::new() };
        let trained = match self.trained_context {
            Some(trained) if trained != self.context => format!(" (trained for {})", grouped(trained)),
            _ => String::new(),
        };
        add("context", format!("{} tokens{sequences}{trained}", grouped(self.context)));
        let parts = [("embeddings", self.weights.embeddings), ("layers", self.weights.layers), ("output", self.weights.output)];
        let parts: Vec<String> =
            parts.iter().filter(|(_, size)| *size > 0).map(|(name, size)| format!("{name} {}", bytes(*size))).collect();
        add("weights", format!("{}: {}", bytes(self.weights.total()), parts.join(", ")));
        if self.per_token_bytes > 0 {
            let [keys, values] = &self.kv_types;
            let types = if keys == values { keys.clone() } else { format!("{keys} and {values}") };
            let beyond = match self.per_token_bytes_beyond_window {
                beyond if beyond == self.per_token_bytes => String::new(),
                beyond => format!(", {} beyond the sliding window", bytes(beyond)),
            };
            add("KV cache", format!("{} in {types}: {} per token{beyond}", bytes(self.kv_bytes), bytes(self.per_token_bytes)));
        }
        if self.state_bytes > 0 {
            add("state", bytes(self.state_bytes));
        }
        add("compute", self.compute_bytes.map_or_else(|| "not known".to_owned(), |size| format!("about {}", bytes(size))));
        if let Some(size) = self.mmproj_bytes {
            add("mmproj", bytes(size));
        }
        facts.push(Fact::named("total", Cell::text(bytes(self.total_bytes)).tone(Tone::Strong)));
        let mut add = |name: &'static str, text: String| facts.push(Fact::named(name, Cell::text(text)));
        if let Some((device, host)) = self.device_bytes.zip(self.host_bytes) {
            let layers = self.layers_on_device.unwrap_or(0);
            add("on the device", format!("{}: {layers} of {} layers", bytes(device), self.layers));
            add("on the host", bytes(host));
        }
        if let Some(memory) = self.memory {
            let verdict = match self.fits {
                Some(true) => "yes",
                Some(false) => "no",
                None => "not known",
            };
            add("fits", format!("{verdict}, in {}", bytes(memory)));
            add(
                "longest context",
                self.max_context.map_or_else(|| "none fits".to_owned(), |longest| format!("{} tokens", grouped(longest))),
            );
            if let Some(layers) = self.layers_on_device.filter(|_| self.device_bytes.is_none()) {
                add("layers that fit", format!("{layers} of {}", self.layers));
            }
        }
        if let Some(paged) = &self.vllm {
            let per = if paged.devices > 1 { format!(" on each of {} devices", paged.devices) } else { String::new() };
            add("vLLM", format!("{} weights, {} per token{per}", bytes(paged.weight_bytes), bytes(paged.per_token_bytes)));
            if let Some(tokens) = paged.most_tokens {
                add("tokens that fit", format!("at most {}, as activations are not counted", grouped(tokens)));
            }
        }
        for note in &self.notes {
            add("note", note.clone());
        }
        facts
    }
}
