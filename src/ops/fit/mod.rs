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
use crate::model::{DType, TensorInfo};
use crate::ops::fit::kv::{CacheFormat, Cells};
use crate::ops::fit::weights::{Placed, Subject};
use crate::quant::recipe::{FILE_TYPES, Target};

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
    /// Context in tokens, as requested and padded as in llama.cpp.
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
    /// Number of layers that can be on the device; the output counts as one.
    pub layers: u64,
    /// Number of layers on the device: as requested, or as many as fit.
    pub layers_on_device: Option<u64>,
    /// Bytes on the device, including the compute buffer.
    pub device_bytes: Option<u64>,
    /// Bytes on the host, without its share of the compute buffer, such as attention masks.
    pub host_bytes: Option<u64>,
    /// The listed file types, largest first: those requested or, if none were and the model does not fit, those that fit.
    pub options: Vec<TypeRow>,
    /// Whether no file type was requested.
    #[serde(skip)]
    suggested: bool,
    /// Figures for vLLM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vllm: Option<vllm::Paged>,
    /// Limitations of the figures.
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
    let beside = projector.map(projector_bytes).transpose()?;
    let needs = |target| Ok::<_, Error>(Needs { beside: beside.unwrap_or(0), ..Needs::new(&Subject::new(reader, target)?, options)? });
    let own = needs(None).map_err(|error| error.in_file(path))?;
    let mut fit = own.fit(options).map_err(|error| error.in_file(path))?;
    fit.path = path.to_string_lossy().into_owned();
    if beside.is_some() {
        fit.mmproj_bytes = beside;
        fit.notes.push("the compute buffer of the vision or audio encoder is not included".to_owned());
    }
    fit.vllm = options.vllm.as_ref().map(|engine| vllm::paged(reader, &own.caches, engine, options)).transpose()?;
    for target in &options.types {
        match needs(Some(*target)).and_then(|needs| needs.row(*target, options)) {
            Ok(row) => fit.options.push(row),
            Err(error) if options.types.len() > 1 => fit.notes.push(format!("{target}: {}", error.message())),
            Err(error) => return Err(error.in_file(path)),
        }
    }
    let is_quantised = |tensor: &TensorInfo| tensor.elem.known().is_some_and(DType::is_quantised);
    if options.types.is_empty() && fit.fits == Some(false) && !reader.model().tensors.iter().any(is_quantised) {
        fit.suggested = true;
        let row = |target| needs(Some(target)).and_then(|needs| needs.row(target, options)).ok();
        fit.options.extend(FILE_TYPES.iter().map(Target::Mix).filter_map(row).filter(|row| row.fits == Some(true)));
    }
    fit.options.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    Ok(fit)
}

/// Returns the bytes of the weights of an encoder.
fn projector_bytes(reader: &Reader) -> Result<u64> {
    let bytes = reader.model().tensors.iter().map(|tensor| tensor.len_bytes).sum::<Option<u64>>();
    bytes.ok_or_else(|| Error::unsupported("the size of a type is unknown").in_file(&reader.model().path))
}

impl Fit {
    /// Whether the model, or any listed file type of it, fits; `None` if no memory was given, or if that is not known.
    ///
    /// With vLLM: whether a token fits in addition to the weights.
    pub fn fits_somehow(&self) -> Option<bool> {
        self.memory?;
        match &self.vllm {
            Some(paged) => paged.most_tokens.map(|tokens| tokens > 0),
            None if self.options.is_empty() || self.suggested => self.fits,
            None if self.options.iter().any(|row| row.fits == Some(true)) => Some(true),
            None => self.options.iter().all(|row| row.fits == Some(false)).then_some(false),
        }
    }
}

/// The memory that a model needs apart from the context.
struct Needs {
    architecture: String,
    caches: Caches,
    widths: Option<Widths>,
    placed: Placed,
    trained_context: Option<u64>,
    vocabulary: u64,
    gated: bool,
    /// Weights of a separate encoder.
    beside: u64,
}

/// The memory that a model needs for a context, in bytes.
struct Demand {
    cells: Cells,
    kv: u64,
    state: u64,
    compute: Option<u64>,
    total: u64,
    /// Bytes on the device with 0, 1 ... layers on it.
    on_device: Vec<u64>,
    /// Number of layers on the device, and what is there; `None` if everything is in the same memory.
    placed: Option<(u64, u64)>,
}

impl Demand {
    /// Returns what is to fit in the memory.
    fn in_memory(&self) -> u64 {
        self.placed.map_or(self.total, |(_, bytes)| bytes)
    }

    /// Whether it fits; `None` if no memory was given, or if it depends on an unknown compute buffer.
    fn fits(&self, options: &Options) -> Option<bool> {
        let fits = self.in_memory() <= options.memory?;
        (self.compute.is_some() || !fits).then_some(fits)
    }
}

