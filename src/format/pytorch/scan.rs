//! What loading a pickle would run: the classes and functions that it names, those of pickles in its bytes, and what follows it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::base::finding::{Findings, Severity};
use crate::base::text::shorten;
use crate::base::{Error, Result, limits, units};
use crate::format::codes;
use crate::format::pytorch::callables::{self, Meaning};
use crate::format::pytorch::pickle::{self, Id, Pickle, Value, Values};
use crate::format::pytorch::view;
use crate::format::set::check_finding_limit;

/// Where the bytes of a pickle are: in the file, or in an entry of an archive that is decoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whence<'w> {
    pub(super) path: &'w Path,
    /// The entry of the archive.
    pub(super) entry: Option<&'w str>,
    pub(super) in_file: bool,
}

impl Whence<'_> {
    /// Adds the file and, if it has one there, the offset to an error.
    pub(super) fn locate(&self, error: Error, at: u64) -> Error {
        let error = if self.in_file { error.at(at) } else { error };
        let error = match self.entry {
            Some(entry) if !self.in_file => error.context(&format!("{}, byte {at} when decoded", shorten(entry))),
            _ => error,
        };
        error.in_file(self.path)
    }
}

/// The most pickles in the bytes of another that are looked at, and the deepest that they are nested.
const NESTED: (usize, usize) = (1_000, 3);

/// Whether bytes start as a pickle does: with a protocol, or with an opcode that is first in those of protocol 0.
pub(super) fn may_be_pickle(start: &[u8]) -> bool {
    matches!(start, [0x80, 0..=5, ..] | [b'c' | b'(' | b'}' | b']' | b')', ..])
}

/// Reports what a pickle would run, and what follows it before byte `end`.
///
/// # Errors
/// There are too many findings.
pub(super) fn report(pickle: &Pickle, end: u64, whence: &Whence<'_>, findings: &mut Findings) -> Result<()> {
    imports(&pickle.values, whence, findings)?;
    nested(&pickle.values, whence, 0, findings)?;
    if pickle.end >= end {
        return Ok(());
    }
    let mut at = pickle.end;
    let source = &pickle.values.source;
    while at < end {
        match pickle::parse_small(source, at, end) {
            Ok(next) if may_be_pickle(&source.read(at..end.min(at + 2))?) => {
                let error = Error::malformed("expected the end of the pickle, found another pickle behind it");
                findings.note_error(codes::PICKLE_TRAILING, &whence.locate(error, at));
                imports(&next.values, whence, findings)?;
                nested(&next.values, whence, 0, findings)?;
                check_finding_limit(findings, whence.path)?;
                at = next.end;
            }
            _ => {
                let message = format!("expected the end of the pickle, found {} bytes behind it", units::grouped(end - at));
                findings.remark(Severity::Warning, codes::PICKLE_TRAILING, whence.locate(Error::malformed(message), at));
                break;
            }
        }
    }
    Ok(())
}

/// Reports each class and function that is not harmless, where it is first named, with the arguments of its first call.
pub(super) fn imports(values: &Values, whence: &Whence<'_>, findings: &mut Findings) -> Result<()> {
    let mut seen: BTreeMap<String, (Severity, u64, u64)> = BTreeMap::new();
    for global in &values.globals {
        if let Some(severity) = callables::severity(global).filter(|_| seen.len() <= limits::FINDINGS) {
            seen.entry(global.path()).or_insert((severity, global.at, 0)).2 += 1;
        }
    }
    let mut calls: BTreeMap<String, &pickle::Object> = BTreeMap::new();
    for object in &values.objects {
        if let Some(path) = values.global(object.callable).map(pickle::Global::path).filter(|path| seen.contains_key(path)) {
            calls.entry(path).or_insert(object);
        }
    }
    let mut order: Vec<_> = seen.into_iter().collect();
    order.sort_by_key(|(_, (_, at, _))| *at);
    for (path, (severity, at, count)) in order {
        let what = match calls.get(&path) {
            Some(object) => {
                let args: Vec<String> = values.sequence(object.args).unwrap_or_default().iter().map(|arg| values.show(*arg)).collect();
                format!("loading it with pickle would call {path}({})", args.join(", "))
            }
            None => format!("loading it with pickle would import {path}"),
        };
        let known = if severity == Severity::Error { "" } else { ", which is not known to be harmless" };
        let more = if count > 1 { format!("; it is named {} times", units::grouped(count)) } else { String::new() };
        let error = whence.locate(Error::malformed(format!("{what}{known}{more}")), at);
        findings.remark(severity, codes::PICKLE_IMPORT, error);
        check_finding_limit(findings, whence.path)?;
    }
    Ok(())
}

/// Looks for pickles in the bytes of a pickle.
fn nested(values: &Values, whence: &Whence<'_>, depth: usize, findings: &mut Findings) -> Result<()> {
    if depth >= NESTED.1 {
        return Ok(());
    }
    let of_checkpoints: Vec<Id> = values
        .objects
        .iter()
        .filter(|object| values.class(object).and_then(callables::meaning) == Some(Meaning::Nested))
        .filter_map(|object| values.sequence(object.args)?.first().copied())
        .collect();
    let long = values.all().filter(|(id, value)| matches!(value, Value::Bytes { .. }) && !of_checkpoints.contains(id)).map(|(id, _)| id);
    for id in of_checkpoints.iter().copied().chain(long).take(NESTED.0) {
        let Ok(place) = view::bytes(values, id) else { continue };
        let end = place.offset + place.len;
        let start = place.source.read(place.offset..end.min(place.offset + 2))?.into_owned();
        if !may_be_pickle(&start) {
            continue;
        }
        let inside = Whence { in_file: whence.in_file && Arc::ptr_eq(&place.source, &values.source), ..*whence };
        let mut at = place.offset;
        // A checkpoint from before 1.6 is five pickles.
        for number in 0..5 {
            let Ok(pickle) = pickle::parse_small(&place.source, at, end) else { break };
            if number == 0 && !of_checkpoints.contains(&id) && !pickle.values.globals.is_empty() {
                let error = Error::malformed("expected bytes, found a pickle in them");
                findings.remark(Severity::Warning, codes::PICKLE_NESTED, inside.locate(error, at));
            }
            imports(&pickle.values, &inside, findings)?;
            nested(&pickle.values, &inside, depth + 1, findings)?;
            at = pickle.end;
        }
        check_finding_limit(findings, whence.path)?;
    }
    Ok(())
}
