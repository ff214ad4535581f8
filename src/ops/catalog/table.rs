//! Tables in Parquet files: rows of cells in, rows of cells out. Rows are written in groups, so that memory does not grow with the table.

use std::fs::File;
use std::io::{self, Seek};
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as StoredRow};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::TypePtr;

use crate::base::{Error, ErrorKind, Hint, Result};
use crate::source::file::open_regular;

/// The metadata key that marks a table of a catalogue; its value is the same in all tables of one run.
const MARK: &str = "weigh.catalog.v1";

/// The kind of a column. Texts and numbers may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// An unsigned integer.
    Number,
    Real,
    Texts,
    Numbers,
}

/// A value, of the kind of its column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Text(Option<String>),
    Number(Option<u64>),
    Real(Option<f64>),
    Texts(Vec<String>),
    Numbers(Vec<u64>),
}

pub(super) type Row = Vec<Cell>;

/// The name and the columns of a table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [(&'static str, Kind)],
    /// The number of rows written together and held in memory.
    pub(super) group: usize,
}

impl Table {
    /// Returns the index of a column.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|(own, _)| *own == name)
    }

    fn schema(&self) -> Result<TypePtr> {
        let column = |&(name, kind): &(&str, Kind)| match kind {
            Kind::Text => format!("optional binary {name} (UTF8);"),
            Kind::Number => format!("optional int64 {name} (INTEGER(64,false));"),
            Kind::Real => format!("optional double {name};"),
            Kind::Texts => list(name, "binary element (UTF8)"),
            Kind::Numbers => list(name, "int64 element (INTEGER(64,false))"),
        };
        let columns: String = self.columns.iter().map(column).collect();
        let schema = parse_message_type(&format!("message {} {{ {columns} }}", self.name)).map_err(unwritten)?;
        Ok(Arc::new(schema))
    }
}

fn list(name: &str, element: &str) -> String {
    format!("required group {name} (LIST) {{ repeated group list {{ required {element}; }} }}")
}

fn unwritten(error: ParquetError) -> Error {
    Error::new(ErrorKind::Io, format!("cannot write the table: {error}")).caused_by(error)
}

/// Writes a table.
pub(super) struct Writer {
    table: &'static Table,
    file: SerializedFileWriter<File>,
    rows: Vec<Row>,
    /// Number of rows so far.
    pub(super) count: u64,
}

impl Writer {
    /// Starts a table in a file.
    pub(super) fn new(table: &'static Table, file: File) -> Result<Self> {
        let properties = Arc::new(
            WriterProperties::builder().set_created_by(concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned()).build(),
        );
        let file = SerializedFileWriter::new(file, table.schema()?, properties).map_err(unwritten)?;
        Ok(Self { table, file, rows: Vec::new(), count: 0 })
    }

    pub(super) fn push(&mut self, row: Row) -> Result<()> {
        self.rows.push(row);
        self.count += 1;
        if self.rows.len() < self.table.group { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.rows);
        let mut group = self.file.next_row_group().map_err(unwritten)?;
        for column in 0..self.table.columns.len() {
            let Some(writer) = group.next_column().map_err(unwritten)? else { break };
            write_column(writer, rows.iter().filter_map(|row| row.get(column))).map_err(unwritten)?;
        }
        group.close().map_err(unwritten)?;
        Ok(())
    }

    /// Finishes the table, marked as one of the run `id`, and returns its file.
    pub(super) fn finish(mut self, id: &str) -> Result<File> {
        if !self.rows.is_empty() {
            self.flush()?;
        }
        self.file.append_key_value_metadata(KeyValue::new(MARK.to_owned(), id.to_owned()));
        let mut file = self.file.into_inner().map_err(unwritten)?;
        file.rewind().map_err(|error| Error::io("cannot read back the table", self.table.name, error))?;
        Ok(file)
    }
}

