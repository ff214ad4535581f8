//! The rows of a model in the tables of a catalogue.

use std::path::Path;

use super::Rows;
use super::table::{Cell, Kind, Row, Table};
use crate::base::{Error, Result};
use crate::family::card;
use crate::family::tables::Tables;
use crate::format::{self, Reader};
use crate::model::Value;
use crate::ops::hash::{self, Algorithm};
use crate::ops::list;
use crate::ops::select::Selection;
use crate::ops::{count, info};
use crate::source::place;
use crate::view::lora;

/// The columns of the table of models.
pub(super) static MODELS: Table = Table {
    name: "models",
    columns: &[
        ("path", Kind::Text),
        ("name", Kind::Text),
        ("format", Kind::Text),
        ("architecture", Kind::Text),
        ("parameters", Kind::Number),
        ("active_parameters", Kind::Number),
        ("bits_per_weight", Kind::Real),
        ("dtypes", Kind::Texts),
        ("dtype_tensors", Kind::Numbers),
        ("dtype_bytes", Kind::Numbers),
        ("file_type", Kind::Text),
        ("packing", Kind::Text),
        ("license", Kind::Text),
        ("license_name", Kind::Text),
        ("base_model", Kind::Text),
        ("content", Kind::Text),
        ("bytes", Kind::Number),
        ("files", Kind::Number),
        ("tensors", Kind::Number),
        ("context", Kind::Number),
        ("error", Kind::Text),
        ("stamp", Kind::Text),
    ],
    group: 1 << 12,
};

/// The columns of the table of tensors.
pub(super) static TENSORS: Table = Table {
    name: "tensors",
    columns: &[
        ("path", Kind::Text),
        ("name", Kind::Text),
        ("dtype", Kind::Text),
        ("shape", Kind::Numbers),
        ("elements", Kind::Number),
        ("bytes", Kind::Number),
        ("file", Kind::Text),
        ("offset", Kind::Number),
    ],
    group: 1 << 15,
};

fn text(row: &[Cell], column: &str) -> Option<String> {
    match row.get(MODELS.column(column)?)? {
        Cell::Text(text) => text.clone(),
        _ => None,
    }
}

/// Returns the error of a model's row.
pub(super) fn error(row: &[Cell]) -> Option<String> {
    text(row, "error")
}

/// Whether an old row is still valid: the files have not changed, and it has every requested value. A model that could not be read may be
/// readable now.
pub(super) fn is_current(row: &[Cell], stamp: &str, content: bool) -> bool {
    text(row, "stamp").as_deref() == Some(stamp) && text(row, "error").is_none() && !(content && text(row, "content").is_none())
}

/// Returns the row of a model that cannot be read.
pub(super) fn unreadable(path: &str, stamp: &str, error: &Error) -> Row {
    let empty = |&(name, kind): &(&str, Kind)| match (name, kind) {
        ("path", _) => Cell::Text(Some(path.to_owned())),
        ("error", _) => Cell::Text(Some(error.to_string())),
        ("stamp", _) => Cell::Text(Some(stamp.to_owned())),
        (_, Kind::Text) => Cell::Text(None),
        (_, Kind::Number) => Cell::Number(None),
        (_, Kind::Real) => Cell::Real(None),
        (_, Kind::Texts) => Cell::Texts(Vec::new()),
        (_, Kind::Numbers) => Cell::Numbers(Vec::new()),
    };
    MODELS.columns.iter().map(empty).collect()
}

/// Reads a model. One that cannot be read becomes a row with the error.
pub(super) fn read(path: &str, at: &Path, stamp: &str, content: bool) -> Rows {
    readable(path, at, stamp, content).unwrap_or_else(|error| Rows { model: unreadable(path, stamp, &error), tensors: Vec::new() })
}

