//! Named tensor transforms between Hugging Face and GGUF, each with its inverse.
//!
//! A table row names one, or a chain of them: `rope_permute(h)`, `add(1)`, `stack_experts`, `transpose | split_rows(ff, ff)` ... The
//! arguments are expressions over the hyperparameters, so that a row works in both directions.

use crate::base::{Error, Result};
use crate::family::config::Config;
use crate::family::expr;

/// A transform with evaluated arguments.
#[derive(Debug, Clone, PartialEq)]
pub enum Transform {
    /// No change.
    Plain,
    /// `a | b`: one after the other.
    Chain(Vec<Transform>),
    /// `each(a, b, ...)`: a transform for each of several tensors, in a chain after a split.
    Each(Vec<Transform>),
    /// `rope_permute(heads)`: within each head, rotated halves (Hugging Face) to interleaved pairs (GGUF). With `rope_permute(heads, rot)`,
    /// only the first rows of each head.
    RopePermute(u64, Option<u64>),
    /// `rope_unpermute(heads)`, `rope_unpermute(heads, rot)`: interleaved pairs to rotated halves.
    RopeUnpermute(u64, Option<u64>),
    /// `add(number)`: adds a number to every value in single precision (Gemma stores norms less one).
    Add(f32),
    /// `scale(number)`: multiplies every value by a number, in single precision.
    Scale(f32),
    /// `neg_exp`: minus the exponential of every value, in single precision (Mamba's `A_log`). The logarithm on the way back is rounded.
    NegExp,
    /// `softplus`: the logarithm of one plus the exponential of every value, in single precision. The inverse is rounded.
    Softplus,
    /// `centre`: takes the mean of all values off each, in the type in which they are stored. Nothing on the way back, as the mean is lost.
    Centre,
    /// `ternary`: minus, nothing or plus the mean magnitude of all values, whichever is nearest to each. Nothing on the way back.
    Ternary,
    /// `product(a, b, ...)`: two tensors, multiplied element by element in single precision, of which the second has this shape. On the way
    /// back, the first is of ones.
    Product(Vec<u64>),
    /// `fold_batch_norm(epsilon)`: weight, bias, mean and variance of a batch norm to a scale and an offset, in single precision. On the way
    /// back, the mean is zero and the variance one less the epsilon, which make the same norm.
    FoldBatchNorm(f32),
    /// `stack_experts`: one tensor per expert to a single one, experts outermost.
    StackExperts,
    /// `stack(count)`: numbered tensors, or several, to a single one with a new first dimension.
    Stack(u64),
    /// `concat(count)`: numbered tensors, or several, to a single one with the rows of all; on the way back, parts of as many rows each, of
    /// which the last may have fewer.
    Concat(u64),
    /// `split_rows(a, b, ...)`: consecutive row ranges of each matrix to separate tensors.
    SplitRows(Vec<u64>),
    /// `join_rows(a, b, ...)`: the rows of several matrices, or of the parts after a split, to one.
    JoinRows(Vec<u64>),
    /// `split_alternate`: even and odd rows of each matrix (or elements of a bias matrix) to separate tensors.
    SplitAlternate,
    /// `grouped_qkv(heads, kv_heads)`: queries, key and value per group of heads (Hugging Face) to all queries, all keys, all values.
    GroupedQkv(u64, u64),
    /// `ungroup(a, b, ...)`: the parts of each group of rows, which have these sizes, to all first parts, all second parts, and so on.
    Ungroup(Vec<u64>),
    /// `regroup(a, b, ...)`: the inverse of `ungroup`: one part of each kind to each group.
    Regroup(Vec<u64>),
    /// `tile_heads(a, b, rows)`: a grid of heads of so many rows, `a` by `b`, to the same grid by columns; several grids, one by one.
    TileHeads(u64, u64, u64),
    /// `tile_columns(a, b, columns)`: the same along the last dimension.
    TileColumns(u64, u64, u64),
    /// `split_mla(nope, v)`: for each head, key rows (transposed) and value rows (DeepSeek's `kv_b_proj`).
    SplitMla(u64, u64),
    /// `split_columns`: even and odd columns of each matrix, transposed, to separate tensors (gpt-oss experts).
    SplitColumns,
    /// `transpose`: swaps the last two dimensions.
    Transpose,
    /// `reshape(a, b -> c)`: the same elements in another shape.
    Reshape(Vec<u64>, Vec<u64>),
    /// `unstack(axis, n)`: the slices along a dimension, which goes, to separate tensors.
    Unstack(usize, u64),
    /// `order(a, b, ...)`: several tensors, after a split, in another order: number `a`, from 0, first.
    Order(Vec<u64>),
    /// `repeat(n)`: the same tensor so many times; the first of them on the way back.
    Repeat(u64),
    /// `skip_rows(n)`: without the first rows, which are zero on the way back.
    SkipRows(u64),
    /// `pad_rows(n)`: with `n` rows of zeros at the end, which must be zero on the way back.
    PadRows(u64),
    /// `int32`: integers in 32 bits, and in 64 on the way back.
    Int32,
    /// `pick(row)`: one row of a matrix of the text model, which an encoder stores too. Nothing on the way back, as the text model has it.
    Pick(Option<u64>),
}

