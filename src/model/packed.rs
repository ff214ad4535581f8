//! What is said of weights that a library packed: the type that a tensor shows, and how many are understood.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::model::ElemType;

/// The type that a packed weight shows where types are listed: `GPTQ-4`, `NVFP4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackedType {
    /// The packing.
    pub name: &'static str,
    /// Bits of each number, where the name does not say them; otherwise 0.
    pub bits: u32,
}

impl PackedType {
    /// A type whose name says all.
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

/// The type of a tensor as reports show it: its packing, or the type of its elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TypeName {
    /// The type in which the elements are read.
    pub elem: ElemType,
    /// The packing, if there is one.
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

/// How a model's weights are packed, and how much of it is understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PackingSummary {
    /// The packing: as the tensors show it, or as the config names it.
    pub method: String,
    /// Packed weights whose values can be read.
    pub resolved: u64,
    /// Packed weights whose values cannot be read.
    pub unresolved: u64,
    /// The name of the first of those.
    #[serde(skip)]
    pub first: Option<String>,
    /// Whether the number of parameters is unknown because of them.
    #[serde(skip)]
    pub uncounted: bool,
}

impl PackingSummary {
    /// A sentence on the packed weights that cannot be read, if there are any.
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
    fn a_packed_type_shows_its_bits_where_its_name_does_not() {
        assert_eq!(PackedType { name: "GPTQ", bits: 4 }.to_string(), "GPTQ-4");
        assert_eq!(PackedType::named("NVFP4").to_string(), "NVFP4");
        assert_eq!(TypeName::from(ElemType::from(DType::F16)).to_string(), "F16");
    }
}
