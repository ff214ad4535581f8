//! Applies table transforms to tensor expressions, in both directions.

use crate::base::{Error, Result, limits, num};
use crate::family::transform::Transform;
use crate::model::DType;
use crate::view::tensor_expr::{PairOp, RowOp, TensorExpr, WholeOp};

/// An expression with a shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Shaped {
    /// The expression.
    pub origin: TensorExpr,
    /// The shape, outermost dimension first.
    pub shape: Vec<u64>,
}

impl Transform {
    /// Converts from Hugging Face to GGUF: a single tensor, one per expert, or several that are joined.
    ///
    /// # Errors
    /// The shapes do not fit the transform.
    pub fn forward(&self, sources: Vec<Shaped>) -> Result<Vec<Shaped>> {
        match self {
            Self::Chain(steps) => return steps.iter().try_fold(sources, |sources, step| step.forward(sources)),
            Self::Each(steps) => return each(steps, sources, Self::forward),
            Self::Order(places) => return ordered(sources, places, true),
            Self::StackExperts | Self::Stack(_) => return stack(sources).map(|stacked| vec![stacked]),
            Self::JoinRows(sizes) => return join_each(sources, sizes).map(|joined| vec![joined]),
            Self::Concat(_) => {
                let rows = |source: &Shaped| source.shape.get(row_axis(&source.shape)).copied().unwrap_or(0);
                let sizes: Vec<u64> = sources.iter().map(rows).collect();
                return join_each(sources, &sizes).map(|joined| vec![joined]);
            }
            Self::Product(_) => return product(sources).map(|product| vec![product]),
            Self::FoldBatchNorm(epsilon) => return folded(sources, *epsilon),
            _ => {}
        }
        let Shaped { origin, shape } = single(sources)?;
        Ok(match self {
            Self::RopePermute(heads, rot) => vec![roped(origin, shape, *heads, *rot, true)?],
            Self::RopeUnpermute(heads, rot) => vec![roped(origin, shape, *heads, *rot, false)?],
            Self::Add(number) => vec![Shaped { origin: origin.then(RowOp::Add(*number))?, shape }],
            Self::Scale(number) => vec![Shaped { origin: origin.then(RowOp::Scale(*number))?, shape }],
            Self::NegExp => vec![Shaped { origin: origin.then(RowOp::NegExp)?, shape }],
            Self::Softplus => vec![Shaped { origin: origin.then(RowOp::Softplus)?, shape }],
            Self::Centre => vec![Shaped { origin: origin.then_whole(WholeOp::Centre), shape }],
            Self::Ternary => vec![Shaped { origin: origin.then_whole(WholeOp::Ternary), shape }],
            Self::SplitRows(sizes) => take_each(movable(origin, &shape)?, &shape, sizes)?,
            Self::SplitAlternate => alternate(origin, &shape)?,
            Self::SplitColumns => {
                let turned = transposed(origin, shape)?;
                alternate(turned.origin, &turned.shape)?
            }
            Self::GroupedQkv(heads, kv_heads) => {
                let group = QkvGroup::new(&shape, *heads, *kv_heads)?;
                vec![ungrouped(origin, shape, &[group.queries, group.head, group.head])?]
            }
            Self::Ungroup(sizes) => vec![ungrouped(origin, shape, sizes)?],
            Self::Regroup(sizes) => vec![regrouped(origin, shape, sizes)?],
            Self::TileHeads(a, b, run) => vec![tiled(origin, shape, *a, *b, *run)?],
            Self::TileColumns(a, b, columns) => vec![tiled_columns(origin, shape, *a, *b, *columns)?],
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
            Self::Reshape(from, to) => vec![reshaped(origin, shape, from, to)?],
            Self::Unstack(axis, size) => slices(origin, &shape, *axis, *size)?,
            Self::Repeat(size) => vec![Shaped { origin, shape }; *size as usize],
            Self::SkipRows(rows) => vec![without_rows(origin, shape, *rows, true)?],
            Self::PadRows(rows) => vec![with_zeros(origin, shape, *rows, false)?],
            Self::Int32 => vec![Shaped { origin: origin.as_integers(DType::I32)?, shape }],
            Self::Pick(row) => {
                let row = row.ok_or_else(|| Error::unsupported("the tokenizer files lack the token whose embedding the encoder stores"))?;
                let [_, columns] = shape.as_slice() else { return Err(misfit("a matrix", &shape)) };
                vec![Shaped { origin: origin.slice(row, 1)?, shape: vec![*columns] }]
            }
            Self::Plain
            | Self::Chain(_)
            | Self::Each(_)
            | Self::Order(_)
            | Self::StackExperts
            | Self::Stack(_)
            | Self::Concat(_)
            | Self::JoinRows(_)
            | Self::Product(_)
            | Self::FoldBatchNorm(_) => vec![Shaped { origin, shape }],
        })
    }

