//! The files that the processes of DeepSpeed ZeRO write, as `torch.save` does: what a model consists of
//! (`…_model_states.pt`), and the weights that each process's optimizer holds (`…_optim_states.pt`), flat and in
//! the order of the first.
//!
//! Beside weights they hold objects of DeepSpeed's, NumPy's and the trainer's own. None is imported, as in all
//! files of torch: their names stand for values of which no tensor is made.

use std::cell::RefCell;

use mixdown_diagnostics::Diagnostic;

use super::machine::Pickle;
use super::state::Chosen;
use super::values::{Heap, Value, count};
use super::{Fault, broken, globals, unread, zipped_with};
use crate::index::TensorEntry;
use crate::source::ByteSource;

/// A name and a shape.
pub(crate) type Named = (String, Vec<u64>);

/// What a file of model states says.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Trained parameters by group, in the order in which optimizers hold them.
    pub groups: Vec<Vec<Named>>,
    /// Parameters that were not trained.
    pub frozen: Vec<Named>,
    /// Second names of parameters, with the first.
    pub shared: Vec<[String; 2]>,
    /// Buffers, which every process has whole.
    pub buffers: Vec<TensorEntry>,
    /// Of the parameters that were not trained, this process's parts, by name.
    pub fragments: Vec<TensorEntry>,
}

/// What a file of optimizer states says.
#[derive(Debug, Default)]
pub(crate) struct Optimizer {
    /// Whether each parameter is cut among the processes (stage 3), or the row of all of them.
    pub is_by_parameter: bool,
    /// How many processes wrote parts.
    pub processes: u64,
    /// This process's part of each group, flat.
    pub groups: Vec<TensorEntry>,
    /// Elements that were put behind each parameter of each group.
    pub paddings: Option<Vec<Vec<u64>>>,
}

/// What starts the names of buffers and of fragments in the list of chosen tensors.
const BUFFER: &str = "buffer:";
const FRAGMENT: &str = "fragment:";

/// Reads a file of model states.
///
/// **Errors.** What is wrong with it; a file without the keys of ZeRO is refused as such.
pub(crate) fn model(source: &dyn ByteSource, file: &str) -> Result<Model, Vec<Diagnostic>> {
    let said = RefCell::new(Model::default());
    let choose = |pickle: &Pickle, file: &str, at: u64| {
        let state = State { heap: &pickle.heap, file, at };
        let (model, tensors) = state.model(pickle.top)?;
        *said.borrow_mut() = model;
        Ok(Chosen { tensors, warnings: Vec::new() })
    };
    let header = zipped_with(source, file, globals::in_zero, &choose)?;
    let mut model = said.into_inner();
    for mut tensor in header.tensors {
        if let Some(name) = tensor.name.strip_prefix(BUFFER) {
            tensor.name = name.to_owned();
            model.buffers.push(tensor);
        } else if let Some(name) = tensor.name.strip_prefix(FRAGMENT) {
            tensor.name = name.to_owned();
            model.fragments.push(tensor);
        }
    }
    Ok(model)
}

/// Reads a file of optimizer states.
///
/// **Errors.** What is wrong with it; a file without the keys of ZeRO is refused as such.
pub(crate) fn optimizer(source: &dyn ByteSource, file: &str) -> Result<Optimizer, Vec<Diagnostic>> {
    let said = RefCell::new(Optimizer::default());
    let choose = |pickle: &Pickle, file: &str, at: u64| {
        let state = State { heap: &pickle.heap, file, at };
        let (optimizer, tensors) = state.optimizer(pickle.top)?;
        *said.borrow_mut() = optimizer;
        Ok(Chosen { tensors, warnings: Vec::new() })
    };
    let header = zipped_with(source, file, globals::in_zero, &choose)?;
    Ok(Optimizer { groups: header.tensors, ..said.into_inner() })
}

struct State<'a> {
    heap: &'a Heap,
    file: &'a str,
    at: u64,
}

impl<'a> State<'a> {
    fn wrong(&self, what: &str) -> Fault {
        Box::new(
            broken(format!("the state of DeepSpeed ZeRO cannot be understood: {what}"))
                .at_byte(self.file, self.at)
                .help("run DeepSpeed's `zero_to_fp32.py` on the checkpoint, and name its output"),
        )
    }

    /// The value of a key; the last, where a dictionary was written to twice.
    fn get(&self, dict: Value, key: &str) -> Option<Value> {
        let mut pairs = self.heap.dict(dict)?.iter().rev();
        let found = pairs.find(|(own, _)| self.heap.text(*own) == Some(key));
        found.map(|(_, value)| *value).filter(|value| *value != Value::None)
    }

    /// The names and values of a dictionary.
    fn pairs(&self, dict: Value) -> Option<Vec<(String, Value)>> {
        let pairs = self.heap.dict(dict)?.iter();
        pairs.map(|(key, value)| Some((self.heap.text(*key)?.to_owned(), *value))).collect()
    }

