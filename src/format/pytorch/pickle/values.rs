//! The values of a pickle: an arena whose values refer to each other by index, so that cycles and any depth do no harm.

use std::sync::Arc;

use crate::base::text::shorten;
use crate::base::{Error, Result};
use crate::source::Source;

/// The index of a value.
pub(crate) type Id = u32;

/// A value. Nothing of it was executed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// An integer of more than 64 bits: its little-endian bytes in the source.
    BigInt {
        at: u64,
        len: u32,
    },
    /// Text in [`Values::texts`].
    Text {
        start: u32,
        len: u32,
    },
    /// Text that is too long to keep: its bytes in the source.
    LongText {
        at: u64,
        len: u64,
    },
    /// Bytes in the source.
    Bytes {
        at: u64,
        len: u64,
    },
    Tuple(u32),
    List(u32),
    Set(u32),
    Dict(u32),
    /// A class or function by name: its index in [`Values::globals`].
    Global(u32),
    /// The result of a call: its index in [`Values::objects`].
    Object(u32),
    /// A value kept elsewhere, by its ID.
    Persistent(Id),
}

/// A class or function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Global {
    pub(crate) module: String,
    pub(crate) name: String,
    /// Where the opcode is.
    pub(crate) at: u64,
}

impl Global {
    /// Returns the module and the name, joined by a dot.
    pub(crate) fn path(&self) -> String {
        format!("{}.{}", self.module, self.name)
    }
}

/// A call that was not made: a class and the arguments of its constructor, or a function and its arguments.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object {
    pub(crate) callable: Id,
    pub(crate) args: Id,
    /// Of `BUILD`: usually a dictionary of attributes.
    pub(crate) state: Option<Id>,
    /// Items set as in a dictionary.
    pub(crate) entries: Vec<(Id, Id)>,
    /// Items appended as to a list.
    pub(crate) items: Vec<Id>,
    /// Where the opcode is.
    pub(crate) at: u64,
}

/// All values of a pickle.
#[derive(Debug)]
pub(crate) struct Values {
    /// Location of long bytes and strings.
    pub(crate) source: Arc<dyn Source>,
    values: Vec<Value>,
    texts: String,
    sequences: Vec<Vec<Id>>,
    dicts: Vec<Vec<(Id, Id)>>,
    pub(crate) globals: Vec<Global>,
    pub(crate) objects: Vec<Object>,
    /// Memory that may still be used, in bytes.
    memory: usize,
}

impl Values {
    pub(crate) fn new(source: Arc<dyn Source>, memory: usize) -> Self {
        Self {
            source,
            values: vec![Value::None, Value::Bool(false), Value::Bool(true)],
            texts: String::new(),
            sequences: Vec::new(),
            dicts: Vec::new(),
            globals: Vec::new(),
            objects: Vec::new(),
            memory,
        }
    }