    /// Converts from GGUF to Hugging Face: the outputs of [`Transform::forward`] to a single tensor, one per expert, or the joined ones.
    ///
    /// # Errors
    /// The shapes do not fit the transform.
    pub fn backward(&self, sources: Vec<Shaped>) -> Result<Vec<Shaped>> {
        match self {
            Self::Chain(steps) => return steps.iter().rev().try_fold(sources, |sources, step| step.backward(sources)),
            Self::Each(steps) => return each(steps, sources, Self::backward),
            Self::SplitRows(sizes) => return join_each(sources, sizes).map(|joined| vec![joined]),
            Self::SplitAlternate => return interleaved(sources).map(|joined| vec![joined]),
            Self::SplitColumns => {
                let Shaped { origin, shape } = interleaved(sources)?;
                return transposed(origin, shape).map(|turned| vec![turned]);
            }
            Self::Order(places) => return ordered(sources, places, false),
            Self::Repeat(_) => return Ok(sources.into_iter().take(1).collect()),
            Self::Unstack(axis, _) => return from_slices(sources, *axis).map(|joined| vec![joined]),
            Self::SplitMla(nope, v) => return join_mla(sources, *nope, *v).map(|joined| vec![joined]),
            Self::FoldBatchNorm(epsilon) => return unfolded(sources, *epsilon),
            _ => {}
        }
        let Shaped { origin, shape } = single(sources)?;
        Ok(match self {
            Self::StackExperts | Self::Stack(_) => unstacked(origin, &shape)?,
            Self::JoinRows(sizes) => take_each(movable(origin, &shape)?, &shape, sizes)?,
            Self::Concat(count) => take_each(movable(origin, &shape)?, &shape, &chunk_sizes(&shape, *count)?)?,
            Self::Product(dims) => {
                let ones = TensorExpr::zeros(origin.rows(), origin.row_elements())?.then(RowOp::Add(1.0))?;
                let second = reshaped(origin, shape.clone(), &shape, dims)?;
                vec![Shaped { origin: ones, shape }, second]
            }
            Self::RopePermute(heads, rot) => vec![roped(origin, shape, *heads, *rot, false)?],
            Self::RopeUnpermute(heads, rot) => vec![roped(origin, shape, *heads, *rot, true)?],
            Self::Add(number) => vec![Shaped { origin: origin.then(RowOp::Add(-number))?, shape }],
            Self::Scale(number) => vec![Shaped { origin: origin.then(RowOp::Scale(1.0 / number))?, shape }],
            Self::NegExp => vec![Shaped { origin: origin.then(RowOp::LogNeg)?, shape }],
            Self::Softplus => vec![Shaped { origin: origin.then(RowOp::InverseSoftplus)?, shape }],
            Self::GroupedQkv(heads, kv_heads) => {
                let group = QkvGroup::new(&shape, *heads, *kv_heads)?;
                vec![regrouped(origin, shape, &[group.queries, group.head, group.head])?]
            }
            Self::Ungroup(sizes) => vec![regrouped(origin, shape, sizes)?],
            Self::Regroup(sizes) => vec![ungrouped(origin, shape, sizes)?],
            Self::TileHeads(a, b, run) => vec![tiled(origin, shape, *b, *a, *run)?],
            Self::TileColumns(a, b, columns) => vec![tiled_columns(origin, shape, *b, *a, *columns)?],
            Self::Transpose => vec![transposed(origin, shape)?],
            Self::Reshape(from, to) => vec![reshaped(origin, shape, to, from)?],
            Self::SkipRows(rows) => vec![with_zeros(origin, shape, *rows, true)?],
            Self::PadRows(rows) => vec![without_rows(origin, shape, *rows, false)?],
            Self::Int32 => vec![Shaped { origin: origin.as_integers(DType::I64)?, shape }],
            Self::Pick(_) => Vec::new(),
            _ => vec![Shaped { origin, shape }],
        })
    }
}

