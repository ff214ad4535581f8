//! Converts an adapter to a GGUF that llama.cpp loads with its base: its factors get the names and layout of the base.
//!
//! As in llama.cpp's convert_lora_to_gguf.py: the rows of B move like those of the base matrix, and its columns like those of A.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::base::{Error, Hint, Result};
use crate::family::config::Config;
use crate::family::mapping::{HfTensor, Mapping, Row};
use crate::family::pattern::Indices;
use crate::family::table::Table;
use crate::family::tables::Tables;
use crate::format::{self, Reader};
use crate::model::companion::Note;
use crate::model::{ElemType, Metadata, Model, Value};
use crate::source::{folder, place};
use crate::view::lora::pair::{self, Pair};
use crate::view::lora::{Adapter, Form, Update};
use crate::view::output_model::{OutputModel, OutputTensor};
use crate::view::transform::Shaped;
use crate::view::{general, tensor_expr, to_hf};

/// The name of the token embeddings, whose first factor is stored transposed, for row lookup.
pub(super) const EMBEDDING: &str = "token_embd.weight";

/// The config file of a folder.
const CONFIG: &str = "config.json";

/// Returns the path of the adapter's base: the given one, or the one in the adapter's config if it exists locally.
pub(super) fn base_path(adapter: &Adapter, base: Option<&Path>) -> Result<PathBuf> {
    let own = || adapter.base.as_deref().map(PathBuf::from).filter(|path| path.exists());
    base.map(Path::to_path_buf).or_else(own).ok_or_else(|| {
        let named = adapter.base.as_deref().map_or(String::new(), |name| format!(" ({name})"));
        Error::argument(format!("expected the base of the adapter{named}, which names and shapes come from, found none"))
            .hint(Hint::NameBase)
    })
}

/// Returns the architecture table and hyperparameters of an adapter's base, from its [`base_file`].
///
/// # Errors
/// The architecture is unknown.
pub(super) fn base_config(file: &Path, tables: &Tables) -> Result<(Table, Config)> {
    if file.ends_with(CONFIG)
        && let Some(json) = folder::json(file)?
    {
        let table = tables.for_config(&json).map_err(|error| error.in_file(file))?;
        let config = Config::new(&table, &json).map_err(|error| error.in_file(file))?;
        return Ok((table, config));
    }
    let base = format::open(file)?;
    to_hf::read_keys(base.model(), tables)
}

/// Returns the file that describes the base at `path`: the config of a folder, or else the weights.
///
/// # Errors
/// There is no model.
pub fn base_file(path: &Path) -> Result<PathBuf> {
    let config = path.join(CONFIG);
    if place::is_file(&config) { Ok(config) } else { format::resolve(path) }
}

/// Plans the GGUF of an adapter.
///
/// # Errors
/// The adapter cannot be converted, a module is not in the base, or its layout does not apply to factors.
pub fn output_model(reader: &Reader, base: Option<&Path>, tables: &Tables) -> Result<OutputModel> {
    let model = reader.model();
    let adapter = Adapter::supported(reader)?;
    if adapter.form != Form::Peft {
        let message = format!("expected an adapter of PEFT, found one of {}", adapter.form.title());
        return Err(Error::unsupported(message).in_file(&model.path));
    }
    let base = base_file(&base_path(&adapter, base)?)?;
    let (table, config) = base_config(&base, tables)?;
    let mapping = Mapping::new(&table, &config)?;
    let mut output = OutputModel { inputs: vec![base], ..OutputModel::default() };
    only_factors(model, &adapter, &mut output.notes)?;
    let alpha = common_alpha(&adapter);
    for ((number, layer), updates) in by_row(&adapter, &mapping)? {
        let Some(row) = mapping.rows.get(number) else { continue };
        let factors = factors(model, row, &updates, alpha).map_err(|error| error.in_file(&model.path))?;
        for ((a, b), name) in factors.into_iter().zip(row.gguf_names(Indices { layer, expert: None })) {
            for (factor, end) in [(a, "lora_a"), (b, "lora_b")] {
                let elem = ElemType::Known(factor.origin.dtype());
                output.tensors.push(OutputTensor::made(factor.origin, format!("{name}.{end}"), factor.shape, elem));
            }
        }
        let scaled = updates.values().filter(|update| alpha_of(update) != alpha).map(|update| {
            Note::remark(
                &update.module,
                format!("has an alpha of its own: the second factor is multiplied by {}", alpha_of(update) / alpha),
            )
        });
        output.notes.extend(scaled);
    }
    output.metadata = metadata(&table, model, alpha, &mut output.notes)?;
    Ok(output)
}

fn metadata(table: &Table, model: &Model, alpha: f32, notes: &mut Vec<Note>) -> Result<Metadata> {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String(table.gguf.clone()));
    general::to_gguf(model.folder.as_deref(), model.config.as_ref().unwrap_or(&Json::Null), &[], &mut metadata, notes)?;
    metadata.set("general.type", Value::String("adapter".to_owned()));
    metadata.set("adapter.type", Value::String("lora".to_owned()));
    metadata.set("adapter.lora.alpha", Value::F32(alpha));
    metadata.set("general.quantization_version", Value::U32(2));
    Ok(metadata)
}

