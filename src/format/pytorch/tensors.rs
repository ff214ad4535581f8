//! What the values of a pickle mean: tensors under dotted names, plain values, and objects of classes that are not read.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::base::finding::{Findings, Severity};
use crate::base::text::shorten;
use crate::base::{Error, Result, limits, num};
use crate::format::pytorch::callables::{self, Meaning};
use crate::format::pytorch::pickle::{Id, Object, Value, Values};
use crate::format::pytorch::quantised::{Dequantised, Scales};
use crate::format::pytorch::sparse::{self, Compressed, Sparse};
use crate::format::pytorch::view::{Place, Storage, Tensor, bytes, view, whole};
use crate::format::set::check_finding_limit;
use crate::format::strided::{self, Kind};
use crate::format::{Computed, codes, numpy};
use crate::model::checkpoint::{Opaque, Shared, Unread};
use crate::model::{DType, ElemType, Metadata, TensorInfo, Value as Plain};

/// The object that a persistent ID stands for.
#[derive(Debug, Clone)]
pub(crate) enum Kept {
    Storage(Storage),
    /// A tensor: storage, offset, shape and strides in elements.
    Tensor(Storage, u64, Vec<u64>, Vec<u64>),
    /// Another value.
    Value(Id),
}

/// Finds what is kept outside a pickle.
pub(crate) type Resolve<'r> = &'r dyn Fn(&Values, Id) -> Result<Kept>;

/// The contents of a pickle.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) computed: HashMap<String, Arc<dyn Computed>>,
    /// Plain values.
    pub(crate) metadata: Metadata,
    pub(crate) opaque: Vec<Opaque>,
    pub(crate) unread: Vec<Unread>,
    pub(crate) shared: Vec<Shared>,
}

/// The name of a tensor that is not in a dictionary.
const ALONE: &str = "tensor";

/// Collects what a pickle holds below `root`.
///
/// # Errors
/// A limit is exceeded, or the first tensor that cannot be read if `findings` stops there.
pub(crate) fn collect(values: &Values, root: Id, resolve: Resolve<'_>, findings: &mut Findings) -> Result<Contents> {
    let mut walk = Walk {
        values,
        resolve,
        findings,
        contents: Contents::default(),
        name: String::new(),
        path: Vec::new(),
        name_bytes: 0,
        names: HashMap::new(),
        seen: Seen::default(),
        enclosed_by: usize::MAX,
        without_tensors: HashMap::new(),
    };
    walk.visit(root)?;
    Ok(walk.contents)
}

struct Walk<'w> {
    values: &'w Values,
    resolve: Resolve<'w>,
    findings: &'w mut Findings,
    contents: Contents,
    /// The name of the current value.
    name: String,
    /// The containers that enclose the current value.
    path: Vec<Id>,
    name_bytes: usize,
    /// The names in use, with the next number for others like them.
    names: HashMap<String, u32>,
    seen: Seen,
    /// The depth of the outermost container that was found again inside of itself, below the current one.
    enclosed_by: usize,
    /// Containers that have been visited and hold no tensors, with what they hold.
    without_tensors: HashMap<Id, Seen>,
}

/// Numbers of what has been visited.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Seen {
    values: u64,
    tensors: u64,
    plain: u64,
    opaque: u64,
}

impl Seen {
    fn since(self, before: Self) -> Self {
        Self {
            values: self.values - before.values,
            tensors: self.tensors - before.tensors,
            plain: self.plain - before.plain,
            opaque: self.opaque - before.opaque,
        }
    }
}

/// The kind of an object.
enum Found {
    Tensor(Tensor),
    Computed { shape: Vec<u64>, dtype: DType, place: Place, computed: Arc<dyn Computed> },
    Unread { reason: String },
}

/// Whether as many values are kept as may be.
fn is_full(count: u64) -> bool {
    count >= limits::CHECKPOINT_VALUES as u64
}