/// The values of a column with their levels: whether a value is there, and whether it continues a list.
struct Levels<T> {
    values: Vec<T>,
    there: Vec<i16>,
    continues: Vec<i16>,
}

impl<T> Default for Levels<T> {
    fn default() -> Self {
        Self { values: Vec::new(), there: Vec::new(), continues: Vec::new() }
    }
}

impl<T> Levels<T> {
    /// Adds a value, which may be missing.
    fn one(&mut self, value: Option<T>) {
        self.there.push(i16::from(value.is_some()));
        self.continues.push(0);
        self.values.extend(value);
    }

    fn list(&mut self, list: impl ExactSizeIterator<Item = T>) {
        if list.len() == 0 {
            self.one(None);
        }
        for (i, value) in list.enumerate() {
            self.there.push(1);
            self.continues.push(i16::from(i > 0));
            self.values.push(value);
        }
    }
}

fn write_column<'r>(writer: SerializedColumnWriter<'_>, cells: impl Iterator<Item = &'r Cell>) -> Result<(), ParquetError> {
    let (mut texts, mut numbers, mut reals) = (Levels::<ByteArray>::default(), Levels::<i64>::default(), Levels::<f64>::default());
    for cell in cells {
        match cell {
            Cell::Text(text) => texts.one(text.as_deref().map(ByteArray::from)),
            Cell::Texts(list) => texts.list(list.iter().map(|text| ByteArray::from(text.as_str()))),
            Cell::Number(number) => numbers.one(number.map(|number| number as i64)),
            Cell::Numbers(list) => numbers.list(list.iter().map(|number| *number as i64)),
            Cell::Real(real) => reals.one(*real),
        }
    }
    if !texts.there.is_empty() {
        write::<ByteArrayType>(writer, &texts)
    } else if !numbers.there.is_empty() {
        write::<Int64Type>(writer, &numbers)
    } else {
        write::<DoubleType>(writer, &reals)
    }
}

fn write<T: DataType>(mut writer: SerializedColumnWriter<'_>, levels: &Levels<T::T>) -> Result<(), ParquetError> {
    writer.typed::<T>().write_batch(&levels.values, Some(&levels.there), Some(&levels.continues))?;
    writer.close()
}

/// Reads the rows of a table written by an earlier run, in order.
pub(super) struct OldTable {
    table: &'static Table,
    rows: Option<RowIter<'static>>,
    next: Option<Row>,
    /// The mark of the run.
    pub(super) id: String,
    /// Number of rows.
    pub(super) count: u64,
}

impl OldTable {
    /// Opens a table; `None` if there is no such file.
    ///
    /// # Errors
    /// It is not a catalogue table of this version.
    pub(super) fn open(table: &'static Table, path: &Path) -> Result<Option<Self>> {
        if std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let foreign = |found: String| {
            let error = Error::malformed(format!("expected a table of a catalogue of this version, found {found}")).in_file(path);
            error.hint(Hint::Replace)
        };
        let file = open_regular(path)?;
        let reader = SerializedFileReader::new(file).map_err(|error| foreign(format!("another file: {error}")))?;
        let metadata = reader.metadata().file_metadata();
        let marks = metadata.key_value_metadata().into_iter().flatten();
        let id = marks.filter(|entry| entry.key == MARK).find_map(|entry| entry.value.clone());
        let id = id.ok_or_else(|| foreign("a table of something else".to_owned()))?;
        if metadata.schema() != &*table.schema()? {
            return Err(foreign("other columns".to_owned()));
        }
        let count = u64::try_from(metadata.num_rows()).unwrap_or(0);
        let mut old = Self { table, rows: Some(RowIter::from_file_into(Box::new(reader))), next: None, id, count };
        old.advance()?;
        Ok(Some(old))
    }

    fn advance(&mut self) -> Result<()> {
        let row = self.rows.as_mut().and_then(Iterator::next).transpose();
        let row =
            row.map_err(|error| Error::malformed(format!("cannot read the table {} of the earlier catalogue: {error}", self.table.name)))?;
        self.next = row.map(|row| cells(self.table, &row)).transpose()?;
        Ok(())
    }

