//! Split GGUF files: `NAME-00001-of-00003.gguf`, each with `split.no`, `split.count` and `split.tensors.count`.

use std::path::Path;

use crate::base::finding::{Findings, Severity};
use crate::base::{Error, Result, limits};
use crate::format::gguf::read::read;
use crate::format::gguf::spec::{ALIGNMENT_KEY, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, is_split_key};
use crate::format::set::{ConflictRule, Part, PartName, check_finding_limit, missing_files_error};
use crate::format::{codes, folder, open_file};
use crate::model::Metadata;
use crate::source::{Prefix, file, place};

/// Parts must agree on the metadata, except for the split keys and alignment.
pub(crate) const CONFLICT: ConflictRule =
    ConflictRule { code: codes::SPLIT_CONFLICT, severity: Severity::Error, except: |key| is_split_key(key) || key == ALIGNMENT_KEY };

/// Reads the file and, if it is part of a split, all other parts.
pub(crate) fn read_all(file: Prefix, findings: &mut Findings) -> Result<Vec<Part>> {
    let path = &file.path().to_path_buf();
    let has_neighbours = file.source().has_neighbours();
    let named = read(file, findings)?;
    let name = PartName::parse(path).filter(|name| name.ending == ".gguf");
    let keys = match SplitKeys::from_metadata(&named.metadata) {
        Ok(Some(keys)) if keys.count > 1 => keys,
        Ok(_) => {
            if let Some(name) = name.filter(|name| name.count > 1) {
                let message = format!("expected the split keys of part {} of {}, as in the file name, found none", name.no, name.count);
                findings.remark(Severity::Warning, codes::SPLIT_NAME, Error::malformed(message).in_file(path));
            }
            return Ok(vec![named]);
        }
        Err(error) => return Err(findings.fatal(codes::SPLIT_KEYS, error.in_file(path))),
    };
    let Some(name) = name.filter(|name| name.count == keys.count && name.no == keys.no + 1) else {
        let message =
            format!("expected a file named NAME-{:05}-of-{:05}.gguf, as in its split keys, found another name", keys.no + 1, keys.count);
        let hint = "the other parts are found by name: rename them as they were";
        return Err(findings.fatal(codes::SPLIT_KEYS, Error::malformed(message).hint(hint).in_file(path)));
    };
    let folder = file::parent(path);
    let is_here = |no: &u64| *no == name.no || has_neighbours && place::is_file(&folder.join(name.file_name(*no)));
    if has_neighbours {
        place::prefetch(&(1..=keys.count).map(|no| folder.join(name.file_name(no))).collect::<Vec<_>>());
    }
    let (here, missing): (Vec<u64>, Vec<u64>) = (1..=keys.count).partition(is_here);
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(|no| name.file_name(*no)).collect();
        findings.missing(codes::SPLIT_PART, missing_files_error(here.len() + names.len(), &names).in_file(path), Vec::new())?;
    }
    let mut named = Some(named);
    let mut parts = Vec::new();
    for no in here {
        let part = if no == name.no { named.take().map(Ok) } else { None };
        let part = part.unwrap_or_else(|| read_part(&folder.join(name.file_name(no)), findings));
        match part.and_then(|part| check_part(&part, no, &keys, findings).map(|()| part)) {
            Ok(part) => parts.push(part),
            // Already reported; the other parts can still be checked.
            Err(error) if !findings.collects() => return Err(error),
            Err(error) => check_finding_limit(findings, path).map_err(|_| error)?,
        }
    }
    let found = parts.iter().map(|part| part.tensors.len() as u64).sum::<u64>();
    if let Some(wanted) = keys.tensors.filter(|&wanted| wanted != found && findings.errors() == 0) {
        let message = format!("expected {wanted} tensors in all parts, as {SPLIT_TENSORS} says, found {found}");
        findings.error(codes::SPLIT_TENSORS, Error::malformed(message).in_file(path))?;
    }
    Ok(parts)
}

fn read_part(path: &Path, findings: &mut Findings) -> Result<Part> {
    let file = open_file(path).map_err(|error| findings.fatal(codes::SPLIT_PART, error))?;
    folder::refuse_foreign(&file).map_err(|error| findings.fatal(codes::FILE_FOREIGN, error))?;
    read(file, findings)
}

/// Checks a part's split keys against its name and the first part's keys.
fn check_part(part: &Part, no: u64, first: &SplitKeys, findings: &mut Findings) -> Result<()> {
    let path = part.source.path();
    let keys = match SplitKeys::from_metadata(&part.metadata) {
        Ok(Some(keys)) => keys,
        Ok(None) => {
            let error = Error::malformed(format!("expected {SPLIT_NO} and {SPLIT_COUNT} in every part, found neither"));
            return findings.error(codes::SPLIT_KEYS, error.in_file(path));
        }
        Err(error) => return findings.error(codes::SPLIT_KEYS, error.in_file(path)),
    };
    let pairs = [
        (SPLIT_NO, Some(no - 1), Some(keys.no)),
        (SPLIT_COUNT, Some(first.count), Some(keys.count)),
        (SPLIT_TENSORS, first.tensors, keys.tensors),
    ];
    for (key, wanted, found) in pairs {
        if let Some((wanted, found)) = wanted.zip(found).filter(|(wanted, found)| wanted != found) {
            let error = Error::malformed(format!("expected {key} to be {wanted}, found {found}"));
            findings.error(codes::SPLIT_KEYS, error.in_file(path))?;
        }
    }
    Ok(())
}

/// The split keys of a part.
#[derive(Debug)]
struct SplitKeys {
    no: u64,
    count: u64,
    tensors: Option<u64>,
}

impl SplitKeys {
    /// Returns the split keys; `None` if the file is not part of a split.
    fn from_metadata(metadata: &Metadata) -> Result<Option<Self>> {
        let number = |key: &str| match metadata.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(Error::malformed(format!("expected {key} to be a non-negative integer, found {}", value.value_type()))),
            },
        };
        let (no, count, tensors) = (number(SPLIT_NO)?, number(SPLIT_COUNT)?, number(SPLIT_TENSORS)?);
        let (no, count) = match (no, count) {
            (None, None) => return Ok(None),
            (no, count) => (no.unwrap_or(0), count.unwrap_or(0)),
        };
        if count > limits::SHARDS as u64 {
            return Err(Error::limit(format!("expected at most {} parts, found a {SPLIT_COUNT} of {count}", limits::SHARDS)));
        }
        if no >= count.max(1) {
            return Err(Error::malformed(format!("expected {SPLIT_NO} below {SPLIT_COUNT}, found {no} of {count}")));
        }
        Ok(Some(Self { no, count, tensors }))
    }
}
