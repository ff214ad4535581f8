//! The caches of a model in llama.cpp: keys and values in every layer, or a state.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde::Deserialize;

use crate::base::{Error, Result, limits};
use crate::model::metadata::full_key;
use crate::model::{Metadata, Value};

/// The cache of one layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerCache {
    /// Keys and values.
    pub attention: Option<Attention>,
    /// Keys of an indexer.
    pub indexer: Option<Attention>,
    /// States per sequence, each in F32: the numbers of elements of a convolution or token shift, of the recurrence, and of a convolution
    /// over the embeddings of n-grams.
    pub state: Option<[u64; 3]>,
}

/// The keys and values of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attention {
    /// Heads with queries.
    pub query_heads: u64,
    /// Heads with keys and values.
    pub heads: u64,
    /// Elements of the key of a head.
    pub key: u64,
    /// Elements of the value of a head; 0 if it is computed from the key (MLA).
    pub value: u64,
    /// Sliding window in tokens.
    pub window: Option<u64>,
}

/// Places of weights, by prefixes of their names. Weights outside the layers that are not listed are with the token embeddings.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Places {
    first_layer: String,
    output: String,
    shared: String,
    experts: String,
}

impl Places {
    /// Whether a weight is counted with the embeddings, but is on the device of the first layer.
    pub fn is_on_first_layer(&self, name: &str) -> bool {
        starts(&self.first_layer, name)
    }

    /// Whether a weight is beside the output matrix.
    pub fn is_output(&self, name: &str) -> bool {
        starts(&self.output, name)
    }

    /// Whether all layers share a weight.
    pub fn is_shared(&self, name: &str) -> bool {
        starts(&self.shared, name)
    }

    /// Whether a weight belongs to the experts of its layer; `name` is the part after the layer number.
    pub fn is_expert(&self, name: &str) -> bool {
        starts(&self.experts, name)
    }
}

fn starts(beginnings: &str, name: &str) -> bool {
    beginnings.split_whitespace().any(|beginning| name.starts_with(beginning))
}

/// The caches of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caches {
    /// By layer, as llama.cpp counts them: those of looped models count once per loop. Empty for a model without a cache.
    pub layers: Vec<LayerCache>,
    /// Number of layers, those that predict further tokens included.
    pub all_layers: u64,
    /// Number of layers with weights that llama.cpp loads; later ones predict further tokens, and are skipped.
    pub loaded_layers: u64,
    /// Beginnings of the names of tensors that are loaded of later layers.
    pub drafts_loaded: &'static str,
    /// Places of weights.
    pub places: &'static Places,
    /// Beginning of the name of the norm before the output matrix, where that does not say so.
    pub output_norm: Option<&'static str>,
    /// Whether the token embeddings are allocated again as output matrix, if there is none.
    pub tied_twice: bool,
    /// Whether there is no output matrix, not even the token embeddings.
    pub without_output: bool,
    /// Whether attention is over the tokens of a batch only, whatever is cached.
    pub in_batch: bool,
    /// Whether the model gives logits; else embeddings.
    pub logits: bool,
    /// Whether llama.cpp can use flash attention.
    pub flash_attention: bool,
    /// Kinds of layers, by whether they have a sliding window: 1 or 2.
    pub kinds: u64,
}

