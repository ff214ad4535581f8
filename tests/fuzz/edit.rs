//! Any changes to the metadata of any model: refused, or made; and then the file opens with them, its tensors as they were.

use arbitrary::{Result, Unstructured};
use weigh::model::{Value, value_text};
use weigh::ops::edit::{Change, Destination, edit};

use super::round_trip::{made, seeds};
use super::{Target, file, folder};

/// The first byte picks the destination, the second is the length of the choices of changes, the rest is a model as `round_trip` has it.
pub const EDIT: Target = Target { name: "edit", run, seeds: edit_seeds };

const KEYS: [&str; 6] = ["k", "k4", "general.name", "general.alignment", "tokenizer.ggml.bos_token_id", "a"];
const VALUES: [&str; 12] = [
    "string:x",
    "u32:64",
    "u64:18446744073709551615",
    "f32:nan",
    "bool:true",
    "string[]:[\"a\",\"b\"]",
    "u8[]:[]",
    "i8:-1",
    "plain",
    "u32:0",
    "string:a much longer text, so that the header grows over its padding and all tensors move",
    "f64[]:[1,2]",
];

fn run(data: &[u8]) {
    let [destination, length, rest @ ..] = data else { return };
    let Some((choices, model)) = rest.split_at_checked(usize::from(*length)) else { return };
    let (Some(bytes), Ok(changes)) = (made(model), changes(&mut Unstructured::new(choices))) else { return };
    let path = file(&folder(), "edited", &bytes);
    let Ok(before) = weigh::format::open(&path) else { return };
    let new = folder().join("new");
    let destination = match destination % 4 {
        0 => Destination::DryRun,
        1 => Destination::InPlace,
        _ => Destination::New { path: new.clone(), force: true },
    };
    let bodies = |reader: &weigh::format::Reader| -> Vec<(String, Option<Vec<u8>>)> {
        let body = |tensor| reader.bytes(tensor).ok().map(|bytes| bytes.into_owned());
        reader.model().tensors.iter().map(|tensor| (tensor.name.clone(), body(tensor))).collect()
    };
    let old = bodies(&before);
    let Ok(report) = edit(&path, &changes, &destination) else { return };
    let after = weigh::format::open(report.output.as_ref().unwrap_or(&path)).expect("what is written opens");
    assert!(bodies(&after) == old, "the tensors are as they were");
    if report.output.is_some() {
        for change in &report.changes {
            let found = after.model().metadata.get(&change.key);
            assert_eq!(found.map(shown), change.new.as_ref().map(shown), "{}", change.key);
        }
    }
}

/// A value in full, wherever it lies. NaN equals itself here.
fn shown(value: &Value) -> String {
    match value.as_array() {
        Some(array) => {
            format!("{:?} {:?}", array.elem(), array.iter().map(|value| value.map(|value| shown(&value)).ok()).collect::<Vec<_>>())
        }
        None => format!("{value:?}"),
    }
}

/// The value of `TYPE:VALUE`, if it is one.
fn typed(text: &str) -> Option<Value> {
    let (name, text) = text.split_once(':')?;
    match name.strip_suffix("[]") {
        Some(elem) => value_text::read_array(value_text::scalar_type(elem)?, text).ok(),
        None => value_text::read_scalar(value_text::scalar_type(name)?, text).ok(),
    }
}

fn changes(choices: &mut Unstructured<'_>) -> Result<Vec<Change>> {
    let key = |choices: &mut Unstructured<'_>| -> Result<String> {
        Ok(if choices.ratio(7, 8)? { (*choices.choose(&KEYS)?).to_owned() } else { choices.arbitrary()? })
    };
    let mut changes = Vec::new();
    for _ in 0..choices.int_in_range(1..=3)? {
        let name = key(choices)?;
        changes.push(match choices.int_in_range(0..=3)? {
            0 => Change::Remove(name),
            1 => Change::Rename(name, key(choices)?),
            _ => {
                let text = if choices.ratio(7, 8)? { (*choices.choose(&VALUES)?).to_owned() } else { choices.arbitrary()? };
                typed(&text).map_or_else(|| Change::SetText(name.clone(), text.clone()), |value| Change::Set(name.clone(), value))
            }
        });
    }
    Ok(changes)
}

fn edit_seeds() -> Vec<Vec<u8>> {
    let seed = |(i, model): (u8, Vec<u8>)| {
        let choices = [2, 200, i, 1, 100, i.wrapping_mul(7), i, 200, 3, 9];
        [vec![i, choices.len() as u8], choices.to_vec(), model].concat()
    };
    (0u8..).zip(seeds()).map(seed).collect()
}
