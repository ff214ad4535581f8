//! Recipes: the tensor types of a llama.cpp file type, chosen as in llama-quantize.
//!
//! The mixes are data in `mixes.rs`. Tensors are visited by layer, then by name. Attention values and feed-forward tensors are next_count in
//! this order; in MoE models, the layer of a feed-forward tensor is read from its name.
//!
//! In order of precedence: exclusion from quantisation; explicit types of embeddings and output; the first matching pattern; a single type
//! for all (`pure`); the mix; and finally the fallback, if the row length is not a multiple of the block size.

mod file_type;
mod mixes;
mod tensor_type;

pub use file_type::{FILE_TYPES, FileType, Target, file_type_name};
use mixes::{Rule, When};
pub use tensor_type::{TensorType, mix_text};

use crate::model::{DType, Metadata, Value};

/// The category of a tensor, as distinguished by the mixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Category {
    Output,
    Embedding,
    AttentionQ,
    AttentionK,
    AttentionV,
    AttentionQkv,
    AttentionKvB,
    AttentionOutput,
    FeedForwardUp,
    FeedForwardGate,
    FeedForwardDown,
    Other,
}

/// The properties of a model used by the mixes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelTraits {
    /// `general.architecture`.
    pub architecture: String,
    /// Number of layers.
    pub layers: u64,
    /// Number of attention heads of the first layer.
    pub heads: u64,
    /// Number of KV heads of the first layer.
    pub kv_heads: u64,
    /// Number of experts.
    pub experts: u64,
}

impl ModelTraits {
    /// Reads the properties from GGUF metadata. Missing ones count as 0.
    pub fn from_metadata(metadata: &Metadata) -> Self {
        let architecture = metadata.get_str("general.architecture").unwrap_or_default().to_owned();
        let number = |key: &str| {
            let value = metadata.get(&format!("{architecture}.{key}"))?;
            match value {
                Value::Array(array) => array.iter().next()?.ok()?.as_u64(), // one per layer: the first is used
                value => value.as_u64(),
            }
        };
        let heads = number("attention.head_count").unwrap_or(0);
        Self {
            layers: number("block_count").unwrap_or(0),
            heads,
            kv_heads: number("attention.head_count_kv").unwrap_or(heads),
            experts: number("expert_count").unwrap_or(0),
            architecture,
        }
    }
}

/// The requested types.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The file type. If `None`, only tensors selected by the other fields change.
    pub target: Option<Target>,
    /// Use a single type, not a mix.
    pub pure: bool,
    /// Types by pattern; the first match applies.
    pub tensor_types: Vec<TensorType>,
    /// The type of the output matrix.
    pub output: Option<DType>,
    /// The type of the token embeddings.
    pub embedding: Option<DType>,
    /// Keep the output matrix as it is.
    pub leave_output: bool,
    /// Whether an importance matrix is given.
    pub imatrix: bool,
}

impl Recipe {
    /// Returns a recipe for a file type without further options.
    pub fn new(target: Target) -> Self {
        Self {
            target: Some(target),
            pure: false,
            tensor_types: Vec::new(),
            output: None,
            embedding: None,
            leave_output: false,
            imatrix: false,
        }
    }

    /// Returns the type if there is no mix: that of the first matching pattern, or the base type.
    pub fn uniform(&self, name: &str) -> Choice {
        let pattern = self.tensor_types.iter().find(|pattern| pattern.fits(name)).map(|pattern| pattern.dtype);
        Choice { dtype: pattern.or(self.target.map(Target::base)), ..Choice::STAYS }
    }

    /// Returns the name of the mix, if there is one.
    fn mix(&self) -> &'static str {
        match self.target {
            Some(Target::Mix(file_type)) => file_type.name,
            _ => "",
        }
    }
}

/// The chosen type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The type; `None` if unchanged.
    pub dtype: Option<DType>,
    /// The type that it falls back from, if the row length is not a multiple of that type's block size.
    pub instead_of: Option<DType>,
    /// Whether the type is unusable without an importance matrix.
    pub needs_imatrix: bool,
}

impl Choice {
    const STAYS: Self = Self { dtype: None, instead_of: None, needs_imatrix: false };
}

/// Chooses the types of all tensors, given as names and shapes (outermost dimension first); returns them in the given order.
pub fn choose(recipe: &Recipe, traits: &ModelTraits, tensors: &[(&str, &[u64])]) -> Vec<Choice> {
    let categories: Vec<Category> = tensors.iter().map(|(name, _)| category(name)).collect();
    let mut state = State::new(recipe, traits, &categories);
    let mut choices = vec![Choice::STAYS; tensors.len()];
    for i in visiting_order(tensors) {
        let (name, shape) = tensors[i];
        if is_quantised(recipe, traits, name, shape) {
            choices[i] = state.choose(name, shape, categories[i]);
        }
    }
    choices
}

