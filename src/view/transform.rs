//! Applies table transforms to tensor expressions, in both directions.

use crate::base::{Error, Result, limits, num};
use crate::family::transform::Transform;
use crate::view::tensor_expr::{RowOp, TensorExpr};

/// An expression with a shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Shaped {
    /// The expression.
    pub origin: TensorExpr,
    /// The shape, outermost dimension first.
    pub shape: Vec<u64>,
}

impl Transform {
    /// Converts from Hugging Face to GGUF: a single tensor, or one per expert.
    ///
    /// # Errors
    /// The shapes do not fit the transform.
    pub fn forward(&self, sources: Vec<Shaped>) -> Result<Vec<Shaped>> {
        if *self == Self::StackExperts {
            return stack(sources).map(|stacked| vec![stacked]);
        }
        let Shaped { origin, shape } = single(sources)?;
        Ok(match self {
            Self::Plain | Self::StackExperts => vec![Shaped { origin, shape }],
            Self::RopePermute(heads) => {
                let half = half_head(&shape, *heads)?;
                vec![Shaped { origin: movable(origin, &shape)?.then(RowOp::TransposeGrid { a: 2, b: half })?, shape }]
            }
            Self::Add(number) => vec![Shaped { origin: origin.then(RowOp::Add(*number))?, shape }],
            Self::SplitRows(sizes) => take_each(movable(origin, &shape)?, &shape, sizes)?,
            Self::SplitAlternate => alternate(origin, &shape)?,
            Self::SplitColumns => {
                let turned = transposed(origin, shape)?;
                alternate(turned.origin, &turned.shape)?
            }
            Self::GroupedQkv(heads, kv_heads) => {
                let group = QkvGroup::new(&shape, *heads, *kv_heads)?;
                let origin = movable(origin, &shape)?;
                let take = |start, len| origin.clone().then(RowOp::SliceRows { start, len, of: group.queries + 2 * group.head });
                let parts = vec![take(0, group.queries)?, take(group.queries, group.head)?, take(group.queries + group.head, group.head)?];
                vec![Shaped { origin: TensorExpr::join(parts)?, shape }]
            }
            Self::SplitMla(nope, v) => {
                let [rows, rank] = shape.as_slice() else { return Err(misfit("a matrix", &shape)) };
                let both = num::add(*nope, *v, "the rows of a head")?;
                let heads = divided(*rows, both, &shape)?;
                let keys =
                    origin.clone().then(RowOp::SliceRows { start: 0, len: *nope, of: both })?.then(RowOp::Transpose { rows: *nope })?;
                let values = origin.then(RowOp::SliceRows { start: *nope, len: *v, of: both })?;
                vec![Shaped { origin: keys, shape: vec![heads, *rank, *nope] }, Shaped { origin: values, shape: vec![heads, *v, *rank] }]
            }
            Self::Transpose => vec![transposed(origin, shape)?],
        })
    }

    /// Converts from GGUF to Hugging Face: the outputs of [`Transform::forward`] to a single tensor, or one per expert.
    ///
    /// # Errors
    /// The shapes do not fit the transform.
    pub fn backward(&self, sources: Vec<Shaped>) -> Result<Vec<Shaped>> {
        match self {
            Self::SplitRows(sizes) => return join_each(sources, sizes).map(|joined| vec![joined]),
            Self::SplitAlternate => return interleaved(sources).map(|joined| vec![joined]),
            Self::SplitColumns => {
                let Shaped { origin, shape } = interleaved(sources)?;
                return transposed(origin, shape).map(|turned| vec![turned]);
            }
            Self::SplitMla(nope, v) => return join_mla(sources, *nope, *v).map(|joined| vec![joined]),
            _ => {}
        }
        let Shaped { origin, shape } = single(sources)?;
        Ok(match self {
            Self::StackExperts => {
                let (&experts, own) = shape.split_first().ok_or_else(|| misfit("experts", &shape))?;
                if experts > limits::PARTS {
                    return Err(misfit("experts", &shape)); // that many are possible only without elements
                }
                let rows = divided(origin.rows(), experts, &shape)?;
                (0..experts)
                    .map(|expert| Ok(Shaped { origin: origin.clone().slice(expert * rows, rows)?, shape: own.to_vec() }))
                    .collect::<Result<_>>()?
            }
            Self::RopePermute(heads) => {
                let half = half_head(&shape, *heads)?;
                vec![Shaped { origin: movable(origin, &shape)?.then(RowOp::TransposeGrid { a: half, b: 2 })?, shape }]
            }
            Self::Add(number) => vec![Shaped { origin: origin.then(RowOp::Add(-number))?, shape }],
            Self::GroupedQkv(heads, kv_heads) => {
                let group = QkvGroup::new(&shape, *heads, *kv_heads)?;
                let origin = movable(origin, &shape)?;
                let (keys, values) = (kv_heads * group.queries, kv_heads * (group.queries + group.head));
                let parts = (0..*kv_heads)
                    .flat_map(|i| {
                        [(i * group.queries, group.queries), (keys + i * group.head, group.head), (values + i * group.head, group.head)]
                    })
                    .map(|(start, len)| origin.clone().slice(start, len))
                    .collect::<Result<_>>()?;
                vec![Shaped { origin: TensorExpr::join(parts)?, shape }]
            }
            Self::Transpose => vec![transposed(origin, shape)?],
            _ => vec![Shaped { origin, shape }],
        })
    }
}

