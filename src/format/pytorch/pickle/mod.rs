//! A machine for the opcodes of pickles, of all protocols. It calls nothing: what a pickle would import stays a name, and what it would
//! call stays a call with its arguments.
//!
//! Source of the opcodes: CPython's `pickle.py` and `pickletools.py`.

mod stream;
mod values;

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::{Error, Result, limits};
use crate::source::Source;

use stream::Stream;
pub(crate) use values::{Global, Id, Object, Value, Values};

/// The highest protocol.
const PROTOCOL: u8 = 5;

/// The module of classes that a pickle names by their number in Python's extension registry.
pub(crate) const EXTENSIONS: &str = "Python's extension registry";

/// A parsed pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub(crate) values: Values,
    /// The root value; nothing if the pickle is damaged.
    pub(crate) root: Id,
    /// Its start and end in the source.
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Parses the pickle at byte `at` of a source, which ends before byte `end`.
///
/// # Errors
/// It is malformed, or exceeds a limit.
pub(crate) fn parse(source: &Arc<dyn Source>, at: u64, end: u64) -> Result<Pickle> {
    whole(parse_within(source, at, end, limits::PICKLE_MEMORY))
}

/// Parses a pickle that is beside or inside of another, as [`parse`] does, in less memory.
///
/// # Errors
/// As for [`parse`].
pub(crate) fn parse_small(source: &Arc<dyn Source>, at: u64, end: u64) -> Result<Pickle> {
    whole(parse_prefix(source, at, end))
}

/// Parses a pickle as [`parse_small`] does; of one that is damaged, returns what comes before the damage, and the error.
pub(crate) fn parse_prefix(source: &Arc<dyn Source>, at: u64, end: u64) -> (Pickle, Result<()>) {
    parse_within(source, at, end, limits::PICKLE_MEMORY / 10)
}

fn whole((pickle, parsed): (Pickle, Result<()>)) -> Result<Pickle> {
    parsed.map(|()| pickle)
}

fn parse_within(source: &Arc<dyn Source>, start: u64, end: u64, memory: usize) -> (Pickle, Result<()>) {
    let mut stream = Stream::new(source, start, end);
    let values = Values::new(Arc::clone(source), memory);
    let mut machine =
        Machine { stream: &mut stream, values, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), next_memo: 0, opcode_at: start };
    let (root, parsed) = match machine.run() {
        Ok(root) => (root, Ok(())),
        Err(error) => (0, Err(error.at(machine.opcode_at).in_file(source.path()))),
    };
    let end = machine.stream.position();
    (Pickle { values: machine.values, root, start, end }, parsed)
}

struct Machine<'m, 's> {
    stream: &'m mut Stream<'s>,
    values: Values,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    next_memo: u32,
    /// Offset of the current opcode.
    opcode_at: u64,
}

fn expected(what: &str, found: &str) -> Error {
    Error::malformed(format!("expected {what}, found {found}"))
}

