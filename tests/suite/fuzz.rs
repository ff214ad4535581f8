//! The fuzz targets over their seeds, and over seeds changed in a fixed manner: they run here without libFuzzer (see `fuzz/run`).

#[path = "../fuzz/mod.rs"]
#[allow(unreachable_pub, dead_code)]
mod targets;

use targets::Target;

/// How many times each seed is changed.
const CHANGES: usize = 12;

/// A fixed sequence of numbers (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}

/// What fuzzers do: bytes set, taken out, put in, doubled; numbers that are large; a part of another seed.
fn changed(seed: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    const NUMBERS: [u64; 6] = [0, 1, 0xff, u32::MAX as u64, i64::MAX as u64, u64::MAX];
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        let end = (at + 1 + numbers.below(16)).min(bytes.len());
        match numbers.below(6) {
            0 if at < end => bytes[at] = numbers.below(256) as u8,
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, b"\0\"{}[],:9\xff"[numbers.below(10)]),
            3 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            4 => {
                let value = NUMBERS[numbers.below(NUMBERS.len())].to_le_bytes();
                bytes.splice(at..end.min(at + 8), value);
            }
            _ => {
                let from = numbers.below(other.len());
                bytes.splice(at..end, other[from..(from + 24).min(other.len())].to_vec());
            }
        }
    }
    bytes
}

fn smoke(target: &Target) {
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for seed in &seeds {
        (target.run)(seed);
        for _ in 0..CHANGES {
            let other = &seeds[numbers.below(seeds.len())];
            (target.run)(&changed(seed, other, &mut numbers));
        }
    }
}

macro_rules! smoke {
    ($($name:ident $target:ident),* $(,)?) => {
        $(#[test] fn $name() { smoke(&targets::$target); })*

        #[test]
        fn every_target_is_run() {
            assert_eq!(targets::TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), [$(stringify!($name)),*]);
        }
    };
}

smoke! {
    open_safetensors OPEN_SAFETENSORS,
    open_gguf OPEN_GGUF,
    open_index OPEN_INDEX,
    decode DECODE,
    encode ENCODE,
    tokenizer TOKENIZER,
    folder FOLDER,
    round_trip ROUND_TRIP,
    imatrix IMATRIX,
    convert_plan CONVERT_PLAN,
    edit EDIT,
    commands COMMANDS,
    safetensors_crate SAFETENSORS_CRATE,
    undo UNDO,
    pickle PICKLE,
    archive ARCHIVE,
}
