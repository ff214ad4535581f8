//! Any bytes as an importance matrix, of either form: it opens or not, and what opens gives its weights.

use weigh::quant::imatrix::Imatrix;

use super::{Target, file, folder};
use crate::build::Gguf;

/// The file.
pub const IMATRIX: Target = Target { name: "imatrix", run, seeds };

fn run(data: &[u8]) {
    let path = file(&folder(), "imatrix.dat", data);
    let Ok(imatrix) = Imatrix::open(&path) else { return };
    let reader = weigh::format::open(&path).expect("it was opened");
    for tensor in &reader.model().tensors {
        let name = tensor.name.strip_suffix(".in_sum2").unwrap_or(&tensor.name);
        if let Some(count) = imatrix.weights_of(name) {
            let weights = imatrix.weights(name).expect("it was opened").expect("it has an entry");
            assert_eq!(weights.len() as u64, count);
            assert!(weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0), "{name}: {weights:?}");
        }
    }
    let _ = (imatrix.chunks(), imatrix.dataset());
}

fn seeds() -> Vec<Vec<u8>> {
    let text = |text: &str| [(text.len() as u32).to_le_bytes().to_vec(), text.as_bytes().to_vec()].concat();
    let numbers = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let entry = |name: &str, calls: u32, values: &[f32]| {
        [text(name), calls.to_le_bytes().to_vec(), (values.len() as u32).to_le_bytes().to_vec(), numbers(values)].concat()
    };
    let entries = [2u32.to_le_bytes().to_vec(), entry("blk.0.ffn_up.weight", 2, &[1.0, 0.5]), entry("output.weight", 0, &[3.0])].concat();
    let newer = |sums: &[f32], counts: &[f32]| {
        let gguf = Gguf::default().key_str("general.type", "imatrix").key_u32("imatrix.chunk_count", 7);
        let gguf = gguf.tensor("blk.0.ffn_up.weight.in_sum2", 0, &[2, sums.len() as u64 / 2], numbers(sums));
        gguf.tensor("blk.0.ffn_up.weight.counts", 0, &[1, counts.len() as u64], numbers(counts)).build()
    };
    vec![
        entries.clone(),
        [entries, 7u32.to_le_bytes().to_vec(), text("wiki")].concat(),
        newer(&[1.0, 2.0], &[2.0]),
        newer(&[1.0, 2.0, 0.0, 4.0], &[2.0, 0.0]),
    ]
}