impl Machine<'_, '_> {
    fn run(&mut self) -> Result<Id> {
        for _ in 0..limits::PICKLE_OPCODES {
            self.opcode_at = self.stream.position();
            if self.stream.is_at_end() {
                return Err(Error::truncated("expected an opcode of a pickle, found the end"));
            }
            let [opcode] = self.stream.array()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
        Err(Error::limit(format!("expected a pickle of at most {} opcodes, found more", limits::PICKLE_OPCODES)))
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            // Structure
            0x80 => {
                let [protocol] = self.stream.array()?;
                if protocol > PROTOCOL {
                    return Err(expected("a pickle of protocol 0 to 5", &protocol.to_string()));
                }
                Ok(())
            }
            0x95 => {
                let len = u64::from_le_bytes(self.stream.array()?);
                if len > self.stream.remaining() {
                    let message = format!("expected {len} bytes of a frame, found {} before the end", self.stream.remaining());
                    return Err(Error::truncated(message));
                }
                Ok(())
            }
            b'(' => {
                self.values.charge(size_of::<usize>())?;
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => match self.marks.last() {
                Some(&mark) if mark == self.stack.len() => self.marks.pop().map_or(Ok(()), |_| Ok(())),
                _ => self.pop().map(drop),
            },
            b'1' => self.pop_mark().map(drop),
            b'2' => {
                let top = self.top()?;
                self.push(top)
            }
            // Numbers and constants
            b'N' => self.push_value(Value::None),
            0x88 => self.push_value(Value::Bool(true)),
            0x89 => self.push_value(Value::Bool(false)),
            b'I' => self.int_line(),
            b'L' => self.long_line(),
            b'F' => self.float_line(),
            b'J' => {
                let value = i32::from_le_bytes(self.stream.array()?);
                self.push_value(Value::Int(value.into()))
            }
            b'K' => {
                let [value] = self.stream.array()?;
                self.push_value(Value::Int(value.into()))
            }
            b'M' => {
                let value = u16::from_le_bytes(self.stream.array()?);
                self.push_value(Value::Int(value.into()))
            }
            b'G' => {
                let value = f64::from_be_bytes(self.stream.array()?);
                self.push_value(Value::Float(value))
            }
            0x8a => {
                let [len] = self.stream.array()?;
                self.long(len.into())
            }
            0x8b => {
                let len = i32::from_le_bytes(self.stream.array()?);
                self.long(u64::try_from(len).map_err(|_| expected("a length of at least 0", &len.to_string()))?)
            }
            // Text and bytes
            b'S' => self.string_line(),
            b'V' => self.unicode_line(),
            b'T' | b'X' | b'B' => {
                let len = u32::from_le_bytes(self.stream.array()?);
                self.long_or_text(opcode, len.into())
            }
            b'U' | 0x8c | b'C' => {
                let [len] = self.stream.array()?;
                self.long_or_text(opcode, len.into())
            }
            0x8d | 0x8e | 0x96 => {
                let len = u64::from_le_bytes(self.stream.array()?);
                self.long_or_text(opcode, len)
            }
            // Containers
            b')' => self.push_sequence(Vec::new(), Value::Tuple),
            b']' => self.push_sequence(Vec::new(), Value::List),
            0x8f => self.push_sequence(Vec::new(), Value::Set),
            b'}' => {
                let id = self.values.add_dict(Vec::new())?;
                self.push(id)
            }
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let items = self.pop_many(count)?;
                self.push_sequence(items, Value::Tuple)
            }
            b't' => self.collect(Value::Tuple),
            b'l' => self.collect(Value::List),
            0x91 => self.collect(Value::Set),
            b'd' => {
                let items = self.pop_mark()?;
                let entries = pairs(&items)?.collect();
                let id = self.values.add_dict(entries)?;
                self.push(id)
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(&items)
            }
            b's' => {
                let items = self.pop_many(2)?;
                self.set_items(&items)
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)
            }
            // Memo
            b'p' => {
                let key = self.memo_line()?;
                self.memoize(key)
            }
            b'q' => {
                let [key] = self.stream.array()?;
                self.memoize(key.into())
            }
            b'r' => {
                let key = u32::from_le_bytes(self.stream.array()?);
                self.memoize(key)
            }
            0x94 => self.memoize(self.next_memo),
            b'g' => {
                let key = self.memo_line()?;
                self.recall(key)
            }
            b'h' => {
                let [key] = self.stream.array()?;
                self.recall(key.into())
            }
            b'j' => {
                let key = u32::from_le_bytes(self.stream.array()?);
                self.recall(key)
            }
            // Classes, calls and what is kept elsewhere
            b'c' => {
                let id = self.global_lines()?;
                self.push(id)
            }
            0x93 => self.stack_global(),
            b'R' | 0x81 => {
                let args = self.pop()?;
                let callable = self.pop()?;
                self.call(callable, args)
            }
            0x92 => {
                let kwargs = self.pop()?;
                let args = self.pop()?;
                let class = self.pop()?;
                let args = self.sequence_of(args)?;
                let args = self.values.add_sequence(args.into_iter().chain([kwargs]).collect(), Value::Tuple)?;
                self.call(class, args)
            }
            b'i' => {
                let class = self.global_lines()?;
                let args = self.pop_mark()?;
                let args = self.values.add_sequence(args, Value::Tuple)?;
                self.call(class, args)
            }
            b'o' => {
                let items = self.pop_mark()?;
                let (class, args) = items.split_first().ok_or_else(|| expected("a class after a mark", "none"))?;
                let args = self.values.add_sequence(args.to_vec(), Value::Tuple)?;
                self.call(*class, args)
            }
            b'b' => self.build(),
            0x82 => {
                let [code] = self.stream.array()?;
                self.extension(code.into())
            }
            0x83 => {
                let code = u16::from_le_bytes(self.stream.array()?);
                self.extension(code.into())
            }
            0x84 => {
                let code = u32::from_le_bytes(self.stream.array()?);
                self.extension(code)
            }
            b'P' => {
                let line = self.stream.line()?;
                let id = self.values.add_text(&text(line)?)?;
                self.push_value(Value::Persistent(id))
            }
            b'Q' => {
                let id = self.pop()?;
                self.push_value(Value::Persistent(id))
            }
            0x97 => Err(Error::unsupported("expected all bytes in the pickle, found a buffer kept elsewhere")),
            0x98 => self.top().map(drop),
            _ => Err(expected("an opcode of a pickle", &format!("byte 0x{opcode:02x}"))),
        }
    }

    fn push(&mut self, id: Id) -> Result<()> {
        self.values.charge(size_of::<Id>())?;
        self.stack.push(id);
        Ok(())
    }

    fn push_value(&mut self, value: Value) -> Result<()> {
        let id = self.values.add(value)?;
        self.push(id)
    }

    fn push_sequence(&mut self, items: Vec<Id>, kind: fn(u32) -> Value) -> Result<()> {
        let id = self.values.add_sequence(items, kind)?;
        self.push(id)
    }

    /// The lowest height that may be popped to: what is below a mark belongs to what encloses it.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => Err(expected("a value on the stack", "none")),
        }
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>> {
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= self.floor() => Ok(self.stack.split_off(start)),
            _ => Err(expected(&format!("{count} values on the stack"), "fewer")),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| expected("a mark on the stack", "none"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn collect(&mut self, kind: fn(u32) -> Value) -> Result<()> {
        let items = self.pop_mark()?;
        self.push_sequence(items, kind)
    }

    fn sequence_of(&self, id: Id) -> Result<Vec<Id>> {
        self.values.sequence(id).map(<[Id]>::to_vec).ok_or_else(|| expected("a tuple of arguments", &self.values.show(id)))
    }

    fn append(&mut self, items: &[Id]) -> Result<()> {
        let target = self.top()?;
        if self.values.extend(target, items)? {
            return Ok(());
        }
        Err(expected("a list to append to", &self.values.show(target)))
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let target = self.top()?;
        if self.values.set(target, pairs(items)?)? {
            return Ok(());
        }
        Err(expected("a dictionary to set items of", &self.values.show(target)))
    }

    fn memoize(&mut self, key: u32) -> Result<()> {
        const ENTRY: usize = 16;
        let top = self.top()?;
        if self.memo.insert(key, top).is_none() {
            self.values.charge(ENTRY)?;
            self.next_memo = self.memo.len() as u32;
        }
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        let id = *self.memo.get(&key).ok_or_else(|| expected(&format!("a value under {key} in the memo"), "none"))?;
        self.push(id)
    }

    fn memo_line(&mut self) -> Result<u32> {
        let line = text(self.stream.line()?)?;
        line.trim().parse().map_err(|_| expected("a number of the memo", &line))
    }

    fn global_lines(&mut self) -> Result<Id> {
        let (module, name) = (text(self.stream.line()?)?, text(self.stream.line()?)?);
        self.values.add_global(module, name, self.opcode_at)
    }

    fn stack_global(&mut self) -> Result<()> {
        let names = self.pop_many(2)?;
        let mut texts = names.iter().map(|id| self.values.text(*id).map(str::to_owned));
        let (Some(Some(module)), Some(Some(name))) = (texts.next(), texts.next()) else {
            return Err(expected("two texts as the name of a class", "others"));
        };
        let id = self.values.add_global(module, name, self.opcode_at)?;
        self.push(id)
    }

    fn call(&mut self, callable: Id, args: Id) -> Result<()> {
        // `REDUCE` with None as arguments is a protocol of Python 2's ExtensionClass.
        if self.values.sequence(args).is_none() && self.values.get(args) != Value::None && self.values.object(args).is_none() {
            return Err(expected("a tuple of arguments", &self.values.show(args)));
        }
        let id = self.values.add_object(callable, args, self.opcode_at)?;
        self.push(id)
    }

    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let target = self.top()?;
        match self.values.get(target) {
            Value::Object(object) => {
                if let Some(object) = self.values.objects.get_mut(object as usize) {
                    object.state = Some(state);
                }
                Ok(())
            }
            // Attributes of a class, a function, or of what is kept elsewhere: there is nothing to keep them.
            Value::Global(_) | Value::Persistent(_) => Ok(()),
            _ => Err(expected("an object to set the state of", &self.values.show(target))),
        }
    }

    fn extension(&mut self, code: u32) -> Result<()> {
        let id = self.values.add_global(EXTENSIONS.to_owned(), code.to_string(), self.opcode_at)?;
        self.push(id)
    }

    fn long(&mut self, len: u64) -> Result<()> {
        let at = self.stream.position();
        if len > 8 {
            let len = u32::try_from(len).map_err(|_| expected("an integer of less than 4 GB", "one of more"))?;
            self.stream.skip(len.into())?;
            return self.push_value(Value::BigInt { at, len });
        }
        let bytes = self.stream.take(len)?;
        let sign = if bytes.last().is_some_and(|last| *last >= 0x80) { 0xff } else { 0 };
        let mut wide = [sign; 8];
        wide.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
        self.push_value(Value::Int(i64::from_le_bytes(wide)))
    }

    fn int_line(&mut self) -> Result<()> {
        let at = self.stream.position();
        let line = text(self.stream.line()?)?;
        match line.as_str() {
            "00" => self.push_value(Value::Bool(false)),
            "01" => self.push_value(Value::Bool(true)),
            _ => self.integer(at, &line),
        }
    }

    fn long_line(&mut self) -> Result<()> {
        let at = self.stream.position();
        let line = text(self.stream.line()?)?;
        self.integer(at, &line)
    }

    /// Pushes the integer in a line at byte `at`.
    fn integer(&mut self, at: u64, line: &str) -> Result<()> {
        let digits = line.trim().trim_end_matches('L');
        if let Ok(value) = digits.parse() {
            return self.push_value(Value::Int(value));
        }
        let number = digits.strip_prefix('-').unwrap_or(digits);
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(expected("an integer", line));
        }
        self.push_value(Value::BigInt { at, len: line.len() as u32 })
    }

    fn float_line(&mut self) -> Result<()> {
        let line = text(self.stream.line()?)?;
        let value = line.trim().parse().map_err(|_| expected("a number", &line))?;
        self.push_value(Value::Float(value))
    }

    /// `S`: a quoted string with Python's escapes, one byte a character.
    fn string_line(&mut self) -> Result<()> {
        let line = self.stream.line()?;
        let line = line.trim_ascii_end();
        let inner = match line {
            [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
            _ => return Err(expected("a quoted string", &String::from_utf8_lossy(line))),
        };
        let id = self.values.add_text(&unescape(inner))?;
        self.push(id)
    }

    /// `V`: text in raw-unicode-escape.
    fn unicode_line(&mut self) -> Result<()> {
        let line = self.stream.line()?;
        let id = self.values.add_text(&raw_unicode(&line))?;
        self.push(id)
    }

    /// Text of the opcodes that are UTF-8, or were strings of Python 2; the rest are bytes.
    fn long_or_text(&mut self, opcode: u8, len: u64) -> Result<()> {
        let at = self.stream.position();
        let (unicode, string) = (matches!(opcode, b'X' | 0x8c | 0x8d), matches!(opcode, b'T' | b'U'));
        if !(unicode || string) {
            self.stream.skip(len)?;
            return self.push_value(Value::Bytes { at, len });
        }
        if len > limits::PICKLE_TEXT_BYTES {
            self.stream.skip(len)?;
            // A long string of Python 2 is binary: an array.
            return self.push_value(if string { Value::Bytes { at, len } } else { Value::LongText { at, len } });
        }
        let bytes = self.stream.take(len)?;
        let id = match String::from_utf8(bytes) {
            Ok(text) => self.values.add_text(&text)?,
            Err(_) if string => self.values.add(Value::Bytes { at, len })?,
            // Python writes lone surrogates, which UTF-8 has not.
            Err(error) => self.values.add_text(&String::from_utf8_lossy(error.as_bytes()))?,
        };
        self.push(id)
    }
}

