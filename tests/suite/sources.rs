//! Models that come as bytes in memory, or by ranges, as over a network: the same as from files.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weigh::DType;
use weigh::base::finding::Findings;
use weigh::format::Reader;
use weigh::format::{examine_source, open_source, open_source_headers};
use weigh::model::{Array, Value};
use weigh::source::file::Input;
use weigh::source::{Data, InMemory, Source};

use crate::build::{Gguf, safetensors, tensor};

/// A file that is only read by ranges, and never twice: what was read, and how often.
#[derive(Debug)]
struct Ranges {
    file: Input,
    bytes: Vec<u8>,
    least_read: u64,
    reads: AtomicU64,
    moved: AtomicU64,
}

impl Ranges {
    fn new(path: &Path, least_read: u64) -> Arc<Self> {
        let (file, bytes) = (Input::of(path).unwrap(), fs::read(path).unwrap());
        Arc::new(Self { file, bytes, least_read, reads: AtomicU64::new(0), moved: AtomicU64::new(0) })
    }

    /// How often it was read, and how many bytes.
    fn seen(&self) -> (u64, u64) {
        (self.reads.load(Ordering::Relaxed), self.moved.load(Ordering::Relaxed))
    }
}

impl Source for Ranges {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, range: Range<u64>) -> weigh::Result<Data<'_>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.moved.fetch_add(range.end - range.start, Ordering::Relaxed);
        Ok(Data::Owned(self.bytes[range.start as usize..range.end as usize].to_vec()))
    }

    fn file(&self) -> Option<&Input> {
        Some(&self.file)
    }

    fn least_read(&self) -> u64 {
        self.least_read
    }
}

/// What a model has, as text that can be compared: NaN equals NaN.
fn shown(reader: &Reader) -> String {
    let value = |value: &Value| match value.as_array() {
        Some(array) => format!("{} {:?}", array.elem(), array.values().map_err(|error| error.to_string())),
        None => format!("{value:?}"),
    };
    let model = reader.model();
    let metadata: Vec<_> = model.metadata.iter().map(|(key, found)| (key, value(found))).collect();
    let lacks: Vec<_> = reader.lacks().iter().map(|finding| &finding.message).collect();
    format!("{:?} {:?} {metadata:?} {:?} {:?} {lacks:?}", model.format, (&model.shards, &model.tensors), model.config, reader.endian())
}

/// Reads a file that was judged once more, by ranges of a few bytes, and expects the same errors, findings and model.
pub(crate) fn judge_alike(path: &Path, opened: &weigh::Result<Reader>, findings: &Findings) {
    // What a folder stands for is looked for on the disk; and what is too long to be copied here is left out.
    if !fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() < 1 << 24)
        || weigh::format::resolve(path).ok().as_deref() != Some(path)
    {
        return;
    }
    let ranges = || Ranges::new(path, 1 + fs::metadata(path).unwrap().len() % 61);
    let text = |opened: &weigh::Result<Reader>| opened.as_ref().map(shown).map_err(|error| format!("{error:?}"));
    assert_eq!(text(&open_source(ranges())), text(opened));
    let mut found = Findings::collect();
    let examined = examine_source(ranges(), &mut found);
    assert_eq!(found.list(), findings.list());
    let again = weigh::format::examine(path, &mut Findings::collect());
    let text =
        |examined: weigh::Result<Option<Reader>>| examined.map(|reader| reader.as_ref().map(shown)).map_err(|error| format!("{error:?}"));
    assert_eq!(text(examined), text(again));
}

/// Every file of weights among the fixtures.
fn fixtures(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fixtures(&path, found);
        } else if path.extension().is_some_and(|extension| ["gguf", "safetensors", "dat"].iter().any(|known| extension == *known)) {
            found.push(path);
        }
    }
}

/// Where the data start: all before it is header.
fn header_bytes(reader: &Reader) -> u64 {
    reader.model().tensors.iter().map(|tensor| tensor.offset_bytes).min().unwrap_or(reader.model().shards[0].bytes)
}

/// Opens a file by ranges, and expects the model of the file, and few reads of few bytes.
fn opens_alike(path: &Path, most_reads: u64) {
    let mapped = weigh::format::open_headers(path).unwrap();
    let ranges = Ranges::new(path, 64 << 10);
    let reader = open_source_headers(ranges.clone()).unwrap();
    let (reads, moved) = ranges.seen();
    let header = header_bytes(&mapped);
    assert!(reads <= most_reads && moved <= header + header / 10 + (64 << 10), "{}: {reads} reads, {moved} of {header}", path.display());
    assert_eq!(shown(&reader), shown(&mapped), "{}", path.display());
    assert_eq!(ranges.seen(), (reads, moved), "arrays have the bytes that they were read from");
}