fn misfit(expected: &str, shape: &[u64]) -> Error {
    Error::malformed(format!("expected {expected}, found the shape {shape:?}"))
}

fn single(sources: Vec<Shaped>) -> Result<Shaped> {
    let count = sources.len();
    match <[Shaped; 1]>::try_from(sources) {
        Ok([source]) => Ok(source),
        Err(_) => Err(Error::malformed(format!("expected one tensor, found {count}"))),
    }
}

/// Returns an expression over movable rows: those of a matrix, or the elements of a vector.
fn movable(origin: TensorExpr, shape: &[u64]) -> Result<TensorExpr> {
    if shape.len() == 1 { origin.by_element() } else { Ok(origin) }
}

fn divided(whole: u64, by: u64, shape: &[u64]) -> Result<u64> {
    match whole.checked_div(by) {
        Some(part) if part * by == whole => Ok(part),
        _ => Err(misfit(&format!("{whole} rows to divide by {by}"), shape)),
    }
}

fn half_head(shape: &[u64], heads: u64) -> Result<u64> {
    let rows = shape.first().copied().unwrap_or(0);
    divided(rows, num::mul(heads, 2, "the halves of heads")?, shape)
}

/// Returns the axis along which rows are split: the last but one, or the only one.
fn row_axis(shape: &[u64]) -> usize {
    shape.len().saturating_sub(2)
}

fn with_axis(shape: &[u64], axis: usize, len: u64) -> Vec<u64> {
    shape.iter().enumerate().map(|(i, &dim)| if i == axis { len } else { dim }).collect()
}

fn stack(sources: Vec<Shaped>) -> Result<Shaped> {
    let shape = sources.first().map(|source| source.shape.clone()).unwrap_or_default();
    if let Some(other) = sources.iter().find(|source| source.shape != shape) {
        return Err(misfit(&format!("experts of one shape, {shape:?}"), &other.shape));
    }
    let mut stacked = vec![sources.len() as u64];
    stacked.extend(shape);
    Ok(Shaped { origin: TensorExpr::join(sources.into_iter().map(|source| source.origin).collect())?, shape: stacked })
}

fn take_each(origin: TensorExpr, shape: &[u64], sizes: &[u64]) -> Result<Vec<Shaped>> {
    let axis = row_axis(shape);
    let of: u64 = sizes.iter().sum();
    if shape.get(axis) != Some(&of) {
        return Err(misfit(&format!("{of} rows ({sizes:?})"), shape));
    }
    let mut start = 0;
    sizes
        .iter()
        .map(|&len| {
            let origin = origin.clone().then(RowOp::SliceRows { start, len, of })?;
            start += len;
            Ok(Shaped { origin, shape: with_axis(shape, axis, len) })
        })
        .collect()
}

/// The inverse of [`take_each`]: concatenates the rows of each, matrix by matrix.
fn join_each(sources: Vec<Shaped>, sizes: &[u64]) -> Result<Shaped> {
    let first = sources.first().map(|source| source.shape.clone()).unwrap_or_default();
    let axis = row_axis(&first);
    for (source, &size) in sources.iter().zip(sizes) {
        if source.shape != with_axis(&first, axis, size) {
            return Err(misfit(&format!("{size} rows beside {first:?}"), &source.shape));
        }
    }
    let planes: u64 = num::elements(first.get(..axis).unwrap_or_default())?;
    let origins: Vec<TensorExpr> = sources.into_iter().map(|source| movable(source.origin, &source.shape)).collect::<Result<_>>()?;
    let mut parts = Vec::new();
    for plane in 0..planes {
        for (origin, &size) in origins.iter().zip(sizes) {
            parts.push(origin.clone().slice(plane * size, size)?);
        }
    }
    Ok(Shaped { origin: TensorExpr::join(parts)?, shape: with_axis(&first, axis, sizes.iter().sum()) })
}

