//! `fit`: the memory that a model needs, and what of it fits.

mod compute;
pub mod devices;
mod kv;
mod options;
pub mod vllm;
mod weights;

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::base::{Error, Result, num, units};
use crate::family::memory::{self, Caches, Widths};
use crate::format::Reader;
use crate::model::metadata::full_key;
use crate::ops::fit::kv::{CacheFormat, Cells};
use crate::ops::fit::weights::{Placed, Subject};
use crate::quant::recipe::Target;

pub use options::Options;
pub use weights::Weights;

/// The memory that a model needs, in bytes.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Fit {
    schema: &'static str,
    /// Path as given.
    #[serde(skip)]
    pub path: String,
    /// Architecture.
    pub architecture: String,
    /// Context in tokens: what was asked for, padded as llama.cpp pads it.
    pub context: u64,
    /// Longest context that the model is trained for.
    pub trained_context: Option<u64>,
    /// Number of sequences that share the context.
    pub parallel: u64,
    /// Types of cached keys and values.
    pub kv_types: [String; 2],
    /// Weights.
    pub weights: Weights,
    /// Cached keys and values.
    pub kv_bytes: u64,
    /// State of recurrent layers.
    pub state_bytes: u64,
    /// Compute buffer, modelled; `None` if it is not modelled for the architecture.
    pub compute_bytes: Option<u64>,
    /// A vision or audio encoder: its weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mmproj_bytes: Option<u64>,
    /// Everything; without the compute buffer if that is not known.
    pub total_bytes: u64,
    /// Keys and values of one token in all layers.
    pub per_token_bytes: u64,
    /// Keys and values of one token in the layers without a sliding window: what a token beyond the windows adds.
    pub per_token_bytes_beyond_window: u64,
    /// Memory to fit in.
    pub memory: Option<u64>,
    /// Whether everything, or what is on the device, fits; `None` if no memory was given, or if it depends on an unknown compute buffer.
    pub fits: Option<bool>,
    /// Longest context that fits, up to the trained one; `None` if no memory was given or none fits.
    pub max_context: Option<u64>,
    /// Number of layers, the output included.
    pub layers: u64,
    /// Number of layers on the device: as asked for, or the most that fit.
    pub layers_on_device: Option<u64>,
    /// What is on the device; the compute buffer is.
    pub device_bytes: Option<u64>,
    /// What is on the host.
    pub host_bytes: Option<u64>,
    /// The listed file types, largest first.
    pub options: Vec<TypeRow>,
    /// Figures for vLLM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vllm: Option<vllm::Paged>,
    /// What limits the figures.
    pub notes: Vec<String>,
}

/// A file type that the model could be converted to.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct TypeRow {
    /// Name of the file type.
    #[serde(rename = "type")]
    pub name: String,
    /// Weights.
    pub bytes: u64,
    /// Everything.
    pub total_bytes: u64,
    /// Whether it fits.
    pub fits: Option<bool>,
}

/// Returns the memory that llama.cpp needs for a model, and for the file types in `options`.
///
/// # Errors
/// It is not known what the architecture caches, a hyperparameter is missing, or the model cannot be converted to GGUF.
pub fn fit(reader: &Reader, projector: Option<&Reader>, options: &Options) -> Result<Fit> {
    let path = &reader.model().path;
    let subject = Subject::new(reader, None).map_err(|error| error.in_file(path))?;
    let needs = Needs::new(&subject, options).map_err(|error| error.in_file(path))?;
    let mut fit = needs.fit(options)?;
    fit.path = path.to_string_lossy().into_owned();
    let mmproj = projector.map(projector_bytes).transpose()?;
    if let Some(bytes) = mmproj {
        fit.mmproj_bytes = Some(bytes);
        fit.total_bytes = num::add(fit.total_bytes, bytes, "the size")?;
        fit.device_bytes = fit.device_bytes.map(|device| device.saturating_add(bytes));
        fit.notes.push("the compute buffer of the vision or audio encoder is not included".to_owned());
    }
    fit.fits = fit.verdict(fit.device_bytes.unwrap_or(fit.total_bytes));
    for target in &options.types {
        match converted(reader, *target, &needs, &fit) {
            Ok(row) => fit.options.push(row),
            Err(error) if options.types.len() > 1 => fit.notes.push(format!("{target}: {}", error.message())),
            Err(error) => return Err(error.in_file(path)),
        }
    }
    fit.options.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    Ok(fit)
}

/// Returns the bytes of the weights of an encoder.
fn projector_bytes(reader: &Reader) -> Result<u64> {
    let bytes = reader.model().tensors.iter().map(|tensor| tensor.len_bytes).sum::<Option<u64>>();
    bytes.ok_or_else(|| Error::unsupported("the size of a type is unknown").in_file(&reader.model().path))
}

