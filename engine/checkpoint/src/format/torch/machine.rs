//! Follows a pickle's instructions on values that only stand for what they would make.

use std::collections::HashMap;

use super::stream::Stream;
use super::values::{Global, Heap, Refused, Value};
use super::{Fault, broken, globals, rebuild, unread};
use crate::shown::{shown, some_of};

/// Most values that one pickle may make. 100 000 tensors take about 4 million. A pickle that only
/// makes values costs up to 100 bytes for each, so that it stays below a gigabyte.
const MOST_VALUES: u64 = 10_000_000;

/// Longest name of a module, class or storage.
pub(super) const LONGEST_NAME: usize = 1000;

/// Names that are kept of those that refuse a file.
const MOST_REFUSED: usize = 100;

/// What a pickle says.
pub(super) struct Pickle {
    pub top: Value,
    pub heap: Heap,
}

/// Reads one pickle, up to its last instruction.
pub(super) fn run(stream: &mut Stream<'_>) -> Result<Pickle, Fault> {
    run_with(stream, globals::find)
}

/// The same, where names stand for what `find` says.
pub(super) fn run_with(
    stream: &mut Stream<'_>,
    find: fn(&str, &str) -> Global,
) -> Result<Pickle, Fault> {
    let mut machine = Machine {
        find,
        heap: Heap::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        made: 0,
        storages: HashMap::new(),
    };
    let outcome = machine.run(stream);
    // What a refused name leads to may look damaged; the name tells more.
    if let Some(fault) = machine.refusal(stream.shown) {
        return Err(fault);
    }
    Ok(Pickle { top: outcome?, heap: machine.heap })
}

struct Machine {
    /// What a name stands for.
    find: fn(&str, &str) -> Global,
    heap: Heap,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// How many values were pushed.
    made: u64,
    /// Numbers of storages by their keys.
    storages: HashMap<String, u32>,
}

/// The byte at which the instruction stands, and the name of the file.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub at: u64,
    pub shown: &'a str,
}

impl At<'_> {
    /// The instructions do not fit together.
    pub fn wrong(self, what: &str) -> Fault {
        let headline = format!("the pickle cannot be understood: {what}");
        Box::new(
            broken(headline)
                .at_byte(self.shown, self.at)
                .help("fetch or write this file again, with `torch.save` of a `state_dict()`"),
        )
    }
}

impl Machine {
    fn run(&mut self, stream: &mut Stream<'_>) -> Result<Value, Fault> {
        loop {
            let at = At { at: stream.at(), shown: stream.shown };
            let [instruction] = stream.array()?;
            if instruction == b'.' {
                return self.pop(at);
            }
            self.step(instruction, stream, at)?;
        }
    }

