//! Executes a plan: streamed, on all threads, with the same bytes for any number of them.
//!
//! The layout fixes the position of every byte in advance, so the work is split into row chunks that any thread can write in place,
//! and no tensor is ever held in memory.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::base::bytes::Endian;
use crate::base::threads::lock;
use crate::base::{Error, Hint, Result, limits, num};
use crate::codec::{Encode, codec};
use crate::format::shards::FileContent;
use crate::format::{Layout, Reader};
use crate::model::companion::Content as CompanionContent;
use crate::model::{DType, TensorInfo};
use crate::ops::chunks::{self, Chunk, Chunks, Runs};
use crate::ops::convert::loss::{self, Loss, LossCounts};
use crate::ops::convert::pack;
use crate::ops::convert::plan::Plan;
use crate::ops::convert::quality::{self, Sums};
use crate::ops::convert::report::ConvertReport;
use crate::ops::convert::types;
use crate::ops::hash::{self, Algorithm};
use crate::ops::tensor_data::TensorData;
use crate::quant::pack::{Compare, Scratch, Weight, Whole};
use crate::quant::recipe;
use crate::source::{self, Data, Source};
use crate::view::output_model::{OutputTensor, PackedPart};
use crate::write::output::{OutFile, Output, Target};

/// Number of elements that a thread decodes and encodes at a time, unless a row is longer. Error metrics depend on it.
const CHUNK_ELEMENTS: u64 = 1 << 16;

/// Number of bytes that a thread copies at a time, from file to file.
const COPY_BYTES: u64 = 16 << 20;

/// Number of bytes that a thread copies at a time through memory (byte-swapped, computed or remote tensors).
const BUFFERED_BYTES: u64 = 1 << 20;

/// Number of bytes written before they are synced in the background, which shortens the final sync.
const SYNC_BYTES: u64 = 128 << 20;

/// Progress callback: called with the number of bytes written since the last call.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// Executes the plan, and reports the result.
///
/// # Errors
/// The input cannot be read or the output cannot be written; with `strict`, values were lost. Nothing is left behind then.
pub fn run(reader: &Reader, plan: &Plan, progress: Progress<'_>) -> Result<ConvertReport> {
    check_importance(plan)?;
    let mut report = ConvertReport::planned(reader, plan)?;
    report.dry_run = false;
    let companions = plan.companions.iter().map(|file| {
        Ok(match &file.content {
            CompanionContent::Copy(path) => CompanionData::File(source::open(path)?),
            CompanionContent::Bytes(bytes) => CompanionData::Bytes(bytes),
        })
    });
    let companions = companions.collect::<Result<Vec<_>>>()?;
    let mut targets: Vec<Target> =
        plan.companion_targets().into_iter().zip(&companions).map(|(path, content)| Target { path, bytes: content.len() }).collect();
    targets.extend(plan.files.iter().map(|file| Target { path: file.path.clone(), bytes: file.bytes() }));
    let files = targets.len();
    if let Some(part) = &plan.part {
        let bytes = part.manifest_bytes(&targets, &[])?.len() as u64;
        targets.push(Target { path: part.manifest.clone(), bytes });
    }
    let mut output = Output::begin(targets, plan.force, &plan.inputs)?;
    output.read_back(plan.verify);
    let mut digests = Vec::new();
    let mut finish = |output: &mut Output, index| {
        if plan.part.is_some() {
            let digest = hash::hash_sources(&[output.open_written(index)?], Algorithm::Blake3)?;
            digests.extend(digest.files.into_iter().map(|file| file.hash));
        }
        output.upload(index)
    };
    for (index, content) in companions.iter().enumerate() {
        output.write(index, &content.bytes()?)?;
        finish(&mut output, index)?;
    }
    let wholes = pack::measure(reader, &plan.wholes, plan.written())?;
    let mut outcomes = Vec::new();
    for (index, file) in (companions.len()..).zip(&plan.files) {
        match &file.content {
            FileContent::Bytes(bytes) => output.write(index, bytes)?,
            FileContent::Tensors(range, layout) => {
                let mut out = output.create(index)?;
                out.append(&layout.header)?;
                out.reserve()?;
                let tensors = plan.tensors.get(range.clone()).unwrap_or_default();
                outcomes.extend(write_tensors(reader, plan, &wholes, tensors, layout, Some(&out), progress)?);
                output.seal(out)?;
            }
        }
        finish(&mut output, index)?;
    }
    add_outcomes(&mut report, outcomes);
    if let Some(loss) = report.lossy.iter().find(|loss| plan.strict && !loss.exact) {
        return Err(loss.to_error());
    }
    let mut copied = companions.iter().filter_map(|file| match file {
        CompanionData::File(file) => Some(file),
        CompanionData::Bytes(_) => None,
    });
    let matrices = plan.imatrix.iter().map(|imatrix| imatrix.reader());
    std::iter::once(reader).chain(matrices).try_for_each(Reader::check_unchanged)?;
    copied.try_for_each(|file| file.check_unchanged())?;
    if let Some(part) = &plan.part {
        let manifest = part.manifest_bytes(&output.targets()[..files], &digests)?;
        output.write(files, &manifest)?;
    }
    output.lock_names()?;
    plan.check_removed()?;
    output.supersede(plan.removed.clone());
    output.commit()?;
    report.verified = plan.verify;
    Ok(report)
}

