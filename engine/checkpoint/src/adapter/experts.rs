//! Updates of parameters outside linear layers: stacks of experts, of which each has its own factors.
//!
//! peft stores the factors of all experts together: `lora_A` [experts · rank, in], expert after expert, and
//! `lora_B` [out, rank · experts], direction after direction. Where the base stores each expert by itself,
//! each gets the update that is its own.

use super::computed::{ByRows, Effect, Factor, Made, Part, add_product};
use super::kinds::Fault;
use super::resolve::Resolver;
use crate::encoding::{Held, Reader};
use crate::experts::{Stack as Stored, are_inputs_first, layouts, lie, lie_either_way};
use crate::source::ReadError;

/// The factors of one parameter, with their shapes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Factors {
    pub a: u32,
    pub b: u32,
    /// `lora_A`'s.
    pub a_shape: [u64; 2],
    /// `lora_B`'s.
    pub b_shape: [u64; 2],
}

/// How a stack lies: experts, rank, and which sides of a matrix come first.
#[derive(Clone, Copy, Debug)]
struct Stack {
    experts: u64,
    rank: u64,
    inputs: u64,
    outputs: u64,
    inputs_first: bool,
}

impl Resolver<'_> {
    /// The parameter of `module` that these factors are for, among those that the configuration names and
    /// that are not taken, and what they do.
    pub(super) fn parameter(
        &mut self,
        module: &str,
        factors: &Factors,
        taken: &mut Vec<String>,
    ) -> Result<Option<Vec<(u32, Effect)>>, Fault> {
        let mut found: Vec<(String, Vec<(u32, Effect)>)> = Vec::new();
        let named = self.config.target_parameters.clone();
        for parameter in &named {
            let (container, own) = parameter.rsplit_once('.').unwrap_or(("", parameter));
            let is_own = container.is_empty()
                || module == container
                || module.ends_with(&format!(".{container}"));
            let name = format!("{module}.{own}");
            if is_own && !taken.contains(&name) {
                found.extend(self.effects_on(&name, module, own, factors)?.map(|it| (name, it)));
            }
        }
        if found.len() > 1 {
            let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Fault::unsupported(
                "an update of `{}` may be that of several of its parameters, which have one shape",
            )
            .fact("parameters", names.join(", ")));
        }
        Ok(found.pop().map(|(name, effects)| {
            taken.push(name);
            effects
        }))
    }

    /// What factors do to the parameter of this name; none where they do not fit.
    fn effects_on(
        &self,
        name: &str,
        module: &str,
        own: &str,
        factors: &Factors,
    ) -> Result<Option<Vec<(u32, Effect)>>, Fault> {
        let ([all, inputs], [outputs, b_all]) = (factors.a_shape, factors.b_shape);
        let (rank, scale) = (self.config.rank_of(name), self.config.scale_of(name));
        if all != b_all || rank == 0 {
            return Ok(None);
        }
        let both = [Part::Adapter(factors.a), Part::Adapter(factors.b)];
        if let Some(base_tensor) = self.find_one(name) {
            let target = &self.base.tensors()[base_tensor as usize];
            let dimensions = target.shape.dimensions();
            if let &[rows, columns] = dimensions {
                let fits = [rows, columns] == [outputs, inputs] && all == rank;
                let (left, right) = (Factor::Stored(factors.b), Factor::Stored(factors.a));
                let transposed = false;
                let effect = Effect::Product { left, right, rank, scale, transposed };
                return Ok(fits.then(|| vec![(base_tensor, effect)]));
            }
            let &[experts, first, second] = dimensions else { return Ok(None) };
            let is = |pair: [u64; 2]| [first, second] == pair;
            let inputs_first = match (is([inputs, outputs]), is([outputs, inputs])) {
                (true, true) => self.square_inputs_first(name)?,
                (true, false) => true,
                (false, true) => false,
                (false, false) => return Ok(None),
            };
            if experts.checked_mul(rank) != Some(all) {
                return Ok(None);
            }
            let stack = Stack { experts, rank, inputs, outputs, inputs_first };
            let compute = Experts { stack, scale: scale as f32 };
            let scheme = format!("LoRA of {experts} experts, rank {rank}");
            let made = Made::new(scheme, dimensions, both.to_vec(), compute);
            return Ok(Some(vec![(base_tensor, Effect::Delta(made))]));
        }
        self.separate(module, own, factors, rank, scale)
    }

    /// Whether a stack of square matrices is [experts, in, out]: by what lies beside it, or by its family.
    fn square_inputs_first(&self, name: &str) -> Result<bool, Fault> {
        let shape = |name: &str| {
            let found = self.find_one(name)?;
            Some(self.base.tensors()[found as usize].shape.dimensions())
        };
        let layer = layouts().iter().find_map(|layout| Some(layout.stack_of(name)?.1));
        match layer.and_then(|layer| lie(&shape, layer, self.base_config)) {
            Some(inputs_first) => Ok(inputs_first),
            None if lie_either_way(self.base_config) => Err(Fault::unsupported(
                "an update of `{}` is for square matrices, of which nothing tells which side is which",
            )
            .fact("parameter", name)),
            None => Ok(are_inputs_first(self.base_config)),
        }
    }

    /// The same where the base stores each expert by itself.
    fn separate(
        &self,
        module: &str,
        own: &str,
        factors: &Factors,
        rank: u64,
        scale: f64,
    ) -> Result<Option<Vec<(u32, Effect)>>, Fault> {
        let ([all, inputs], [outputs, _]) = (factors.a_shape, factors.b_shape);
        if all % rank != 0 {
            return Ok(None);
        }
        let experts = all / rank;
        let name = format!("{module}.{own}");
        for layout in layouts() {
            let Some((stack, layer)) = layout.stack_of(&name) else { continue };
            let rows = outputs / stack.parts.len() as u64;
            let mut effects = Vec::new();
            for expert in 0..experts {
                for (half, part) in (0..).zip(&stack.parts) {
                    let name = Stored::part_name(layer, part, expert);
                    let Some(base_tensor) = self.find_one(&name) else { continue };
                    let shape = self.base.tensors()[base_tensor as usize].shape.dimensions();
                    if shape != [rows, inputs] {
                        return Ok(None);
                    }
                    let scheme = format!("LoRA of an expert, rank {rank}");
                    let slice = |at: u32, size: [u64; 2], start, row_step, column_step| {
                        let columns = size[1];
                        let compute = Slice { start, row_step, column_step, columns };
                        let parts = vec![Part::Adapter(at)];
                        Factor::Made(Made::new(scheme.clone(), &size, parts, compute))
                    };
                    let start = half * rows * all + expert;
                    let left = slice(factors.b, [rows, rank], start, all, experts);
                    let start = expert * rank * inputs;
                    let right = slice(factors.a, [rank, inputs], start, inputs, 1);
                    let transposed = false;
                    let effect = Effect::Product { left, right, rank, scale, transposed };
                    effects.push((base_tensor, effect));
                }
            }
            if effects.len() as u64 == experts * stack.parts.len() as u64 {
                return Ok(Some(effects));
            }
        }
        Ok(None)
    }
}