/// Returns an expression over alternating rows (of matrices, or the elements of a bias matrix), and their axis.
fn alternating(origin: TensorExpr, shape: &[u64]) -> Result<(TensorExpr, usize)> {
    match shape.len() {
        3 => Ok((origin, 1)),
        1 | 2 => Ok((origin.by_element()?, shape.len() - 1)),
        _ => Err(misfit("at most 3 dimensions", shape)),
    }
}

/// Splits even and odd rows.
fn alternate(origin: TensorExpr, shape: &[u64]) -> Result<Vec<Shaped>> {
    let (origin, axis) = alternating(origin, shape)?;
    let half = halved(shape, axis)?;
    let take = |start| Ok(Shaped { origin: origin.clone().then(RowOp::SliceRows { start, len: 1, of: 2 })?, shape: half.clone() });
    Ok(vec![take(0)?, take(1)?])
}

fn halved(shape: &[u64], axis: usize) -> Result<Vec<u64>> {
    let half = divided(shape.get(axis).copied().unwrap_or(1), 2, shape)?;
    Ok(with_axis(shape, axis, half))
}

fn interleaved(sources: Vec<Shaped>) -> Result<Shaped> {
    let Ok([even, odd]) = <[Shaped; 2]>::try_from(sources) else {
        return Err(Error::malformed("expected two tensors to interleave"));
    };
    if even.shape != odd.shape {
        return Err(misfit(&format!("two tensors of the shape {:?}", even.shape), &odd.shape));
    }
    let (even_rows, axis) = alternating(even.origin, &even.shape)?;
    let (odd_rows, _) = alternating(odd.origin, &odd.shape)?;
    let len = even.shape.get(axis).copied().unwrap_or(1);
    let planes = num::elements(even.shape.get(..axis).unwrap_or_default())?;
    let parts = (0..planes)
        .flat_map(|plane| [even_rows.clone().slice(plane * len, len), odd_rows.clone().slice(plane * len, len)])
        .collect::<Result<_>>()?;
    Ok(Shaped {
        origin: TensorExpr::join(parts)?.then(RowOp::TransposeGrid { a: 2, b: len })?,
        shape: with_axis(&even.shape, axis, num::mul(len, 2, "the rows of both")?),
    })
}

fn join_mla(sources: Vec<Shaped>, nope: u64, v: u64) -> Result<Shaped> {
    let Ok([keys, values]) = <[Shaped; 2]>::try_from(sources) else {
        return Err(Error::malformed("expected the keys and the values of an attention projection"));
    };
    let &[heads, rank, _] = keys.shape.as_slice() else { return Err(misfit("keys of 3 dimensions", &keys.shape)) };
    if keys.shape != [heads, rank, nope] || values.shape != [heads, v, rank] {
        return Err(misfit(&format!("values of [{heads}, {v}, {rank}] beside keys of [{heads}, {rank}, {nope}]"), &values.shape));
    }
    let keys = keys.origin.then(RowOp::Transpose { rows: rank })?;
    let parts = (0..heads)
        .flat_map(|head| [keys.clone().slice(head * nope, nope), values.origin.clone().slice(head * v, v)])
        .collect::<Result<_>>()?;
    Ok(Shaped { origin: TensorExpr::join(parts)?, shape: vec![heads * (nope + v), rank] })
}

fn transposed(origin: TensorExpr, shape: Vec<u64>) -> Result<Shaped> {
    let [planes @ .., rows, cols] = shape.as_slice() else { return Err(misfit("two dimensions to transpose", &shape)) };
    let mut turned = planes.to_vec();
    turned.extend([*cols, *rows]);
    Ok(Shaped { origin: origin.then(RowOp::Transpose { rows: *rows })?, shape: turned })
}

/// The rows of a group of query heads with its KV head.
struct QkvGroup {
    queries: u64,
    head: u64,
}

impl QkvGroup {
    fn new(shape: &[u64], heads: u64, kv_heads: u64) -> Result<Self> {
        let rows = shape.first().copied().unwrap_or(0);
        let head = divided(rows, num::add(heads, num::mul(kv_heads, 2, "keys and values")?, "heads")?, shape)?;
        Ok(Self { queries: divided(heads, kv_heads, shape)? * head, head })
    }
}
