//! Tensors that only one input is read for, unchanged, and whose codes that input has already.

use std::sync::Arc;

use mixdown_checkpoint::quantize::Quantizer;
use mixdown_ops::{Instruction, Operand, Pass, Program};

use crate::models::request::Request;
use crate::plan::{Job, Leaf, Merge, TensorRef, Work};

/// Writes a job with this quantizer: as a copy of codes and scales where an input has them in its form.
pub(super) fn write_with(
    request: &Request<'_>,
    programs: &[Arc<Program>],
    job: &mut Job,
    quantizer: Quantizer,
) {
    let unchanged = match &job.work {
        Work::Copy { from, equal_to, .. } if equal_to.is_empty() => Some(*from),
        Work::Copy { .. } => None,
        Work::Merge(merge) => unchanged(merge, &programs[merge.program as usize]),
    };
    let kept = unchanged.and_then(|from| {
        let index = request.checkpoints[from.model as usize].index;
        let kept = quantizer.taking_over(&job.name, &index.tensors()[from.tensor as usize])?;
        Some((from, kept))
    });
    match kept {
        Some((from, quantizer)) => {
            job.work = Work::Copy { from, equal_to: Vec::new(), within: None };
            job.quantized = Some(Arc::new(quantizer));
        }
        None => job.quantized = Some(Arc::new(quantizer)),
    }
}

/// The tensor that a merge stores as it is, but for rounding.
fn unchanged(merge: &Merge, program: &Program) -> Option<TensorRef> {
    let [Pass { instructions, .. }] = &program.passes[..] else { return None };
    let [Leaf::Tensor(from)] = merge.leaves[..] else { return None };
    let [Instruction::Load { to, .. }, rounded @ .., Instruction::Store { from: stored }] =
        &instructions[..]
    else {
        return None;
    };
    let mut register = *to;
    for step in rounded {
        match step {
            Instruction::Round { from, to, .. } if *from == register => register = *to,
            _ => return None,
        }
    }
    let is_plain = merge.matrices.is_empty() && merge.factor.is_none() && merge.groups.is_empty();
    (is_plain && *stored == Operand::Register(register)).then_some(from)
}