fn readable(path: &str, at: &Path, stamp: &str, content: bool) -> Result<Rows> {
    let reader = format::open_headers(at)?;
    let info = info::headers(&reader, &count::count(&reader)?);
    // Missing files or data; or values that cannot be read.
    let mut problem = reader.lacks().first().map(|finding| finding.message.clone());
    let mut digest = None;
    if content && problem.is_none() {
        match hash::hash_content(&reader, &Tables::default(), &[Algorithm::Sha256], false) {
            Ok(reports) => digest = reports.into_iter().next().map(|report| report.model),
            Err(error) => problem = Some(error.to_string()),
        }
    }
    let list = list::list(&reader, &Selection::default())?;
    let tensors: Vec<Row> = list
        .tensors
        .iter()
        .map(|tensor| {
            vec![
                Cell::Text(Some(path.to_owned())),
                Cell::Text(Some(tensor.name.to_owned())),
                Cell::Text(Some(tensor.dtype.to_string())),
                Cell::Numbers(tensor.shape.to_vec()),
                Cell::Number(Some(tensor.elements)),
                Cell::Number(tensor.bytes),
                Cell::Text(Some(tensor.file.to_string())),
                Cell::Number(Some(tensor.offset)),
            ]
        })
        .collect();
    let row = MODELS.columns.iter().map(|&(name, _)| match name {
        "path" => Cell::Text(Some(path.to_owned())),
        "name" => Cell::Text(info.name.clone()),
        "format" => Cell::Text(Some(info.format.to_string())),
        "architecture" => Cell::Text(info.architecture.clone()),
        "parameters" => Cell::Number(info.parameters),
        "active_parameters" => Cell::Number(info.active_parameters),
        "bits_per_weight" => Cell::Real(info.bits_per_weight),
        "dtypes" => Cell::Texts(info.dtypes.iter().map(|row| row.dtype.to_string()).collect()),
        "dtype_tensors" => Cell::Numbers(info.dtypes.iter().map(|row| row.tensors).collect()),
        "dtype_bytes" => Cell::Numbers(info.dtypes.iter().map(|row| row.bytes).collect::<Option<_>>().unwrap_or_default()),
        "file_type" => Cell::Text(info.file_type.as_ref().map(|found| found.name.clone())),
        "packing" => Cell::Text(info.packing.as_ref().map(|packing| packing.method.clone())),
        "license" => Cell::Text(info.license.clone()),
        "license_name" => Cell::Text(info.license_name.clone()),
        "base_model" => Cell::Text(base_model(&reader)),
        "content" => Cell::Text(digest.clone()),
        "bytes" => Cell::Number(Some(info.bytes)),
        "files" => Cell::Number(Some(info.files.len() as u64)),
        "tensors" => Cell::Number(Some(tensors.len() as u64)),
        "context" => Cell::Number(info.hyperparameters.get("context").and_then(|context| context.as_u64())),
        "error" => Cell::Text(problem.clone()),
        _ => Cell::Text(Some(stamp.to_owned())),
    });
    Ok(Rows { model: row.collect(), tensors })
}

/// Returns the base models that a model names, joined by commas.
fn base_model(reader: &Reader) -> Option<String> {
    let model = reader.model();
    if lora::is_adapter(reader)
        && let Some(base) = lora::Adapter::of(reader).ok().and_then(|adapter| adapter.base)
    {
        return Some(base);
    }
    let key = |number: u64, name: &str| model.metadata.get(&format!("general.base_model.{number}.{name}")).and_then(Value::as_str);
    let count = model.metadata.get_u64("general.base_model.count").unwrap_or(0).min(16);
    let mut names: Vec<String> = (0..count)
        .filter_map(|number| match (key(number, "organization"), key(number, "name")) {
            (Some(organization), Some(name)) => Some(format!("{organization}/{name}")),
            (_, name) => name.or_else(|| key(number, "repo_url")).map(str::to_owned),
        })
        .collect();
    if names.is_empty()
        && let Some(folder) = model.folder.as_deref().or(Some(model.path.as_path()).filter(|path| place::is_dir(path)))
    {
        names = card::read(&folder.join("README.md")).unwrap_or_default().list("base_model");
    }
    (!names.is_empty()).then(|| names.join(", "))
}