    fn list(&self, value: Value) -> Option<&'a [Value]> {
        match value {
            Value::List(list) => Some(&self.heap.lists[list as usize]),
            _ => self.heap.tuple(value),
        }
    }

    fn shapes(&self, dict: Value) -> Option<Vec<Named>> {
        let pairs = self.pairs(dict)?.into_iter();
        pairs.map(|(name, size)| Some((name, self.heap.counts(size)?))).collect()
    }

    fn model(&self, top: Value) -> Result<(Model, Vec<(String, u32)>), Fault> {
        let Some(shapes) = self.get(top, "param_shapes") else {
            let headline = "the file holds no shapes of parameters, as DeepSpeed ZeRO writes them";
            return Err(Box::new(unread(headline).in_file(self.file)));
        };
        for key in ["autoep_layers", "ds_autoep_layers"] {
            if self.get(top, key).is_some() {
                return Err(self.wrong("experts lie in parts of their own (AutoEP)"));
            }
        }
        // Versions before groups had one dictionary.
        let groups = match self.list(shapes) {
            Some(groups) => groups.iter().map(|group| self.shapes(*group)).collect(),
            None => self.shapes(shapes).map(|one| vec![one]),
        };
        let groups = groups.ok_or_else(|| self.wrong("the shapes of its parameters"))?;
        let frozen = match self.get(top, "frozen_param_shapes") {
            None => Vec::new(),
            Some(shapes) => {
                self.shapes(shapes).ok_or_else(|| self.wrong("the shapes of what was frozen"))?
            }
        };
        let shared = match self.get(top, "shared_params") {
            None => Vec::new(),
            Some(names) => {
                let pair = |(name, own)| Some([name, self.heap.text(own)?.to_owned()]);
                let pairs = self.pairs(names);
                let pairs = pairs.and_then(|pairs| pairs.into_iter().map(pair).collect());
                pairs.ok_or_else(|| self.wrong("the second names of parameters"))?
            }
        };
        let mut tensors = Vec::new();
        let mut take = |start: &str, name: &str, value: Value| {
            if let Value::Tensor(number) = value {
                tensors.push((format!("{start}{name}"), number));
            }
        };
        let buffers = self.get(top, "buffer_names").and_then(|names| self.list(names));
        if let Some(module) = self.get(top, "module") {
            for name in buffers.unwrap_or_default() {
                let name = self.heap.text(*name).ok_or_else(|| self.wrong("names of buffers"))?;
                if let Some(value) = self.get(module, name) {
                    take(BUFFER, name, value);
                }
            }
        }
        if let Some(fragments) = self.get(top, "frozen_param_fragments") {
            for (name, value) in self.pairs(fragments).unwrap_or_default() {
                take(FRAGMENT, &name, value);
            }
        }
        Ok((Model { groups, frozen, shared, ..Model::default() }, tensors))
    }

    fn optimizer(&self, top: Value) -> Result<(Optimizer, Vec<(String, u32)>), Fault> {
        let get =
            |key: &str| self.get(top, "optimizer_state_dict").and_then(|own| self.get(own, key));
        let by_parameter = get("fp32_flat_groups");
        let Some(groups) = by_parameter.or_else(|| get("single_partition_of_fp32_groups")) else {
            let headline =
                "the file holds no flat weights, as optimizers of DeepSpeed ZeRO write them";
            return Err(Box::new(unread(headline).in_file(self.file)));
        };
        let tensor = |(number, value): (usize, &Value)| match value {
            Value::Tensor(tensor) => Some((number.to_string(), *tensor)),
            _ => None,
        };
        let tensors = self.list(groups).map(|list| list.iter().enumerate().map(tensor).collect());
        let tensors: Option<Vec<(String, u32)>> = tensors.flatten();
        let tensors = tensors.ok_or_else(|| self.wrong("its flat weights"))?;
        // Groups may be cut among different counts of processes; all of them take part in the largest.
        let processes = get("partition_count").and_then(|value| match self.list(value) {
            Some(counts) => counts.iter().filter_map(|one| count(*one)).max(),
            None => count(value),
        });
        let processes = processes.ok_or_else(|| self.wrong("the count of processes"))?;
        let paddings = match get("param_alignment_paddings") {
            None => None,
            Some(groups) => {
                let of = |group: &Value| self.list(*group)?.iter().map(|one| count(*one)).collect();
                let all = self.list(groups).and_then(|all| all.iter().map(of).collect());
                Some(all.ok_or_else(|| self.wrong("what was put between parameters"))?)
            }
        };
        let is_by_parameter = by_parameter.is_some();
        let optimizer = Optimizer { is_by_parameter, processes, groups: Vec::new(), paddings };
        Ok((optimizer, tensors))
    }
}
