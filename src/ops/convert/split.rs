//! Splits a plan into parts of whole output files, so that several machines can write one model without communication.
//!
//! Each machine makes the same plan, writes the files of its part, and last a manifest with their digests and the hash of the plan.
//! [`join`](crate::ops::convert::join()) checks the manifests and completes the output.

use crate::base::{Error, Hint, Result};
use crate::format::Reader;
use crate::format::shards::{self, FileContent, PlannedFile};
use crate::model::companion::Content;
use crate::ops::convert::manifest::{Index, Manifest, PlannedPart, Written, digest, relative};
use crate::ops::convert::options::Options;
use crate::ops::convert::plan::Plan;
use crate::ops::identity::Identity;
use crate::ops::part::{Part, owners};
use crate::source::file::parent;
use crate::source::{self, place};

/// Reduces a whole plan to one of its parts. Part 1 also has the companion files; the index is for
/// [`join`](crate::ops::convert::join()).
///
/// # Errors
/// The output is not split, or its folder already holds another model or parts of another plan.
pub(super) fn reduce(plan: &mut Plan, part: Part, reader: &Reader, options: &Options) -> Result<()> {
    if options.shard_bytes.is_none() {
        let message = "a part is whole files of the output, so the output must be split";
        return Err(Error::argument(message).in_file(&plan.out).hint(Hint::Split));
    }
    let is_weights = |file: &PlannedFile| matches!(file.content, FileContent::Tensors(..));
    let planned = PlannedPart {
        part,
        plan: plan_hash(reader, plan)?,
        shards: plan.files.iter().filter(|file| is_weights(file)).count(),
        format: plan.format.id.name(),
        manifest: Manifest::path(&plan.weights, part),
        index: index(plan)?,
    };
    check_folder(&planned, plan)?;
    let work: Vec<u64> = plan.files.iter().map(|file| if is_weights(file) { work(reader, plan, file) } else { 0 }).collect();
    let mut owners = owners(&work, part.count).into_iter();
    plan.files.retain(|file| owners.next() == Some(part.number - 1) && is_weights(file));
    if part.number > 1 {
        plan.companions.clear();
    }
    plan.part = Some(planned);
    Ok(())
}

/// Checks that nothing else is where the parts go: only files of this plan, under their names, may be.
fn check_folder(planned: &PlannedPart, plan: &Plan) -> Result<()> {
    let manifests = Manifest::find(&plan.weights)?;
    for path in &manifests {
        let same = |found: &Manifest| found.plan == planned.plan && found.parts == planned.part.count;
        if let Some(found) = Manifest::read(path).ok().filter(|found| !same(found)) {
            let error = Error::argument(format!("this is part {} of another plan", found.of())).in_file(path);
            return Err(error.hint("give every part the same input, options and version; or remove the parts of the other plan"));
        }
    }
    // A finished model has its index; or all its files, and no manifest.
    let index = planned.index.iter().map(|index| parent(&plan.weights).join(&index.file.name)).filter(|path| place::is_file(path));
    let is_finished = manifests.is_empty() && plan.files.iter().all(|file| place::is_file(&file.path));
    let all = plan.files.iter().map(|file| file.path.clone()).filter(|_| is_finished);
    let others = shards::older(plan.format, &plan.weights, &plan.files)?;
    match index.chain(others).chain(all).next() {
        None => Ok(()),
        Some(path) => {
            let error = Error::argument("a model already exists here, which parts do not replace").in_file(&path);
            Err(error.hint("remove it, or write to another place"))
        }
    }
}

/// Returns the index of the plan.
fn index(plan: &Plan) -> Result<Option<Index>> {
    let Some((file, bytes)) = plan.files.iter().find_map(|file| match &file.content {
        FileContent::Bytes(bytes) => Some((file, bytes)),
        FileContent::Tensors(..) => None,
    }) else {
        return Ok(None);
    };
    let beside = |other: &&PlannedFile| other.path != file.path && other.path.parent() == file.path.parent();
    let shards = plan.files.iter().filter(beside).map(|file| relative(&plan.weights, &file.path)).collect::<Result<_>>()?;
    Ok(Some(Index { file: Written { name: relative(&plan.weights, &file.path)?, bytes: file.bytes(), blake3: digest(bytes) }, shards }))
}

/// Returns the work of writing a file, in bytes read and written.
fn work(reader: &Reader, plan: &Plan, file: &PlannedFile) -> u64 {
    let FileContent::Tensors(range, _) = &file.content else { return 0 };
    let tensors = plan.tensors.get(range.clone()).unwrap_or_default();
    let sources = tensors.iter().flat_map(|tensor| tensor.tensors()).filter_map(|index| reader.model().tensors.get(index));
    sources.map(|tensor| reader.stored_size(tensor)).fold(file.bytes(), u64::saturating_add)
}

/// Hashes everything that determines the bytes of the output: the version of weigh, the headers and sizes of the input, the content of
/// the files beside it and of the importance matrix, and the plan, to which the options have led.
fn plan_hash(reader: &Reader, plan: &Plan) -> Result<String> {
    let mut hash = Identity::of(reader)?;
    hash.field(plan.format.id.name().as_bytes());
    for source in plan.imatrix.iter().flat_map(|imatrix| imatrix.reader().sources()) {
        hash.whole(&**source)?;
    }
    for tensor in &plan.tensors {
        hash.field(format!("{tensor:?}").as_bytes());
    }
    for file in &plan.files {
        hash.field(relative(&plan.weights, &file.path)?.as_bytes());
        match &file.content {
            FileContent::Bytes(bytes) => hash.field(bytes),
            FileContent::Tensors(range, layout) => {
                hash.field(&layout.header);
                hash.field(format!("{range:?} {:?} {}", layout.offsets, layout.total).as_bytes());
            }
        }
    }
    for file in &plan.companions {
        hash.field(file.name.as_bytes());
        match &file.content {
            Content::Bytes(bytes) => hash.field(bytes),
            Content::Copy(path) => hash.whole(&*source::open(path)?)?,
        }
    }
    Ok(hash.finish())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Runs each part with the instructions of another processor. One thread, for the choice is a thread's.
    #[test]
    fn parts_of_different_processors_are_those_of_one() {
        let folder = tempfile::tempdir().unwrap();
        let input = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/llama-tiny");
        let run = |out: &str, part: Option<Part>| {
            let target = Some("Q4_K_M".parse().unwrap());
            let options = Options { target, shard_bytes: Some(20_000), ..Options::default() };
            let model = crate::format::open(&input).unwrap();
            let out = folder.path().join(out);
            std::fs::create_dir_all(out.parent().unwrap()).unwrap();
            let (reader, plan) = crate::ops::convert::prepare(model, Vec::new(), &out, &options, part).unwrap();
            crate::ops::convert::run(&reader, &plan, &|_| {}).unwrap().output
        };
        let whole = run("whole/m.gguf", None);
        crate::base::threads::on_one_thread(|| {
            let mut number = 0;
            while number < 5 {
                crate::codec::simd::on_each_level(|_| {
                    if number < 5 {
                        number += 1;
                        run("parts/m.gguf", Some(Part::new(number, 5).unwrap()));
                    }
                });
            }
        });
        let joined = crate::ops::convert::join(&folder.path().join("parts/m.gguf"), false, &|_, _| {}).unwrap();
        assert_eq!(joined.output.len(), whole.len());
        for (part, whole) in joined.output.iter().zip(&whole) {
            assert!(std::fs::read(part).unwrap() == std::fs::read(whole).unwrap(), "{}", part.display());
        }
    }
}
