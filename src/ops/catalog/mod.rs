//! Catalogues of many models: walks folders, on disk and at addresses, and writes a row of `models.parquet` for each model and a row of
//! `tensors.parquet` for each of its tensors.
//!
//! Rows are sorted by path. A later run reads the old tables in step with the walk and reuses the rows of models whose files have the same
//! sizes and times, or entity tags.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::base::threads::{par, prelude::*};
use crate::base::{Error, Result, limits};
use crate::format::listing::{self, Listed};
use crate::ops::Progress;
use crate::ops::hash::{Algorithm, Hasher};
use crate::source::remote::{self, Keeper};
use crate::source::{self, place};
use crate::write::output::{self, NameLock, Output, Target};

mod row;
mod table;

use row::{MODELS, TENSORS};
use table::{OldTable, Row, Writer};

/// The lock of a catalogue that is being written.
const LOCK: &str = ".weigh-catalog";

/// Number of models read concurrently.
const BATCH: usize = 64;

/// Number of unreadable models that a report lists.
const LISTED: usize = 100;

/// Options of [`catalog`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Computes the content hash of each model, which reads all weights.
    pub content: bool,
    /// Reads all models again, and overwrites files that are not catalogue tables.
    pub force: bool,
}

/// The report of `weigh catalog`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Catalog {
    schema: &'static str,
    /// The tables.
    pub output: [PathBuf; 2],
    /// Number of models, including those that cannot be read.
    pub models: u64,
    /// Number of tensors.
    pub tensors: u64,
    /// Number of models and folders that cannot be read, or not in full.
    pub errors: u64,
    /// Number of models that were read.
    pub read: u64,
    /// Number of models whose rows were reused from the earlier catalogue.
    pub reused: u64,
    /// Number of rows of the earlier catalogue whose models are gone.
    pub removed: u64,
    /// The first models and folders that cannot be read.
    pub unreadable: Vec<Unreadable>,
}

/// A model or folder that cannot be read, or not in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unreadable {
    /// Its path.
    pub path: String,
    /// The reason.
    pub error: String,
}

/// A path of the walk: a model, or a folder that cannot be listed.
struct Found {
    path: String,
    listed: Listed,
    error: Option<Error>,
}

/// The rows of a model.
struct Rows {
    model: Row,
    tensors: Vec<Row>,
}

/// Writes the catalogue of all models below `paths` to the folder `dir`.
///
/// `progress` is called from any thread with the number of models done since the last call and the number of all models.
///
/// # Errors
/// One of `paths` does not exist; `dir` holds other files of these names, or another catalogue is being written there; or a table cannot be
/// written. The old tables are untouched then. A model that cannot be read is a row with the error.
pub fn catalog(paths: &[PathBuf], dir: &Path, options: Options, progress: Progress<'_>) -> Result<Catalog> {
    if place::is_remote(dir) {
        return Err(Error::argument("a catalogue is written to a folder on disk").in_file(dir));
    }
    output::check_parent(dir)?;
    let output = [&TENSORS, &MODELS].map(|table| dir.join(format!("{}.parquet", table.name)));
    let mut found = walk(paths)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.dedup_by(|a, b| a.path == b.path);
    fs::create_dir_all(dir).map_err(|error| Error::io("cannot create the folder", dir, error))?;
    let _lock = NameLock::exclusive(dir, LOCK)?;
    let mut old = Old::open(&output, options.force)?;
    let scratch = || tempfile::tempfile_in(dir).map_err(|error| Error::io("cannot create a file in", dir, error));
    let (mut models, mut tensors) = (Writer::new(&MODELS, scratch()?)?, Writer::new(&TENSORS, scratch()?)?);
    let mut report = Catalog {
        schema: "weigh.catalog.v1",
        output: output.clone(),
        models: 0,
        tensors: 0,
        errors: 0,
        read: 0,
        reused: 0,
        removed: 0,
        unreadable: Vec::new(),
    };
    let mut run = Hasher::new(Algorithm::Blake3);
    let mut known = 0;
    for batch in found.chunks(BATCH) {
        let _keeper = Keeper::start();
        let mut work = Vec::with_capacity(batch.len());
        for found in batch {
            let stamp = stamp(&found.listed);
            let row = old.model(&found.path)?;
            known += u64::from(row.is_some());
            let row = row.filter(|row| row::is_current(row, &stamp, options.content));
            work.push((found, stamp, row));
        }
        let fresh = par(&work).with_max_len(1).map(|(model, stamp, row)| {
            let rows = match (row, &model.error) {
                (Some(_), _) => None,
                (None, Some(error)) => Some(Rows { model: row::unreadable(&model.path, stamp, error), tensors: Vec::new() }),
                (None, None) => Some(row::read(&model.path, &model.listed.path, stamp, options.content)),
            };
            progress(1, found.len() as u64);
            rows
        });
        let fresh: Vec<Option<Rows>> = fresh.collect();
        for ((found, stamp, row), fresh) in work.into_iter().zip(fresh) {
            let rows = match (fresh, row) {
                (Some(rows), _) => {
                    report.read += 1;
                    rows
                }
                (None, Some(model)) => {
                    report.reused += 1;
                    Rows { model, tensors: old.tensors(&found.path)? }
                }
                (None, None) => continue,
            };
            if let Some(error) = row::error(&rows.model) {
                report.errors += 1;
                if report.unreadable.len() < LISTED {
                    report.unreadable.push(Unreadable { path: found.path.clone(), error: error.to_owned() });
                }
            }
            run.update(format!("{} {stamp} {}\n", found.path, rows.tensors.len()).as_bytes());
            models.push(rows.model)?;
            rows.tensors.into_iter().try_for_each(|row| tensors.push(row))?;
        }
    }
    (report.models, report.tensors) = (models.count, tensors.count);
    report.removed = old.models().saturating_sub(known);
    let run = run.finish();
    publish(&output, vec![tensors.finish(&run)?, models.finish(&run)?])?;
    Ok(report)
}