/// Σ B[o, k · experts + e] · A[e · rank + k, i] for each expert e.
#[derive(Debug)]
struct Experts {
    stack: Stack,
    scale: f32,
}

impl ByRows for Experts {
    fn held_bytes(&self) -> u64 {
        let Stack { experts, rank, inputs, outputs, .. } = self.stack;
        experts * rank * (inputs + outputs) * 4
    }

    fn hold(&self, parts: &Reader<'_>) -> Result<Held, ReadError> {
        let (a, b) = (parts.all(0)?, parts.all(1)?);
        let Stack { experts, rank, outputs, .. } = self.stack;
        let (all, outputs) = ((experts * rank) as usize, outputs as usize);
        // Each expert's directions follow each other, and each lies as a row: [experts, rank, out].
        let mut turned = vec![0.0; b.len()];
        for output in 0..outputs {
            for (at, value) in b[output * all..][..all].iter().enumerate() {
                let (direction, expert) = (at / experts as usize, at % experts as usize);
                turned[(expert * rank as usize + direction) * outputs + output] =
                    value * self.scale;
            }
        }
        Ok(Held { numbers: vec![a, turned], counts: Vec::new() })
    }

    fn columns(&self) -> u64 {
        if self.stack.inputs_first { self.stack.outputs } else { self.stack.inputs }
    }

    fn row(
        &self,
        held: &Held,
        _: &Reader<'_>,
        [row, column]: [u64; 2],
        own: &mut [f32],
    ) -> Result<(), ReadError> {
        let [a, b] = &held.numbers[..] else { return Ok(()) };
        let Stack { rank, inputs, outputs, inputs_first, .. } = self.stack;
        let (rows, columns, down, across) = match inputs_first {
            true => (inputs, outputs, a, b),
            false => (outputs, inputs, b, a),
        };
        let mut left = vec![0.0; rank as usize];
        let (expert, row) = (row / rows, row % rows);
        for (direction, value) in (expert * rank..).zip(&mut left) {
            *value = down[(direction * rows + row) as usize];
        }
        own.fill(0.0);
        let right = &across[(expert * rank * columns) as usize..];
        add_product(own, &left, right, columns as usize, column as usize);
        Ok(())
    }
}

/// Elements of a stored matrix in steps.
#[derive(Debug)]
struct Slice {
    start: u64,
    row_step: u64,
    column_step: u64,
    columns: u64,
}

impl ByRows for Slice {
    fn columns(&self) -> u64 {
        self.columns
    }

    fn row(
        &self,
        _: &Held,
        parts: &Reader<'_>,
        [row, column]: [u64; 2],
        own: &mut [f32],
    ) -> Result<(), ReadError> {
        let start = self.start + row * self.row_step + column * self.column_step;
        if self.column_step == 1 {
            return parts.floats(0, start, own);
        }
        let step = self.column_step as usize;
        let mut span = vec![0.0; (own.len() - 1) * step + 1];
        parts.floats(0, start, &mut span)?;
        own.iter_mut().zip(span.iter().step_by(step)).for_each(|(value, from)| *value = *from);
        Ok(())
    }
}
