//! Named tensor transforms between Hugging Face and GGUF, each with its inverse.
//!
//! A table row names one: `rope_permute(h)`, `add(1)`, `stack_experts`, `split_rows(ff, ff)` ... The arguments are expressions over the
//! hyperparameters, so that a row works in both directions.

use crate::base::{Error, Result};
use crate::family::config::Config;

/// A transform with evaluated arguments.
#[derive(Debug, Clone, PartialEq)]
pub enum Transform {
    /// No change.
    Plain,
    /// `rope_permute(heads)`: within each head, rotated halves (Hugging Face) to interleaved pairs (GGUF).
    RopePermute(u64),
    /// `add(number)`: adds a number to every value in single precision (Gemma stores norms less one).
    Add(f32),
    /// `stack_experts`: one tensor per expert to a single one, experts outermost.
    StackExperts,
    /// `split_rows(a, b, ...)`: consecutive row ranges of each matrix to separate tensors.
    SplitRows(Vec<u64>),
    /// `split_alternate`: even and odd rows of each matrix (or elements of a bias matrix) to separate tensors.
    SplitAlternate,
    /// `grouped_qkv(heads, kv_heads)`: queries, key and value per group of heads (Hugging Face) to all queries, all keys, all values.
    GroupedQkv(u64, u64),
    /// `split_mla(nope, v)`: for each head, key rows (transposed) and value rows (DeepSeek's `kv_b_proj`).
    SplitMla(u64, u64),
    /// `split_columns`: even and odd columns of each matrix, transposed, to separate tensors (gpt-oss experts).
    SplitColumns,
    /// `transpose`: swaps the last two dimensions.
    Transpose,
}

impl Transform {
    /// Parses a transform in a table, evaluating its arguments over the hyperparameters.
    ///
    /// # Errors
    /// The name or number of arguments is unknown, or a hyperparameter is missing.
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

    /// Returns the number of GGUF tensors that it produces.
    pub fn outputs(&self) -> usize {
        match self {
            Self::SplitRows(sizes) => sizes.len(),
            Self::SplitAlternate | Self::SplitColumns | Self::SplitMla(..) => 2,
            _ => 1,
        }
    }
}
