//! What loading a pickle would run: the classes and functions that it names, those of pickles in its bytes, and what follows it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::base::finding::{Findings, Severity};
use crate::base::text::shorten;
use crate::base::{Error, Result, limits, units};
use crate::format::codes;
use crate::format::pytorch::callables::{self, Meaning};
use crate::format::pytorch::pickle::{self, EXTENSIONS, Id, Pickle, Value, Values};
use crate::format::pytorch::view;
use crate::format::set::check_finding_limit;
use crate::source::Source;

/// Location of the bytes of a pickle: in the file, or in an archive entry that is decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whence<'w> {
    pub(crate) path: &'w Path,
    /// The entry of the archive.
    pub(crate) entry: Option<&'w str>,
    pub(crate) in_file: bool,
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

/// The number of pickles that a checkpoint from before 1.6 is.
pub(super) const LEGACY_PICKLES: usize = 5;

/// Whether bytes start as a pickle does: with a protocol, or with an opcode that is first in those of protocol 0.
fn starts_as_pickle(start: &[u8]) -> bool {
    matches!(start, [0x80, 0..=5, ..] | [b'c' | b'(' | b'}' | b']' | b')', ..])
}

/// Reports what a pickle would run, and what follows it before byte `end`.
///
/// # Errors
/// There are too many findings.
pub(super) fn report(pickle: &Pickle, end: u64, whence: &Whence<'_>, findings: &mut Findings) -> Result<()> {
    report_one(pickle, whence, findings)?;
    let mut at = pickle.end;
    let source = &pickle.values.source;
    while at < end {
        if let Some((next, is_whole)) = guess(source, at, end)? {
            let error = Error::malformed("expected the end of the pickle, found another pickle behind it");
            findings.note_error(codes::PICKLE_TRAILING, &whence.locate(error, at));
            report_one(&next, whence, findings)?;
            check_finding_limit(findings, whence.path)?;
            at = if is_whole { next.end } else { end };
        } else {
            let message = format!("expected the end of the pickle, found {} bytes behind it", units::grouped(end - at));
            findings.remark(Severity::Warning, codes::PICKLE_TRAILING, whence.locate(Error::malformed(message), at));
            break;
        }
    }
    Ok(())
}

/// Reports the error of a damaged pickle, and what loading it would run before it gets there: of pickles that follow each other, up to the
/// damaged one. Returns the error.
pub(super) fn damaged(error: Error, source: &Arc<dyn Source>, bytes: Range<u64>, whence: &Whence<'_>, findings: &mut Findings) -> Error {
    let error = findings.fatal(codes::PICKLE_MALFORMED, error.in_file(whence.path));
    let mut at = bytes.start;
    for _ in 0..LEGACY_PICKLES {
        if !findings.collects() {
            break;
        }
        let (pickle, parsed) = pickle::parse_prefix(source, at, bytes.end);
        if let Err(too_many) = report_one(&pickle, whence, findings) {
            return too_many;
        }
        if parsed.is_err() {
            break;
        }
        at = pickle.end;
    }
    error
}

/// Reports what a pickle would run that is only part of a file, and whether it is damaged.
///
/// # Errors
/// There are too many findings.
pub(crate) fn report_part(source: &Arc<dyn Source>, bytes: Range<u64>, whence: &Whence<'_>, findings: &mut Findings) -> Result<()> {
    match pickle::parse_prefix(source, bytes.start, bytes.end) {
        (pickle, Ok(())) => report(&pickle, bytes.end, whence, findings),
        (pickle, Err(error)) => {
            findings.note_error(codes::PICKLE_MALFORMED, &error.in_file(whence.path));
            report_one(&pickle, whence, findings)
        }
    }
}

/// Reports what a pickle would run, and what those in its bytes would.
///
/// # Errors
/// There are too many findings.
pub(super) fn report_one(pickle: &Pickle, whence: &Whence<'_>, findings: &mut Findings) -> Result<()> {
    imports(&pickle.values, whence, findings)?;
    nested(&pickle.values, whence, 0, findings)
}

/// Parses bytes that may be a pickle, and returns whether it is whole; one that is damaged is none, unless it names what would run
/// something: any bytes may happen to hold a number of the extension registry, hardly a name.
///
/// # Errors
/// The bytes cannot be read.
pub(super) fn guess(source: &Arc<dyn Source>, at: u64, end: u64) -> Result<Option<(Pickle, bool)>> {
    let (pickle, parsed) = pickle::parse_prefix(source, at, end);
    let mut named = pickle.values.globals.iter().filter(|global| global.module != EXTENSIONS);
    let is_pickle = match parsed {
        Ok(()) => named.next().is_some() || starts_as_pickle(&source.read(at..end.min(at.saturating_add(2)))?),
        Err(_) => named.any(|global| callables::severity(global) == Some(Severity::Error)),
    };
    Ok(is_pickle.then_some((pickle, parsed.is_ok())))
}

/// Reports each class and function that is not harmless, where it is first named, with the arguments of its first call.
fn imports(values: &Values, whence: &Whence<'_>, findings: &mut Findings) -> Result<()> {
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
        let inside = Whence { in_file: whence.in_file && Arc::ptr_eq(&place.source, &values.source), ..*whence };
        let mut at = place.offset;
        for number in 0..LEGACY_PICKLES {
            let Some((pickle, is_whole)) = guess(&place.source, at, end)? else { break };
            if number == 0 && !of_checkpoints.contains(&id) && !pickle.values.globals.is_empty() {
                let error = Error::malformed("expected bytes, found a pickle in them");
                findings.remark(Severity::Warning, codes::PICKLE_NESTED, inside.locate(error, at));
            }
            imports(&pickle.values, &inside, findings)?;
            nested(&pickle.values, &inside, depth + 1, findings)?;
            if !is_whole {
                break;
            }
            at = pickle.end;
        }
        check_finding_limit(findings, whence.path)?;
    }
    Ok(())
}