#[test]
fn fixtures_are_read_by_ranges_as_from_files() {
    let mut paths = Vec::new();
    fixtures(Path::new("fixtures"), &mut paths);
    assert!(paths.len() > 40, "{}", paths.len());
    for path in paths {
        opens_alike(&path, 2);
        let opened = weigh::format::open(&path);
        let mut findings = Findings::collect();
        weigh::format::examine(&path, &mut findings).unwrap();
        judge_alike(&path, &opened, &findings);
    }
}

#[test]
fn a_long_header_takes_few_reads_and_little_more_than_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    const TOKENS: u64 = 120_000;
    let mut gguf = Gguf::default().key_str("general.architecture", "llama");
    // Longer ones towards the end, as vocabularies have them.
    let text = |i: u64, each: u64| format!("{i:0width$}", width = (3 + i / each) as usize);
    let list = |count: u64, each: u64| (0..count).flat_map(|i| Gguf::default().text(text(i, each).as_bytes())).collect::<Vec<u8>>();
    let lists = [
        ("tokenizer.ggml.tokens", 8, list(TOKENS, 15_000), TOKENS),
        ("tokenizer.ggml.scores", 6, vec![0; TOKENS as usize * 4], TOKENS),
        ("tokenizer.ggml.token_type", 5, vec![0; TOKENS as usize * 4], TOKENS),
        ("tokenizer.ggml.merges", 8, list(TOKENS, 9_000), TOKENS),
    ];
    for (key, elem, bytes, count) in lists {
        gguf = gguf.clone().key(key, 9, gguf.array(elem, count, &bytes));
    }
    let gguf = (0..2_000).fold(gguf, |gguf, i| gguf.f32(&format!("blk.{i}.ffn_gate_inp.weight"), &[4]));
    let path = folder.path().join("long.gguf");
    fs::write(&path, gguf.build()).unwrap();
    opens_alike(&path, 9);

    let entry = |i: u64| format!(r#""model.layers.{i}.mlp.down_proj.weight":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1);
    let header = format!("{{{}}}", (0..5_000).map(entry).collect::<Vec<_>>().join(","));
    let path = folder.path().join("long.safetensors");
    fs::write(&path, safetensors(&header, &[0; 5_000])).unwrap();
    opens_alike(&path, 2);
}

#[test]
fn operations_read_sources_as_files() {
    let path = Path::new("fixtures/llama-tiny-q8_0.gguf");
    let mapped = weigh::format::open(path).unwrap();
    let memory = open_source(Arc::new(InMemory::new(path, fs::read(path).unwrap()))).unwrap();
    let ranges = open_source(Ranges::new(path, 4096)).unwrap();
    let said = |reader: &Reader| {
        let stats = weigh::ops::stats::stats(reader, &Default::default()).unwrap();
        let hash = weigh::ops::hash::hash(reader, &[weigh::ops::hash::Algorithm::Sha256], true).unwrap();
        let files = weigh::ops::hash::hash_sources(reader.sources(), weigh::ops::hash::Algorithm::Blake3).unwrap();
        serde_json::to_string(&(stats, hash, files)).unwrap()
    };
    assert_eq!(said(&memory), said(&mapped));
    assert_eq!(said(&ranges), said(&mapped));
}

