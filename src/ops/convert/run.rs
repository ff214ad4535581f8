//! Carries a plan out: streamed, on all threads, with the same bytes for any number of them.
//!
//! The layout says beforehand where every byte goes, so the work is cut into pieces of rows that any thread can take and write to
//! their place, and no tensor is ever held.

use std::borrow::Cow;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::base::bytes::Endian;
use crate::base::threads::lock;
use crate::base::{Error, Hint, Result, num};
use crate::codec::{Encode, codec};
use crate::format::shards::FileContent;
use crate::format::{Layout, Reader};
use crate::model::companion::Content as CompanionContent;
use crate::model::{DType, TensorInfo};
use crate::ops::body::Body;
use crate::ops::chunks::{self, Chunk};
use crate::ops::convert::loss::{self, Lossy, Lost};
use crate::ops::convert::plan::Plan;
use crate::ops::convert::quality::Sums;
use crate::ops::convert::report::ConvertReport;
use crate::ops::convert::types;
use crate::source::{self, Source};
use crate::view::output_model::OutputTensor;
use crate::write::output::{OutFile, Output, Target};

/// How many elements are decoded and encoded at a time by a thread, unless a single row has more. Part of what fixes the figures.
const CHUNK_ELEMENTS: u64 = 1 << 16;

/// How many bytes are copied at a time by a thread, when they stay as they are.
const COPY_BYTES: u64 = 16 << 20;

/// And when they are in no file as they stay: other byte order, computed.
const MAKE_BYTES: u64 = 1 << 20;

/// After how many bytes written the disk is set to work on them, so that the end need not wait for all of it.
const SYNC_BYTES: u64 = 128 << 20;

/// Told how many more bytes of tensors have been written.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// Writes what the plan says, and reports what was done.
///
/// # Errors
/// The input cannot be read or the output not written; with `strict`, values were lost. Then nothing is left behind.
pub fn run(reader: &Reader, plan: &Plan, progress: Progress<'_>) -> Result<ConvertReport> {
    if let Some(tensor) = &plan.lacks_imatrix {
        return Err(Error::argument("expected importance weights for a type of so few bits, found none")
            .in_tensor(tensor)
            .hint(Hint::GiveImportanceMatrix));
    }
    let mut report = ConvertReport::planned(reader, plan)?;
    report.dry_run = false;
    let companions = plan.companions.iter().map(|file| {
        Ok(match &file.content {
            CompanionContent::Copy(path) => Beside::File(source::open(path)?),
            CompanionContent::Bytes(bytes) => Beside::Bytes(bytes),
        })
    });
    let companions = companions.collect::<Result<Vec<_>>>()?;
    let mut targets: Vec<Target> =
        plan.companion_targets().into_iter().zip(&companions).map(|(path, content)| Target { path, bytes: content.len() }).collect();
    targets.extend(plan.files.iter().map(|file| Target { path: file.path.clone(), bytes: file.bytes() }));
    let mut output = Output::begin(targets, plan.force, &plan.inputs)?;
    output.read_back(plan.verify);
    for (index, content) in companions.iter().enumerate() {
        output.write(index, &content.bytes()?)?;
    }
    let mut all = Sums::default();
    for (index, file) in plan.files.iter().enumerate() {
        match &file.content {
            FileContent::Bytes(bytes) => output.write(companions.len() + index, bytes)?,
            FileContent::Tensors(range, layout) => {
                let mut out = output.create(companions.len() + index)?;
                out.append(&layout.header)?;
                out.reserve()?;
                let steps = plan.steps.get(range.clone()).unwrap_or_default();
                let outcomes = write_tensors(reader, plan, steps, layout, &out, progress)?;
                output.seal(out)?;
                for (row, outcome) in report.tensors[range.clone()].iter_mut().zip(outcomes) {
                    row.quality = outcome.sums.quality();
                    all.join(&outcome.sums);
                    report.lossy.extend(outcome.lossy(&row.name, &row.from));
                }
            }
        }
    }
    if let Some(lossy) = report.lossy.iter().find(|lossy| plan.strict && !lossy.exact) {
        return Err(lossy.strict());
    }
    let mut copied = companions.iter().filter_map(|file| match file {
        Beside::File(file) => Some(file),
        Beside::Bytes(_) => None,
    });
    let matrices = plan.imatrix.iter().map(|imatrix| imatrix.reader());
    std::iter::once(reader).chain(matrices).try_for_each(Reader::check_unchanged)?;
    copied.try_for_each(|file| file.check_unchanged())?;
    output.lock_names()?;
    plan.check_removed()?;
    output.supersede(plan.removed.clone());
    output.commit()?;
    report.verified = plan.verify;
    report.quality = all.quality();
    Ok(report)
}