/// Reports what executing the plan gives, losses and quantisation errors included, without writing anything.
///
/// # Errors
/// As for [`run`], except those of writing.
pub fn measure(reader: &Reader, plan: &Plan, progress: Progress<'_>) -> Result<ConvertReport> {
    check_importance(plan)?;
    let mut report = ConvertReport::planned(reader, plan)?;
    let wholes = pack::measure(reader, &plan.wholes, plan.written())?;
    let mut outcomes = Vec::new();
    for file in &plan.files {
        if let FileContent::Tensors(range, layout) = &file.content {
            let tensors = plan.tensors.get(range.clone()).unwrap_or_default();
            outcomes.extend(write_tensors(reader, plan, &wholes, tensors, layout, None, progress)?);
        }
    }
    add_outcomes(&mut report, outcomes);
    Ok(report)
}

/// Checks that the types that need importance weights have them.
fn check_importance(plan: &Plan) -> Result<()> {
    match &plan.lacks_imatrix {
        Some(tensor) => {
            let error = Error::argument("a type with so few bits needs an importance matrix").in_tensor(tensor);
            Err(error.hint(Hint::GiveImportanceMatrix))
        }
        None => Ok(()),
    }
}

/// Adds errors and losses to the rows of the tensors, in their order.
fn add_outcomes(report: &mut ConvertReport, outcomes: Vec<Outcome>) {
    let (mut all, mut loss) = (Sums::default(), Some(0.0));
    for (outcome, row) in outcomes.into_iter().zip(&mut report.tensors) {
        row.quality = outcome.sums.quality();
        if row.quality.is_some() {
            row.output_error = quality::output_error(outcome.weighted);
            loss = loss.zip(row.output_error).map(|(loss, error)| loss + recipe::sensitivity(&row.name) * error);
        }
        all.merge(&outcome.sums);
        report.lossy.extend(outcome.losses(&row.name, &row.from));
    }
    report.quality = all.quality();
    report.loss = loss.filter(|_| report.quality.is_some());
}

/// Content of a companion file.
enum CompanionData<'a> {
    File(Arc<dyn Source>),
    Bytes(&'a [u8]),
}

impl CompanionData<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::File(file) => file.len(),
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    fn bytes(&self) -> Result<Data<'_>> {
        match self {
            Self::File(file) => file.read(0..file.len()),
            Self::Bytes(bytes) => Ok(Data::Borrowed(bytes)),
        }
    }
}

