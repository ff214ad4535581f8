//! An update as its two factors, moved between Hugging Face's and GGUF's layout: rows of the matrix are rows of the first, columns those of
//! the second.

use crate::base::{Error, Result};
use crate::family::transform::Transform;
use crate::format::Reader;
use crate::model::Model;
use crate::view::lora::{Factor, Update};
use crate::view::tensor_expr::{self, TensorExpr};
use crate::view::transform::Shaped;

/// The factors of an update: `left` of `[rows, rank]`, `right` of `[rank, columns]`.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub left: Shaped,
    pub right: Shaped,
}

impl Pair {
    /// Returns the factors of an update.
    pub(super) fn of(model: &Model, update: &Update) -> Result<Self> {
        Ok(Self { left: upright(model, update.left)?, right: upright(model, update.right)? })
    }

    fn transposed(self) -> Result<Self> {
        Ok(Self { left: turned(self.right)?, right: turned(self.left)? })
    }

    /// Converts the update of a Hugging Face tensor to those of the GGUF tensors that a transform makes of it.
    ///
    /// # Errors
    /// The transform does not apply to factors.
    pub(super) fn forward(self, transform: &Transform) -> Result<Vec<Self>> {
        match transform {
            Transform::Chain(steps) => steps.iter().try_fold(vec![self], forward_all),
            Transform::Transpose => Ok(vec![self.transposed()?]),
            Transform::TileColumns(..) => Ok(vec![Self { right: one(transform.forward(vec![self.right])?)?, left: self.left }]),
            _ if transform.moves_rows() => {
                let right = self.right;
                Ok(transform.forward(vec![self.left])?.into_iter().map(|left| Self { left, right: right.clone() }).collect())
            }
            _ => Err(inapplicable()),
        }
    }

    /// Converts the updates of GGUF tensors to that of the Hugging Face tensor that they are made of: the inverse of [`Pair::forward`].
    ///
    /// # Errors
    /// The transform does not apply to factors, or the parts have different second factors.
    pub(super) fn backward(pairs: Vec<Self>, transform: &Transform, adapter: &Reader) -> Result<Vec<Self>> {
        match transform {
            Transform::Chain(steps) => steps.iter().rev().try_fold(pairs, |pairs, step| Self::backward(pairs, step, adapter)),
            Transform::Each(steps) if steps.len() == pairs.len() => {
                let each = pairs.into_iter().zip(steps).map(|(pair, step)| only(Self::backward(vec![pair], step, adapter)?));
                each.collect()
            }
            Transform::Transpose => Ok(vec![only(pairs)?.transposed()?]),
            Transform::TileColumns(..) => {
                let pair = only(pairs)?;
                Ok(vec![Self { right: one(transform.backward(vec![pair.right])?)?, left: pair.left }])
            }
            _ if transform.moves_rows() => {
                let right = shared(&pairs, adapter)?;
                let made = transform.backward(pairs.into_iter().map(|pair| pair.left).collect())?;
                Ok(made.into_iter().map(|left| Self { left, right: right.clone() }).collect())
            }
            _ => Err(inapplicable()),
        }
    }
}

/// Applies a step of a chain to the parts so far.
fn forward_all(pairs: Vec<Pair>, step: &Transform) -> Result<Vec<Pair>> {
    match step {
        Transform::Each(steps) if steps.len() == pairs.len() => {
            pairs.into_iter().zip(steps).map(|(pair, step)| only(pair.forward(step)?)).collect()
        }
        // All parts of one update have its second factor.
        Transform::JoinRows(_) => {
            let right = pairs.first().ok_or_else(inapplicable)?.right.clone();
            let left = one(step.forward(pairs.into_iter().map(|pair| pair.left).collect())?)?;
            Ok(vec![Pair { left, right }])
        }
        _ => only(pairs)?.forward(step),
    }
}

/// Returns the second factor of parts, which must be the same for all.
fn shared(pairs: &[Pair], adapter: &Reader) -> Result<Shaped> {
    let first = &pairs.first().ok_or_else(inapplicable)?.right;
    let values = |factor: &Shaped| tensor_expr::values(adapter, &factor.origin);
    for pair in pairs.iter().skip(1) {
        if pair.right != *first && (pair.right.shape != first.shape || values(&pair.right)? != values(first)?) {
            return Err(Error::unsupported("expected updates of the parts of one matrix with one second factor, found different ones"));
        }
    }
    Ok(first.clone())
}

fn inapplicable() -> Error {
    Error::unsupported("expected an update of a matrix whose rows or columns move, found one of another layout")
}

fn only(pairs: Vec<Pair>) -> Result<Pair> {
    <[Pair; 1]>::try_from(pairs).map(|[pair]| pair).map_err(|_| inapplicable())
}

fn one(made: Vec<Shaped>) -> Result<Shaped> {
    <[Shaped; 1]>::try_from(made).map(|[made]| made).map_err(|_| inapplicable())
}

/// Returns a factor as stored.
pub(super) fn stored(model: &Model, factor: Factor) -> Result<Shaped> {
    let shape = model.tensors.get(factor.tensor).map(|tensor| tensor.shape.clone()).unwrap_or_default();
    Ok(Shaped { origin: TensorExpr::stored(model, factor.tensor)?, shape })
}

fn upright(model: &Model, factor: Factor) -> Result<Shaped> {
    let stored = stored(model, factor)?;
    if factor.transposed { turned(stored) } else { Ok(stored) }
}

pub(super) fn turned(matrix: Shaped) -> Result<Shaped> {
    one(Transform::Transpose.forward(vec![matrix])?)
}