/// Returns keys with their values.
fn pairs(items: &[Id]) -> Result<impl ExactSizeIterator<Item = (Id, Id)> + '_> {
    if !items.len().is_multiple_of(2) {
        return Err(expected("a value for every key", "a key without one"));
    }
    Ok(items.chunks_exact(2).map(|pair| (pair.first().copied().unwrap_or(0), pair.last().copied().unwrap_or(0))))
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| expected("a line in UTF-8", "other bytes"))
}

/// Decodes the escapes of a Python string literal; bytes above 127 are Latin-1.
fn unescape(literal: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = literal;
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let (character, len) = match (byte, after) {
            (b'\\', [b'n', ..]) => ('\n', 1),
            (b'\\', [b't', ..]) => ('\t', 1),
            (b'\\', [b'r', ..]) => ('\r', 1),
            (b'\\', [quoted @ (b'\\' | b'\'' | b'"'), ..]) => ((*quoted).into(), 1),
            (b'\\', [b'x', digits @ ..]) => match digits.get(..2).and_then(hex) {
                Some(code) => (code.into(), 3),
                None => ('\\', 0),
            },
            (byte, _) => (byte.into(), 0),
        };
        text.push(character);
        rest = after.get(len..).unwrap_or_default();
    }
    text
}

/// Decodes raw-unicode-escape: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
fn raw_unicode(line: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let digits = match (byte, after.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => 0,
        };
        let code = after.get(1..=digits).filter(|_| digits > 0).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|code| u32::from_str_radix(code, 16).ok()).and_then(char::from_u32) {
            Some(character) => {
                text.push(character);
                rest = after.get(1 + digits..).unwrap_or_default();
            }
            None => text.push(byte.into()),
        }
    }
    text
}