    /// One instruction. The letters and numbers are those of Python's `pickletools`.
    fn step(&mut self, code: u8, stream: &mut Stream<'_>, at: At<'_>) -> Result<(), Fault> {
        let value = match code {
            0x80 => return protocol(stream, at),
            // A frame says how much to read at once, which nothing here depends on.
            0x95 => return stream.array::<8>().map(drop),
            b'(' => {
                self.count(at)?;
                self.marks.push(self.stack.len());
                return Ok(());
            }
            b'0' => return self.pop(at).map(drop),
            b'1' => return self.pop_marked(at).map(drop),
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i32::from_le_bytes(stream.array()?).into()),
            b'K' => Value::Int(stream.array::<1>()?[0].into()),
            b'M' => Value::Int(u16::from_le_bytes(stream.array()?).into()),
            0x8a => long(stream, 1)?,
            0x8b => long(stream, 4)?,
            b'G' => {
                stream.array::<8>()?;
                Value::Float
            }
            b'X' | b'T' => self.text(stream, 4, at)?,
            0x8c | b'U' => self.text(stream, 1, at)?,
            0x8d => self.text(stream, 8, at)?,
            b'B' => bytes(stream, 4)?,
            b'C' => bytes(stream, 1)?,
            0x8e | 0x96 => bytes(stream, 8)?,
            b')' => self.heap.new_tuple(Vec::new()),
            0x85 => self.tuple_of(1, at)?,
            0x86 => self.tuple_of(2, at)?,
            0x87 => self.tuple_of(3, at)?,
            b't' => {
                let values = self.pop_marked(at)?;
                self.heap.new_tuple(values)
            }
            b']' => self.heap.new_list(Vec::new()),
            b'l' => {
                let values = self.pop_marked(at)?;
                self.heap.new_list(values)
            }
            b'a' => {
                let value = self.pop(at)?;
                return self.append(vec![value], at);
            }
            b'e' => {
                let values = self.pop_marked(at)?;
                return self.append(values, at);
            }
            b'}' => self.heap.new_dict(Vec::new()),
            b'd' => {
                let pairs = pairs(self.pop_marked(at)?, at)?;
                self.heap.new_dict(pairs)
            }
            b's' => {
                let value = self.pop(at)?;
                let key = self.pop(at)?;
                return self.set(vec![(key, value)], at);
            }
            b'u' => {
                let pairs = pairs(self.pop_marked(at)?, at)?;
                return self.set(pairs, at);
            }
            // Sets; what is in them is of no use here.
            0x8f => Value::Plain,
            0x90 => {
                self.pop_marked(at)?;
                return Ok(());
            }
            0x91 => {
                self.pop_marked(at)?;
                Value::Plain
            }
            b'q' => {
                let [number] = stream.array()?;
                return self.keep(number.into(), at);
            }
            b'r' => {
                let number = u32::from_le_bytes(stream.array()?);
                return self.keep(number, at);
            }
            0x94 => return self.keep(self.memo.len() as u32, at),
            b'h' => {
                let [number] = stream.array()?;
                self.kept(number.into(), at)?
            }
            b'j' => self.kept(u32::from_le_bytes(stream.array()?), at)?,
            b'c' => {
                let (module, name) = (stream.line()?, stream.line()?);
                self.global(&module, &name, at)
            }
            0x93 => {
                let (name, module) = (self.pop(at)?, self.pop(at)?);
                // A long text that is kept and named often would cost more than the file's size.
                let name_text =
                    |value| self.heap.text(value).filter(|text| text.len() <= LONGEST_NAME);
                let (Some(module), Some(name)) = (name_text(module), name_text(name)) else {
                    return Err(at.wrong("a name that is not a short text"));
                };
                let (module, name) = (module.to_owned(), name.to_owned());
                self.global(&module, &name, at)
            }
            // Protocol 0's way to name a class and call it.
            b'i' => {
                let (module, name) = (stream.line()?, stream.line()?);
                let class = self.global(&module, &name, at);
                let values = self.pop_marked(at)?;
                let arguments = self.heap.new_tuple(values);
                self.call(class, arguments, at)?
            }
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop(at)?, self.pop(at)?);
                self.call(callee, arguments, at)?
            }
            0x92 => {
                let (_named, arguments, callee) = (self.pop(at)?, self.pop(at)?, self.pop(at)?);
                self.call(callee, arguments, at)?
            }
            // Attributes of a dictionary, such as a state's `_metadata`, or of a tensor.
            b'b' => {
                let (attributes, object) = (self.pop(at)?, self.pop(at)?);
                if let Value::Record(number) = object {
                    self.heap.records[number as usize].1 = attributes;
                }
                object
            }
            b'Q' => {
                let reference = self.pop(at)?;
                self.storage(reference, at)?
            }
            _ => return Err(at.wrong(&format!("an instruction of code 0x{code:02x}"))),
        };
        self.push(value, at)
    }

    fn count(&mut self, at: At<'_>) -> Result<(), Fault> {
        self.made += 1;
        if self.made > MOST_VALUES {
            return Err(at.wrong(&format!("more than {MOST_VALUES} values")));
        }
        Ok(())
    }

    fn push(&mut self, value: Value, at: At<'_>) -> Result<(), Fault> {
        self.count(at)?;
        self.stack.push(value);
        Ok(())
    }

    /// The last value, which must not lie below the last mark.
    fn pop(&mut self, at: At<'_>) -> Result<Value, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = if self.stack.len() > floor { self.stack.pop() } else { None };
        value.ok_or_else(|| at.wrong("a value that is not there"))
    }

    /// All values since the last mark, and the mark.
    fn pop_marked(&mut self, at: At<'_>) -> Result<Vec<Value>, Fault> {
        let mark = self.marks.pop().ok_or_else(|| at.wrong("a mark that is not there"))?;
        Ok(self.stack.split_off(mark))
    }

    fn last(&self, at: At<'_>) -> Result<Value, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = self.stack.last().filter(|_| self.stack.len() > floor);
        value.copied().ok_or_else(|| at.wrong("a value that is not there"))
    }

    fn tuple_of(&mut self, count: usize, at: At<'_>) -> Result<Value, Fault> {
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(self.pop(at)?);
        }
        values.reverse();
        Ok(self.heap.new_tuple(values))
    }

    fn text(&mut self, stream: &mut Stream<'_>, width: u32, at: At<'_>) -> Result<Value, Fault> {
        let len = length(stream, width)?;
        let text = stream.take(len)?;
        match std::str::from_utf8(text) {
            Ok(text) => Ok(self.heap.new_text(text.to_owned())),
            Err(_) => Err(at.wrong("a text that is not UTF-8")),
        }
    }

    fn keep(&mut self, number: u32, at: At<'_>) -> Result<(), Fault> {
        // A table by number would be as long as the number says; this one is as long as the pickle.
        let value = self.last(at)?;
        self.count(at)?;
        self.memo.insert(number, value);
        Ok(())
    }

    fn kept(&self, number: u32, at: At<'_>) -> Result<Value, Fault> {
        let value = self.memo.get(&number).copied();
        value.ok_or_else(|| at.wrong(&format!("value {number}, which was not kept")))
    }

    fn append(&mut self, values: Vec<Value>, at: At<'_>) -> Result<(), Fault> {
        match self.last(at)? {
            Value::List(list) => self.heap.lists[list as usize].extend(values),
            Value::Plain => {}
            _ => return Err(at.wrong("something is appended to what is no list")),
        }
        Ok(())
    }

    fn set(&mut self, pairs: Vec<(Value, Value)>, at: At<'_>) -> Result<(), Fault> {
        match self.last(at)? {
            Value::Dict(dict) => self.heap.dicts[dict as usize].extend(pairs),
            Value::Plain => {}
            _ => return Err(at.wrong("keys are set in what is no dictionary")),
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str, at: At<'_>) -> Value {
        let found = (self.find)(module, name);
        if found == Global::Refused && self.heap.refused.len() < MOST_REFUSED {
            let name = format!("{module}.{name}");
            if !self.heap.refused.iter().any(|known| known.name == name) {
                self.heap.refused.push(Refused { name, at: at.at });
            }
        }
        Value::Global(found)
    }

    /// What a call would make. Nothing is called.
    fn call(&mut self, callee: Value, arguments: Value, at: At<'_>) -> Result<Value, Fault> {
        let Value::Global(callee) = callee else {
            return Err(at.wrong("something is called that is no function"));
        };
        let Some(values) = self.heap.tuple(arguments) else {
            return Err(at.wrong("arguments that are no tuple"));
        };
        match (callee, values) {
            (Global::Plain | Global::Refused, _) => Ok(Value::Plain),
            (Global::Record(kind), _) => Ok(self.heap.new_record(kind)),
            (Global::OrderedDict, []) => Ok(self.heap.new_dict(Vec::new())),
            (Global::OrderedDict, [Value::List(list)]) => {
                // Python 2 wrote a dictionary's pairs as one list.
                let pairs = self.heap.lists[*list as usize].iter().map(|pair| match *pair {
                    Value::List(pair) => two(&self.heap.lists[pair as usize]),
                    Value::Tuple(pair) => two(&self.heap.tuples[pair as usize]),
                    _ => None,
                });
                let pairs: Option<Vec<_>> = pairs.collect();
                let pairs = pairs.ok_or_else(|| at.wrong("a dictionary of what are no pairs"))?;
                self.made += pairs.len() as u64;
                self.count(at)?;
                Ok(self.heap.new_dict(pairs))
            }
            (Global::Size, [sizes @ Value::Tuple(_)]) => Ok(*sizes),
            (Global::Parameter, [tensor @ Value::Tensor(_), ..]) => Ok(*tensor),
            (Global::Tensor(how), values) => {
                let tensor = rebuild::tensor(&self.heap, how, values, at)?;
                self.heap.tensors.push(tensor);
                Ok(Value::Tensor(self.heap.tensors.len() as u32 - 1))
            }
            _ => Err(at.wrong("a call with arguments that do not fit")),
        }
    }

    /// What a reference to bytes outside the pickle stands for.
    fn storage(&mut self, reference: Value, at: At<'_>) -> Result<Value, Fault> {
        let storage = rebuild::storage(&self.heap, reference, at)?;
        if let Some(&known) = self.storages.get(&storage.key) {
            let before = &self.heap.storages[known as usize];
            if (before.elements, before.count) != (storage.elements, storage.count) {
                let what = format!("two descriptions of the storage `{}`", shown(&storage.key));
                return Err(at.wrong(&what));
            }
            return Ok(Value::Storage(known));
        }
        let number = self.heap.storages.len() as u32;
        self.storages.insert(storage.key.clone(), number);
        self.heap.storages.push(storage);
        Ok(Value::Storage(number))
    }

    /// The message about names that tensors do not need, if the pickle has any.
    fn refusal(&self, file: &str) -> Option<Fault> {
        let refused = &self.heap.refused;
        let first = refused.first()?;
        let headline =
            format!("the file names `{}`, which is no part of a tensor", shown(&first.name));
        let mut fault = unread(headline).at_byte(file, first.at);
        if refused.len() > 1 {
            let others: Vec<&str> = refused[1..].iter().map(|name| name.name.as_str()).collect();
            fault = fault.fact("also named", some_of(&others));
        }
        Some(Box::new(
            fault
                .note("names in such a file are code that its reader runs; none was run")
                .help("save the model's `state_dict()` alone, best as safetensors"),
        ))
    }
}