/// Returns the file types among `candidates` whose mix gives every tensor the type that it has, with or without an importance matrix.
///
/// The tensors are those of a whole model, and `dtypes` their types; `None` for an unknown one. Without a tensor that can be quantised,
/// nothing is told.
pub fn told(
    candidates: impl Iterator<Item = &'static FileType>,
    traits: &ModelTraits,
    tensors: &[(&str, &[u64])],
    dtypes: &[Option<DType>],
) -> Vec<&'static FileType> {
    let categories: Vec<Category> = tensors.iter().map(|(name, _)| category(name)).collect();
    let mut order = visiting_order(tensors);
    order.retain(|&i| can_be_quantised(traits, tensors[i].0, tensors[i].1));
    let gives = |file_type: &'static FileType, imatrix: bool| {
        let recipe = Recipe { imatrix, ..Recipe::new(Target::Mix(file_type)) };
        let mut state = State::new(&recipe, traits, &categories);
        order.iter().all(|&i| state.choose(tensors[i].0, tensors[i].1, categories[i]).dtype == dtypes[i])
    };
    candidates.filter(|file_type| !order.is_empty() && [false, true].into_iter().any(|imatrix| gives(file_type, imatrix))).collect()
}

/// Returns the order in which tensors are visited: first those outside the layers.
fn visiting_order(tensors: &[(&str, &[u64])]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (layer(tensors[i].0), tensors[i].0));
    order
}

/// Whether a recipe quantises a tensor.
fn is_quantised(recipe: &Recipe, traits: &ModelTraits, name: &str, shape: &[u64]) -> bool {
    can_be_quantised(traits, name, shape) && !(recipe.leave_output && name == "output.weight")
}

/// Whether llama-quantize quantises a tensor of this name and shape.
fn can_be_quantised(traits: &ModelTraits, name: &str, shape: &[u64]) -> bool {
    // Leading dimensions of 1 are ignored, as in ggml.
    let dims = shape.len() - shape.iter().take_while(|dim| **dim == 1).count();
    let never_in = mixes::NEVER_IN.iter().filter(|(arch, _)| *arch == traits.architecture).flat_map(|(_, parts)| *parts);
    dims >= 2
        && name.ends_with("weight")
        && !mixes::NEVER.contains(&name)
        && !mixes::NEVER_WITH.iter().chain(never_in).any(|part| name.contains(part))
}

fn category(name: &str) -> Category {
    let fits = |(pattern, whole, _): &&(&str, bool, Category)| if *whole { name == *pattern } else { name.contains(pattern) };
    mixes::CATEGORIES.iter().find(fits).map_or(Category::Other, |(_, _, category)| *category)
}

fn is_values(category: Category) -> bool {
    matches!(category, Category::AttentionV | Category::AttentionQkv | Category::AttentionKvB)
}

/// Returns how much a relative error of this tensor's output adds to the loss of the model.
pub fn sensitivity(name: &str) -> f64 {
    let category = category(name);
    mixes::SENSITIVITIES.iter().find(|(own, _)| *own == category).map_or(1.0, |(_, sensitivity)| *sensitivity)
}

/// Returns the layer index in a GGUF name: `blk.7.attn_q.weight`.
fn layer(name: &str) -> Option<u64> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

struct State<'a> {
    recipe: &'a Recipe,
    traits: &'a ModelTraits,
    /// Whether the embeddings are tied to the output matrix.
    tied: bool,
    /// Total number of attention value tensors, and the numbers of those and of feed-forward tensors visited so far.
    values: u64,
    seen_values: u64,
    seen_down: u64,
    seen_gate: u64,
    seen_up: u64,
}

/// The properties of a tensor used by the rules.
struct TensorTraits<'a> {
    name: &'a str,
    category: Category,
    cut_row: bool,
    stack: bool,
    i: u64,
    count: u64,
    n: u64,
}

impl<'a> State<'a> {
    fn new(recipe: &'a Recipe, traits: &'a ModelTraits, categories: &[Category]) -> Self {
        Self {
            recipe,
            traits,
            tied: !categories.contains(&Category::Output),
            values: categories.iter().filter(|category| is_values(**category)).count() as u64,
            seen_values: 0,
            seen_down: 0,
            seen_gate: 0,
            seen_up: 0,
        }
    }