fn converted(reader: &Reader, target: Target, needs: &Needs, fit: &Fit) -> Result<TypeRow> {
    let subject = Subject::new(reader, Some(target))?;
    let bytes = weights::placed(&subject, &needs.caches)?.weights.total();
    let total_bytes = num::add(fit.total_bytes.saturating_sub(fit.weights.total()), bytes, "the size")?;
    Ok(TypeRow { name: target.to_string(), bytes, total_bytes, fits: fit.verdict(total_bytes) })
}

impl Fit {
    /// Returns whether so many bytes fit.
    fn verdict(&self, bytes: u64) -> Option<bool> {
        let fits = bytes <= self.memory?;
        (self.compute_bytes.is_some() || !fits).then_some(fits)
    }

    /// Whether the model, or any listed file type of it, fits: the last says what was asked.
    pub fn fits_somehow(&self) -> Option<bool> {
        if self.options.is_empty() { self.fits } else { self.memory.map(|_| self.options.iter().any(|row| row.fits == Some(true))) }
    }
}

/// What a model needs, before the context is known.
struct Needs {
    architecture: String,
    caches: Caches,
    widths: Option<Widths>,
    placed: Placed,
    trained_context: Option<u64>,
    vocabulary: u64,
    gated: bool,
}

impl Needs {
    fn new(subject: &Subject, options: &Options) -> Result<Self> {
        options.check()?;
        let caches = memory::caches(&subject.metadata)?;
        let architecture = subject.metadata.get_str("general.architecture").unwrap_or_default().to_owned();
        let placed = weights::placed(subject, &caches)?;
        Ok(Self {
            widths: memory::widths(&subject.metadata)?,
            placed,
            trained_context: subject.metadata.get_u64(&full_key(&architecture, "context_length")),
            // Encoders without a cache give embeddings.
            vocabulary: if caches.layers.is_empty() && !DIFFUSION.contains(&architecture.as_str()) { 0 } else { subject.vocabulary() },
            gated: subject.is_gated(),
            architecture,
            caches,
        })
    }

    fn cells(&self, context: u64, options: &Options) -> Result<Cells> {
        Cells::new(context, self.widths.as_ref().is_none_or(|widths| widths.causal), options)
    }

    fn kv_bytes(&self, cells: Cells, options: &Options) -> Result<u64> {
        let format = CacheFormat::new(&self.caches, options);
        self.caches.layers.iter().try_fold(0, |sum, layer| num::add(sum, format.layer_bytes(layer, cells)?, "the size of the cache"))
    }

    fn compute_bytes(&self, cells: Cells, options: &Options) -> Option<u64> {
        let widths = self.widths.as_ref()?;
        Some(compute::bytes(widths, &self.caches, self.vocabulary, self.gated, cells, options.flash_attention))
    }

    fn state_bytes(&self, parallel: u64) -> Result<u64> {
        self.caches.layers.iter().try_fold(0, |sum, layer| num::add(sum, kv::state_bytes(layer, parallel)?, "the state"))
    }

    fn fit(&self, options: &Options) -> Result<Fit> {
        let context = options.context.or(self.trained_context).ok_or_else(|| {
            Error::unsupported("the model does not say for which context it is trained").hint("give the number of tokens of the context")
        })?;
        let cells = self.cells(context, options)?;
        let (kv_bytes, state_bytes) = (self.kv_bytes(cells, options)?, self.state_bytes(cells.parallel)?);
        let compute_bytes = self.compute_bytes(cells, options);
        let parts = [self.placed.weights.total(), kv_bytes, state_bytes, compute_bytes.unwrap_or(0)];
        let total_bytes = parts.into_iter().try_fold(0, |sum, part| num::add(sum, part, "the size"))?;
        let [per_token_bytes, beyond] = CacheFormat::new(&self.caches, options).growth(&self.caches)?;
        let on_device = self.on_device(cells, options, compute_bytes.unwrap_or(0))?;
        let layers = num::add(self.caches.loaded_layers, 1, "the number of layers")?;
        let asked = options.layers_on_device.map(|asked| asked.min(layers));
        let most = options.memory.map(|memory| on_device.iter().rposition(|bytes| *bytes <= memory).map_or(0, |most| most as u64));
        let device_bytes = asked.and_then(|asked| on_device.get(usize::try_from(asked).ok()?).copied());
        // A tied output matrix is on both sides.
        let twice = if asked == Some(layers) { self.placed.tied } else { 0 };
        Ok(Fit {
            schema: "weigh.fit.v1",
            path: String::new(),
            architecture: self.architecture.clone(),
            context: cells.tokens(),
            trained_context: self.trained_context,
            parallel: cells.parallel,
            kv_types: options.kv_types.map(|dtype| dtype.to_string()),
            weights: self.placed.weights,
            kv_bytes,
            state_bytes,
            compute_bytes,
            mmproj_bytes: None,
            total_bytes,
            per_token_bytes,
            per_token_bytes_beyond_window: beyond,
            memory: options.memory,
            fits: None,
            max_context: self.max_context(options)?,
            layers,
            layers_on_device: asked.or(most),
            device_bytes,
            host_bytes: device_bytes.map(|device| total_bytes.saturating_add(twice).saturating_sub(device)),
            options: Vec::new(),
            vllm: None,
            notes: self.notes(context.div_ceil(cells.parallel), compute_bytes),
        })
    }