impl<'w> Walk<'w> {
    fn visit(&mut self, id: Id) -> Result<()> {
        self.count(1)?;
        match self.values.get(id) {
            Value::None => Ok(()),
            Value::Bool(value) => self.plain(Plain::Bool(value)),
            Value::Int(value) => self.plain(Plain::I64(value)),
            Value::Float(value) => self.plain(Plain::F64(value)),
            Value::Text { .. } if !is_full(self.seen.plain) => {
                self.plain(Plain::String(self.values.text(id).unwrap_or_default().to_owned()))
            }
            Value::Text { .. } => Ok(()),
            Value::BigInt { .. } | Value::LongText { .. } | Value::Bytes { .. } => self.opaque(self.values.show(id)),
            Value::Global(_) => self.opaque(self.values.global(id).map(super::pickle::Global::path).unwrap_or_default()),
            Value::Tuple(_) | Value::List(_) | Value::Set(_) => self.inside(id, |walk| walk.items(id)),
            Value::Dict(_) => self.inside(id, |walk| walk.entries(walk.values.dict(id).unwrap_or_default())),
            Value::Persistent(_) => match self.kept(id)? {
                Some(Kept::Value(inner)) => self.inside(id, |walk| walk.visit(inner)),
                Some(Kept::Storage(storage)) => {
                    let tensor = self.attempt(|_| whole(storage))?;
                    tensor.map_or(Ok(()), |tensor| self.add(Found::Tensor(tensor)))
                }
                Some(Kept::Tensor(..)) => self.object(id),
                None => Ok(()),
            },
            Value::Object(_) => self.object(id),
        }
    }

    /// Counts values.
    fn count(&mut self, values: u64) -> Result<()> {
        self.seen.values += values;
        if self.seen.values > limits::PICKLE_VISITS || self.path.len() > limits::PICKLE_DEPTH {
            let message =
                format!("expected at most {} values nested at most {} deep, found more", limits::PICKLE_VISITS, limits::PICKLE_DEPTH);
            return Err(self.findings.fatal(codes::PICKLE_MALFORMED, Error::limit(message).in_file(self.values.source.path())));
        }
        Ok(())
    }

    /// Visits what a container holds; nothing if it encloses itself. One that is there again and would add nothing is only counted.
    fn inside(&mut self, id: Id, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if let Some(depth) = self.path.iter().position(|outer| *outer == id) {
            self.enclosed_by = self.enclosed_by.min(depth);
            return Ok(());
        }
        if let Some(&known) = self.without_tensors.get(&id)
            && (known.plain == 0 || is_full(self.seen.plain))
            && (known.opaque == 0 || is_full(self.seen.opaque))
        {
            return self.count(known.values);
        }
        let (before, depth) = (self.seen, self.path.len());
        let outer = std::mem::replace(&mut self.enclosed_by, usize::MAX);
        self.path.push(id);
        work(self)?;
        self.path.pop();
        // What encloses it was left out: elsewhere it may hold more.
        let is_whole = self.enclosed_by >= depth;
        let held = self.seen.since(before);
        if held.tensors == 0 && is_whole {
            self.without_tensors.insert(id, held);
        }
        self.enclosed_by = if is_whole { outer } else { outer.min(self.enclosed_by) };
        Ok(())
    }

    fn items(&mut self, id: Id) -> Result<()> {
        let items = self.values.sequence(id).unwrap_or_default();
        items.iter().enumerate().try_for_each(|(index, item)| self.under(&index.to_string(), *item))
    }

    fn entries(&mut self, entries: &[(Id, Id)]) -> Result<()> {
        // Of equal keys the last counts, in the place of the first.
        let keys: Vec<Cow<'w, str>> = entries.iter().map(|(key, _)| self.key(*key)).collect();
        let mut last: HashMap<Cow<'w, str>, usize> = keys.iter().cloned().zip(0..).collect();
        for key in &keys {
            let Some(&(_, value)) = last.remove(key).and_then(|index| entries.get(index)) else { continue };
            self.under(key, value)?;
        }
        Ok(())
    }