/// Splits a text at the separators outside parentheses.
fn split_outside(text: &str, separator: char) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0i32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            c if c == separator && depth == 0 => {
                parts.push(text.get(start..at).unwrap_or_default().trim());
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(text.get(start..).unwrap_or_default().trim());
    parts
}

impl Transform {
    /// Parses a transform in a table, evaluating its arguments over the hyperparameters.
    ///
    /// # Errors
    /// The name or number of arguments is unknown, or a hyperparameter is missing.
    pub fn parse(text: &str, config: &Config) -> Result<Self> {
        let chain = split_outside(text, '|');
        if chain.len() > 1 {
            return Ok(Self::Chain(chain.into_iter().map(|step| Self::parse(step, config)).collect::<Result<_>>()?));
        }
        let (name, arguments) = match text.trim().split_once('(') {
            Some((name, rest)) => {
                let inside = rest.strip_suffix(')').ok_or_else(|| Error::argument(format!("expected a closing parenthesis in {text}")))?;
                (name, inside)
            }
            None => (text.trim(), ""),
        };
        if let ("reshape", Some((from, to))) = (name, arguments.split_once("->")) {
            let dims = |text: &str| {
                split_outside(text, ',').into_iter().filter(|dim| !dim.is_empty()).map(|dim| config.count(dim)).collect::<Result<Vec<_>>>()
            };
            return Ok(Self::Reshape(dims(from)?, dims(to)?));
        }
        let arguments = if arguments.is_empty() { Vec::new() } else { split_outside(arguments, ',') };
        if name == "each" {
            return Ok(Self::Each(arguments.into_iter().map(|step| Self::parse(step, config)).collect::<Result<_>>()?));
        }
        let count = |argument: &str| config.count(argument);
        let counts = |arguments: &[&str]| arguments.iter().map(|argument| count(argument)).collect::<Result<Vec<_>>>();
        let number = |argument: &str| -> Result<f32> {
            Ok(config.eval(argument)?.ok_or_else(|| Error::argument(format!("expected a number for {name}, found {argument}")))? as f32)
        };
        Ok(match (name.trim(), arguments.as_slice()) {
            ("plain", []) => Self::Plain,
            ("rope_permute", [heads]) => Self::RopePermute(count(heads)?, None),
            ("rope_permute", [heads, rot]) => Self::RopePermute(count(heads)?, Some(count(rot)?)),
            ("rope_unpermute", [heads]) => Self::RopeUnpermute(count(heads)?, None),
            ("rope_unpermute", [heads, rot]) => Self::RopeUnpermute(count(heads)?, Some(count(rot)?)),
            ("add", [argument]) => Self::Add(number(argument)?),
            ("scale", [argument]) => Self::Scale(number(argument)?),
            ("neg_exp", []) => Self::NegExp,
            ("softplus", []) => Self::Softplus,
            ("centre", []) => Self::Centre,
            ("ternary", []) => Self::Ternary,
            ("product", dims) if !dims.is_empty() => Self::Product(counts(dims)?),
            ("fold_batch_norm", [epsilon]) => Self::FoldBatchNorm(number(epsilon)?),
            ("stack_experts", []) => Self::StackExperts,
            ("stack", [size]) => Self::Stack(config.length(size)?),
            ("concat", [size]) => Self::Concat(config.length(size)?),
            ("split_rows", sizes) if sizes.len() > 1 => Self::SplitRows(counts(sizes)?),
            ("join_rows", sizes) if sizes.len() > 1 => Self::JoinRows(counts(sizes)?),
            ("split_alternate", []) => Self::SplitAlternate,
            ("grouped_qkv", [heads, kv_heads]) => Self::GroupedQkv(count(heads)?, count(kv_heads)?),
            ("ungroup", sizes) if sizes.len() > 1 => Self::Ungroup(counts(sizes)?),
            ("regroup", sizes) if sizes.len() > 1 => Self::Regroup(counts(sizes)?),
            ("tile_heads", [a, b, rows]) => Self::TileHeads(count(a)?, count(b)?, count(rows)?),
            ("tile_columns", [a, b, columns]) => Self::TileColumns(count(a)?, count(b)?, count(columns)?),
            ("split_mla", [nope, v]) => Self::SplitMla(count(nope)?, count(v)?),
            ("split_columns", []) => Self::SplitColumns,
            ("transpose", []) => Self::Transpose,
            ("unstack", [axis, size]) => Self::Unstack(config.length(axis)? as usize, config.length(size)?),
            ("order", places) if places.len() > 1 => Self::Order(counts(places)?),
            ("repeat", [size]) => Self::Repeat(config.length(size)?),
            ("skip_rows", [rows]) => Self::SkipRows(count(rows)?),
            ("pad_rows", [rows]) => Self::PadRows(count(rows)?),
            ("int32", []) => Self::Int32,
            ("pick", [row]) => Self::Pick(config.eval(row)?.map(|row| expr::whole("the row to pick", Some(row))).transpose()?),
            _ => return Err(Error::argument(format!("expected a known transform, found {text}"))),
        })
    }