/// The sizes that the intermediate results of a model have: per token, in elements. Where layers differ, those of the largest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Widths {
    /// Hidden size.
    pub hidden: u64,
    /// Query heads.
    pub heads: u64,
    /// All queries.
    pub queries: u64,
    /// All values.
    pub values: u64,
    /// Values that are computed from a compressed key (MLA); else 0.
    pub compressed: u64,
    /// All queries before they are multiplied by the matrix that compresses keys (MLA); else 0.
    pub decompressed: u64,
    /// Tokens that an indexer selects; 0 if there is none.
    pub selected: u64,
    /// Feed-forward network; 0 if there is none.
    pub feed_forward: u64,
    /// Experts, experts used per token, and the feed-forward size of one.
    pub experts: [u64; 3],
    /// Whether there are shared experts as well.
    pub shared_experts: bool,
    /// Number of logits computed for each token of the vocabulary.
    pub logits: u64,
    /// Inner size of a state-space model.
    pub inner: u64,
    /// Vectors of the hidden size that the mixing of shifted tokens needs.
    pub mixed: u64,
    /// Whether attention is causal.
    pub causal: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    caches: Vec<CacheRow>,
    windows: HashMap<String, Window>,
    compressed: Listed,
    in_batch: Listed,
    tied_twice: Listed,
    without_output: Listed,
    places: Places,
    output_norms: HashMap<String, String>,
    drafts_loaded: HashMap<String, String>,
    without_flash_attention: Listed,
    looped: Listed,
    diffusion: Listed,
    logits_twice: Listed,
    unmodelled: Listed,
    intervals: HashMap<String, u64>,
    linear: Listed,
    unknown: HashMap<String, String>,
    indexers: HashMap<String, Indexer>,
    shared_after: HashMap<String, u64>,
    mixed: HashMap<String, u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheRow {
    cache: Cache,
    architectures: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Cache {
    Attention,
    None,
    Recurrent,
    Heads,
    Interval,
    Feed,
    Both,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    architectures: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Window {
    pattern: Option<u64>,
    dense_first: bool,
    optional: bool,
    default: Option<u64>,
    fixed: Option<u64>,
    layers: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Indexer {
    layers: Option<Listing>,
    after_dense: bool,
    values: bool,
    vectors: Option<u64>,
    optional: bool,
}

/// Whether the file lists the layers with an indexer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Listing {
    Listed,
    Optional,
    Below,
}

fn facts() -> Result<&'static Facts> {
    static FACTS: OnceLock<Result<Facts, String>> = OnceLock::new();
    let facts = FACTS.get_or_init(|| toml::from_str(include_str!("memory.toml")).map_err(|error| error.to_string()));
    facts.as_ref().map_err(|error| Error::argument(format!("the embedded memory.toml: {error}")))
}

impl Listed {
    fn lists(&self, architecture: &str) -> bool {
        self.architectures.split_whitespace().any(|name| name == architecture)
    }
}

impl Facts {
    fn cache(&self, architecture: &str) -> Option<Cache> {
        let lists = |row: &&CacheRow| row.architectures.split_whitespace().any(|name| name == architecture);
        self.caches.iter().find(lists).map(|row| row.cache)
    }
}

/// Returns what llama.cpp caches of a model with this GGUF metadata.
///
/// # Errors
/// Nothing is known of the architecture, or a hyperparameter is missing.
pub fn caches(metadata: &Metadata) -> Result<Caches> {
    let architecture = metadata
        .get_str("general.architecture")
        .ok_or_else(|| Error::unsupported("the model names no architecture, so its caches are unknown"))?;
    let facts = facts()?;
    let cache = facts.cache(architecture).ok_or_else(|| {
        let why = facts.unknown.get(architecture).map(|why| format!(": {why}")).unwrap_or_default();
        Error::unsupported(format!("it is not known what a model of architecture {architecture} caches{why}"))
    })?;
    let keys = Keys { metadata, architecture };
    let all = keys.required("block_count")?;
    if all == 0 || all > limits::LAYERS {
        return Err(Error::limit(format!("expected 1 to {} layers, found {all}", limits::LAYERS)));
    }
    let drafting = keys.number("nextn_predict_layers").unwrap_or(0);
    let trunk = all
        .checked_sub(drafting)
        .ok_or_else(|| Error::malformed(format!("expected at most {all} layers that predict further tokens, found {drafting}")))?;
    let in_batch = cache == Cache::None || facts.in_batch.lists(architecture);
    let model = Shapes { facts, cache, keys, all, trunk, mla: mla(facts, keys) };
    let windows = model.windows()?;
    let sliding = windows.iter().flatten().count();
    let kinds = if sliding > 0 && sliding < windows.len() { 2 } else { 1 };
    let without = Caches {
        layers: Vec::new(),
        all_layers: all,
        loaded_layers: trunk,
        drafts_loaded: facts.drafts_loaded.get(architecture).map_or("", String::as_str),
        places: &facts.places,
        output_norm: facts.output_norms.get(architecture).map(String::as_str),
        tied_twice: facts.tied_twice.lists(architecture),
        without_output: facts.without_output.lists(architecture),
        in_batch,
        logits: cache != Cache::None || facts.diffusion.lists(architecture),
        flash_attention: !facts.without_flash_attention.lists(architecture),
        kinds,
    };
    if cache == Cache::None {
        return Ok(without);
    }
    let layers = windows.iter().zip(0..all).map(|(window, layer)| model.layer(layer, *window)).collect::<Result<Vec<_>>>()?;
    let loops = keys.number("num_loops").filter(|_| facts.looped.lists(architecture)).unwrap_or(1).max(1);
    if all.saturating_mul(loops) > limits::LAYERS {
        return Err(Error::limit(format!("expected at most {} layers, found {all} layers {loops} times", limits::LAYERS)));
    }
    let layers = std::iter::repeat_n(layers, usize::try_from(loops).unwrap_or(1)).flatten().collect();
    Ok(Caches { layers, ..without })
}

/// Returns the sizes of a model's intermediate results; `None` for an architecture whose computation is not modelled.
///
/// # Errors
/// A hyperparameter is missing.
pub fn widths(metadata: &Metadata) -> Result<Option<Widths>> {
    const SHARED: [&str; 2] = ["expert_shared_count", "expert_shared_feed_forward_length"];
    let facts = facts()?;
    let Some(architecture) = metadata.get_str("general.architecture") else { return Ok(None) };
    if facts.unmodelled.lists(architecture) || facts.cache(architecture).is_none() {
        return Ok(None);
    }
    let keys = Keys { metadata, architecture };
    let layers = keys.required("block_count")?.min(limits::LAYERS);
    let largest = |key: &str| (0..layers).try_fold(0, |most, layer| Ok::<u64, Error>(most.max(keys.at_layer(key, layer)?.unwrap_or(0))));
    let hidden = keys.required("embedding_length")?;
    let heads = largest("attention.head_count")?;
    let kv_heads = if keys.value("attention.head_count_kv").is_some() { largest("attention.head_count_kv")? } else { heads };
    let head = |key: &str| keys.number(key).or_else(|| hidden.checked_div(heads)).unwrap_or(0);
    let mla = mla(facts, keys);
    let feed_forward = largest("feed_forward_length")?;
    let expert = Some(largest("expert_feed_forward_length")?).filter(|size| *size > 0).unwrap_or(feed_forward);
    Ok(Some(Widths {
        hidden,
        heads,
        queries: product(heads, head("attention.key_length"))?,
        values: product(kv_heads, head("attention.value_length"))?,
        compressed: if mla { keys.number("attention.kv_lora_rank").unwrap_or(0) } else { 0 },
        decompressed: if mla { product(heads, head("attention.key_length_mla"))? } else { 0 },
        selected: if facts.indexers.contains_key(architecture) { keys.number("attention.indexer.top_k").unwrap_or(0) } else { 0 },
        feed_forward,
        experts: [keys.number("expert_count").unwrap_or(0), largest("expert_used_count")?, expert],
        shared_experts: SHARED.iter().any(|key| keys.number(key).is_some_and(|number| number > 0)),
        logits: if facts.logits_twice.lists(architecture) { 2 } else { 1 },
        inner: keys.number("ssm.inner_size").unwrap_or(0),
        mixed: facts.mixed.get(architecture).copied().unwrap_or(0),
        causal: keys.value("attention.causal").and_then(Value::as_bool).unwrap_or(true),
    }))
}

/// Whether the values are computed from the keys, which are compressed.
fn mla(facts: &Facts, keys: Keys<'_>) -> bool {
    let listed = facts.compressed.lists(keys.architecture);
    listed && ["attention.key_length_mla", "attention.value_length_mla"].iter().all(|key| keys.number(key).is_some_and(|length| length > 0))
}

/// The keys of an architecture.
#[derive(Debug, Clone, Copy)]
struct Keys<'m> {
    metadata: &'m Metadata,
    architecture: &'m str,
}