    fn choose(&mut self, name: &str, shape: &[u64], category: Category) -> Choice {
        let recipe = self.recipe;
        let row = shape.last().copied().unwrap_or(1);
        let pattern = recipe.tensor_types.iter().find(|pattern| pattern.fits(name));
        // The per-layer embeddings are a large table, so a pattern may select them.
        let named = name == "per_layer_token_embd.weight" && pattern.is_some();
        let settled = match category {
            Category::Embedding if !named => recipe.embedding,
            Category::Output => recipe.output,
            _ => None,
        };
        let (dtype, instead_of) = match settled {
            Some(dtype) => (dtype, None),
            None => {
                let wanted = match (pattern, recipe.target) {
                    (Some(pattern), _) => pattern.dtype,
                    (None, None) => return Choice::STAYS,
                    (None, Some(Target::Mix(file_type))) if !recipe.pure && file_type.base.is_quantised() => {
                        self.mix(file_type, name, shape, category)
                    }
                    (None, Some(target)) => target.base(),
                };
                let dtype = fitting(wanted, row);
                (dtype, (dtype != wanted).then_some(wanted))
            }
        };
        let exempt = matches!(category, Category::Embedding | Category::Output);
        let needs_imatrix = !exempt && (mixes::NEED_IMATRIX.contains(&dtype) || mixes::NEED_IMATRIX_IN.contains(&(recipe.mix(), dtype)));
        Choice { dtype: Some(dtype), instead_of, needs_imatrix }
    }

    fn mix(&mut self, file_type: &FileType, name: &str, shape: &[u64], category: Category) -> DType {
        let base = file_type.base;
        let serves_as_output = category == Category::Output || (self.tied && category == Category::Embedding);
        let category = if serves_as_output { Category::Output } else { category };
        if let (true, Some(dtype)) = (serves_as_output, self.recipe.output) {
            return dtype;
        }
        let (count, n) = match category {
            Category::FeedForwardDown => (next_count(&mut self.seen_down), self.traits.layers),
            Category::FeedForwardGate => (next_count(&mut self.seen_gate), self.traits.layers),
            Category::FeedForwardUp => (next_count(&mut self.seen_up), self.traits.layers),
            category if is_values(category) => (next_count(&mut self.seen_values), self.values),
            _ => (0, self.traits.layers),
        };
        let by_name = self.traits.experts > 1 && !is_values(category);
        let seen = TensorTraits {
            name,
            category,
            cut_row: !shape.last().is_none_or(|row| row.is_multiple_of(base.info().block_elems)),
            stack: shape.len() > 2 && shape[shape.len() - 3] > 1,
            i: if by_name { layer(name).unwrap_or(count) } else { count },
            count,
            n,
        };
        let dtype = mixes::RULES.iter().find(|rule| self.fits(rule, &seen)).and_then(|rule| rule.to).unwrap_or(base);
        let raised = &mixes::RAISED_IN_70B;
        let raise = mixes::RAISED_FROM.contains(&dtype) && self.fits(raised, &seen);
        raised.to.filter(|_| raise).unwrap_or(dtype)
    }

    fn fits(&self, rule: &Rule, seen: &TensorTraits<'_>) -> bool {
        let mix = self.recipe.mix();
        (rule.file_types.is_empty() || rule.file_types.split(' ').any(|name| name == mix))
            && (rule.categories.is_empty() || rule.categories.contains(&seen.category))
            && rule.when.iter().all(|when| self.holds(*when, seen))
    }

    fn holds(&self, when: When, seen: &TensorTraits<'_>) -> bool {
        let TensorTraits { i, n, .. } = *seen;
        let traits = self.traits;
        match when {
            When::Below(part) => i < n / part,
            When::CountBelow(part) => seen.count < n / part,
            When::First(count) => i < count,
            When::More => i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2,
            When::Middle => i >= n / 8 && i < 7 * n / 8,
            When::Gqa4 => traits.heads.checked_div(traits.kv_heads).is_some_and(|shared| shared >= 4),
            When::Experts4 => traits.experts >= 4,
            When::Experts8 => traits.experts == 8,
            When::Imatrix => self.recipe.imatrix,
            When::NoImatrix => !self.recipe.imatrix,
            When::Arch(name) => traits.architecture == name,
            When::NotArch(name) => traits.architecture != name,
            When::CutRow => seen.cut_row,
            When::Stack => seen.stack,
            When::Named(part) => seen.name.contains(part),
            When::Size70B => mixes::SIZE_70B.iter().any(|(arch, layers, grouped)| {
                *arch == traits.architecture && *layers == traits.layers && (!grouped || traits.heads != traits.kv_heads)
            }),
        }
    }
}

/// Returns the counter and increments it.
fn next_count(counter: &mut u64) -> u64 {
    *counter += 1;
    *counter - 1
}

/// Returns `wanted`, or its fallback if the row length is not a multiple of its block size.
fn fitting(wanted: DType, row: u64) -> DType {
    let fits = |dtype: DType| row.is_multiple_of(dtype.info().block_elems);
    if fits(wanted) {
        return wanted;
    }
    let fallback = mixes::FALLBACKS.iter().find(|(from, _)| *from == wanted).map(|(_, to)| *to);
    fallback.filter(|dtype| fits(*dtype)).unwrap_or(DType::F16)
}

#[cfg(test)]
mod tests;
