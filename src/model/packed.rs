//! The displayed type of packed weights, and a summary of how many can be unpacked.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::model::ElemType;

/// The displayed type of a packed weight: `GPTQ-4`, `NVFP4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackedType {
    /// The packing scheme.
    pub name: &'static str,
    /// Bits per weight if the name does not imply them, otherwise 0.
    pub bits: u32,
}

impl PackedType {
    /// Returns a type whose name implies its bits.
    pub const fn named(name: &'static str) -> Self {
        Self { name, bits: 0 }
    }
}

impl fmt::Display for PackedType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits {
            0 => f.pad(self.name),
            bits => f.pad(&format!("{}-{bits}", self.name)),
        }
    }
}

/// The displayed type of a tensor: its packing scheme, or its element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TypeName {
    /// The type of the elements as read.
    pub elem: ElemType,
    /// The packing scheme, if packed.
    pub packed: Option<PackedType>,
}

impl From<ElemType> for TypeName {
    fn from(elem: ElemType) -> Self {
        Self { elem, packed: None }
    }
}

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.packed {
            Some(packed) => packed.fmt(f),
            None => self.elem.fmt(f),
        }
    }
}

impl Serialize for TypeName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The packing scheme of a model's weights, and how many of them can be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PackingSummary {
    /// The packing scheme: as displayed for the tensors, or as named in the config.
    pub method: String,
    /// Number of packed weights whose values can be read.
    pub resolved: u64,
    /// Number of packed weights whose values cannot be read.
    pub unresolved: u64,
    /// The name of the first weight that cannot be read.
    #[serde(skip)]
    pub first: Option<String>,
    /// Whether the parameter count is unknown because of them.
    #[serde(skip)]
    pub uncounted: bool,
    /// Displayed types with the number of packed weights of each: `GPTQ-4`.
    #[serde(skip)]
    pub types: Vec<(PackedType, u64)>,
}

/// Adds up the number of weights of each type, in order of first appearance.
pub fn by_type(weights: impl IntoIterator<Item = (PackedType, u64)>) -> Vec<(PackedType, u64)> {
    let mut all: Vec<(PackedType, u64)> = Vec::new();
    for (packed, count) in weights {
        match all.iter_mut().find(|(other, _)| *other == packed) {
            Some((_, sum)) => *sum += count,
            None => all.push((packed, count)),
        }
    }
    all
}

impl PackingSummary {
    /// Returns a warning about packed weights that cannot be read, if there are any.
    pub fn warning(&self) -> Option<String> {
        let first = self.first.as_ref().filter(|_| self.unresolved > 0)?;
        let of = self.resolved + self.unresolved;
        let count = if self.uncounted { "how many weights they stand for is not known" } else { "their values cannot be read" };
        Some(format!(
            "packed by {}: {} of {of} packed weights are not understood, the first {first}: {count}",
            self.method, self.unresolved
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DType;

    #[test]
    fn weights_add_up_by_type_in_order_of_appearance() {
        let [awq, fp8] = [PackedType { name: "AWQ", bits: 4 }, PackedType::named("FP8")];
        assert_eq!(by_type([(fp8, 2), (awq, 1), (fp8, 3)]), [(fp8, 5), (awq, 1)]);
    }

    #[test]
    fn a_packed_type_shows_its_bits_where_its_name_does_not() {
        assert_eq!(PackedType { name: "GPTQ", bits: 4 }.to_string(), "GPTQ-4");
        assert_eq!(PackedType::named("NVFP4").to_string(), "NVFP4");
        assert_eq!(TypeName::from(ElemType::from(DType::F16)).to_string(), "F16");
    }
}
