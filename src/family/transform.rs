//! What happens to a tensor between Hugging Face and GGUF, by name, each with its inverse.
//!
//! A row of a table names one: `rope_permute(h)`, `add(1)`, `stack_experts`, `split_rows(ff, ff)` ... The arguments are expressions over
//! the hyperparameters, so that the same row serves both directions.

use crate::base::{Error, Result};
use crate::family::config::Config;

/// A transform with its arguments worked out.
#[derive(Debug, Clone, PartialEq)]
pub enum Transform {
    /// The tensor as it is.
    Plain,
    /// `rope_permute(heads)`: in each head, the two halves of the rotated pairs (Hugging Face) and the pairs side by side (GGUF).
    RopePermute(u64),
    /// `add(number)`: every value plus a number, in single precision (Gemma keeps its norms less one).
    Add(f32),
    /// `stack_experts`: a tensor for each expert becomes one, experts outermost.
    StackExperts,
    /// `split_rows(a, b, ...)`: rows of each plane, in this order, become tensors of their own.
    SplitRows(Vec<u64>),
    /// `split_alternate`: even and odd rows of each plane (for a matrix of biases: its elements) become tensors of their own.
    SplitAlternate,
    /// `grouped_qkv(heads, kv_heads)`: for each group of heads queries, key and value (Hugging Face) become all queries, all keys, all values.
    GroupedQkv(u64, u64),
    /// `split_mla(nope, v)`: for each head the rows that make keys, transposed, and those that make values (DeepSeek's `kv_b_proj`).
    SplitMla(u64, u64),
    /// `split_columns`: even and odd columns of each plane, transposed, become tensors of their own (the experts of gpt-oss).
    SplitColumns,
    /// `transpose`: the last two dimensions change places.
    Transpose,
}

impl Transform {
    /// Reads a transform of a table, with the hyperparameters for its arguments.
    ///
    /// # Errors
    /// There is no transform of this name with so many arguments, or a hyperparameter is missing.
    pub fn parse(text: &str, config: &Config) -> Result<Self> {
        let (name, arguments) = match text.split_once('(') {
            Some((name, rest)) => {
                let inside = rest.strip_suffix(')').ok_or_else(|| Error::argument(format!("expected a closing parenthesis in {text}")))?;
                (name, inside.split(',').map(str::trim).collect::<Vec<_>>())
            }
            None => (text, Vec::new()),
        };
        let count = |argument: &str| config.count(argument);
        Ok(match (name.trim(), arguments.as_slice()) {
            ("rope_permute", [heads]) => Self::RopePermute(count(heads)?),
            ("add", [number]) => {
                Self::Add(config.eval(number)?.ok_or_else(|| Error::argument(format!("expected a number to add, found {number}")))? as f32)
            }
            ("stack_experts", []) => Self::StackExperts,
            ("split_rows", sizes) if sizes.len() > 1 => Self::SplitRows(sizes.iter().map(|size| count(size)).collect::<Result<_>>()?),
            ("split_alternate", []) => Self::SplitAlternate,
            ("grouped_qkv", [heads, kv_heads]) => Self::GroupedQkv(count(heads)?, count(kv_heads)?),
            ("split_mla", [nope, v]) => Self::SplitMla(count(nope)?, count(v)?),
            ("split_columns", []) => Self::SplitColumns,
            ("transpose", []) => Self::Transpose,
            _ => return Err(Error::argument(format!("expected a known transform, found {text}"))),
        })
    }

    /// How many tensors of GGUF it makes of those of Hugging Face.
    pub fn outputs(&self) -> usize {
        match self {
            Self::SplitRows(sizes) => sizes.len(),
            Self::SplitAlternate | Self::SplitColumns | Self::SplitMla(..) => 2,
            _ => 1,
        }
    }
}