impl Needs {
    fn new(subject: &Subject, options: &Options) -> Result<Self> {
        options.check()?;
        let caches = memory::caches(&subject.metadata)?;
        options.check_with(&caches)?;
        let architecture = subject.metadata.get_str("general.architecture").unwrap_or_default().to_owned();
        let placed = weights::placed(subject, &caches)?;
        Ok(Self {
            widths: memory::widths(&subject.metadata)?,
            placed,
            trained_context: subject.metadata.get_u64(&full_key(&architecture, "context_length")),
            vocabulary: if caches.logits { subject.vocabulary() } else { 0 },
            gated: subject.is_gated(),
            architecture,
            caches,
            beside: 0,
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
        Some(compute::bytes(
            widths,
            &self.caches,
            self.vocabulary,
            self.gated,
            cells,
            options.flash_attention && self.caches.flash_attention,
        ))
    }

    fn state_bytes(&self, parallel: u64) -> Result<u64> {
        self.caches.layers.iter().try_fold(0, |sum, layer| num::add(sum, kv::state_bytes(layer, parallel)?, "the state"))
    }

    /// Returns the requested context in tokens.
    fn context(&self, options: &Options) -> Result<u64> {
        options.context.or(self.trained_context).ok_or_else(|| {
            Error::unsupported("the model does not state the context that it is trained for")
                .hint("give the number of tokens of the context")
        })
    }

    fn fit(&self, options: &Options) -> Result<Fit> {
        let context = self.context(options)?;
        let demand = self.demand(context, options)?;
        let [per_token_bytes, beyond] = CacheFormat::new(&self.caches, options).growth(&self.caches)?;
        let most = options.memory.map(|memory| demand.on_device.iter().rposition(|bytes| *bytes <= memory).map_or(0, |most| most as u64));
        // The host has the token embeddings, which are the output matrix on the device.
        let twice = if demand.placed.is_some_and(|(layers, _)| layers > 0) { self.placed.tied } else { 0 };
        Ok(Fit {
            schema: "weigh.fit.v1",
            path: String::new(),
            architecture: self.architecture.clone(),
            context: demand.cells.tokens(),
            trained_context: self.trained_context,
            parallel: demand.cells.parallel,
            kv_types: options.kv_types.map(|dtype| dtype.to_string()),
            weights: self.placed.weights,
            kv_bytes: demand.kv,
            state_bytes: demand.state,
            compute_bytes: demand.compute,
            mmproj_bytes: None,
            total_bytes: demand.total,
            per_token_bytes,
            per_token_bytes_beyond_window: beyond,
            memory: options.memory,
            fits: demand.fits(options),
            max_context: self.max_context(options)?,
            layers: self.device_layers()?,
            layers_on_device: demand.placed.map(|(layers, _)| layers).or(most),
            device_bytes: demand.placed.map(|(_, device)| device),
            host_bytes: demand.placed.map(|(_, device)| demand.total.saturating_add(twice).saturating_sub(device)),
            options: Vec::new(),
            suggested: false,
            vllm: None,
            notes: self.notes(context.div_ceil(demand.cells.parallel), demand.compute),
        })
    }

    /// Returns the row of this model for a list of file types.
    fn row(&self, target: Target, options: &Options) -> Result<TypeRow> {
        let demand = self.demand(self.context(options)?, options)?;
        let bytes = self.placed.weights.total();
        Ok(TypeRow { name: target.to_string(), bytes, total_bytes: demand.total, fits: demand.fits(options) })
    }

    fn demand(&self, context: u64, options: &Options) -> Result<Demand> {
        let cells = self.cells(context, options)?;
        let (kv, state) = (self.kv_bytes(cells, options)?, self.state_bytes(cells.parallel)?);
        let compute = self.compute_bytes(cells, options);
        let parts = [self.placed.weights.total(), kv, state, compute.unwrap_or(0), self.beside];
        let total = parts.into_iter().try_fold(0, |sum, part| num::add(sum, part, "the size"))?;
        let on_device = self.on_device(cells, options, compute.unwrap_or(0))?;
        let all = self.device_layers()?;
        // Experts on the host: the other weights are on the device.
        let asked = options.layers_on_device.or((options.experts_on_host > 0).then_some(all)).map(|asked| asked.min(all));
        let placed = asked.and_then(|asked| Some((asked, *on_device.get(usize::try_from(asked).ok()?)?)));
        Ok(Demand { cells, kv, state, compute, total, on_device, placed })
    }

    /// Returns the number of layers that can be on a device, the output included.
    fn device_layers(&self) -> Result<u64> {
        num::add(self.caches.all_layers, 1, "the number of layers")
    }

    /// Returns the bytes on the device with 0, 1 ... layers on it: as llama.cpp does, first the output, then the layers from the last one.
    fn on_device(&self, cells: Cells, options: &Options, compute: u64) -> Result<Vec<u64>> {
        let all = num::to_usize(self.caches.all_layers, "the number of layers")?;
        let format = CacheFormat::new(&self.caches, options);
        let parts = [self.beside, compute, self.placed.weights.output, self.placed.tied];
        let mut sum = parts.into_iter().fold(0, u64::saturating_add);
        let mut bytes = vec![self.beside, sum];
        for layer in (0..all).rev() {
            let [weights, experts] = self.placed.layers.get(layer).copied().unwrap_or_default();
            let on_host = if (layer as u64) < options.experts_on_host { experts } else { 0 };
            sum = sum.saturating_add(weights.saturating_sub(on_host));
            // A looped model has several caches of a layer.
            for cache in self.caches.layers.iter().skip(layer).step_by(all.max(1)) {
                let cached = num::add(format.layer_bytes(cache, cells)?, kv::state_bytes(cache, cells.parallel)?, "the size of the cache")?;
                sum = sum.saturating_add(cached);
            }
            bytes.push(sum);
        }
        Ok(bytes)
    }

    /// Returns the longest context that fits in the memory, up to the trained one.
    fn max_context(&self, options: &Options) -> Result<Option<u64>> {
        let (Some(_), Some(trained)) = (options.memory, self.trained_context) else { return Ok(None) };
        let (mut low, mut high) = (0, trained);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if self.demand(middle, options)?.fits(options) == Some(true) { low = middle } else { high = middle - 1 }
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