/// A tensor to write.
struct Job<'a> {
    tensor: &'a OutputTensor,
    data: TensorData<'a>,
    mode: WriteMode<'a>,
    /// Position in the file.
    offset: u64,
    /// Number of units in all and per chunk: bytes when copying, otherwise elements.
    units: u64,
    chunk_len: u64,
    /// Number of bytes that are read for a chunk.
    chunk_bytes: u64,
    importance: Mutex<Importance>,
}

/// The way a tensor is written.
#[derive(Clone, Copy)]
enum WriteMode<'a> {
    /// Copies the bytes of a stored tensor of any type.
    Copy(&'a TensorInfo),
    /// Gathers rows of the same type.
    Gather(DType),
    /// Decodes, transforms and encodes values.
    Encode { from: DType, to: DType, encode: Encode },
    /// Packs rows of a weight.
    Pack(&'a PackedPart, Weight),
}

/// The result of writing a tensor, or a chunk of it.
#[derive(Debug, Clone, Copy, Default)]
struct Outcome {
    sums: Sums,
    /// Sums of squares of the differences and of the values before, weighted by importance if there is any.
    weighted: [f64; 2],
    lost: LossCounts,
    to: Option<DType>,
}

impl Outcome {
    fn merge(&mut self, next: &Self) {
        self.sums.merge(&next.sums);
        self.weighted = [self.weighted[0] + next.weighted[0], self.weighted[1] + next.weighted[1]];
        self.lost.merge(next.lost);
    }

    fn losses(&self, tensor: &str, from: &str) -> Vec<Loss> {
        self.to.filter(|_| !self.lost.is_empty()).map(|to| Loss::from_counts(tensor, from, to, self.lost)).unwrap_or_default()
    }
}

/// Importance weights of a tensor, kept while its chunks are being written.
#[derive(Debug, Default)]
struct Importance {
    weights: Option<Arc<Vec<f32>>>,
    /// Number of chunks not yet written.
    remaining: u64,
}

/// Writes the data of `tensors` to their positions, on all threads; without a file, only encodes them. Returns one outcome per tensor.
fn write_tensors(
    reader: &Reader,
    plan: &Plan,
    wholes: &[Whole],
    tensors: &[OutputTensor],
    layout: &Layout,
    out: Option<&OutFile>,
    progress: Progress<'_>,
) -> Result<Vec<Outcome>> {
    let jobs = tensors.iter().zip(&layout.offsets).map(|(tensor, offset)| Job::new(reader, wholes, tensor, *offset));
    let jobs = jobs.collect::<Result<Vec<_>>>()?;
    let items: Vec<Chunks> = jobs.iter().map(|job| Chunks { count: job.chunks(), bytes: job.chunk_bytes }).collect();
    // A thread converts what it receives.
    let runs = Runs::new(&items, reader.block_bytes().unwrap_or(0));
    announce(reader, &jobs, &runs);
    let flusher = Flusher::default();
    let bytes: u64 = jobs.iter().map(|job| job.units).sum();
    let process = |buffers: &mut Buffers, chunk: Chunk| {
        flusher.check()?;
        let job = &jobs[chunk.item];
        let (outcome, bytes) = job.write(plan, reader, chunk.number, buffers, out).map_err(|error| error.in_tensor(&job.tensor.name))?;
        job.finish_chunk();
        flusher.add_written(bytes);
        progress(bytes);
        Ok(outcome)
    };
    let outcomes = std::thread::scope(|scope| {
        if let Some(out) = out.filter(|_| bytes > SYNC_BYTES) {
            // If the thread cannot be spawned, everything is synced at the end.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || flusher.run(out));
        }
        let _end = StopOnDrop(&flusher);
        chunks::in_runs(runs, process, |total: &mut Outcome, _, outcome| {
            total.merge(&outcome);
            Ok(())
        })
    })?;
    flusher.check()?;
    Ok(jobs.iter().zip(outcomes).map(|(job, outcome)| Outcome { to: job.tensor.elem.known(), ..outcome }).collect())
}

/// Announces what will be read of remote files, divided as the work is.
fn announce(reader: &Reader, jobs: &[Job<'_>], runs: &Runs<'_>) {
    if reader.block_bytes().is_none() {
        return;
    }
    let stored = jobs.iter().map(|job| job.data.stored_tensor().filter(|tensor| !reader.is_computed(tensor)));
    let stored: Vec<Option<&TensorInfo>> = stored.collect();
    reader.announce(jobs.iter().zip(&stored).filter(|(_, stored)| stored.is_none()).flat_map(|(job, _)| job.data.inputs()));
    let mut ranges: Vec<Vec<Range<u64>>> = vec![Vec::new(); reader.sources().len()];
    for run in runs.clone() {
        let mut last = None;
        for (index, numbers) in run {
            let (Some(job), Some(Some(tensor))) = (jobs.get(index), stored.get(index)) else { continue };
            let Some(ranges) = ranges.get_mut(tensor.shard) else { continue };
            let len = reader.len_bytes(tensor).unwrap_or(0);
            let at = |number: u64| tensor.offset_bytes.saturating_add(number.saturating_mul(job.chunk_bytes).min(len));
            let part = at(numbers.start)..at(numbers.end);
            match ranges.last_mut() {
                Some(before) if last == Some(tensor.shard) && (before.end..=before.end + limits::GAP_BYTES).contains(&part.start) => {
                    before.end = part.end;
                }
                _ => ranges.push(part),
            }
            last = Some(tensor.shard);
        }
    }
    reader.announce_ranges(&ranges);
}

/// Stops the flusher thread on drop.
struct StopOnDrop<'a>(&'a Flusher);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).1 = true;
        self.0.changed.notify_one();
    }
}