/// What is in a file beside the weights.
enum Beside<'a> {
    File(Arc<dyn Source>),
    Bytes(&'a [u8]),
}

impl Beside<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::File(file) => file.len(),
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::File(file) => file.read(0..file.len()),
            Self::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
        }
    }
}

/// One tensor to be written.
struct Job<'a> {
    step: &'a OutputTensor,
    body: Body<'a>,
    how: How<'a>,
    /// Where it starts in the file.
    offset: u64,
    /// How many units there are, and how many make a piece: bytes that are copied, otherwise elements.
    units: u64,
    piece: u64,
    importance: Mutex<Importance>,
}

/// How a tensor is written.
#[derive(Clone, Copy)]
enum How<'a> {
    /// The bytes of a stored tensor, of whatever type.
    Copy(&'a TensorInfo),
    /// Bytes that are gathered.
    Gather(DType),
    /// Values, in another type.
    Encode { from: DType, to: DType, encode: Encode },
}

/// What came of a tensor.
#[derive(Debug, Clone, Copy, Default)]
struct Outcome {
    sums: Sums,
    lost: Lost,
    to: Option<DType>,
}

impl Outcome {
    fn join(&mut self, next: &Self) {
        self.sums.join(&next.sums);
        self.lost.join(next.lost);
    }

    fn lossy(&self, tensor: &str, from: &str) -> Vec<Lossy> {
        self.to.filter(|_| !self.lost.is_none()).map(|to| Lossy::lost(tensor, from, to, self.lost)).unwrap_or_default()
    }
}

/// The importance weights of a tensor, while pieces of it are being worked on.
#[derive(Debug, Default)]
struct Importance {
    weights: Option<Arc<Vec<f32>>>,
    /// Pieces not yet done.
    left: u64,
}

/// Writes the bodies of `steps` to their places, on all threads. What came of each, in order.
fn write_tensors(
    reader: &Reader,
    plan: &Plan,
    steps: &[OutputTensor],
    layout: &Layout,
    out: &OutFile,
    progress: Progress<'_>,
) -> Result<Vec<Outcome>> {
    let jobs = steps.iter().zip(&layout.offsets).map(|(step, offset)| Job::new(reader, step, *offset));
    let jobs = jobs.collect::<Result<Vec<_>>>()?;
    let counts: Vec<u64> = jobs.iter().map(Job::chunks).collect();
    let flusher = Flusher::default();
    let bytes: u64 = jobs.iter().map(|job| job.units).sum();
    let look = |buffers: &mut Buffers, chunk: Chunk| {
        flusher.check()?;
        let job = &jobs[chunk.item];
        let (outcome, bytes) = job.write(plan, reader, chunk.number, buffers, out).map_err(|error| error.in_tensor(&job.step.name))?;
        job.done();
        flusher.wrote(bytes);
        progress(bytes);
        Ok(outcome)
    };
    let outcomes = std::thread::scope(|scope| {
        if bytes > SYNC_BYTES {
            // Where the system refuses the thread, all is synced at the end.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || flusher.run(out));
        }
        let _end = EndOf(&flusher);
        chunks::in_order(&counts, look, |total: &mut Outcome, _, outcome| {
            total.join(&outcome);
            Ok(())
        })
    })?;
    flusher.check()?;
    Ok(jobs.iter().zip(outcomes).map(|(job, outcome)| Outcome { to: job.step.elem.known(), ..outcome }).collect())
}