    /// Returns the number of GGUF tensors that it produces from so many Hugging Face tensors.
    pub fn outputs(&self, inputs: usize) -> usize {
        match self {
            Self::Chain(steps) => steps.iter().fold(inputs, |count, step| step.outputs(count)),
            Self::SplitRows(sizes) => sizes.len(),
            Self::Unstack(_, size) | Self::Repeat(size) => *size as usize,
            Self::SplitAlternate | Self::SplitColumns | Self::SplitMla(..) | Self::FoldBatchNorm(_) => 2,
            Self::JoinRows(_) | Self::Stack(_) | Self::Concat(_) | Self::StackExperts | Self::Product(_) => 1,
            _ => inputs,
        }
    }

    /// Returns the number of tensors that `stack` or `concat` joins.
    pub fn stacked(&self) -> Option<u64> {
        match self {
            Self::Chain(steps) => steps.first().and_then(Self::stacked),
            Self::Stack(count) | Self::Concat(count) => Some(*count),
            _ => None,
        }
    }

    /// Whether it moves whole rows only: it applies to the second factor of an update of a matrix.
    pub fn moves_rows(&self) -> bool {
        match self {
            Self::Chain(steps) | Self::Each(steps) => steps.iter().all(Self::moves_rows),
            Self::Plain
            | Self::RopePermute(..)
            | Self::RopeUnpermute(..)
            | Self::SplitRows(_)
            | Self::JoinRows(_)
            | Self::GroupedQkv(..)
            | Self::Ungroup(_)
            | Self::Regroup(_)
            | Self::Order(_)
            | Self::TileHeads(..) => true,
            _ => false,
        }
    }

    /// Whether its inverse rounds, so that values come back within the precision of a single.
    pub fn rounds(&self) -> bool {
        match self {
            Self::Chain(steps) | Self::Each(steps) => steps.iter().any(Self::rounds),
            Self::Scale(_) | Self::NegExp | Self::Softplus => true,
            // A whole number is taken off again exactly.
            Self::Add(number) => number.fract() != 0.0,
            _ => false,
        }
    }

    /// Whether it changes the place of values only, so that values that are exact stay so.
    pub fn keeps_values(&self) -> bool {
        match self {
            Self::Chain(steps) | Self::Each(steps) => steps.iter().all(Self::keeps_values),
            Self::Add(_)
            | Self::Scale(_)
            | Self::NegExp
            | Self::Softplus
            | Self::Centre
            | Self::Ternary
            | Self::Product(_)
            | Self::FoldBatchNorm(_) => false,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::family::table::Table;

    fn parse(text: &str) -> Result<Transform> {
        let table = Table::parse("gguf = 'x'").unwrap();
        Transform::parse(text, &Config::new(&table, &json!({ "h": 4, "d": 6 })).unwrap())
    }

    #[test]
    fn chains_and_arguments_are_evaluated() {
        use Transform::*;
        let chain = parse("split_rows(h, (d + h) * 2) | each(rope_permute(h, 2), plain) | join_rows(4, 20)").unwrap();
        assert_eq!(chain, Chain(vec![SplitRows(vec![4, 20]), Each(vec![RopePermute(4, Some(2)), Plain]), JoinRows(vec![4, 20])]));
        assert_eq!((chain.outputs(1), chain.moves_rows(), chain.keeps_values()), (1, true, true));
        assert_eq!(parse("reshape(d, 1, h -> d, h)").unwrap(), Reshape(vec![6, 1, 4], vec![6, 4]));
        assert_eq!(parse("reshape( -> 1)").unwrap(), Reshape(vec![], vec![1]));
        assert_eq!(parse("transpose | split_rows(h, 2)").unwrap().outputs(1), 2);
        assert_eq!(parse("stack(h)").unwrap().stacked(), Some(4));
        assert_eq!(parse("concat(d)").unwrap().stacked(), Some(6));
        assert_eq!((parse("fold_batch_norm(0.5)").unwrap(), FoldBatchNorm(0.5).outputs(4)), (FoldBatchNorm(0.5), 2));
        assert_eq!((parse("pick(d)").unwrap(), parse("pick(nothing)").unwrap()), (Pick(Some(6)), Pick(None)));
        let scaled = parse("reshape(d -> d, 1) | neg_exp").unwrap();
        assert!(!scaled.keeps_values() && !scaled.moves_rows() && scaled.rounds() && !chain.rounds());
        for text in ["", "rope_permute", "rope_permute(h", "split_rows(h)", "reshape(h)", "add(nothing)", "unheard_of(1)", "add(1) |"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