/// Syncs written data in the background while the conversion continues.
#[derive(Default)]
struct Flusher {
    /// Bytes written since the last sync, and whether writing has finished.
    state: Mutex<(u64, bool)>,
    changed: Condvar,
    failure: Mutex<Option<Error>>,
}

impl Flusher {
    fn add_written(&self, bytes: u64) {
        let mut state = lock(&self.state);
        state.0 += bytes;
        if state.0 >= SYNC_BYTES {
            self.changed.notify_one();
        }
    }

    /// Returns the error of a failed sync.
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
                return; // the rest is synced with the whole file
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

/// Buffers of a thread.
#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    bytes: Vec<u8>,
    decoded: Vec<f32>,
    scratch: Scratch,
}

impl<'a> Job<'a> {
    fn new(reader: &'a Reader, wholes: &[Whole], tensor: &'a OutputTensor, offset: u64) -> Result<Self> {
        let data = TensorData::new(reader, tensor)?;
        let mode = match tensor.packed() {
            Some(packed) => WriteMode::Pack(packed, pack::weight(packed, wholes)),
            None => write_mode(tensor, &data).map_err(|error| error.in_tensor(&tensor.name))?,
        };
        let (units, chunk_len) = match mode {
            WriteMode::Copy(stored) => {
                let block = stored.elem.known().map_or(1, |dtype| dtype.info().block_bytes);
                let in_file = reader.endian() == Endian::Little && !reader.is_computed(stored) && !reader.is_remote();
                let bytes = if in_file { COPY_BYTES } else { BUFFERED_BYTES };
                (reader.len_bytes(stored).unwrap_or(0), (bytes / block * block).max(block))
            }
            WriteMode::Gather(dtype) => (tensor.elements()?, chunk_elements(tensor, dtype)),
            WriteMode::Encode { to, .. } => (tensor.elements()?, chunk_elements(tensor, to)),
            WriteMode::Pack(packed, weight) => {
                let band = weight.band(packed.part);
                (weight.rows, (CHUNK_ELEMENTS / weight.columns.max(1) / band).max(1).saturating_mul(band))
            }
        };
        let chunk_bytes = match mode {
            WriteMode::Copy(_) => chunk_len,
            WriteMode::Pack(_, weight) => data.bytes_for(chunk_len.saturating_mul(weight.columns)),
            WriteMode::Gather(_) | WriteMode::Encode { .. } => data.bytes_for(chunk_len),
        };
        let remaining = units.div_ceil(chunk_len.max(1));
        let importance = Mutex::new(Importance { weights: None, remaining });
        Ok(Self { tensor, data, mode, offset, units, chunk_len, chunk_bytes, importance })
    }

