//! llama.cpp file types, accepted by `--type` in addition to tensor types.

use std::fmt;
use std::str::FromStr;

use crate::base::{Error, Hint, Result};
use crate::model::DType::{self, *};
use crate::model::dtype::suggest_type;

/// A file type: a named mix of tensor types.
#[derive(Debug, PartialEq, Eq)]
pub struct FileType {
    /// The name in llama-quantize.
    pub name: &'static str,
    /// The number in `general.file_type` (`enum llama_ftype` in llama.h).
    pub number: u32,
    /// The type of tensors to which no rule of the mix applies.
    pub base: DType,
}

const fn row(name: &'static str, number: u32, base: DType) -> FileType {
    FileType { name, number, base }
}

/// All file types that llama-quantize can write. Their rules are in `mixes`.
pub static FILE_TYPES: &[FileType] = &[
    row("F32", 0, F32),
    row("F16", 1, F16),
    row("BF16", 32, BF16),
    row("Q1_0", 40, Q1_0),
    row("Q2_0", 41, Q2_0),
    row("Q4_0", 2, Q4_0),
    row("Q4_1", 3, Q4_1),
    row("Q5_0", 8, Q5_0),
    row("Q5_1", 9, Q5_1),
    row("Q8_0", 7, Q8_0),
    row("Q2_K", 10, Q2_K),
    row("Q2_K_S", 21, Q2_K),
    row("Q3_K_S", 11, Q3_K),
    row("Q3_K_M", 12, Q3_K),
    row("Q3_K_L", 13, Q3_K),
    row("Q4_K_S", 14, Q4_K),
    row("Q4_K_M", 15, Q4_K),
    row("Q5_K_S", 16, Q5_K),
    row("Q5_K_M", 17, Q5_K),
    row("Q6_K", 18, Q6_K),
    row("IQ1_S", 24, IQ1_S),
    row("IQ1_M", 31, IQ1_M),
    row("IQ2_XXS", 19, IQ2_XXS),
    row("IQ2_XS", 20, IQ2_XS),
    row("IQ2_S", 28, IQ2_XS),
    row("IQ2_M", 29, IQ2_S),
    row("IQ3_XXS", 23, IQ3_XXS),
    row("IQ3_XS", 22, IQ3_S),
    row("IQ3_S", 26, IQ3_S),
    row("IQ3_M", 27, IQ3_S),
    row("IQ4_NL", 25, IQ4_NL),
    row("IQ4_XS", 30, IQ4_XS),
    row("TQ1_0", 36, TQ1_0),
    row("TQ2_0", 37, TQ2_0),
    row("MXFP4_MOE", 38, MXFP4),
];

/// Aliases. The first three are llama-quantize's own.
static ALIASES: &[(&str, &str)] = &[("Q3_K", "Q3_K_M"), ("Q4_K", "Q4_K_M"), ("Q5_K", "Q5_K_M")];

/// Numbers of `general.file_type` for models entirely of a type without a file type above.
static NUMBERS: &[(DType, u32)] = &[(MXFP4, 38), (NVFP4, 39)];

/// Returns the name of a number of `general.file_type`; llama.cpp marks those that it guessed (`LLAMA_FTYPE_GUESSED`).
pub fn file_type_name(number: u64) -> Option<&'static str> {
    const GUESSED: u64 = 1024;
    let is = |own: u32| u64::from(own) == number & !GUESSED;
    let mix = FILE_TYPES.iter().find(|row| is(row.number)).map(|row| row.name);
    mix.or_else(|| NUMBERS.iter().find(|(_, own)| is(*own)).map(|(dtype, _)| dtype.name()))
}

/// The target of `--type`: a file type, or a single type for all quantised tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A file type.
    Mix(&'static FileType),
    /// A single type.
    Uniform(DType),
}

impl Target {
    /// Returns the type of tensors to which no rule applies.
    pub fn base(self) -> DType {
        match self {
            Self::Mix(file_type) => file_type.base,
            Self::Uniform(dtype) => dtype,
        }
    }

    /// Returns the value of `general.file_type`, if there is one.
    pub fn number(self) -> Option<u32> {
        match self {
            Self::Mix(file_type) => Some(file_type.number),
            Self::Uniform(dtype) => NUMBERS.iter().find(|(known, _)| *known == dtype).map(|(_, number)| *number),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    /// Parses a file type or tensor type, ignoring case. File types take precedence, as in llama-quantize.
    fn from_str(name: &str) -> Result<Self> {
        let meant = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name)).map_or(name, |(_, meant)| meant);
        if let Some(file_type) = FILE_TYPES.iter().find(|file_type| file_type.name.eq_ignore_ascii_case(meant)) {
            return Ok(Self::Mix(file_type));
        }
        name.parse().map(Self::Uniform).map_err(|_| {
            let error = Error::argument(format!("expected a tensor type or llama.cpp file type, found {name}"));
            let names = FILE_TYPES.iter().map(|file_type| file_type.name).chain(DType::ALL.iter().map(|dtype| dtype.name()));
            match suggest_type(name, names) {
                Some(meant) => error.hint(Hint::DidYouMean(meant.to_owned())),
                None => error.hint(Hint::ListTypes).add_hint("file types have the names of llama-quantize: Q4_K_M, IQ4_XS ..."),
            }
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mix(file_type) => f.pad(file_type.name),
            Self::Uniform(dtype) => dtype.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_file_types_come_first() {
        assert_eq!("iq2_s".parse::<Target>().unwrap().base(), IQ2_XS);
        assert_eq!("q4_k".parse::<Target>().unwrap().to_string(), "Q4_K_M");
        assert_eq!("nvfp4".parse::<Target>().unwrap(), Target::Uniform(NVFP4));
        assert_eq!("nvfp4".parse::<Target>().unwrap().number(), Some(39));
        assert!("Q9_Z".parse::<Target>().is_err());
        let mut numbers: Vec<u32> = FILE_TYPES.iter().map(|file_type| file_type.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), FILE_TYPES.len());
    }
}