impl<'m> Keys<'m> {
    fn value(self, key: &str) -> Option<&'m Value> {
        self.metadata.get(&full_key(self.architecture, key))
    }

    fn number(self, key: &str) -> Option<u64> {
        self.value(key).and_then(Value::as_u64)
    }

    fn required(self, key: &str) -> Result<u64> {
        self.number(key).ok_or_else(|| self.missing(key))
    }

    fn missing(self, key: &str) -> Error {
        Error::unsupported(format!(
            "the caches of {} cannot be computed: there is no number {}",
            self.architecture,
            full_key(self.architecture, key)
        ))
    }

    /// Returns a number that is either the same for all layers or listed by layer.
    fn at_layer(self, key: &str, layer: u64) -> Result<Option<u64>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(array)) => {
                let index = usize::try_from(layer).unwrap_or(usize::MAX);
                let value = array
                    .iter()
                    .nth(index)
                    .ok_or_else(|| Error::malformed(format!("{} has no number for layer {layer}", full_key(self.architecture, key))))??;
                Ok(Some(as_number(&value).ok_or_else(|| self.missing(key))?))
            }
            Some(value) => as_number(value).map(Some).ok_or_else(|| self.missing(key)),
        }
    }
}

fn as_number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_bool().map(u64::from))
}