    fn chunks(&self) -> u64 {
        self.units.div_ceil(self.chunk_len)
    }

    /// Writes one chunk. Returns its outcome and the number of bytes written.
    fn write(&self, plan: &Plan, reader: &Reader, number: u64, buffers: &mut Buffers, out: Option<&OutFile>) -> Result<(Outcome, u64)> {
        let start = number * self.chunk_len;
        let len = self.chunk_len.min(self.units - start);
        match self.mode {
            WriteMode::Copy(stored) => {
                let Some(out) = out else { return Ok((Outcome::default(), len)) };
                let at = self.offset + start;
                let bytes = reader.bytes_at(stored, start..start + len)?;
                match (&bytes, reader.sources().get(stored.shard)) {
                    (Data::Borrowed(bytes), Some(file)) => out.copy_at(at, &**file, stored.offset_bytes + start, bytes)?,
                    _ => out.write_at(at, &bytes)?,
                }
                Ok((Outcome::default(), len))
            }
            WriteMode::Gather(dtype) => {
                let Some(out) = out else { return Ok((Outcome::default(), dtype.bytes_for(len)?)) };
                let bytes = self.data.bytes(start, len)?;
                out.write_at(self.offset + dtype.bytes_for(start)?, &bytes)?;
                Ok((Outcome::default(), bytes.len() as u64))
            }
            WriteMode::Pack(packed, weight) => {
                let Buffers { bytes, scratch, .. } = buffers;
                bytes.clear();
                let mut outcome = Outcome::default();
                let columns = weight.columns;
                let read = |row: u64, values: &mut [f32]| self.data.values(num::mul(row, columns, "a position")?, values);
                let mut compare = |old: &[f32], new: &[f32]| outcome.sums.merge(&Sums::of(old, new));
                let compare: Option<Compare<'_>> = if plan.quality { Some(&mut compare) } else { None };
                weight.encode(packed.part, start..start + len, &read, scratch, bytes, compare)?;
                if let Some(out) = out {
                    out.write_at(num::add(self.offset, weight.offset(packed.part, start)?, "a position")?, bytes)?;
                }
                Ok((outcome, bytes.len() as u64))
            }
            WriteMode::Encode { from, to, encode } => {
                let Buffers { values, bytes, decoded, .. } = buffers;
                values.resize(num::to_usize(len, "a chunk of a tensor")?, 0.0);
                self.data.values(start, values)?;
                bytes.resize(num::to_usize(to.bytes_for(len)?, "a chunk of a tensor")?, 0);
                self.encode(plan, to, encode, start, values, bytes)?;
                let mut outcome = Outcome::default();
                if to.is_quantised() && plan.quality {
                    decoded.resize(values.len(), 0.0);
                    if let Some(codec) = codec(to) {
                        (codec.decode)(bytes, decoded);
                        outcome.sums = Sums::of(values, decoded);
                        outcome.weighted = self.weighted(plan, start, values, decoded)?.unwrap_or(outcome.sums.squares());
                    }
                } else if !to.is_quantised() && !loss::holds(to, from) {
                    outcome.lost = loss::count(values, to, bytes, decoded);
                }
                if let Some(out) = out {
                    out.write_at(self.offset + to.bytes_for(start)?, bytes)?;
                }
                Ok((outcome, bytes.len() as u64))
            }
        }
    }

