//! Manifests of the files that each part of a conversion has written.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::{Error, Result, json};
use crate::ops::hash::{Algorithm, Hasher};
use crate::ops::part::Part;
use crate::source::file::{self, parent};
use crate::source::place::{self, read_bytes};
use crate::write::output::Target;

/// The version of [`Manifest`].
const SCHEMA: &str = "weigh.part.v1";

/// The part of a plan that is executed.
#[derive(Debug, Clone)]
pub struct PlannedPart {
    /// Which part it is.
    pub part: Part,
    /// The hash of the plan.
    pub plan: String,
    /// The number of weight files in all parts.
    pub shards: usize,
    /// The format of the output, by name.
    pub(super) format: &'static str,
    /// The path of the manifest.
    pub manifest: PathBuf,
    /// The index, which [`join`](crate::ops::convert::join()) writes.
    pub(super) index: Option<Index>,
}

/// The files that a part has written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    schema: String,
    /// The version of weigh that wrote it.
    weigh: String,
    /// The hash of the plan.
    pub(super) plan: String,
    pub(super) part: usize,
    pub(super) parts: usize,
    pub(super) format: String,
    /// The files of the part, with their digests.
    pub(super) files: Vec<Written>,
    /// The index of all shards, if the output has one.
    pub(super) index: Option<Index>,
}

/// A file of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    /// Its path relative to the folder of the output.
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) blake3: String,
}

/// The index of the shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    /// The index itself.
    #[serde(flatten)]
    pub(super) file: Written,
    /// The files that it refers to, in order.
    pub(super) shards: Vec<String>,
}

impl Manifest {
    /// Returns the path of a part's manifest; `weights` is the path of the weights before sharding.
    pub(super) fn path(weights: &Path, part: Part) -> PathBuf {
        let stem = weights.file_stem().unwrap_or_default().to_string_lossy();
        weights.with_file_name(format!("{stem}{}", Self::ending(part)))
    }

    /// Returns the suffix of the name of a part's manifest.
    fn ending(part: Part) -> String {
        format!(".part-{:05}-of-{:05}.json", part.number, part.count)
    }

    /// Returns the paths of the manifests beside the weights, in order of parts.
    pub(super) fn find(weights: &Path) -> Result<Vec<PathBuf>> {
        let folder = parent(weights);
        if !place::has_folder(folder)? {
            return Ok(Vec::new());
        }
        let start = format!("{}.part-", weights.file_stem().unwrap_or_default().to_string_lossy());
        let is_manifest = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let numbers = name.strip_prefix(start.as_str()).and_then(|rest| rest.strip_suffix(".json")?.split_once("-of-"));
            numbers.is_some_and(|(number, count)| [number, count].iter().all(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())))
        };
        let mut found: Vec<PathBuf> = place::entries(folder)?.into_iter().filter(is_manifest).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// It cannot be read, is of another version, or lists files outside its folder.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let parsed: serde_json::Result<Self> = json::from_bytes(read_bytes(path)?);
        let manifest = parsed
            .map_err(|error| Error::malformed(format!("expected the manifest of a part, found: {error}")).in_file(path).caused_by(error))?;
        if manifest.schema != SCHEMA {
            return Err(Error::unsupported(format!("expected a manifest of {SCHEMA}, found another")).in_file(path));
        }
        let part = Part::new(manifest.part, manifest.parts).map_err(|error| error.in_file(path))?;
        let names = manifest.files.iter().map(|file| &file.name);
        let of_index = manifest.index.iter().flat_map(|index| index.shards.iter().chain([&index.file.name]));
        if let Some(name) = names.chain(of_index).find(|name| !file::is_plain(name)) {
            return Err(Error::malformed(format!("expected a name inside the folder, found {name}")).in_file(path));
        }
        if !path.to_string_lossy().ends_with(&Self::ending(part)) {
            return Err(Error::malformed(format!("expected the part that the file is named after, found {part}")).in_file(path));
        }
        Ok(manifest)
    }

    /// Returns the part.
    pub(super) fn of(&self) -> Part {
        Part { number: self.part, count: self.parts }
    }

    /// Whether both are of the same plan, split into the same number of parts.
    pub(super) fn fits(&self, other: &Self) -> bool {
        (&self.plan, self.parts, &self.format, &self.index) == (&other.plan, other.parts, &other.format, &other.index)
    }
}

impl PlannedPart {
    /// Returns the bytes of the manifest, given the sizes and digests of `targets`. Their length does not depend on the digests.
    pub(super) fn manifest_bytes(&self, targets: &[Target], digests: &[String]) -> Result<Vec<u8>> {
        let none = || "0".repeat(64);
        let files = targets.iter().enumerate().map(|(index, target)| {
            let blake3 = digests.get(index).cloned().unwrap_or_else(none);
            Ok(Written { name: relative(&self.manifest, &target.path)?, bytes: target.bytes, blake3 })
        });
        let manifest = Manifest {
            schema: SCHEMA.to_owned(),
            weigh: env!("CARGO_PKG_VERSION").to_owned(),
            plan: self.plan.clone(),
            part: self.part.number,
            parts: self.part.count,
            format: self.format.to_owned(),
            files: files.collect::<Result<_>>()?,
            index: self.index.clone(),
        };
        let text = serde_json::to_string_pretty(&manifest);
        Ok((text.map_err(|error| Error::malformed(format!("cannot write the manifest: {error}")))? + "\n").into_bytes())
    }
}

/// Returns the path of an output file relative to the folder of `beside`, for the manifest.
pub(super) fn relative(beside: &Path, path: &Path) -> Result<String> {
    let folder = beside.parent().unwrap_or(Path::new(""));
    let inside = path.strip_prefix(folder).ok().and_then(Path::to_str);
    inside.map(str::to_owned).ok_or_else(|| Error::unsupported("a name that is not UTF-8 cannot be written to a manifest").in_file(path))
}

/// Returns the BLAKE3 digest of bytes.
pub(super) fn digest(bytes: &[u8]) -> String {
    let mut hasher = Hasher::new(Algorithm::Blake3);
    hasher.update(bytes);
    hasher.finish()
}