    /// Returns the bytes on the device with 0, 1 ... layers on it; the last has the output as well.
    fn on_device(&self, cells: Cells, options: &Options, compute: u64) -> Result<Vec<u64>> {
        let loaded = num::to_usize(self.caches.loaded_layers, "the number of layers")?;
        let format = CacheFormat::new(&self.caches, options);
        let mut bytes = vec![0_u64];
        let mut sum = compute;
        for layer in (0..loaded).rev() {
            let [all, experts] = self.placed.layers.get(layer).copied().unwrap_or_default();
            let on_host = if (layer as u64) < options.experts_on_host { experts } else { 0 };
            sum = sum.saturating_add(all - on_host);
            // A looped model has several caches of a layer.
            for cache in self.caches.layers.iter().skip(layer).step_by(loaded.max(1)) {
                let cached = num::add(format.layer_bytes(cache, cells)?, kv::state_bytes(cache, cells.parallel)?, "the size of the cache")?;
                sum = sum.saturating_add(cached);
            }
            bytes.push(sum);
        }
        bytes.push(sum.saturating_add(self.placed.weights.output).saturating_add(self.placed.tied));
        Ok(bytes)
    }

    /// Returns the longest context that fits in the memory, up to the trained one.
    fn max_context(&self, options: &Options) -> Result<Option<u64>> {
        let (Some(memory), Some(trained)) = (options.memory, self.trained_context) else { return Ok(None) };
        let fits = |context: u64| {
            let cells = self.cells(context, options)?;
            let Some(compute) = self.compute_bytes(cells, options) else { return Ok(false) };
            let parts = [self.placed.weights.total(), self.kv_bytes(cells, options)?, self.state_bytes(cells.parallel)?, compute];
            Ok::<bool, Error>(parts.into_iter().fold(0_u64, u64::saturating_add) <= memory)
        };
        let (mut low, mut high) = (0, trained);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if fits(middle)? { low = middle } else { high = middle - 1 }
        }
        Ok(Some(low).filter(|longest| *longest > 0))
    }

    /// Returns the notes on the context of one sequence and on the compute buffer.
    fn notes(&self, context: u64, compute: Option<u64>) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(trained) = self.trained_context.filter(|trained| context > *trained) {
            notes.push(format!(
                "each sequence has a longer context than the {} tokens that the model is trained for",
                units::grouped(trained)
            ));
        }
        if compute.is_none() {
            notes.push(format!("the compute buffer of {} is not modelled: the total is without it", self.architecture));
        }
        notes
    }
}

/// Architectures of diffusion models, which give logits without a cache.
const DIFFUSION: [&str; 4] = ["dream", "llada", "llada-moe", "rnd1"];

/// Returns the weights and the growth of the caches for one line of `info`; `None` if they are not known.
pub(in crate::ops) fn summary(reader: &Reader, context: u64) -> Option<Summary> {
    let options = Options { context: Some(context), ..Options::default() };
    let subject = Subject::new(reader, None).ok()?;
    let needs = Needs::new(&subject, &options).ok()?;
    let cells = needs.cells(context, &options).ok()?;
    let [per_token, beyond] = CacheFormat::new(&needs.caches, &options).growth(&needs.caches).ok()?;
    let (weights, state) = (needs.placed.weights.total(), needs.state_bytes(1).ok()?);
    let total = weights.checked_add(needs.kv_bytes(cells, &options).ok()?)?.checked_add(state)?;
    Some(Summary { weights, per_token, beyond, state, context, total })
}

/// The memory of a model in short, without the compute buffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Weights in bytes.
    pub weights: u64,
    /// Keys and values of one token in all layers.
    pub per_token: u64,
    /// Those in layers without a sliding window.
    pub beyond: u64,
    /// State of recurrent layers.
    pub state: u64,
    /// Context of the total.
    pub context: u64,
    /// Weights, cache and state.
    pub total: u64,
}

impl Summary {
    /// Formats the figures: `253 MB weights + 18.4 kB per token of context: 364 MB at 32,768`.
    pub fn in_words(&self) -> String {
        let mut parts = vec![format!("{} weights", units::bytes(self.weights))];
        parts.extend((self.state > 0).then(|| format!("{} state", units::bytes(self.state))));
        let beyond = match self.beyond {
            beyond if beyond == self.per_token => String::new(),
            beyond => format!(" ({} beyond the sliding window)", units::bytes(beyond)),
        };
        parts.extend((self.per_token > 0).then(|| format!("{} per token of context{beyond}", units::bytes(self.per_token))));
        let at = || format!(": {} at {}", units::bytes(self.total), units::grouped(self.context));
        format!("{}{}", parts.join(" + "), if self.per_token > 0 { at() } else { String::new() })
    }
}