    /// Encodes whole rows starting at element `start`; or any elements of a type that stores each element by itself.
    fn encode(&self, plan: &Plan, to: DType, encode: Encode, start: u64, values: &[f32], bytes: &mut [u8]) -> Result<()> {
        if !to.is_quantised() {
            encode(values, None, bytes);
            return Ok(());
        }
        let row = self.tensor.row_elements();
        if row == 0 {
            return Ok(());
        }
        let weights = self.importance(plan)?;
        let (row_len, row_bytes) = (row as usize, to.bytes_for(row)? as usize);
        for (i, (values, bytes)) in values.chunks_exact(row_len).zip(bytes.chunks_exact_mut(row_bytes)).enumerate() {
            let weights =
                weights.as_deref().and_then(|weights| types::importance_of_row(weights, &self.tensor.shape, start / row + i as u64));
            encode(values, weights, bytes);
        }
        Ok(())
    }

    /// Returns the weighted sums of squares of whole rows starting at element `start`; `None` without importance weights.
    fn weighted(&self, plan: &Plan, start: u64, old: &[f32], new: &[f32]) -> Result<Option<[f64; 2]>> {
        let Some(weights) = self.importance(plan)? else { return Ok(None) };
        let row = self.tensor.row_elements().max(1);
        let mut sums = [0.0; 2];
        for (i, (old, new)) in old.chunks_exact(row as usize).zip(new.chunks_exact(row as usize)).enumerate() {
            if let Some(weights) = types::importance_of_row(&weights, &self.tensor.shape, start / row + i as u64) {
                let part = quality::weighted_squares(old, new, weights);
                sums = [sums[0] + part[0], sums[1] + part[1]];
            }
        }
        Ok(Some(sums))
    }

    /// Returns the importance weights of the tensor, if there are any of the right size.
    fn importance(&self, plan: &Plan) -> Result<Option<Arc<Vec<f32>>>> {
        let Some(imatrix) = &plan.imatrix else { return Ok(None) };
        if imatrix.weights_of(&self.tensor.name) != Some(types::importance_len(&self.tensor.shape)) {
            return Ok(None);
        }
        let mut importance = lock(&self.importance);
        if importance.weights.is_none() {
            importance.weights = imatrix.weights(&self.tensor.name)?.map(Arc::new);
        }
        Ok(importance.weights.clone())
    }

    /// Marks one chunk done; frees the importance weights after the last.
    fn finish_chunk(&self) {
        let mut importance = lock(&self.importance);
        importance.remaining = importance.remaining.saturating_sub(1);
        if importance.remaining == 0 {
            importance.weights = None;
        }
    }
}

/// Picks the cheapest way to write the tensor: copy, gather, or re-encode.
fn write_mode<'a>(tensor: &OutputTensor, data: &TensorData<'a>) -> Result<WriteMode<'a>> {
    if data.elem() == tensor.elem {
        if let Some(stored) = data.stored_tensor() {
            return Ok(WriteMode::Copy(stored));
        }
        if let Some(dtype) = tensor.elem.known() {
            return Ok(WriteMode::Gather(dtype));
        }
    }
    let unwritable = || Error::unsupported(format!("this build cannot encode {}", tensor.elem));
    let (from, to) = data.elem().known().zip(tensor.elem.known()).ok_or_else(unwritable)?;
    let encode = codec(to).and_then(|codec| codec.encode).ok_or_else(unwritable)?;
    Ok(WriteMode::Encode { from, to, encode })
}

/// Returns the number of elements per chunk: as many whole rows as fit. Longer rows are split unless the type has blocks.
fn chunk_elements(tensor: &OutputTensor, dtype: DType) -> u64 {
    let row = tensor.row_elements().max(1);
    let fitting = CHUNK_ELEMENTS / row * row;
    match (fitting, dtype.is_quantised()) {
        (0, true) => row,
        (0, false) => CHUNK_ELEMENTS, // a multiple of every packed float's block
        (fitting, true) => fitting,
        (fitting, false) => fitting.next_multiple_of(dtype.info().block_elems),
    }
}
