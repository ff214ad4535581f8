//! Recipes: which type each tensor of a model gets in a file type of llama.cpp, as llama-quantize decides it.
//!
//! The mixes are rows of data in `mixes.rs`. Tensors are visited by layer, then by name. Attention values are counted as they are
//! visited, feed-forward tensors as well; with experts, a feed-forward tensor's layer is read from its name.
//!
//! What comes first wins: a tensor that is never quantised; the types asked for embeddings and output; the first pattern that
//! fits; one type for all (`pure`); the mix; and last, where the row is no whole number of blocks, the fallback.

mod file_type;
mod mixes;

pub use file_type::{FILE_TYPES, FileType, Target};
use mixes::{Rule, When};

use crate::base::glob::NamePattern;
use crate::base::{Error, Result};
use crate::model::{DType, Metadata, Value};

/// What a tensor is for, as far as the mixes tell tensors apart.
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

/// What the mixes ask about a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `general.architecture`.
    pub architecture: String,
    /// Layers.
    pub layers: u64,
    /// Attention heads of the first layer.
    pub heads: u64,
    /// Key-value heads of the first layer.
    pub kv_heads: u64,
    /// Experts.
    pub experts: u64,
}

impl Facts {
    /// Reads them from a GGUF's metadata. What is not there counts as none.
    pub fn from_metadata(metadata: &Metadata) -> Self {
        let architecture = metadata.get_str("general.architecture").unwrap_or_default().to_owned();
        let number = |key: &str| {
            let value = metadata.get(&format!("{architecture}.{key}"))?;
            match value {
                Value::Array(array) => array.iter().next()?.ok()?.as_u64(), // one a layer: the first counts
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

/// A `--tensor-type`: the tensors it is about, and their type.
#[derive(Debug, Clone)]
pub struct TensorType {
    pattern: NamePattern,
    /// The type that they get.
    pub dtype: DType,
}

impl TensorType {
    /// Parses `GLOB=TYPE`, where the pattern is a [`NamePattern`].
    ///
    /// # Errors
    /// There is no `=`, or the pattern or the type is none.
    pub fn parse(text: &str) -> Result<Self> {
        let (pattern, dtype) = text
            .split_once('=')
            .filter(|(pattern, _)| !pattern.is_empty())
            .ok_or_else(|| Error::argument(format!("expected GLOB=TYPE, found {text}")))?;
        Self::new(pattern, dtype.parse()?)
    }

    /// Returns the rule that gives tensors whose names match a pattern this type.
    ///
    /// # Errors
    /// The pattern is malformed.
    pub fn new(pattern: &str, dtype: DType) -> Result<Self> {
        Ok(Self { pattern: NamePattern::parse(pattern)?, dtype })
    }

    /// Whether it is about a tensor of this name.
    pub fn fits(&self, name: &str) -> bool {
        self.pattern.matches(name)
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The file type. Without one, only what the other fields name changes.
    pub target: Option<Target>,
    /// One type for all, no mix.
    pub pure: bool,
    /// Types by pattern; the first that fits counts.
    pub tensor_types: Vec<TensorType>,
    /// The type of the output matrix.
    pub output: Option<DType>,
    /// The type of the token embeddings.
    pub embedding: Option<DType>,
    /// The output matrix stays as it is.
    pub leave_output: bool,
    /// An importance matrix is given.
    pub imatrix: bool,
}

impl Recipe {
    /// Nothing but a file type.
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

    /// Where there is no mix: the type of the first pattern that fits, or the base type.
    pub fn uniform(&self, name: &str) -> Choice {
        let pattern = self.tensor_types.iter().find(|pattern| pattern.fits(name)).map(|pattern| pattern.dtype);
        Choice { dtype: pattern.or(self.target.map(Target::base)), ..Choice::STAYS }
    }

    /// The name of the mix, if there is one.
    fn mix(&self) -> &'static str {
        match self.target {
            Some(Target::Mix(file_type)) => file_type.name,
            _ => "",
        }
    }
}

/// What the recipe says of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Its type; `None`: it stays as it is.
    pub dtype: Option<DType>,
    /// The type that it would have had, if its rows were whole blocks of that.
    pub instead_of: Option<DType>,
    /// Whether that type is useless without an importance matrix.
    pub needs_imatrix: bool,
}

impl Choice {
    const STAYS: Self = Self { dtype: None, instead_of: None, needs_imatrix: false };
}

/// The types of all tensors, given as names and shapes (outermost dimension first), in the order given.
pub fn choose(recipe: &Recipe, facts: &Facts, tensors: &[(&str, &[u64])]) -> Vec<Choice> {
    let categories: Vec<Category> = tensors.iter().map(|(name, _)| category(name)).collect();
    let mut state = State {
        recipe,
        facts,
        tied: !categories.contains(&Category::Output),
        values: categories.iter().filter(|category| is_values(**category)).count() as u64,
        seen_values: 0,
        seen_down: 0,
        seen_gate: 0,
        seen_up: 0,
    };
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (layer(tensors[i].0), tensors[i].0)); // what is in no layer comes first
    let mut choices = vec![Choice::STAYS; tensors.len()];
    for i in order {
        let (name, shape) = tensors[i];
        if is_quantised(recipe, facts, name, shape) {
            choices[i] = state.choose(name, shape, categories[i]);
        }
    }
    choices
}

/// Whether a tensor may be quantised at all.
fn is_quantised(recipe: &Recipe, facts: &Facts, name: &str, shape: &[u64]) -> bool {
    // Leading dimensions of one do not count, as ggml has it.
    let dims = shape.len() - shape.iter().take_while(|dim| **dim == 1).count();
    let never_in = mixes::NEVER_IN.iter().filter(|(arch, _)| *arch == facts.architecture).flat_map(|(_, pieces)| *pieces);
    dims >= 2
        && name.ends_with("weight")
        && !(recipe.leave_output && name == "output.weight")
        && !mixes::NEVER.contains(&name)
        && !mixes::NEVER_WITH.iter().chain(never_in).any(|piece| name.contains(piece))
}

fn category(name: &str) -> Category {
    let fits = |(pattern, whole, _): &&(&str, bool, Category)| if *whole { name == *pattern } else { name.contains(pattern) };
    mixes::CATEGORIES.iter().find(fits).map_or(Category::Other, |(_, _, category)| *category)
}

fn is_values(category: Category) -> bool {
    matches!(category, Category::AttentionV | Category::AttentionQkv | Category::AttentionKvB)
}

/// The layer in a canonical name: `blk.7.attn_q.weight`.
fn layer(name: &str) -> Option<u64> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

struct State<'a> {
    recipe: &'a Recipe,
    facts: &'a Facts,
    /// The embeddings serve as the output matrix.
    tied: bool,
    /// Attention value tensors in all, and visited so far; feed-forward tensors visited so far.
    values: u64,
    seen_values: u64,
    seen_down: u64,
    seen_gate: u64,
    seen_up: u64,
}

/// A tensor as the rules see it.
struct Seen<'a> {
    name: &'a str,
    category: Category,
    cut_row: bool,
    stack: bool,
    i: u64,
    count: u64,
    n: u64,
}