fn protocol(stream: &mut Stream<'_>, at: At<'_>) -> Result<(), Fault> {
    let [protocol] = stream.array()?;
    if (2..=5).contains(&protocol) {
        return Ok(());
    }
    Err(at.wrong(&format!("protocol {protocol}")))
}

/// A length of so many bytes.
fn length(stream: &mut Stream<'_>, width: u32) -> Result<u64, Fault> {
    let mut length = [0; 8];
    length[..width as usize].copy_from_slice(stream.take(width.into())?);
    Ok(u64::from_le_bytes(length))
}

fn bytes(stream: &mut Stream<'_>, width: u32) -> Result<Value, Fault> {
    let len = length(stream, width)?;
    stream.take(len)?;
    Ok(Value::Plain)
}

fn long(stream: &mut Stream<'_>, width: u32) -> Result<Value, Fault> {
    let len = length(stream, width)?;
    let bytes = stream.take(len)?;
    if bytes.len() > 8 {
        return Ok(Value::Plain);
    }
    let sign = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
    let mut wide = [sign; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Ok(Value::Int(i64::from_le_bytes(wide)))
}

fn pairs(values: Vec<Value>, at: At<'_>) -> Result<Vec<(Value, Value)>, Fault> {
    if !values.len().is_multiple_of(2) {
        return Err(at.wrong("a key without a value"));
    }
    Ok(values.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

fn two(values: &[Value]) -> Option<(Value, Value)> {
    match values {
        [key, value] => Some((*key, *value)),
        _ => None,
    }
}