/// Puts tensors into another order, or back.
fn ordered(sources: Vec<Shaped>, places: &[u64], to_gguf: bool) -> Result<Vec<Shaped>> {
    let from = |place: u64| {
        if to_gguf { usize::try_from(places.get(place as usize).copied()?).ok() } else { places.iter().position(|&from| from == place) }
    };
    let made: Option<Vec<Shaped>> = (0..sources.len() as u64).map(|place| sources.get(from(place)?).cloned()).collect();
    made.filter(|made| made.len() == places.len())
        .ok_or_else(|| Error::malformed(format!("expected {} tensors in the order {places:?}, found {}", places.len(), sources.len())))
}

/// Applies a transform to each tensor.
fn each(steps: &[Transform], sources: Vec<Shaped>, apply: fn(&Transform, Vec<Shaped>) -> Result<Vec<Shaped>>) -> Result<Vec<Shaped>> {
    if steps.len() != sources.len() {
        return Err(Error::malformed(format!("expected {} tensors, found {}", steps.len(), sources.len())));
    }
    steps.iter().zip(sources).map(|(step, source)| apply(step, vec![source]).and_then(single)).collect()
}

/// Multiplies two tensors of as many elements; the result has the shape of the first.
fn product(sources: Vec<Shaped>) -> Result<Shaped> {
    match <[Shaped; 2]>::try_from(sources) {
        Ok([first, second]) => Ok(Shaped { origin: first.origin.pair(PairOp::Times, second.origin)?, shape: first.shape }),
        Err(sources) => Err(Error::malformed(format!("expected two tensors, found {}", sources.len()))),
    }
}

/// Folds the mean and variance of a batch norm into its weight and bias.
fn folded(sources: Vec<Shaped>, epsilon: f32) -> Result<Vec<Shaped>> {
    let [weight, bias, mean, variance] = <[Shaped; 4]>::try_from(sources).map_err(|sources| {
        Error::malformed(format!("expected the weight, bias, mean and variance of a batch norm, found {} tensors", sources.len()))
    })?;
    let deviation = variance.origin.then(RowOp::Add(epsilon))?.then(RowOp::SquareRoot)?;
    let scale = weight.origin.pair(PairOp::Divide, deviation)?;
    let offset = bias.origin.pair(PairOp::Minus, mean.origin.pair(PairOp::Times, scale.clone())?)?;
    Ok(vec![Shaped { origin: scale, shape: weight.shape }, Shaped { origin: offset, shape: bias.shape }])
}