/// Rejects what a GGUF adapter cannot store, and notes what it does not need.
fn only_factors(model: &Model, adapter: &Adapter, notes: &mut Vec<Note>) -> Result<()> {
    let refuse = |what: &str, name: &str| {
        Err(Error::unsupported(format!("expected factors alone, as GGUF adapters have, found {what}")).in_tensor(name))
    };
    for (name, index) in &adapter.replaced {
        match model.tensors.get(*index) {
            Some(tensor) if tensor.name.contains(".base_layer.") => notes.push(Note::dropped(&tensor.name, "is the base's own")),
            _ => return refuse("a whole tensor (modules_to_save)", name),
        }
    }
    if let Some((name, ..)) = adapter.tokens.first() {
        return refuse("rows for some tokens", name);
    }
    match adapter.updates.iter().find(|update| update.magnitude.is_some()) {
        Some(update) => refuse("DoRA", &update.module),
        None => Ok(()),
    }
}

/// Returns the alpha that reproduces an update's scale in llama.cpp, which computes alpha / rank.
fn alpha_of(update: &Update) -> f32 {
    (f64::from(update.scale) * update.rank as f64) as f32
}

/// Returns the most common alpha.
fn common_alpha(adapter: &Adapter) -> f32 {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for update in &adapter.updates {
        *counts.entry(alpha_of(update).to_bits()).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map_or(1.0, |(bits, _)| f32::from_bits(bits))
}

/// The updates by table row and layer, then by expert; in file order.
type ByRow<'a> = Vec<((usize, Option<u64>), BTreeMap<u64, &'a Update>)>;

fn by_row<'a>(adapter: &'a Adapter, mapping: &Mapping) -> Result<ByRow<'a>> {
    let mut rows = ByRow::new();
    let mut known: HashMap<(usize, Option<u64>), usize> = HashMap::new();
    for update in &adapter.updates {
        let name = format!("{}.weight", update.module);
        match mapping.lookup_hf(&name) {
            HfTensor::Row(number, member, places) => {
                let place = (number, places.layer);
                let at = *known.entry(place).or_insert_with(|| {
                    rows.push((place, BTreeMap::new()));
                    rows.len() - 1
                });
                if let Some((_, experts)) = rows.get_mut(at) {
                    experts.insert(member, update);
                }
            }
            HfTensor::Dropped | HfTensor::Zero | HfTensor::Elsewhere => {
                return Err(
                    Error::unsupported("expected updates of tensors that the base has in GGUF, found one that it drops").in_tensor(&name)
                );
            }
            HfTensor::Unknown => {
                return Err(Error::malformed("this module is not in the architecture table of the base").in_tensor(&name));
            }
        }
    }
    Ok(rows)
}

/// Returns both factors of each GGUF tensor that a row produces.
fn factors(model: &Model, row: &Row, updates: &BTreeMap<u64, &Update>, alpha: f32) -> Result<Vec<(Shaped, Shaped)>> {
    let named = |error: Error| error.in_tensor(row.name());
    let second = |update: &Update| -> Result<Shaped> {
        let stored = pair::stored(model, update.left)?;
        let own = alpha_of(update);
        let origin = if own == alpha { stored.origin } else { stored.origin.then(tensor_expr::RowOp::Scale(own / alpha))? };
        Ok(Shaped { origin, ..stored })
    };
    if row.is_stacked() {
        let experts = row.members()?;
        if updates.keys().copied().ne(0..experts) {
            return Err(named(Error::unsupported(format!("expected an update of each of {experts} experts, found {}", updates.len()))));
        }
        let all = |factor: &dyn Fn(&Update) -> Result<Shaped>| updates.values().map(|update| factor(update)).collect::<Result<Vec<_>>>();
        let first = row.transform.forward(all(&|update| pair::stored(model, update.right))?).map_err(named)?;
        let second = row.transform.forward(all(&second)?).map_err(named)?;
        return Ok(first.into_iter().zip(second).collect());
    }
    let Some(update) = updates.values().next() else { return Ok(Vec::new()) };
    let scaled = |factor: Shaped| -> Result<Shaped> {
        let own = alpha_of(update);
        let origin = if own == alpha { factor.origin } else { factor.origin.then(tensor_expr::RowOp::Scale(own / alpha))? };
        Ok(Shaped { origin, ..factor })
    };
    if row.gguf.first().is_some_and(|name| name == EMBEDDING) && update.left.transposed {
        return Ok(vec![(pair::turned(pair::stored(model, update.left)?)?, scaled(pair::stored(model, update.right)?)?)]);
    }
    if row.hf.len() > 1 {
        return Err(named(Error::unsupported("expected an update of a matrix that stays one, found one that is joined with others")));
    }
    let parts = Pair::of(model, update)?.forward(&row.transform).map_err(named)?;
    parts.into_iter().map(|part| Ok((part.right, scaled(part.left)?))).collect()
}
