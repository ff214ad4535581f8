//! `weigh info`

use std::path::PathBuf;

use serde_json::Value as Json;

use crate::base::text::shorten_to;
use crate::base::units::{bytes, general, grouped};
use crate::cli::context::{Context, Outcome, Status};
use crate::cli::count::people;
use crate::model::PackingSummary;
use crate::model::checkpoint::Opaque;
use crate::ops::fit::Summary;
use crate::ops::info::{self, AdapterFacts, Info};
use crate::render::{Audience, Cell, Column, Fact, Report, Section, Tone};

/// Summarise a model on one screen
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh info model.gguf
  weigh info folder --json
  weigh info *.gguf --format csv")]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    #[arg(required = true)]
    path: Vec<PathBuf>,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    context.each(&args.path, |context, path| {
        let reader = context.open_headers(path)?;
        let info = info::info(&reader)?;
        context.warn_packing(path, info.packing.as_ref());
        context.emit(&info, path)?;
        Ok(Status::of_headers(&reader))
    })
}

impl Report for Info {
    fn sections(&self) -> Vec<Section<'_>> {
        let columns = vec![
            Column::text("dtype"),
            Column::number("tensors"),
            Column::number("elements"),
            Column::number("bytes").titled("size"),
            Column::number("share").titled("of size").only(Audience::People),
        ];
        let whole: Option<u64> = self.dtypes.iter().map(|row| row.bytes).sum();
        let dtypes = self.dtypes.iter().map(|row| {
            vec![
                Cell::text(row.dtype.clone()),
                Cell::count(row.tensors),
                Cell::count(row.elements),
                Cell::maybe(row.bytes, Cell::bytes),
                Cell::maybe(row.bytes.zip(whole).filter(|(_, whole)| *whole > 0), |(part, whole)| Cell::share(part as f64 / whole as f64)),
            ]
        });
        let file = vec![Column::name("path").titled("file"), Column::number("tensors"), Column::number("bytes").titled("size")];
        let files = self
            .files
            .iter()
            .map(|row| vec![Cell::text(row.path.clone()), Cell::count(row.tensors), Cell::bytes(row.bytes)])
            .collect::<Vec<_>>();
        let mut sections = vec![
            Section::facts("info", self.for_people()).only(Audience::People),
            self.for_scripts(),
            Section::table("dtypes", columns).rows(dtypes).only(Audience::People),
        ];
        // A single file is the given path; many would push the rest off the screen.
        if (2..=MOST_FILES).contains(&files.len()) {
            sections.push(Section::table("files", file).rows(files).only(Audience::People));
        }
        sections.extend(self.adapter.as_ref().map(|adapter| updates(adapter).only(Audience::People)));
        sections
    }
}

/// Returns the table of an adapter's updates.
fn updates(adapter: &AdapterFacts) -> Section<'_> {
    let columns = vec![Column::name("module"), Column::number("rank"), Column::number("scale"), Column::number("norm")];
    let rows = adapter.updates.iter().map(|update| {
        let scale = Cell::float(f64::from(update.scale), 4);
        vec![Cell::text(update.module.clone()), Cell::count(update.rank), scale, Cell::float(update.norm, 4)]
    });
    Section::table("updates", columns).titled("Updates: scale x B A").rows(rows)
}

/// Formats the packed types and the method: `12 GPTQ-4, by gptq`.
fn packed(packing: &PackingSummary) -> String {
    let types: Vec<String> = packing.types.iter().map(|(shown, count)| format!("{} {shown}", grouped(*count))).collect();
    let mut parts = vec![types.join(", ")];
    parts.retain(|part| !part.is_empty());
    parts.push(format!("by {}", packing.method));
    parts.extend((packing.unresolved > 0).then(|| format!("{} of unknown packing", grouped(packing.unresolved))));
    parts.join(", ")
}

/// Joins the first few names.
fn few(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let more = if names.len() > SHOWN { format!(", and {} more", grouped((names.len() - SHOWN) as u64)) } else { String::new() };
    names.get(..SHOWN).unwrap_or(names).join(", ") + &more
}

/// The number of values of a list that are shown: one a layer would be too many.
const SHOWN_VALUES: usize = 4;

/// The maximum length of the description shown, in characters.
const DESCRIPTION_CHARS: usize = 200;

/// The maximum number of files listed.
const MOST_FILES: usize = 8;