/// Walks the folders, each once, however many links lead to it.
fn walk(paths: &[PathBuf]) -> Result<Vec<Found>> {
    let new = |listed: Listed, error| Found { path: listed.path.to_string_lossy().into_owned(), listed, error };
    let _keeper = Keeper::start();
    let mut found = Vec::new();
    let mut folders = Vec::new();
    for path in paths {
        let (path, is_folder) = locate(path)?;
        if is_folder {
            folders.push(path);
        } else {
            found.push(new(Listed { path: path.clone(), files: vec![path] }, None));
        }
    }
    let mut seen = HashSet::new();
    let mut entries = 0usize;
    while let Some(folder) = folders.pop() {
        let is_new = if place::is_remote(&folder) {
            Ok(true) // no store has links
        } else {
            let metadata = fs::metadata(&folder).map_err(|error| Error::io("cannot examine", &folder, error));
            metadata.map(|metadata| seen.insert((metadata.dev(), metadata.ino())))
        };
        let listing = is_new.and_then(|is_new| if is_new { listing::list(&folder) } else { Ok(listing::Listing::default()) });
        match listing {
            Ok(listing) => {
                entries = entries.saturating_add(listing.entries);
                found.extend(listing.models.into_iter().map(|listed| new(listed, None)));
                folders.extend(listing.folders.into_iter().rev());
            }
            Err(error) => found.push(new(Listed { path: folder, files: Vec::new() }, Some(error))),
        }
        if entries > limits::CATALOG_ENTRIES {
            return Err(Error::limit(format!("more than {} files and folders to look at", limits::CATALOG_ENTRIES)));
        }
    }
    Ok(found)
}

/// Resolves a path to an existing file or folder, or to an address; also returns whether it is a folder.
fn locate(path: &Path) -> Result<(PathBuf, bool)> {
    match fs::metadata(path) {
        Ok(found) => Ok((path.to_path_buf(), found.is_dir())),
        Err(error) => {
            let address = remote::locate(path)?.ok_or_else(|| Error::io("cannot open", path, error))?;
            let is_folder = place::is_dir(&address);
            if !is_folder {
                source::open(&address)?;
            }
            Ok((address, is_folder))
        }
    }
}

/// Returns a digest of the names and versions of a model's files and of the version of weigh, which changes with any of them.
fn stamp(listed: &Listed) -> String {
    let mut hasher = Hasher::new(Algorithm::Blake3);
    hasher.update(env!("CARGO_PKG_VERSION").as_bytes());
    for path in &listed.files {
        let state = place::version(path);
        hasher.update(format!("{} {state:?}\n", path.file_name().unwrap_or_default().display()).as_bytes());
    }
    let mut digest = hasher.finish();
    digest.truncate(32);
    digest
}

/// The tables of the earlier catalogue.
#[derive(Default)]
struct Old {
    tables: Option<(OldTable, OldTable)>,
}

impl Old {
    /// Opens the earlier tables, if both exist and come from the same run.
    fn open([tensors, models]: &[PathBuf; 2], force: bool) -> Result<Self> {
        if force {
            return Ok(Self::default());
        }
        let tables = OldTable::open(&MODELS, models)?.zip(OldTable::open(&TENSORS, tensors)?);
        Ok(Self { tables: tables.filter(|(models, tensors)| models.id == tensors.id) })
    }

    /// Returns the number of models.
    fn models(&self) -> u64 {
        self.tables.as_ref().map_or(0, |(models, _)| models.count)
    }

    fn model(&mut self, path: &str) -> Result<Option<Row>> {
        let Some((models, _)) = &mut self.tables else { return Ok(None) };
        Ok(models.take(path)?.pop())
    }

    fn tensors(&mut self, path: &str) -> Result<Vec<Row>> {
        self.tables.as_mut().map_or_else(|| Ok(Vec::new()), |(_, tensors)| tensors.take(path))
    }
}

/// Copies finished tables to temporary files beside their targets, syncs them and renames them into place.
fn publish(output: &[PathBuf], tables: Vec<File>) -> Result<()> {
    let len = |(path, file): (&PathBuf, &File)| {
        let bytes = file.metadata().map_err(|error| Error::io("cannot examine the table", path, error))?.len();
        Ok(Target { path: path.clone(), bytes })
    };
    let targets = output.iter().zip(&tables).map(len).collect::<Result<Vec<_>>>()?;
    // Files that are no tables of a catalogue were refused, or are to be replaced.
    let mut written = Output::begin(targets, true, &[])?;
    let mut buffer = vec![0; limits::CHUNK_BYTES];
    for (index, mut table) in tables.into_iter().enumerate() {
        let mut out = written.create(index)?;
        loop {
            let read = table.read(&mut buffer).map_err(|error| Error::io("cannot read back the table", &output[index], error))?;
            if read == 0 {
                break;
            }
            out.append(&buffer[..read])?;
        }
        written.seal(out)?;
    }
    written.commit()
}