/// The shapes of a model's caches.
struct Shapes<'m> {
    facts: &'static Facts,
    cache: Cache,
    keys: Keys<'m>,
    /// Number of layers.
    all: u64,
    /// Number of layers without those that predict further tokens.
    trunk: u64,
    mla: bool,
}

impl Shapes<'_> {
    /// Returns the sliding window of every layer.
    fn windows(&self) -> Result<Vec<Option<u64>>> {
        let none = vec![None; usize::try_from(self.all).unwrap_or(0)];
        let Some(row) = self.facts.windows.get(self.keys.architecture) else { return Ok(none) };
        if row.layers.is_some_and(|layers| layers != self.trunk) {
            return Ok(none);
        }
        let found = self.keys.number("attention.sliding_window");
        if (row.optional || row.fixed.is_some()) && found == Some(0) || row.optional && found.is_none() {
            return Ok(none);
        }
        let window = row.fixed.or(found).or(row.default).ok_or_else(|| self.keys.missing("attention.sliding_window"))?;
        (0..self.all).map(|layer| Ok(self.slides(row, layer)?.then_some(window))).collect()
    }

    fn slides(&self, row: &Window, layer: u64) -> Result<bool> {
        const PATTERN: &str = "attention.sliding_window_pattern";
        let found = self.keys.value(PATTERN);
        if let Some(Value::Array(array)) = found {
            // Layers that the list does not reach have no window.
            return Ok(layer < array.len() && self.keys.at_layer(PATTERN, layer)?.is_some_and(|slides| slides > 0));
        }
        let pattern =
            found.and_then(Value::as_u64).filter(|_| row.pattern.is_some()).or(row.pattern).ok_or_else(|| self.keys.missing(PATTERN))?;
        if layer >= self.trunk || self.cache == Cache::Heads && self.kv_heads(layer)? == 0 {
            return Ok(false);
        }
        Ok(match layer.checked_rem(pattern) {
            None => true,
            Some(position) if row.dense_first => position != 0,
            Some(position) => position + 1 < pattern,
        })
    }

    fn heads(&self, layer: u64) -> Result<u64> {
        Ok(self.keys.at_layer("attention.head_count", layer)?.unwrap_or(0))
    }

    fn kv_heads(&self, layer: u64) -> Result<u64> {
        match self.keys.at_layer("attention.head_count_kv", layer)? {
            Some(heads) => Ok(heads),
            None => self.heads(layer),
        }
    }

    /// Returns what a layer caches.
    fn layer(&self, layer: u64, window: Option<u64>) -> Result<LayerCache> {
        let recurrent = self.is_recurrent(layer)?;
        let attends = match self.cache {
            Cache::Both => true,
            Cache::Recurrent => false,
            Cache::Feed => !recurrent && self.keys.at_layer("feed_forward_length", layer)?.unwrap_or(0) == 0,
            Cache::Heads => !recurrent,
            Cache::Attention | Cache::Interval | Cache::None => !recurrent && layer < self.trunk,
        };
        Ok(LayerCache {
            attention: if attends && layer < self.first_shared()? { Some(self.attention(layer, window)?) } else { None },
            indexer: self.indexer(layer)?,
            state: if recurrent {
                let [shifted, recurrence] = self.state()?;
                Some([shifted, recurrence, self.ngram_state(layer)?])
            } else {
                None
            },
        })
    }

    /// Whether the layer has a state.
    fn is_recurrent(&self, layer: u64) -> Result<bool> {
        if layer >= self.trunk {
            return Ok(false);
        }
        match self.cache {
            Cache::Attention | Cache::None => Ok(false),
            Cache::Recurrent | Cache::Both => Ok(true),
            Cache::Heads => Ok(self.kv_heads(layer)? == 0),
            Cache::Feed => Ok(self.kv_heads(layer)? == 0 && self.keys.at_layer("feed_forward_length", layer)?.unwrap_or(0) == 0),
            Cache::Interval => match self.keys.at_layer("attention.recurrent_layers", layer)? {
                Some(recurrent) => Ok(recurrent > 0),
                None => {
                    const INTERVAL: &str = "full_attention_interval";
                    let default = || self.facts.intervals.get(self.keys.architecture).copied();
                    let interval = self.keys.number(INTERVAL).filter(|interval| *interval > 0).or_else(default);
                    Ok(!(layer + 1).is_multiple_of(interval.ok_or_else(|| self.keys.missing(INTERVAL))?))
                }
            },
        }
    }

    /// Returns the first layer that uses keys and values of an earlier one.
    fn first_shared(&self) -> Result<u64> {
        if let Some(first) = self.facts.shared_after.get(self.keys.architecture) {
            return Ok(*first);
        }
        let shared = self.keys.number("attention.shared_kv_layers").unwrap_or(0);
        self.all
            .checked_sub(shared)
            .ok_or_else(|| Error::malformed(format!("expected at most {} layers with shared keys and values, found {shared}", self.all)))
    }

    fn attention(&self, layer: u64, window: Option<u64>) -> Result<Attention> {
        let heads = self.kv_heads(layer)?;
        let value = if self.mla { 0 } else { self.head_length("attention.value_length", window)? };
        Ok(Attention { query_heads: self.heads(layer)?, heads, key: self.head_length("attention.key_length", window)?, value, window })
    }

    /// Returns the length of the keys or values of a head.
    fn head_length(&self, key: &str, window: Option<u64>) -> Result<u64> {
        let own = window.and_then(|_| self.keys.number(&format!("{key}_swa")));
        if let Some(length) = own.or_else(|| self.keys.number(key)) {
            return Ok(length);
        }
        let heads = self.heads(0)?;
        self.keys.required("embedding_length")?.checked_div(heads).ok_or_else(|| self.keys.missing("attention.head_count"))
    }

    fn indexer(&self, layer: u64) -> Result<Option<Attention>> {
        let Some(row) = self.facts.indexers.get(self.keys.architecture).filter(|_| layer < self.trunk) else { return Ok(None) };
        if row.optional && self.keys.number("attention.indexer.top_k").unwrap_or(0) == 0
            || row.after_dense && layer < self.keys.number("leading_dense_block_count").unwrap_or(0)
            || self.is_recurrent(layer)?
        {
            return Ok(None);
        }
        const LAYERS: &str = "attention.indexer.types";
        match (row.layers, row.layers.map(|_| self.keys.at_layer(LAYERS, layer)).transpose()?.flatten()) {
            (_, Some(0)) => return Ok(None),
            (Some(Listing::Listed), None) => return Err(self.keys.missing(LAYERS)),
            (Some(Listing::Below), None) if self.keys.required("context_length")? >= 1 << 20 => return Err(self.keys.missing(LAYERS)),
            _ => {}
        }
        let value = if row.values { self.head_length("attention.value_length", None)? } else { 0 };
        let key = product(self.keys.required("attention.indexer.key_length")?, row.vectors.unwrap_or(1))?;
        Ok(Some(Attention { query_heads: 0, heads: 1, key, value, window: None }))
    }

    /// Returns the lengths of the states of a layer: of the convolution or token shift, and of the recurrence.
    fn state(&self) -> Result<[u64; 2]> {
        let width = || self.keys.required("embedding_length");
        if let Some(head) = self.keys.number("wkv.head_size").filter(|head| *head > 0) {
            let shifts = self.keys.number("token_shift_count").unwrap_or(2);
            return Ok([product(shifts, width()?)?, product(head, width()?)?]);
        }
        if let Some(kernel) = self.keys.number("shortconv.l_cache").filter(|kernel| *kernel > 0) {
            return Ok([product(kernel - 1, width()?)?, 0]);
        }
        let kernel = self.keys.number("ssm.conv_kernel").filter(|kernel| *kernel > 0);
        if let Some(head) = self.keys.number("kda.head_dim").filter(|head| *head > 0) {
            let inner = product(self.heads(0)?, head)?;
            return Ok([product(product(3, kernel.map_or(3, |kernel| kernel - 1))?, inner)?, product(head, inner)?]);
        }
        if self.facts.linear.lists(self.keys.architecture) {
            let head = self.head_length("attention.key_length", None)?;
            return Ok([0, product(product(head, head)?, self.heads(0)?)?]);
        }
        let (inner, state) = (self.keys.required("ssm.inner_size")?, self.keys.required("ssm.state_size")?);
        let groups = product(product(2, self.keys.number("ssm.group_count").unwrap_or(0))?, state)?;
        let channels = inner.checked_add(groups).ok_or_else(too_large)?;
        Ok([product(kernel.map_or(0, |kernel| kernel - 1), channels)?, product(state, inner)?])
    }

    /// Returns the length of the state of a convolution over the embeddings of n-grams, whose steps are n tokens apart; 0 if there is none.
    fn ngram_state(&self, layer: u64) -> Result<u64> {
        let Some(Value::Array(layers)) = self.keys.value("ple.layers") else { return Ok(0) };
        if !layers.iter().any(|found| found.is_ok_and(|found| found.as_u64() == Some(layer))) {
            return Ok(0);
        }
        let steps = product(self.keys.required("ple.conv_kernel")?.saturating_sub(1), self.keys.required("ple.ngram_size")?)?;
        product(product(steps, self.keys.required("hyper_connection.count")?)?, self.keys.required("embedding_length")?)
    }
}