impl Info {
    /// Returns the row of csv.
    fn for_scripts(&self) -> Section<'_> {
        let text = |value: &Option<String>| Cell::maybe(value.clone(), Cell::text);
        let hyperparameter = |name: &str| Cell::maybe(self.hyperparameters.get(name), exact);
        let memory = |part: fn(&Summary) -> u64| Cell::maybe(self.memory.as_ref().map(part), Cell::count);
        let cells = [
            ("path", Cell::text(self.path.clone())),
            ("format", Cell::text(self.format.name())),
            ("architecture", text(&self.architecture)),
            ("name", text(&self.name)),
            ("parameters", Cell::maybe(self.parameters, Cell::count)),
            ("active_parameters", Cell::maybe(self.active_parameters, Cell::count)),
            ("label", Cell::text(self.label.clone())),
            ("bytes", Cell::bytes(self.bytes)),
            ("bits_per_weight", Cell::maybe(self.bits_per_weight, |bits| Cell::float(bits, 4))),
            ("files", Cell::count(self.files.len() as u64)),
            ("file_type", Cell::maybe(self.file_type.as_ref(), |found| Cell::text(found.name.to_string()))),
            ("dtypes", Cell::text(self.dtypes.iter().map(|row| row.dtype.as_str()).collect::<Vec<_>>().join(" "))),
            ("layers", hyperparameter("layers")),
            ("hidden_size", hyperparameter("hidden_size")),
            ("context", hyperparameter("context")),
            ("vocabulary", hyperparameter("vocabulary")),
            ("memory_weights", memory(|memory| memory.weights)),
            ("memory_per_token", memory(|memory| memory.per_token)),
            ("license", text(&self.license)),
            ("license_name", text(&self.license_name)),
            ("license_link", text(&self.license_link)),
        ];
        let (columns, cells): (Vec<_>, Vec<_>) = cells.into_iter().map(|(key, cell)| (Column::text(key), cell)).unzip();
        Section::table("info", columns).rows([cells]).only(Audience::Scripts)
    }

    fn for_people<'a>(&'a self) -> Vec<Fact<'a>> {
        let mut facts: Vec<Fact> = Vec::new();
        let mut add = |name: &'static str, cell: Option<Cell<'a>>| facts.extend(cell.map(|cell| Fact::named(name, cell)));
        add("name", self.name.clone().map(|name| Cell::text(name).tone(Tone::Strong)));
        add("format", Some(Cell::text(self.format.name())));
        if let Some(checkpoint) = &self.checkpoint {
            let by = checkpoint.framework.as_ref().map(|framework| format!(", by {framework}")).unwrap_or_default();
            add("checkpoint", Some(Cell::text(format!("{}, {}{by}", checkpoint.kind, checkpoint.container))));
            let object = |opaque: &Opaque| match opaque.name.as_str() {
                "" => opaque.callable.clone(),
                name => format!("{name} ({})", opaque.callable),
            };
            let names = |names: Vec<String>| (!names.is_empty()).then(|| Cell::text(few(&names)));
            add("tied", names(checkpoint.tied.iter().map(|tied| format!("{} = {}", tied.name, tied.to)).collect()));
            add("not tensors", names(checkpoint.opaque.iter().map(object).collect()));
            let unread = names(checkpoint.unread.iter().map(|unread| format!("{} ({})", unread.name, unread.reason)).collect());
            add("not read", unread.map(|cell| cell.tone(Tone::Caution)));
        }
        add("architecture", self.architecture.clone().map(Cell::text));
        let parameters = self.parameters.map_or_else(|| Cell::text(self.label.clone()), people);
        add("parameters", Some(parameters.tone(Tone::Strong)));
        add("active", self.active_parameters.filter(|active| Some(*active) != self.parameters).map(people));
        let bits = match self.bits_per_weight {
            Some(bits) => format!("{} bits per weight", general(bits, 4)),
            None => "bits per weight unknown".to_owned(),
        };
        let files = if self.files.len() == 1 { String::new() } else { format!(" in {} files", grouped(self.files.len() as u64)) };
        // The bits are those of the tensors, without the headers.
        let tensors = self.tensor_bytes.map(|tensors| format!("tensors {}, ", bytes(tensors))).unwrap_or_default();
        add("size", Some(Cell::text(format!("{}{files}: {tensors}{bits}", bytes(self.bytes)))));
        add("not counted", (!self.left_out.is_empty()).then(|| Cell::text(self.left_out.join(", "))));
        add("file type", self.file_type.as_ref().map(|found| Cell::text(found.in_words())));
        add("memory", self.memory.as_ref().map(|memory| Cell::text(memory.in_words())));
        add("packed", self.packing.as_ref().map(|packing| Cell::text(packed(packing))));
        add("layers", self.words(&[("layers", "{}"), ("hidden_size", "hidden size {}"), ("feed_forward", "feed-forward {}")]));
        for (title, kind) in [("vision encoder", "vision"), ("audio encoder", "audio")] {
            let parts = ["layers", "width", "feed_forward", "heads"].map(|name| format!("{kind}_{name}"));
            let words = ["{} layers", "width {}", "feed-forward {}", "{} heads"];
            let mut parts: Vec<(&str, &str)> = parts.iter().map(String::as_str).zip(words).collect();
            parts.extend(if kind == "vision" {
                [("image_size", "pictures of {}"), ("patch_size", "patches of {}")].as_slice()
            } else {
                &[("mel_bins", "{} mel bins")]
            });
            add(title, self.words(&parts));
        }
        add(
            "projector",
            self.words(&[
                ("projector_type", "{}"),
                ("vision_projector_type", "{}"),
                ("audio_projector_type", "{}"),
                ("projection", "to a width of {}"),
            ]),
        );
        add("attention", self.attention());
        add(
            "experts",
            self.words(&[
                ("experts", "{}"),
                ("experts_used", "{} used per token"),
                ("experts_shared", "{} shared"),
                ("expert_feed_forward", "feed-forward {} each"),
            ]),
        );
        add(
            "context",
            self.words(&[
                ("context", "{}"),
                ("rope_base", "RoPE base {}"),
                ("rope_scaling", "{} RoPE scaling"),
                ("rope_scaling_factor", "factor {}"),
            ]),
        );
        add("vocabulary", self.words(&[("vocabulary", "{}")]));
        add("tokenizer", self.tokenizer());
        if let Some(adapter) = &self.adapter {
            let alpha = adapter.alpha.map(|alpha| format!(", alpha {}", general(alpha, 4))).unwrap_or_default();
            let rank = adapter.rank.map_or_else(|| "ranks and alphas below".to_owned(), |rank| format!("rank {rank}{alpha}"));
            add("LoRA", Some(Cell::text(format!("{}, {rank}", adapter.form.title()))));
            add("target modules", (!adapter.target_modules.is_empty()).then(|| Cell::text(adapter.target_modules.join(", "))));
            add("not merged", adapter.unsupported.as_ref().map(|why| Cell::text(format!("it is {why}")).tone(Tone::Caution)));
            add("base model", adapter.base_model.clone().map(Cell::text));
        }
        let several = |values: &[String]| (!values.is_empty()).then(|| Cell::text(values.join(", ")));
        add(if self.origin.authors.len() > 1 { "authors" } else { "author" }, several(&self.origin.authors));
        add("base model", several(&self.origin.base_models).filter(|_| self.adapter.is_none()));
        add("version", self.origin.version.clone().map(Cell::text));
        add("fine-tune", self.origin.finetune.clone().map(Cell::text));
        add("quantised by", self.origin.quantized_by.clone().map(Cell::text));
        add("links", several(&self.origin.links));
        let description = self.origin.description.as_deref().map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
        add("description", description.map(|text| Cell::text(shorten_to(&text, DESCRIPTION_CHARS).into_owned())));
        add("licence", Some(self.license_in_words().map_or(Cell::text("not stated").tone(Tone::Faint), Cell::text)));
        facts
    }

    fn attention(&self) -> Option<Cell<'_>> {
        self.words(&[
            ("heads", "{} heads"),
            ("kv_heads", "{} KV heads"),
            ("head_dim", "head size {}"),
            ("sliding_window", "sliding window {}"),
        ])
    }

    fn tokenizer(&self) -> Option<Cell<'_>> {
        let tokenizer = self.tokenizer.as_ref()?;
        let mut parts = Vec::new();
        parts.extend(tokenizer.kind_in_words());
        parts.extend(tokenizer.tokens.map(|tokens| format!("{} tokens", grouped(tokens))));
        parts.extend(tokenizer.pre.as_ref().map(|pre| format!("pre-tokenizer {pre}")));
        parts.push(if tokenizer.chat_template { "chat template" } else { "no chat template" }.to_owned());
        Some(Cell::text(parts.join(", ")))
    }

    /// Returns the known hyperparameters, each in its wording; the final plural `s` is dropped for a value of 1.
    fn words(&self, parts: &[(&str, &str)]) -> Option<Cell<'_>> {
        let worded = |(name, words): &(&str, &str)| {
            let value = self.hyperparameters.get(*name)?;
            let words = words.strip_suffix('s').filter(|_| value.as_u64() == Some(1)).unwrap_or(words);
            Some(words.replace("{}", &info::hyperparameter_in_words(value, SHOWN_VALUES)))
        };
        let known = parts.iter().filter_map(worded).collect::<Vec<_>>();
        (!known.is_empty()).then(|| Cell::text(known.join(", ")))
    }
}

/// Formats a hyperparameter for scripts.
fn exact(value: &Json) -> Cell<'_> {
    match value {
        Json::String(text) => Cell::text(text.clone()),
        Json::Number(number) if number.is_f64() => Cell::float(number.as_f64().unwrap_or(f64::NAN), 6),
        Json::Number(number) => Cell::count(number.as_u64().unwrap_or(0)),
        other => Cell::text(other.to_string()),
    }
}