#[test]
fn bytes_in_memory_are_borrowed_and_have_nothing_beside_them() {
    let folder = Path::new("fixtures/llama-tiny");
    let path = folder.join("model.safetensors");
    let bytes: Arc<[u8]> = fs::read(&path).unwrap().into();
    let reader = open_source(Arc::new(InMemory::new(&path, bytes.clone()))).unwrap();
    assert_eq!((reader.model().config.as_ref(), reader.inputs().count()), (None, 0), "the name is no path");
    assert!(weigh::format::open(&path).unwrap().model().config.is_some());
    let first = &reader.model().tensors[0];
    let found = reader.bytes(first).unwrap();
    assert!(matches!(found, Data::Borrowed(_)) && found.as_ptr() == bytes[first.offset_bytes as usize..].as_ptr());

    let index = InMemory::new("model.safetensors.index.json", r#"{"weight_map":{"a":"b.safetensors"}}"#);
    let error = open_source(Arc::new(index)).unwrap_err().to_string();
    assert_eq!(error, "model.safetensors.index.json: the index has no weight files next to it");

    let temporary = tempfile::tempdir().unwrap();
    let tensors: Vec<_> = (0..2).map(|i| tensor(&format!("w{i}"), DType::I8, &[64], vec![i; 64])).collect();
    for (id, error) in [("gguf", Some("1 of 2 files of the model is present")), ("safetensors", None)] {
        let path = temporary.path().join(format!("m.{id}"));
        let parts = crate::build::write(id, &path, &tensors, &weigh::model::Metadata::new(), Some(64));
        let part = parts.iter().find(|path| path.to_string_lossy().contains("-00001-of-00002")).unwrap();
        assert_eq!(weigh::format::open(part).unwrap().model().tensors.len(), 2);
        let source = || Arc::new(InMemory::new(part, fs::read(part).unwrap()));
        let opened = open_source(source());
        match error {
            Some(error) => assert!(opened.unwrap_err().to_string().contains(error), "a part alone"),
            None => assert_eq!(opened.unwrap().model().tensors.len(), 1, "a shard alone"),
        }
        let reader = open_source_headers(source()).unwrap();
        assert_eq!((reader.model().tensors.len(), reader.lacks().len()), (1, 1), "{id}");
    }
}

/// A source that gives fewer bytes than it was asked for.
#[derive(Debug)]
struct Short(Arc<Ranges>, u64);

impl Source for Short {
    fn path(&self) -> &Path {
        Path::new("short")
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read(&self, range: Range<u64>) -> weigh::Result<Data<'_>> {
        self.0.read(range.start..range.end.min(self.1).max(range.start))
    }
}

#[test]
fn a_source_that_returns_too_few_bytes_is_an_error() {
    let path = Path::new("fixtures/llama-tiny-q8_0.gguf");
    let whole = weigh::format::open(path).unwrap();
    let last = whole.model().tensors.iter().max_by_key(|tensor| tensor.offset_bytes).unwrap();
    let error = open_source(Arc::new(Short(Ranges::new(path, 4096), 100))).unwrap_err().to_string();
    assert_eq!(error, "short: byte 100: expected 65536 bytes, found 100");
    let reader = open_source(Arc::new(Short(Ranges::new(path, 4096), last.offset_bytes + 7))).unwrap();
    let error = reader.bytes(last).unwrap_err();
    let wanted = format!("expected {} bytes, found 7", last.len_bytes.unwrap());
    assert_eq!((error.offset(), error.message()), (Some(last.offset_bytes + 7), wanted.as_str()));
}

/// The start of a GGUF that claims to be very long, and cannot be read further.
#[derive(Debug)]
struct Endless(Vec<u8>);

impl Source for Endless {
    fn path(&self) -> &Path {
        Path::new("endless")
    }

    fn len(&self) -> u64 {
        1 << 50
    }

    fn read(&self, range: Range<u64>) -> weigh::Result<Data<'_>> {
        assert_eq!(range, 0..self.least_read());
        Ok(Data::Borrowed(&self.0))
    }
}

#[test]
fn a_header_past_the_limit_is_refused_before_it_is_read() {
    let base = Gguf::default();
    let mut start = base.clone().key("k", 9, base.array(0, 1 << 40, &[])).header();
    start.resize(64 << 10, 0);
    let error = open_source(Arc::new(Endless(start))).unwrap_err();
    assert_eq!(error.kind(), weigh::ErrorKind::Limit, "{error}");
}

#[test]
fn an_importance_matrix_is_read_by_ranges_as_from_a_file() {
    let number = |number: usize| (number as i32).to_le_bytes();
    let entry =
        |name: &str, values: usize| [&number(name.len())[..], name.as_bytes(), &number(4), &number(values), &vec![0; values * 4]].concat();
    let end = [&number(7)[..], &number(4), b"wiki"].concat();
    let bytes = [&number(2)[..], &entry("blk.0.attn_q.weight", 40), &entry("blk.0.ffn_up.weight", 3), &end].concat();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.dat");
    for len in 0..=bytes.len() {
        fs::write(&path, &bytes[..len]).unwrap();
        let error = crate::judge::judge_path(&path).1;
        assert_eq!(error.is_none(), [bytes.len(), bytes.len() - 8, bytes.len() - 12].contains(&len), "{len}");
    }
}

#[test]
fn strings_of_a_header_read_by_ranges_are_those_of_the_file() {
    let path = Path::new("fixtures/llama-tiny-q8_0.gguf");
    let tokens = |reader: &Reader| {
        let mut all = Vec::new();
        let array = reader.model().metadata.get("tokenizer.ggml.tokens").and_then(Value::as_array).unwrap();
        array
            .for_each_str(|_, token| {
                all.push(token.to_owned());
                Ok(())
            })
            .unwrap();
        (all, array.encoded_le().map(<[u8]>::to_vec), Array::values(array).unwrap().len())
    };
    assert_eq!(tokens(&open_source(Ranges::new(path, 1)).unwrap()), tokens(&weigh::format::open(path).unwrap()));
}