/// The inverse of [`folded`], with a mean of zero and a variance that makes the deviation one.
fn unfolded(mut sources: Vec<Shaped>, epsilon: f32) -> Result<Vec<Shaped>> {
    let Some(Shaped { origin, shape }) = sources.first().cloned() else { return Err(Error::malformed("expected a scale and an offset")) };
    let zeros = TensorExpr::zeros(origin.rows(), origin.row_elements())?;
    let variance = zeros.clone().then(RowOp::Add(1.0 - epsilon))?;
    sources.extend([zeros, variance].map(|origin| Shaped { origin, shape: shape.clone() }));
    Ok(sources)
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

/// Permutes the rows of each head between rotated halves and interleaved pairs; with `rot`, only that many rows of each head.
fn roped(origin: TensorExpr, shape: Vec<u64>, heads: u64, rot: Option<u64>, to_pairs: bool) -> Result<Shaped> {
    let head = divided(shape.first().copied().unwrap_or(0), heads, &shape)?;
    let origin = movable(origin, &shape)?;
    let rot = rot.unwrap_or(head);
    let half = divided(rot, 2, &shape)?;
    let grid = if to_pairs { RowOp::TransposeGrid { a: 2, b: half, run: 1 } } else { RowOp::TransposeGrid { a: half, b: 2, run: 1 } };
    if rot == head {
        return Ok(Shaped { origin: origin.then(grid)?, shape });
    }
    let rest = head.checked_sub(rot).ok_or_else(|| misfit(&format!("heads of at least {rot} rows"), &shape))?;
    let take = |start, len| origin.clone().then(RowOp::SliceRows { start, len, of: head });
    let parts = [(take(0, rot)?.then(grid)?, rot), (take(rot, rest)?, rest)];
    Ok(Shaped { origin: alternating_runs(&parts, heads)?, shape })
}

/// Joins the first run of each part, then the second of each, and so on.
fn alternating_runs(parts: &[(TensorExpr, u64)], runs: u64) -> Result<TensorExpr> {
    if runs > limits::PARTS {
        return Err(Error::limit(format!("expected at most {} runs of rows, found {runs}", limits::PARTS)));
    }
    let all = (0..runs).flat_map(|run| parts.iter().map(move |(part, len)| part.clone().slice(run * len, *len)));
    TensorExpr::join(all.collect::<Result<_>>()?)
}

/// Gathers the parts of each group of rows: all first parts, all second parts, and so on.
fn ungrouped(origin: TensorExpr, shape: Vec<u64>, sizes: &[u64]) -> Result<Shaped> {
    let of = group_rows(&shape, sizes)?;
    let origin = movable(origin, &shape)?;
    let mut start = 0;
    let parts = sizes.iter().map(|&len| {
        start += len;
        origin.clone().then(RowOp::SliceRows { start: start - len, len, of })
    });
    Ok(Shaped { origin: TensorExpr::join(parts.collect::<Result<_>>()?)?, shape })
}

/// The inverse of [`ungrouped`].
fn regrouped(origin: TensorExpr, shape: Vec<u64>, sizes: &[u64]) -> Result<Shaped> {
    let groups = divided(shape.first().copied().unwrap_or(0), group_rows(&shape, sizes)?, &shape)?;
    let origin = movable(origin, &shape)?;
    let mut start = 0;
    let parts = sizes.iter().map(|&len| {
        start += groups * len;
        Ok((origin.clone().slice(start - groups * len, groups * len)?, len))
    });
    Ok(Shaped { origin: alternating_runs(&parts.collect::<Result<Vec<_>>>()?, groups)?, shape })
}

fn group_rows(shape: &[u64], sizes: &[u64]) -> Result<u64> {
    let of = sizes.iter().try_fold(0, |sum, &size| num::add(sum, size, "the rows of a group"))?;
    divided(shape.first().copied().unwrap_or(0), of, shape)?;
    Ok(of)
}

/// Transposes a grid of heads with so many rows each.
fn tiled(origin: TensorExpr, shape: Vec<u64>, a: u64, b: u64, run: u64) -> Result<Shaped> {
    let grid = num::mul(num::mul(a, b, "heads")?, run, "the rows of heads")?;
    divided(shape.first().copied().unwrap_or(0), grid, &shape)?;
    Ok(Shaped { origin: movable(origin, &shape)?.then(RowOp::TransposeGrid { a, b, run })?, shape })
}

/// Transposes a grid of heads along the last dimension.
fn tiled_columns(origin: TensorExpr, shape: Vec<u64>, a: u64, b: u64, columns: u64) -> Result<Shaped> {
    let row = origin.row_elements();
    if num::mul(num::mul(a, b, "heads")?, columns, "the columns of heads")? != row {
        return Err(misfit(&format!("columns of {a} x {b} heads of {columns}"), &shape));
    }
    let tiled = origin.reshaped(columns)?.then(RowOp::TransposeGrid { a, b, run: 1 })?;
    Ok(Shaped { origin: tiled.reshaped(row)?, shape })
}

fn reshaped(origin: TensorExpr, shape: Vec<u64>, from: &[u64], to: &[u64]) -> Result<Shaped> {
    if shape != from {
        return Err(misfit(&format!("the shape {from:?}"), &shape));
    }
    if num::elements(to)? != origin.elements()? {
        return Err(misfit(&format!("as many elements as {to:?}"), &shape));
    }
    let row = to.last().copied().unwrap_or(1);
    Ok(Shaped { origin: if row == 0 { origin } else { origin.reshaped(row)? }, shape: to.to_vec() })
}

/// Leaves out rows at the start or the end.
fn without_rows(origin: TensorExpr, shape: Vec<u64>, rows: u64, at_start: bool) -> Result<Shaped> {
    let all = shape.first().copied().unwrap_or(0);
    let left = all.checked_sub(rows).filter(|&left| left > 0).ok_or_else(|| misfit(&format!("more than {rows} rows"), &shape))?;
    let origin = movable(origin, &shape)?;
    let inner = divided(origin.rows(), all, &shape)?;
    let start = if at_start { rows * inner } else { 0 };
    Ok(Shaped { origin: origin.slice(start, left * inner)?, shape: with_axis(&shape, 0, left) })
}

/// Adds rows of zeros at the start or the end.
fn with_zeros(origin: TensorExpr, shape: Vec<u64>, rows: u64, at_start: bool) -> Result<Shaped> {
    let all = shape.first().copied().unwrap_or(0);
    let origin = movable(origin, &shape)?;
    let zeros = TensorExpr::zeros(num::mul(divided(origin.rows(), all, &shape)?, rows, "rows")?, origin.row_elements())?;
    let parts = if at_start { vec![zeros, origin] } else { vec![origin, zeros] };
    let parts = parts.into_iter().filter(|part| part.rows() > 0).collect();
    Ok(Shaped { origin: TensorExpr::join(parts)?, shape: with_axis(&shape, 0, num::add(all, rows, "rows")?) })
}

/// Returns the slices along an axis other than the last, without it.
fn slices(origin: TensorExpr, shape: &[u64], axis: usize, size: u64) -> Result<Vec<Shaped>> {
    let inner = shape.get(axis + 1..).filter(|inner| !inner.is_empty() && shape.get(axis) == Some(&size));
    let Some([rows @ .., _]) = inner else { return Err(misfit(&format!("{size} slices along dimension {axis}"), shape)) };
    let run = num::elements(rows)?;
    let mut own = shape.to_vec();
    own.remove(axis);
    let slice = |number| origin.clone().then(RowOp::SliceRows { start: number * run, len: run, of: size * run });
    (0..size).map(|number| Ok(Shaped { origin: slice(number)?, shape: own.clone() })).collect()
}

/// The inverse of [`slices`].
fn from_slices(sources: Vec<Shaped>, axis: usize) -> Result<Shaped> {
    let own = sources.first().map(|source| source.shape.clone()).unwrap_or_default();
    let (Some(outer), Some([rows @ .., _])) = (own.get(..axis), own.get(axis..)) else { return Err(misfit("more dimensions", &own)) };
    if let Some(other) = sources.iter().find(|source| source.shape != own) {
        return Err(misfit(&format!("slices of one shape, {own:?}"), &other.shape));
    }
    let run = num::elements(rows)?;
    let mut shape = own.clone();
    shape.insert(axis, sources.len() as u64);
    let parts: Vec<_> = sources.into_iter().map(|source| (source.origin, run)).collect();
    Ok(Shaped { origin: alternating_runs(&parts, num::elements(outer)?)?, shape })
}

/// The inverse of [`stack`].
fn unstacked(origin: TensorExpr, shape: &[u64]) -> Result<Vec<Shaped>> {
    let (&count, own) = shape.split_first().ok_or_else(|| misfit("experts", shape))?;
    if count > limits::PARTS {
        return Err(misfit("experts", shape)); // that many are possible only without elements
    }
    let origin = if shape.len() == 1 { origin.by_element()? } else { origin };
    let rows = divided(origin.rows(), count, shape)?;
    (0..count).map(|number| Ok(Shaped { origin: origin.clone().slice(number * rows, rows)?, shape: own.to_vec() })).collect()
}

/// Returns the numbers of rows of parts of as many each, of which the last may have fewer (`torch.chunk`).
fn chunk_sizes(shape: &[u64], count: u64) -> Result<Vec<u64>> {
    let all = shape.get(row_axis(shape)).copied().unwrap_or(0);
    let len = all.div_ceil(count.max(1));
    if len == 0 || all.div_ceil(len) != count {
        return Err(misfit(&format!("rows for {count} parts of as many each"), shape));
    }
    Ok((0..count).map(|number| len.min(all - number * len)).collect())
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
    let rows = sizes.iter().try_fold(0, |all, size| num::add(all, *size, "rows"))?;
    let planes: u64 = num::elements(first.get(..axis).unwrap_or_default())?;
    let origins: Vec<TensorExpr> = sources.into_iter().map(|source| movable(source.origin, &source.shape)).collect::<Result<_>>()?;
    let mut parts = Vec::new();
    for plane in 0..planes {
        for (origin, &size) in origins.iter().zip(sizes) {
            parts.push(origin.clone().slice(plane * size, size)?);
        }
    }
    Ok(Shaped { origin: TensorExpr::join(parts)?, shape: with_axis(&first, axis, rows) })
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
        origin: TensorExpr::join(parts)?.then(RowOp::TransposeGrid { a: 2, b: len, run: 1 })?,
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