fn product(a: u64, b: u64) -> Result<u64> {
    a.checked_mul(b).ok_or_else(too_large)
}

fn too_large() -> Error {
    Error::limit("the caches have more than 2^64 elements")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::tables::Tables;
    use crate::model::{Array, ValueType};

    /// As `llama_memory_hybrid_idx` and `llama_memory_recurrent` allocate them: the keys of the indexer beside the others, and the third state
    /// in the layer with n-grams only.
    #[test]
    fn layers_of_linear_attention_have_states_and_the_others_keys_of_an_indexer() {
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", Value::String("qwen4exp".to_owned()));
        for (key, number) in [
            ("block_count", 3),
            ("embedding_length", 32),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("attention.key_length", 16),
            ("attention.value_length", 16),
            ("attention.indexer.key_length", 8),
            ("hyper_connection.count", 3),
            ("ssm.conv_kernel", 4),
            ("ssm.inner_size", 24),
            ("ssm.state_size", 4),
            ("ssm.group_count", 2),
            ("full_attention_interval", 3),
            ("ple.conv_kernel", 3),
            ("ple.ngram_size", 3),
        ] {
            metadata.set(format!("qwen4exp.{key}"), Value::U32(number));
        }
        metadata.set("qwen4exp.ple.layers", Value::Array(Array::new(ValueType::I32, vec![Value::I32(1)])));
        let layers = caches(&metadata).unwrap().layers;
        let keys =
            |layer: &LayerCache| [&layer.attention, &layer.indexer].map(|cache| cache.as_ref().map(|cache| [cache.heads, cache.key]));
        assert_eq!(layers.iter().map(keys).collect::<Vec<_>>(), [[None; 2], [None; 2], [Some([2, 16]), Some([1, 8])]]);
        let states: Vec<_> = layers.iter().map(|layer| layer.state).collect();
        assert_eq!(states, [Some([3 * 40, 96, 0]), Some([3 * 40, 96, 2 * 3 * 3 * 32]), None]);
    }

    /// Every text model that a table describes has a cache, or a reason why it is not known.
    #[test]
    fn every_architecture_of_the_tables_is_listed_once() {
        let facts = facts().unwrap();
        let listed: Vec<&str> = facts.caches.iter().flat_map(|row| row.architectures.split_whitespace()).collect();
        for (index, name) in listed.iter().enumerate() {
            assert!(!listed[index + 1..].contains(name) && !facts.unknown.contains_key(*name), "{name} is listed twice");
        }
        for table in Tables::default().all().unwrap() {
            assert!(listed.contains(&table.gguf.as_str()) || facts.unknown.contains_key(&table.gguf), "{}: {}", table.name, table.gguf);
        }
        // Whatever else the file says is of an architecture whose cache is known.
        let rows = [
            &facts.compressed,
            &facts.in_batch,
            &facts.tied_twice,
            &facts.without_output,
            &facts.unmodelled,
            &facts.linear,
            &facts.without_flash_attention,
            &facts.looped,
            &facts.diffusion,
            &facts.logits_twice,
        ];
        let named = rows.into_iter().flat_map(|row| row.architectures.split_whitespace());
        let named = named.chain(facts.windows.keys().map(String::as_str)).chain(facts.indexers.keys().map(String::as_str));
        let named = named.chain(facts.intervals.keys().map(String::as_str)).chain(facts.shared_after.keys().map(String::as_str));
        let named = named.chain(facts.mixed.keys().map(String::as_str));
        for name in named.chain(facts.drafts_loaded.keys().chain(facts.output_norms.keys()).map(String::as_str)) {
            assert!(listed.contains(&name), "{name}");
        }
    }
}