impl State<'_> {
    fn choose(&mut self, name: &str, shape: &[u64], category: Category) -> Choice {
        let recipe = self.recipe;
        let row = shape.last().copied().unwrap_or(1);
        let pattern = recipe.tensor_types.iter().find(|pattern| pattern.fits(name));
        // The per-layer embeddings are a large table of their own, so a pattern may name them.
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
            Category::FeedForwardDown => (counted(&mut self.seen_down), self.facts.layers),
            Category::FeedForwardGate => (counted(&mut self.seen_gate), self.facts.layers),
            Category::FeedForwardUp => (counted(&mut self.seen_up), self.facts.layers),
            category if is_values(category) => (counted(&mut self.seen_values), self.values),
            _ => (0, self.facts.layers),
        };
        let by_name = self.facts.experts > 1 && !is_values(category);
        let seen = Seen {
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

    fn fits(&self, rule: &Rule, seen: &Seen<'_>) -> bool {
        let mix = self.recipe.mix();
        (rule.file_types.is_empty() || rule.file_types.split(' ').any(|name| name == mix))
            && (rule.categories.is_empty() || rule.categories.contains(&seen.category))
            && rule.when.iter().all(|when| self.holds(*when, seen))
    }

    fn holds(&self, when: When, seen: &Seen<'_>) -> bool {
        let Seen { i, n, .. } = *seen;
        let facts = self.facts;
        match when {
            When::Below(part) => i < n / part,
            When::CountBelow(part) => seen.count < n / part,
            When::First(count) => i < count,
            When::More => i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2,
            When::Middle => i >= n / 8 && i < 7 * n / 8,
            When::Gqa4 => facts.heads.checked_div(facts.kv_heads).is_some_and(|shared| shared >= 4),
            When::Experts4 => facts.experts >= 4,
            When::Experts8 => facts.experts == 8,
            When::Imatrix => self.recipe.imatrix,
            When::NoImatrix => !self.recipe.imatrix,
            When::Arch(name) => facts.architecture == name,
            When::NotArch(name) => facts.architecture != name,
            When::CutRow => seen.cut_row,
            When::Stack => seen.stack,
            When::Named(piece) => seen.name.contains(piece),
            When::Size70B => mixes::SIZE_70B.iter().any(|(arch, layers, grouped)| {
                *arch == facts.architecture && *layers == facts.layers && (!grouped || facts.heads != facts.kv_heads)
            }),
        }
    }
}

/// The count so far, and one more from here on.
fn counted(counter: &mut u64) -> u64 {
    *counter += 1;
    *counter - 1
}

/// `wanted`, or what is taken instead where rows of this length are no whole number of its blocks.
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