/// Ends the flusher, whatever else happens.
struct EndOf<'a>(&'a Flusher);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).1 = true;
        self.0.changed.notify_one();
    }
}

/// Keeps the disk busy while the rest is computed.
#[derive(Default)]
struct Flusher {
    /// Bytes written since the last time, and whether that was all.
    state: Mutex<(u64, bool)>,
    changed: Condvar,
    failure: Mutex<Option<Error>>,
}

impl Flusher {
    fn wrote(&self, bytes: u64) {
        let mut state = lock(&self.state);
        state.0 += bytes;
        if state.0 >= SYNC_BYTES {
            self.changed.notify_one();
        }
    }

    /// Returns what the disk could not take.
    fn check(&self) -> Result<()> {
        lock(&self.failure).clone().map_or(Ok(()), Err)
    }

    fn run(&self, out: &OutFile) {
        loop {
            let mut state = lock(&self.state);
            while state.0 < SYNC_BYTES && !state.1 {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.1 {
                return; // the end of the file is synced with the whole
            }
            state.0 = 0;
            drop(state);
            if let Err(error) = out.sync_so_far() {
                *lock(&self.failure) = Some(error);
                return;
            }
        }
    }
}

/// What a thread works in.
#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    bytes: Vec<u8>,
    back: Vec<f32>,
}

impl<'a> Job<'a> {
    fn new(reader: &'a Reader, step: &'a OutputTensor, offset: u64) -> Result<Self> {
        let body = Body::new(reader, step)?;
        let how = how(step, &body).map_err(|error| error.in_tensor(&step.name))?;
        let (units, piece) = match how {
            How::Copy(tensor) => {
                let block = tensor.elem.known().map_or(1, |dtype| dtype.info().block_bytes);
                let in_file = reader.endian() == Endian::Little && !reader.is_computed(tensor);
                let bytes = if in_file { COPY_BYTES } else { MAKE_BYTES };
                (reader.len_bytes(tensor).unwrap_or(0), (bytes / block * block).max(block))
            }
            How::Gather(dtype) => (step.elements()?, whole_rows(step, dtype)),
            How::Encode { to, .. } => (step.elements()?, whole_rows(step, to)),
        };
        let left = units.div_ceil(piece.max(1));
        let importance = Mutex::new(Importance { weights: None, left });
        Ok(Self { step, body, how, offset, units, piece, importance })
    }

    fn chunks(&self) -> u64 {
        self.units.div_ceil(self.piece)
    }

    /// Writes the piece of this number. What came of it, and how many bytes were written.
    fn write(&self, plan: &Plan, reader: &Reader, number: u64, buffers: &mut Buffers, out: &OutFile) -> Result<(Outcome, u64)> {
        let start = number * self.piece;
        let len = self.piece.min(self.units - start);
        match self.how {
            How::Copy(tensor) => {
                let at = self.offset + start;
                let bytes = reader.bytes_at(tensor, start..start + len)?;
                match (&bytes, reader.sources().get(tensor.shard)) {
                    (Cow::Borrowed(bytes), Some(file)) => out.copy_at(at, &**file, tensor.offset_bytes + start, bytes)?,
                    _ => out.write_at(at, &bytes)?,
                }
                Ok((Outcome::default(), len))
            }
            How::Gather(dtype) => {
                let bytes = self.body.bytes(start, len)?;
                out.write_at(self.offset + dtype.bytes_for(start)?, &bytes)?;
                Ok((Outcome::default(), bytes.len() as u64))
            }
            How::Encode { from, to, encode } => {
                let Buffers { values, bytes, back } = buffers;
                values.resize(num::to_usize(len, "a piece of a tensor")?, 0.0);
                self.body.values(start, values)?;
                bytes.resize(num::to_usize(to.bytes_for(len)?, "a piece of a tensor")?, 0);
                self.encode(plan, to, encode, start, values, bytes)?;
                let mut outcome = Outcome::default();
                if to.is_quantised() && plan.quality {
                    back.resize(values.len(), 0.0);
                    if let Some(codec) = codec(to) {
                        (codec.decode)(bytes, back);
                        outcome.sums = Sums::of(values, back);
                    }
                } else if !to.is_quantised() && !loss::holds(to, from) {
                    outcome.lost = loss::count(values, to, bytes, back);
                }
                out.write_at(self.offset + to.bytes_for(start)?, bytes)?;
                Ok((outcome, bytes.len() as u64))
            }
        }
    }

