//! Quantised tensors of PyTorch as the numbers that they stand for.

use std::ops::Range;

use crate::base::Result;
use crate::format::Computed;
use crate::format::pytorch::view::Tensor;
use crate::format::strided::Strided;
use crate::model::{DType, PackedType};

/// The scale and the zero point of each channel.
#[derive(Debug)]
pub(crate) struct Scales {
    pub(crate) scales: Vec<f64>,
    pub(crate) zeros: Vec<f64>,
    /// Elements in a row before the next channel; 0 if there is one scale for all.
    pub(crate) inner: u64,
}

impl Scales {
    /// Returns one scale for all elements.
    pub(crate) fn one(scale: f64, zero: f64) -> Self {
        Self { scales: vec![scale], zeros: vec![zero], inner: 0 }
    }
}

/// A quantised tensor: (integer - zero point) x scale.
#[derive(Debug)]
pub(crate) struct Dequantised {
    integers: Strided,
    dtype: Option<DType>,
    width: u64,
    scales: Scales,
}

impl Dequantised {
    /// Returns the values of a tensor with these scales.
    ///
    /// # Errors
    /// It does not lie inside its storage.
    pub(crate) fn new(tensor: &Tensor, scales: Scales) -> Result<Self> {
        Ok(Self { integers: tensor.strided()?, dtype: tensor.kind.elem.known(), width: tensor.kind.width, scales })
    }
}

impl Computed for Dequantised {
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let (first, last) = (range.start / 4, range.end.div_ceil(4));
        let integers = self.integers.bytes(first * self.width..last * self.width)?;
        let value = |(index, integer): (u64, &[u8])| {
            let integer = match (self.dtype, integer) {
                (Some(DType::I8), [byte]) => f64::from(*byte as i8),
                (Some(DType::U8), [byte]) => f64::from(*byte),
                (_, bytes) => bytes.first_chunk().map_or(0.0, |bytes| f64::from(i32::from_le_bytes(*bytes))),
            };
            let channel = ((first + index) / self.scales.inner.max(1) % self.scales.scales.len().max(1) as u64) as usize;
            let at = |values: &[f64]| values.get(channel).copied().unwrap_or(0.0);
            let (scale, zero) = (at(&self.scales.scales), at(&self.scales.zeros));
            // As PyTorch rounds: scales of channels are in double precision there.
            match self.scales.inner {
                0 => (integer - zero) as f32 * scale as f32,
                _ => (f64::from(integer as f32 - zero as f32) * scale) as f32,
            }
        };
        let mut bytes: Vec<u8> = (0..).zip(integers.chunks_exact(self.width as usize)).map(value).flat_map(f32::to_le_bytes).collect();
        bytes.truncate((range.end - first * 4) as usize);
        bytes.drain(..(range.start - first * 4) as usize);
        Ok(bytes)
    }

    fn packed(&self) -> Option<PackedType> {
        Some(PackedType::named(match self.dtype {
            Some(DType::I8) => "QINT8",
            Some(DType::U8) => "QUINT8",
            _ => "QINT32",
        }))
    }
}