    /// Returns a key of a dictionary as a part of a name.
    fn key(&self, id: Id) -> Cow<'w, str> {
        let values: &'w Values = self.values;
        match values.text(id) {
            Some(text) => Cow::Borrowed(text),
            None => Cow::Owned(shorten(&values.show(id)).into_owned()),
        }
    }

    /// Visits a value under a name below the current one.
    fn under(&mut self, key: &str, id: Id) -> Result<()> {
        let len = self.name.len();
        if !self.path.is_empty() && len > 0 {
            self.name.push('.');
        }
        self.name.push_str(key);
        if self.name.len() > limits::NAME_BYTES {
            let message = format!("expected names of at most {} bytes, found one of {}", limits::NAME_BYTES, self.name.len());
            return Err(self.findings.fatal(codes::PICKLE_MALFORMED, Error::limit(message).in_file(self.values.source.path())));
        }
        self.visit(id)?;
        self.name.truncate(len);
        Ok(())
    }

    fn object(&mut self, id: Id) -> Result<()> {
        if let Some(found) = self.attempt(|walk| walk.tensor(id))? {
            if let Some(found) = found {
                return self.add(found);
            }
        } else {
            return Ok(());
        }
        let Some(object) = self.values.object(id) else { return Ok(()) };
        let class = self.values.class(object);
        let meaning = class.and_then(callables::meaning);
        match meaning {
            Some(Meaning::Container) => self.inside(id, |walk| walk.container(object)),
            Some(Meaning::Parameter) => {
                let first = self.values.sequence(object.args).and_then(|args| args.first().copied());
                first.map_or(Ok(()), |first| self.inside(id, |walk| walk.visit(first)))
            }
            Some(Meaning::FromArray) => {
                let first = self.values.sequence(object.args).and_then(|args| args.first().copied());
                first.map_or(Ok(()), |first| self.inside(id, |walk| walk.visit(first)))
            }
            Some(Meaning::FromType) => self.inside(id, |walk| walk.subclass(object)),
            Some(Meaning::Scalar | Meaning::Encoded | Meaning::Bytes) => {
                self.opaque(class.map(super::pickle::Global::path).unwrap_or_default())
            }
            _ => {
                let path = class.map_or_else(|| self.values.show(object.callable), super::pickle::Global::path);
                if meaning.is_none() || object.state.is_none() {
                    self.opaque(path)?;
                }
                self.inside(id, |walk| walk.attributes(object))
            }
        }
    }

    /// Visits what a dictionary, list or set holds that was made by a call.
    fn container(&mut self, object: &Object) -> Result<()> {
        for arg in self.values.sequence(object.args).unwrap_or_default() {
            let pair = |item: &Id| match self.values.sequence(*item) {
                Some([key, value]) => Some((*key, *value)),
                _ => None,
            };
            let items = self.values.sequence(*arg).unwrap_or_default();
            let ordered = self.values.class(object).is_some_and(|class| class.name.contains("Dict") || class.name == "dict");
            match items.iter().map(pair).collect::<Option<Vec<_>>>() {
                Some(pairs) if ordered && !items.is_empty() => self.entries(&pairs)?,
                _ if self.values.dict(*arg).is_some() => self.entries(self.values.dict(*arg).unwrap_or_default())?,
                _ => self.items(*arg)?,
            }
        }
        self.entries(&object.entries)?;
        object.items.iter().enumerate().try_for_each(|(index, item)| self.under(&index.to_string(), *item))
    }

    /// Visits the attributes of an object; those of a module as its `state_dict` names them.
    fn attributes(&mut self, object: &Object) -> Result<()> {
        const MEMBERS: [&str; 3] = ["_parameters", "_buffers", "_modules"];
        let states: Vec<Id> = match object.state {
            None => Vec::new(),
            // Attributes, and those that are in slots.
            Some(state) => match self.values.tuple(state) {
                Some(both)
                    if both.len() == 2
                        && both.iter().all(|half| self.values.dict(*half).is_some() || self.values.get(*half) == Value::None) =>
                {
                    both.to_vec()
                }
                _ => vec![state],
            },
        };
        for state in &states {
            let members = MEMBERS.map(|name| self.values.item(*state, name));
            let module = members.iter().all(Option::is_some);
            if let (true, Some(attributes)) = (module, self.values.dict(*state)) {
                for member in members.into_iter().flatten() {
                    self.inside(member, |walk| match walk.values.dict(member) {
                        Some(entries) => walk.entries(entries),
                        None => walk.values.object(member).map_or(Ok(()), |object| walk.container(object)),
                    })?;
                }
                let others: Vec<(Id, Id)> = attributes
                    .iter()
                    .filter(|(key, _)| self.values.text(*key).is_none_or(|key| !MEMBERS.contains(&key) && !key.starts_with('_')))
                    .copied()
                    .collect();
                self.entries(&others)?;
            } else {
                self.visit(*state)?;
            }
        }
        if states.is_empty() {
            self.items(object.args)?;
        }
        self.entries(&object.entries)?;
        object.items.iter().enumerate().try_for_each(|(index, item)| self.under(&index.to_string(), *item))
    }

    /// Visits a tensor of a class of its own: what its rebuilding function makes, or else its attributes.
    fn subclass(&mut self, object: &Object) -> Result<()> {
        let args = self.values.sequence(object.args).unwrap_or_default();
        let class = args.get(1).and_then(|class| self.values.global(*class)).map(super::pickle::Global::path);
        self.opaque(class.unwrap_or_default())?;
        args.get(3).map_or(Ok(()), |state| self.visit(*state))
    }

    fn plain(&mut self, value: Plain) -> Result<()> {
        if !is_full(self.seen.plain) && !self.name.is_empty() {
            self.contents.metadata.set(&self.name, value);
        }
        self.seen.plain += 1;
        Ok(())
    }

    fn opaque(&mut self, callable: String) -> Result<()> {
        // The layers of a module are what its tensors are for.
        if !is_full(self.seen.opaque) && !callable.starts_with("torch.nn.modules.") {
            self.contents.opaque.push(Opaque::new(&self.name, shorten(&callable).into_owned()));
            self.seen.opaque += 1;
        }
        Ok(())
    }

    /// Does work on a tensor; an error of it is a finding, and `None` is returned if that is collected.
    fn attempt<T>(&mut self, work: impl FnOnce(&Self) -> Result<T>) -> Result<Option<T>> {
        match work(self) {
            Ok(done) => Ok(Some(done)),
            Err(error) => {
                let code = error.code().unwrap_or(codes::PT_TENSOR);
                let error = error.in_tensor(&self.name).in_file(self.values.source.path());
                self.findings.error(code, error)?;
                check_finding_limit(self.findings, self.values.source.path())?;
                Ok(None)
            }
        }
    }

    fn kept(&mut self, id: Id) -> Result<Option<Kept>> {
        self.attempt(|walk| (walk.resolve)(walk.values, id))
    }

    /// Adds a tensor under the current name.
    fn add(&mut self, found: Found) -> Result<()> {
        self.seen.tensors += 1;
        let name = self.unique_name()?;
        self.name_bytes += name.len();
        if self.contents.tensors.len() >= limits::PICKLE_TENSORS || self.name_bytes > limits::PICKLE_NAMES_BYTES {
            let message = format!("expected at most {} tensors, found more", limits::PICKLE_TENSORS);
            return Err(self.findings.fatal(codes::PICKLE_MALFORMED, Error::limit(message).in_file(self.values.source.path())));
        }
        match found {
            Found::Unread { reason } => {
                self.contents.unread.push(Unread::new(name, reason));
                Ok(())
            }
            Found::Computed { shape, dtype, place, computed } => {
                let Some(len_bytes) = self.attempt(|_| dtype.bytes_for_shape(&shape))? else { return Ok(()) };
                self.contents.computed.insert(name.clone(), computed);
                let (elem, offset_bytes) = (ElemType::Known(dtype), place.shown);
                self.contents.tensors.push(TensorInfo { name, elem, shape, shard: 0, offset_bytes, len_bytes: Some(len_bytes) });
                Ok(())
            }
            Found::Tensor(tensor) => {
                let Some((info, computed, shared)) = self.attempt(|_| tensor.place(&name))? else { return Ok(()) };
                self.contents.tensors.push(info);
                self.contents.computed.extend(computed.map(|computed| (name, computed)));
                self.contents.shared.push(shared);
                Ok(())
            }
        }
    }

    /// Returns the current name; another if it was used before: `a.b` may be a key, or `b` in the dictionary `a`.
    fn unique_name(&mut self) -> Result<String> {
        let alone = self.name.is_empty() && self.path.iter().all(|id| self.values.dict(*id).is_none());
        let own = if alone { ALONE } else { self.name.as_str() };
        let mut name = own.to_owned();
        for number in 2.. {
            match self.names.get_mut(&name) {
                None => break,
                // Goes on where it was left, lest many equal names take long.
                Some(next) => {
                    let number = number.max(*next);
                    *next = number + 1;
                    name = format!("{own}~{number}");
                }
            }
        }
        self.names.insert(name.clone(), 2);
        Ok(name)
    }

    /// Interprets a value as a tensor; `None` if it is none.
    fn tensor(&self, id: Id) -> Result<Option<Found>> {
        match self.tensor_nested(id, 0) {
            // The checkpoint opens without it; what it would run is a finding of `verify`.
            Err(error) if self.would_run(id) => Ok(Some(Found::Unread { reason: error.message().to_owned() })),
            found => found,
        }
    }

    /// Whether the storage of a tensor is what something else than PyTorch would make, by running it.
    fn would_run(&self, id: Id) -> bool {
        let runs = |id: Id| self.values.global(id).is_some_and(|global| callables::severity(global) == Some(Severity::Error));
        let storage = self.values.object(id).and_then(|object| self.values.sequence(object.args)?.first().copied());
        storage.is_some_and(|storage| match self.values.get(storage) {
            Value::Object(_) => self.values.object(storage).is_some_and(|object| runs(object.callable)),
            Value::Persistent(inner) => self.values.tuple(inner).and_then(|kept| kept.get(1)).is_some_and(|class| runs(*class)),
            _ => runs(storage),
        })
    }

    fn tensor_nested(&self, id: Id, depth: usize) -> Result<Option<Found>> {
        if depth > 8 {
            return Ok(None);
        }
        if let Value::Persistent(_) = self.values.get(id) {
            return Ok(match (self.resolve)(self.values, id)? {
                Kept::Tensor(storage, offset, shape, strides) => Some(Found::Tensor(view(storage, None, offset, shape, strides)?)),
                Kept::Storage(_) | Kept::Value(_) => None,
            });
        }
        let Some(object) = self.values.object(id) else { return Ok(None) };
        let Some(callable) = self.values.class(object) else { return Ok(None) };
        let args = self.values.sequence(object.args).unwrap_or_default();
        let arg = |index: usize| args.get(index).copied();
        let missing = || Error::malformed(format!("expected the arguments of {}, found {}", callable.name, args.len()));
        match callables::meaning(callable) {
            Some(meaning @ (Meaning::Tensor | Meaning::TypedTensor)) => self.rebuilt(meaning, args),
            Some(Meaning::Quantised) => self.quantised(args).map(Some),
            Some(Meaning::Sparse) => self.sparse(args).map(Some),
            Some(Meaning::Meta) => {
                let shape = self.numbers(arg(1).ok_or_else(missing)?)?;
                Ok(Some(Found::Unread {
                    reason: format!("a tensor of shape {} on the meta device has no values", num::show_shape(&shape)),
                }))
            }
            Some(Meaning::Parameter) => self.tensor_nested(arg(0).ok_or_else(missing)?, depth + 1),
            Some(Meaning::FromType) => {
                let function = arg(0).and_then(|id| self.values.global(id)).and_then(callables::meaning);
                let args = self.values.sequence(arg(2).ok_or_else(missing)?).unwrap_or_default();
                function.map_or(Ok(None), |meaning| self.rebuilt(meaning, args))
            }
            Some(Meaning::FromArray) => {
                let found = self.tensor_nested(arg(0).ok_or_else(missing)?, depth + 1)?;
                let wanted = self.dtype(arg(1).ok_or_else(missing)?)?;
                match found {
                    Some(Found::Tensor(tensor)) if tensor.kind.elem != wanted.elem => {
                        let reason = format!("an array of {} for a tensor of {}", tensor.kind.elem, wanted.elem);
                        Ok(Some(Found::Unread { reason }))
                    }
                    found => Ok(found),
                }
            }
            Some(Meaning::EmptyArray) => self.array(object),
            Some(Meaning::ArrayOfBuffer) => self.array_of_buffer(args),
            _ => Ok(None),
        }
    }

    /// Interprets the arguments of a function that rebuilds a plain tensor; `None` for other functions.
    fn rebuilt(&self, meaning: Meaning, args: &[Id]) -> Result<Option<Found>> {
        let (kind, flags) = match meaning {
            Meaning::Tensor => (None, args.get(6)),
            Meaning::TypedTensor => {
                let dtype = args.get(6).ok_or_else(|| Error::malformed(format!("expected a dtype, found {} arguments", args.len())))?;
                (Some(self.dtype(*dtype)?), args.get(7))
            }
            _ => return Ok(None),
        };
        let is_set =
            |flag: &str| flags.and_then(|flags| self.values.item(*flags, flag)).and_then(|value| self.values.int(value)) == Some(1);
        if is_set("conj") || is_set("neg") {
            return Ok(Some(Found::Unread { reason: "stored as the conjugate or the negative of its values".to_owned() }));
        }
        self.view(args, kind).map(|tensor| Some(Found::Tensor(tensor)))
    }

    /// Returns the view that the first four arguments of a rebuilding function describe.
    fn view(&self, args: &[Id], kind: Option<Kind>) -> Result<Tensor> {
        let &[storage, offset, shape, strides, ..] = args else {
            return Err(Error::malformed(format!("expected a storage, offset, size and stride, found {} arguments", args.len())));
        };
        let storage = match (self.resolve)(self.values, storage)? {
            Kept::Storage(storage) => storage,
            _ => {
                return Err(
                    Error::malformed(format!("expected a storage, found {}", self.values.show(storage))).with_code(codes::PT_STORAGE)
                );
            }
        };
        let offset = self.number(offset)?;
        view(storage, kind, offset, self.numbers(shape)?, self.numbers(strides)?)
    }

    fn number(&self, id: Id) -> Result<u64> {
        let value = self.values.int(id).and_then(|value| u64::try_from(value).ok());
        value.ok_or_else(|| Error::malformed(format!("expected a number of at least 0, found {}", self.values.show(id))))
    }

    /// Returns the numbers of a tuple or list, or of a `torch.Size`.
    fn numbers(&self, id: Id) -> Result<Vec<u64>> {
        let of_object = |object: &Object| {
            self.values.sequence(object.args).and_then(|args| args.first()).and_then(|first| self.values.sequence(*first))
        };
        let items = self.values.sequence(id).or_else(|| self.values.object(id).and_then(of_object));
        let items = items.ok_or_else(|| Error::malformed(format!("expected numbers, found {}", self.values.show(id))))?;
        if items.len() > limits::TENSOR_DIMS {
            return Err(Error::limit(format!("expected at most {} dimensions, found {}", limits::TENSOR_DIMS, items.len())));
        }
        items.iter().map(|item| self.number(*item)).collect()
    }

    fn dtype(&self, id: Id) -> Result<Kind> {
        let global = self.values.global(id).filter(|global| global.module == "torch");
        // `torch.serialization._get_dtype("float32")`.
        let named = || {
            self.values.object(id).and_then(|object| self.values.sequence(object.args)?.first().and_then(|name| self.values.text(*name)))
        };
        let name = global.map(|global| global.name.as_str()).or_else(named).map(|name| name.rsplit('.').next().unwrap_or(name));
        let kind = name.and_then(callables::kind_of_dtype);
        kind.ok_or_else(|| Error::malformed(format!("expected a dtype, found {}", self.values.show(id))))
    }

    fn quantised(&self, args: &[Id]) -> Result<Found> {
        let tensor = self.view(args, None)?;
        let quantiser = args.get(4).and_then(|id| self.values.tuple(*id)).unwrap_or_default();
        let scheme = quantiser.first().and_then(|id| self.values.global(*id)).map_or("", |global| global.name.as_str());
        let float = |index: usize| quantiser.get(index).and_then(|id| self.values.float(*id));
        let numbers = |index: usize| self.scales(quantiser.get(index).copied());
        let unread = |reason: &str| Ok(Found::Unread { reason: reason.to_owned() });
        if !tensor.kind.quantised {
            return unread("quantised to a type whose values are not read");
        }
        let scales = match scheme {
            "per_tensor_affine" => match (float(1), float(2)) {
                (Some(scale), Some(zero)) => Scales::one(scale, zero),
                _ => return Err(Error::malformed("expected a scale and a zero point of a quantised tensor, found others")),
            },
            "per_channel_affine" | "per_channel_affine_float_qparams" => {
                let (Some(scales), Some(zeros)) = (numbers(1)?, numbers(2)?) else {
                    return unread("quantised with scales that are not read");
                };
                let axis = quantiser.get(3).and_then(|id| self.values.int(*id)).and_then(|axis| usize::try_from(axis).ok());
                let channels = axis.and_then(|axis| tensor.shape.get(axis)).copied();
                if channels != Some(scales.len() as u64) || scales.len() != zeros.len() {
                    let message = format!("expected as many scales as there are channels, found {} and {}", scales.len(), zeros.len());
                    return Err(Error::malformed(message));
                }
                let inner = tensor.shape.iter().skip(axis.unwrap_or(0) + 1).product::<u64>();
                Scales { scales, zeros, inner }
            }
            _ => return unread("quantised by a scheme that is not read"),
        };
        let (shape, place) = (tensor.shape.clone(), tensor.storage.place.clone());
        let computed = Arc::new(Dequantised::new(&tensor, scales)?);
        Ok(Found::Computed { shape, dtype: DType::F32, place, computed })
    }

    /// Returns the numbers of a list, or of a tensor.
    fn scales(&self, id: Option<Id>) -> Result<Option<Vec<f64>>> {
        let Some(id) = id else { return Ok(None) };
        if let Some(items) = self.values.sequence(id) {
            return Ok(items.iter().map(|item| self.values.float(*item)).collect());
        }
        match self.tensor(id)? {
            Some(Found::Tensor(tensor)) => tensor.small_numbers(),
            _ => Ok(None),
        }
    }

    fn sparse(&self, args: &[Id]) -> Result<Found> {
        let unread = |reason: String| Ok(Found::Unread { reason });
        let layout = args.first().and_then(|id| match self.values.object(*id) {
            Some(object) => self.values.sequence(object.args)?.first().and_then(|name| self.values.text(*name)),
            None => self.values.global(*id).map(|global| global.name.as_str()),
        });
        let layout = layout.unwrap_or_default().trim_start_matches("torch.");
        let parts = args.get(1).and_then(|id| self.values.tuple(*id)).unwrap_or_default();
        let part = |index: usize| match parts.get(index).map(|id| self.tensor(*id)).transpose()?.flatten() {
            Some(Found::Tensor(tensor)) => Ok(tensor),
            _ => Err(Error::malformed("expected the parts of a sparse tensor, found others")),
        };
        let (indices, values, size) = match layout {
            "sparse_coo" => (vec![part(0)?], part(1)?, parts.get(2)),
            "sparse_csr" => (vec![part(0)?, part(1)?], part(2)?, parts.get(3)),
            _ => return unread(format!("sparse in the layout {}", shorten(layout))),
        };
        let shape = self.numbers(*size.ok_or_else(|| Error::malformed("expected the size of a sparse tensor, found none"))?)?;
        let Some(dtype) = values.kind.elem.known() else { return unread(format!("sparse values of {}", values.kind.elem)) };
        if layout == "sparse_csr" && indices.iter().any(|part| part.shape.len() > 1) {
            return unread("several sparse matrices in one tensor".to_owned());
        }
        let count = values.shape.first().copied().unwrap_or(0);
        if count > sparse::MOST {
            return unread(format!("sparse with {count} values, of which at most {} are read", sparse::MOST));
        }
        let place = values.storage.place.clone();
        let layout = if indices.len() == 1 { Compressed::No } else { Compressed::Rows };
        let computed = Arc::new(Sparse::new(indices, values, shape.clone(), layout)?);
        Ok(Found::Computed { shape, dtype, place, computed })
    }

    /// Interprets a NumPy array by its state: version, shape, dtype, order, bytes.
    fn array(&self, object: &Object) -> Result<Option<Found>> {
        let state = object.state.and_then(|state| self.values.tuple(state)).unwrap_or_default();
        let &[.., shape, dtype, fortran, data] = state else { return Ok(None) };
        self.array_of(data, dtype, shape, self.values.int(fortran) == Some(1))
    }

    fn array_of_buffer(&self, args: &[Id]) -> Result<Option<Found>> {
        let &[data, dtype, shape, order, ..] = args else { return Ok(None) };
        self.array_of(data, dtype, shape, self.values.text(order) == Some("F"))
    }

    fn array_of(&self, data: Id, dtype: Id, shape: Id, fortran: bool) -> Result<Option<Found>> {
        let Some((kind, big_endian)) = self.numpy_dtype(dtype) else {
            return Ok(Some(Found::Unread { reason: "an array of a type that is not read".to_owned() }));
        };
        let mut place = bytes(self.values, data)?;
        place.big_endian = big_endian;
        let shape = self.numbers(shape)?;
        let wanted = num::mul(num::elements(&shape)?, kind.width, "the bytes of an array")?;
        if place.len != wanted {
            return Err(Error::malformed(format!("expected {wanted} bytes of an array, found {}", place.len)));
        }
        let strides = if fortran { strided::fortran(&shape) } else { strided::contiguous(&shape) };
        // An array has its bytes to itself.
        let storage = Storage { number: u32::MAX - data, is_part: false, place, kind: Some(kind) };
        view(storage, Some(kind), 0, shape, strides).map(|tensor| Some(Found::Tensor(tensor)))
    }

    /// Returns the type of a `numpy.dtype`, whose byte order is in its state.
    fn numpy_dtype(&self, id: Id) -> Option<(Kind, bool)> {
        let object = self.values.object(id)?;
        let name = self.values.sequence(object.args)?.first().and_then(|name| self.values.text(*name))?;
        let state = object.state.and_then(|state| self.values.tuple(state)).unwrap_or_default();
        let order = state.get(1).and_then(|order| self.values.text(*order)).unwrap_or("|");
        numpy::dtype(&format!("{order}{}", name.trim_start_matches(['<', '>', '|', '='])))
    }
}
