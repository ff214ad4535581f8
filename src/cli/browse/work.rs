//! The background: statistics, differences and values of what is under the cursor, on a thread of its own. A new request ends the one before.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::{Error, ErrorKind, Result, units};
use crate::family::tables::Tables;
use crate::format::Reader;
use crate::ops::diff;
use crate::ops::select::Selection;
use crate::ops::show;
use crate::ops::stats::{self, Summary};
use crate::view;

/// What is to be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// Statistics of a tensor.
    Stats(usize),
    /// The difference of a tensor from the second model's.
    Diff(usize),
    /// Values of a tensor: rows of its last dimension, the first and the number of them, and columns likewise.
    Values { tensor: usize, rows: (u64, u64), columns: (u64, u64) },
}

/// What was computed, or why it could not be.
pub(super) enum Outcome {
    Stats(Box<Summary>),
    Diff(Box<diff::TensorRow>),
    Values(Vec<Vec<String>>),
    Failed(String),
}

/// The thread.
pub(super) struct Worker {
    requests: Sender<(Request, Arc<AtomicBool>)>,
    results: Receiver<(Request, Outcome)>,
    /// Ends the request that is being worked on.
    cancel: Mutex<Arc<AtomicBool>>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start(a: &Arc<Reader>, b: Option<&Arc<Reader>>) -> Result<Self> {
        let (requests, incoming) = channel::<(Request, Arc<AtomicBool>)>();
        let (outgoing, results) = channel();
        let mut desk = Desk { a: Arc::clone(a), b: b.map(Arc::clone), names: None };
        let work = move || {
            while let Ok(mut next) = incoming.recv() {
                // Only the last of several requests is of interest.
                while let Ok(later) = incoming.try_recv() {
                    next = later;
                }
                let (request, cancel) = next;
                let outcome = desk.work(&request, &cancel).unwrap_or_else(|error| Outcome::Failed(error.to_string()));
                if !cancel.load(Ordering::Relaxed) && outgoing.send((request, outcome)).is_err() {
                    return;
                }
            }
        };
        let started = std::thread::Builder::new().name("browse".to_owned()).spawn(work);
        started.map_err(|error| Error::new(ErrorKind::Io, format!("cannot start a thread: {error}")))?;
        Ok(Self { requests, results, cancel: Mutex::default() })
    }

    /// Asks for something, and ends the work on what was asked for before.
    pub(super) fn ask(&self, request: Request) {
        let mut cancel = self.cancel.lock().unwrap_or_else(PoisonError::into_inner);
        cancel.store(true, Ordering::Relaxed);
        *cancel = Arc::default();
        let _ = self.requests.send((request, Arc::clone(&cancel)));
    }

    /// Returns what has been computed since the last call.
    pub(super) fn result(&self) -> Option<(Request, Outcome)> {
        self.results.try_recv().ok()
    }
}

/// The models, and the names under which they are compared.
struct Desk {
    a: Arc<Reader>,
    b: Option<Arc<Reader>>,
    names: Option<HashMap<usize, String>>,
}

impl Desk {
    fn work(&mut self, request: &Request, cancel: &AtomicBool) -> Result<Outcome> {
        match request {
            Request::Stats(tensor) => {
                let only = Selection::only(&self.a.model().tensors[*tensor].name);
                let options = stats::Options { selection: Some(&only), cancel: Some(cancel), ..stats::Options::default() };
                let found = stats::stats(&self.a, &options)?;
                if let Some(finding) = found.findings.iter().find(|finding| found.measured == 0 && !finding.message.is_empty()) {
                    return Ok(Outcome::Failed(finding.message.clone()));
                }
                Ok(Outcome::Stats(Box::new(found.total)))
            }
            Request::Diff(tensor) => {
                let Some(b) = self.b.clone() else { return Err(Error::argument("there is no second model")) };
                let only = Selection::only(&self.compared_as(*tensor));
                let options = diff::Options { selection: Some(&only), ..diff::Options::default() };
                let found = diff::diff(&self.a, &b, &options)?;
                match found.tensors.into_iter().next() {
                    Some(row) => Ok(Outcome::Diff(Box::new(row))),
                    None if !found.shapes.is_empty() => Ok(Outcome::Failed("the second model has it in another shape".to_owned())),
                    None => Ok(Outcome::Failed("the second model does not have it".to_owned())),
                }
            }
            Request::Values { tensor, rows, columns } => self.values(*tensor, *rows, *columns, cancel),
        }
    }

    /// Returns the name under which a tensor is compared: its own if both models use the same names, else GGUF's.
    fn compared_as(&mut self, tensor: usize) -> String {
        let own = self.a.model().tensors[tensor].name.clone();
        if self.b.as_ref().is_some_and(|b| b.model().tensor(&own).is_some()) {
            return own;
        }
        let model = self.a.model();
        let names = self.names.get_or_insert_with(|| {
            let Ok(tensors) = Tables::with_file(None::<&Path>).and_then(|tables| view::canonical(model, &tables)) else {
                return HashMap::new();
            };
            tensors
                .iter()
                .flat_map(|output| output.tensors().into_iter().map(|index| (index, output.name.clone())).collect::<Vec<_>>())
                .collect()
        });
        names.get(&tensor).cloned().unwrap_or(own)
    }

    fn values(&self, tensor: usize, rows: (u64, u64), columns: (u64, u64), cancel: &AtomicBool) -> Result<Outcome> {
        let info = &self.a.model().tensors[tensor];
        let outer = info.shape.split_last().map_or(&[][..], |(_, outer)| outer);
        let mut grid = Vec::new();
        for row in rows.0..rows.0 + rows.1 {
            if cancel.load(Ordering::Relaxed) {
                break;
            }
            let slice = match info.shape.len() {
                0 => "...".to_owned(),
                _ => {
                    let mut rest = row;
                    let mut indices: Vec<String> = Vec::new();
                    for &length in outer.iter().rev() {
                        indices.insert(0, (rest % length.max(1)).to_string());
                        rest /= length.max(1);
                    }
                    indices.push(format!("{}:{}", columns.0, columns.0 + columns.1));
                    indices.join(",")
                }
            };
            let found = show::show(&self.a, &info.name, Some(&slice), false)?;
            let per_element = found.values.per_element.max(1);
            let cell = |numbers: &[crate::codec::Number]| {
                numbers.iter().map(|number| units::general(number.as_f64(), 4)).collect::<Vec<_>>().join(" ")
            };
            grid.push(found.values.numbers.chunks(per_element).map(cell).collect());
        }
        Ok(Outcome::Values(grid))
    }
}
