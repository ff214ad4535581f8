//! Any model: a conversion is planned or refused, and what a plan that is carried out writes opens again.

use std::fs;

use weigh::ops::convert::{self, Options, Plan};
use weigh::quant::recipe::Target as Types;

use super::round_trip::made;
use super::{Target, file, fixture, fixtures, folder};

/// The first byte picks the output, the second the types, the rest is a model as `round_trip` has it.
pub const CONVERT_PLAN: Target = Target { name: "convert_plan", run, seeds };

const TYPES: [&str; 15] =
    ["", "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "Q4_K_M", "Q6_K", "Q2_K", "IQ4_XS", "TQ1_0", "MXFP4", "I32", "F8_E4M3"];
const OUTPUTS: [&str; 4] = ["out.gguf", "out.safetensors", "out/", "same.gguf"];

fn run(data: &[u8]) {
    let [output, types, rest @ ..] = data else { return };
    let Some(bytes) = made(rest) else { return };
    let folder = folder();
    let Ok(reader) = weigh::format::open(&file(&folder, "model", &bytes)) else { return };
    let out = folder.join(OUTPUTS[usize::from(output & 3)]);
    let flag = |bit: u8| output >> bit & 1 == 1;
    let options = Options {
        target: TYPES[usize::from(*types) % TYPES.len()].parse::<Types>().ok(),
        pure: flag(2),
        allow_requantize: !flag(3),
        keep_names: flag(4),
        shard_bytes: flag(5).then_some(256),
        no_quality: flag(6),
        leave_output_tensor: flag(7),
        force: true,
        ..Options::default()
    };
    let Ok(plan) = Plan::new(&reader, &out, &options) else { return };
    // Most plans need no carrying out to be judged, and it costs much more.
    if plan.bytes_out() > 4096 || !types.is_multiple_of(16) {
        return;
    }
    let Ok(report) = convert::run(&reader, &plan, &|_| {}) else { return };
    let first = plan.files.first().map_or(out.as_path(), |file| &file.path);
    let written = weigh::format::open(first).expect("what is written opens");
    assert_eq!(written.model().tensors.len(), report.tensors.len());
    for path in plan.files.iter().map(|file| &file.path) {
        fs::remove_file(path).expect("it was written");
    }
    let _ = fs::remove_dir_all(folder.join("out"));
}

fn seeds() -> Vec<Vec<u8>> {
    let models = super::round_trip::seeds();
    let mut seeds: Vec<Vec<u8>> = (0u8..).zip(models).map(|(i, model)| [vec![i, i.wrapping_mul(16)], model].concat()).collect();
    for (i, gguf) in (0u8..).zip(fixtures(".gguf").into_iter().filter(|file| file.len() < 16 << 10)) {
        seeds.push([vec![2, i, 0], gguf].concat());
    }
    let adapter = fs::read(fixture("lora").join("adapter").join("adapter_model.safetensors")).expect("a fixture");
    seeds.push([vec![0, 0, 0], adapter].concat());
    seeds
}