    /// Counts memory in use.
    ///
    /// # Errors
    /// It is too much.
    pub(crate) fn charge(&mut self, bytes: usize) -> Result<()> {
        match self.memory.checked_sub(bytes) {
            Some(left) => self.memory = left,
            None => return Err(Error::limit("expected a pickle whose values fit the memory allowed for them, found a larger one")),
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, value: Value) -> Result<Id> {
        match value {
            Value::None => return Ok(0),
            Value::Bool(value) => return Ok(1 + u32::from(value)),
            _ => {}
        }
        self.charge(size_of::<Value>())?;
        self.values.push(value);
        Ok(self.values.len() as Id - 1)
    }

    pub(crate) fn add_text(&mut self, text: &str) -> Result<Id> {
        self.charge(text.len())?;
        let start = self.texts.len() as u32;
        self.texts.push_str(text);
        self.add(Value::Text { start, len: text.len() as u32 })
    }

    pub(crate) fn add_sequence(&mut self, items: Vec<Id>, kind: fn(u32) -> Value) -> Result<Id> {
        self.charge(size_of::<Vec<Id>>() + items.capacity() * size_of::<Id>())?;
        self.sequences.push(items);
        self.add(kind(self.sequences.len() as u32 - 1))
    }

    pub(crate) fn add_dict(&mut self, entries: Vec<(Id, Id)>) -> Result<Id> {
        self.charge(size_of::<Vec<(Id, Id)>>() + entries.capacity() * size_of::<(Id, Id)>())?;
        self.dicts.push(entries);
        self.add(Value::Dict(self.dicts.len() as u32 - 1))
    }

    pub(crate) fn add_global(&mut self, module: String, name: String, at: u64) -> Result<Id> {
        self.charge(size_of::<Global>() + module.len() + name.len())?;
        self.globals.push(Global { module, name, at });
        self.add(Value::Global(self.globals.len() as u32 - 1))
    }

    pub(crate) fn add_object(&mut self, callable: Id, args: Id, at: u64) -> Result<Id> {
        self.charge(size_of::<Object>())?;
        self.objects.push(Object { callable, args, state: None, entries: Vec::new(), items: Vec::new(), at });
        self.add(Value::Object(self.objects.len() as u32 - 1))
    }

    /// Appends items to a list or set, or to an object that may be like one. Returns `false` for anything else.
    pub(crate) fn extend(&mut self, target: Id, items: &[Id]) -> Result<bool> {
        self.charge(items.len() * 2 * size_of::<Id>())?;
        let into = match self.get(target) {
            Value::List(list) | Value::Set(list) => self.sequences.get_mut(list as usize),
            Value::Object(object) => self.objects.get_mut(object as usize).map(|object| &mut object.items),
            _ => None,
        };
        into.map(|into| into.extend_from_slice(items)).map_or(Ok(false), |()| Ok(true))
    }

    /// Sets entries of a dictionary, or of an object that may be like one. Returns `false` for anything else.
    pub(crate) fn set(&mut self, target: Id, entries: impl ExactSizeIterator<Item = (Id, Id)>) -> Result<bool> {
        self.charge(entries.len() * 2 * size_of::<(Id, Id)>())?;
        let into = match self.get(target) {
            Value::Dict(dict) => self.dicts.get_mut(dict as usize),
            Value::Object(object) => self.objects.get_mut(object as usize).map(|object| &mut object.entries),
            _ => None,
        };
        into.map(|into| into.extend(entries)).map_or(Ok(false), |()| Ok(true))
    }

    pub(crate) fn get(&self, id: Id) -> Value {
        self.values.get(id as usize).copied().unwrap_or(Value::None)
    }

    /// Returns all values with their indices.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Id, Value)> + '_ {
        self.values.iter().enumerate().map(|(id, value)| (id as Id, *value))
    }

    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text { start, len } => self.texts.get(start as usize..start as usize + len as usize),
            _ => None,
        }
    }

    pub(crate) fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Value::Int(value) => Some(value),
            Value::Bool(value) => Some(value.into()),
            _ => None,
        }
    }

    pub(crate) fn float(&self, id: Id) -> Option<f64> {
        match self.get(id) {
            Value::Float(value) => Some(value),
            _ => self.int(id).map(|value| value as f64),
        }
    }

    pub(crate) fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(tuple) => self.sequences.get(tuple as usize).map(Vec::as_slice),
            _ => None,
        }
    }

    /// Returns the items of a tuple, list or set.
    pub(crate) fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) | Value::List(items) | Value::Set(items) => self.sequences.get(items as usize).map(Vec::as_slice),
            _ => None,
        }
    }

    pub(crate) fn dict(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(dict) => self.dicts.get(dict as usize).map(Vec::as_slice),
            _ => None,
        }
    }

    pub(crate) fn global(&self, id: Id) -> Option<&Global> {
        match self.get(id) {
            Value::Global(global) => self.globals.get(global as usize),
            _ => None,
        }
    }

    pub(crate) fn object(&self, id: Id) -> Option<&Object> {
        match self.get(id) {
            Value::Object(object) => self.objects.get(object as usize),
            _ => None,
        }
    }

    /// Returns the value of a key of a dictionary, or of an object like one; the last, as Python does.
    pub(crate) fn item(&self, id: Id, key: &str) -> Option<Id> {
        let entries = self.dict(id).or_else(|| self.object(id).map(|object| object.entries.as_slice()))?;
        entries.iter().rev().find(|(own, _)| self.text(*own) == Some(key)).map(|(_, value)| *value)
    }

    /// Returns the path of the class or function that made an object: its class, for those made by `copyreg`.
    pub(crate) fn class(&self, object: &Object) -> Option<&Global> {
        let callable = self.global(object.callable)?;
        if callable.module.starts_with("copy") && ["_reconstructor", "__newobj__", "__newobj_ex__"].contains(&callable.name.as_str()) {
            return self.sequence(object.args)?.first().and_then(|class| self.global(*class));
        }
        Some(callable)
    }

    /// Shows a value as Python would, as far as it is plain.
    pub(crate) fn show(&self, id: Id) -> String {
        self.show_nested(id, 3)
    }

    fn show_nested(&self, id: Id, depth: usize) -> String {
        const SHOWN: usize = 8;
        let list = |items: &[Id]| {
            let mut shown: Vec<String> = items.iter().take(SHOWN).map(|item| self.show_nested(*item, depth - 1)).collect();
            shown.extend((items.len() > SHOWN).then(|| "...".to_owned()));
            shown.join(", ")
        };
        match self.get(id) {
            Value::None => "None".to_owned(),
            Value::Bool(true) => "True".to_owned(),
            Value::Bool(false) => "False".to_owned(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => format!("{value:?}"),
            Value::BigInt { .. } => "a long integer".to_owned(),
            Value::Text { .. } => format!("'{}'", shorten(self.text(id).unwrap_or_default())),
            Value::LongText { len, .. } => format!("a text of {len} bytes"),
            Value::Bytes { len, .. } => format!("{len} bytes"),
            Value::Global(_) => self.global(id).map(Global::path).unwrap_or_default(),
            Value::Persistent(_) => "a persistent value".to_owned(),
            _ if depth == 0 => "...".to_owned(),
            Value::Tuple(_) => format!("({})", list(self.sequence(id).unwrap_or_default())),
            Value::List(_) => format!("[{}]", list(self.sequence(id).unwrap_or_default())),
            Value::Set(_) => format!("{{{}}}", list(self.sequence(id).unwrap_or_default())),
            Value::Dict(_) => {
                let entries = self.dict(id).unwrap_or_default();
                let show =
                    |(key, value): &(Id, Id)| format!("{}: {}", self.show_nested(*key, depth - 1), self.show_nested(*value, depth - 1));
                let shown: Vec<String> = entries.iter().take(SHOWN).map(show).collect();
                format!("{{{}{}}}", shown.join(", "), if entries.len() > SHOWN { ", ..." } else { "" })
            }
            Value::Object(_) => {
                let Some(object) = self.object(id) else { return String::new() };
                format!("{}({})", self.show_nested(object.callable, depth - 1), list(self.sequence(object.args).unwrap_or_default()))
            }
        }
    }
}