    /// Encodes whole rows from element `start` on; or any elements, where the type stores each by itself.
    fn encode(&self, plan: &Plan, to: DType, encode: Encode, start: u64, values: &[f32], bytes: &mut [u8]) -> Result<()> {
        if !to.is_quantised() {
            encode(values, None, bytes);
            return Ok(());
        }
        let row = self.step.row_elements();
        if row == 0 {
            return Ok(());
        }
        let weights = self.importance(plan)?;
        let rows_of_matrix = self.step.shape.iter().rev().nth(1).copied().unwrap_or(1).max(1);
        let (row_len, row_bytes) = (row as usize, to.bytes_for(row)? as usize);
        for (i, (values, bytes)) in values.chunks_exact(row_len).zip(bytes.chunks_exact_mut(row_bytes)).enumerate() {
            let matrix = ((start / row + i as u64) / rows_of_matrix) as usize;
            let weights = weights.as_ref().and_then(|weights| weights.chunks_exact(row_len).nth(matrix));
            encode(values, weights, bytes);
        }
        Ok(())
    }

    /// The importance weights of the tensor, if there are any that fit.
    fn importance(&self, plan: &Plan) -> Result<Option<Arc<Vec<f32>>>> {
        let Some(imatrix) = &plan.imatrix else { return Ok(None) };
        if imatrix.weights_of(&self.step.name) != Some(types::importance_len(&self.step.shape)) {
            return Ok(None);
        }
        let mut importance = lock(&self.importance);
        if importance.weights.is_none() {
            importance.weights = imatrix.weights(&self.step.name)?.map(Arc::new);
        }
        Ok(importance.weights.clone())
    }

    /// One piece less: with the last one the importance weights go.
    fn done(&self) {
        let mut importance = lock(&self.importance);
        importance.left = importance.left.saturating_sub(1);
        if importance.left == 0 {
            importance.weights = None;
        }
    }
}

/// The least work that makes the tensor.
fn how<'a>(step: &OutputTensor, body: &Body<'a>) -> Result<How<'a>> {
    if body.elem() == step.elem {
        if let Some(tensor) = body.whole() {
            return Ok(How::Copy(tensor));
        }
        if let Some(dtype) = step.elem.known() {
            return Ok(How::Gather(dtype));
        }
    }
    let unwritable = || Error::unsupported(format!("expected a type that this build writes, found {}", step.elem));
    let (from, to) = body.elem().known().zip(step.elem.known()).ok_or_else(unwritable)?;
    let encode = codec(to).and_then(|codec| codec.encode).ok_or_else(unwritable)?;
    Ok(How::Encode { from, to, encode })
}

/// How many elements make a piece: whole rows, as many as fit; for types that store each element by itself, no more than fit.
fn whole_rows(step: &OutputTensor, dtype: DType) -> u64 {
    let row = step.row_elements().max(1);
    let fitting = CHUNK_ELEMENTS / row * row;
    match (fitting, dtype.is_quantised()) {
        (0, true) => row,
        (0, false) => CHUNK_ELEMENTS, // a multiple of every packed float's block
        (fitting, true) => fitting,
        (fitting, false) => fitting.next_multiple_of(dtype.info().block_elems),
    }
}