    /// Returns the rows of the model at a path, which must come after all paths asked for so far.
    pub(super) fn take(&mut self, path: &str) -> Result<Vec<Row>> {
        let mut found = Vec::new();
        while let Some(Cell::Text(Some(next))) = self.next.as_ref().and_then(|row| row.first()) {
            match next.as_str().cmp(path) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => found.extend(self.next.take()),
                std::cmp::Ordering::Greater => break,
            }
            self.advance()?;
        }
        Ok(found)
    }
}

fn cells(table: &Table, row: &StoredRow) -> Result<Row> {
    let strange = |name: &str| Error::malformed(format!("expected another kind of value in column {name} of {}", table.name));
    let mut cells = Vec::with_capacity(table.columns.len());
    for ((_, field), &(name, kind)) in row.get_column_iter().zip(table.columns) {
        let elements = |field: &Field| match field {
            Field::ListInternal(list) => Ok(list.elements().to_vec()),
            _ => Err(strange(name)),
        };
        cells.push(match (kind, field) {
            (Kind::Text, Field::Null) => Cell::Text(None),
            (Kind::Text, Field::Str(text)) => Cell::Text(Some(text.clone())),
            (Kind::Number, Field::Null) => Cell::Number(None),
            (Kind::Number, Field::ULong(number)) => Cell::Number(Some(*number)),
            (Kind::Real, Field::Null) => Cell::Real(None),
            (Kind::Real, Field::Double(real)) => Cell::Real(Some(*real)),
            (Kind::Texts, list) => Cell::Texts(
                elements(list)?
                    .into_iter()
                    .map(|field| if let Field::Str(text) = field { Ok(text) } else { Err(strange(name)) })
                    .collect::<Result<_>>()?,
            ),
            (Kind::Numbers, list) => Cell::Numbers(
                elements(list)?
                    .into_iter()
                    .map(|field| if let Field::ULong(number) = field { Ok(number) } else { Err(strange(name)) })
                    .collect::<Result<_>>()?,
            ),
            _ => return Err(strange(name)),
        });
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: Table = Table {
        name: "things",
        columns: &[
            ("path", Kind::Text),
            ("number", Kind::Number),
            ("real", Kind::Real),
            ("texts", Kind::Texts),
            ("numbers", Kind::Numbers),
        ],
        group: 2,
    };

    fn row(path: &str, number: Option<u64>, list: &[u64]) -> Row {
        let texts = list.iter().map(u64::to_string).collect();
        vec![
            Cell::Text(Some(path.into())),
            Cell::Number(number),
            Cell::Real(number.map(|n| n as f64 / 3.0)),
            Cell::Texts(texts),
            Cell::Numbers(list.to_vec()),
        ]
    }

    #[test]
    fn rows_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let rows = [row("a", Some(u64::MAX), &[]), row("a", None, &[1, u64::MAX, 3]), row("b", Some(0), &[7]), row("d", Some(1), &[])];
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let mut writer = Writer::new(&TABLE, file).unwrap();
        rows.iter().for_each(|row| writer.push(row.clone()).unwrap());
        writer.finish("run").unwrap();
        let mut old = OldTable::open(&TABLE, &path).unwrap().unwrap();
        assert_eq!((old.id.as_str(), old.count), ("run", 4));
        assert_eq!(old.take("a").unwrap(), rows[..2]);
        assert!(old.take("aa").unwrap().is_empty());
        assert_eq!(old.take("d").unwrap(), rows[3..], "rows in between are skipped");
        assert!(old.take("e").unwrap().is_empty());
        assert!(OldTable::open(&TABLE, &folder.path().join("none")).unwrap().is_none());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        assert!(OldTable::open(&TABLE, &path).is_err());
    }
}
