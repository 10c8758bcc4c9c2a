//! What determines the result of a matrix op, as a text: equal texts, equal results.
//!
//! A store hashes the text. It names operations, numbers and the content of tensors, and nothing that
//! can change while the result stays: no path, no position in a plan, no name of a tensor.

use std::fmt::Write as _;

use mixdown_ops::matrix::MatrixOp;

use crate::assembled::{Patch, PatchSource};
use crate::plan::{Leaf, Merge, Plan, TensorRef};

/// What determines the result of a matrix op of a job. `content` tells what a tensor holds, by digest;
/// without one for every tensor there is no identity.
pub fn matrix_identity(
    plan: &Plan,
    merge: &Merge,
    step: usize,
    content: &dyn Fn(TensorRef) -> Option<String>,
) -> Option<String> {
    let Merge { matrices, precision, .. } = merge;
    let found = &matrices[step];
    let mut text = format!(
        "version {} {:?} {precision:?} [{}, {}]\n",
        MatrixOp::VERSION,
        found.op,
        found.rows,
        found.columns
    );
    for operand in &found.operands {
        let Merge { program, leaves, constants, streams, .. } = &operand.merge;
        let bits: Vec<u64> = constants.iter().map(|constant| constant.to_bits()).collect();
        // Writing to a text does not fail.
        let _ =
            writeln!(text, "operand {:?} {bits:x?} {streams:x?}", plan.programs[*program as usize]);
        for (_, factor) in operand.combination.iter().flatten() {
            let _ = writeln!(text, "times {:x}", factor.to_bits());
        }
        for leaf in leaves {
            leaf_identity(plan, merge, leaf, content, &mut text)?;
        }
    }
    Some(text)
}

fn leaf_identity(
    plan: &Plan,
    merge: &Merge,
    leaf: &Leaf,
    content: &dyn Fn(TensorRef) -> Option<String>,
    text: &mut String,
) -> Option<()> {
    match leaf {
        Leaf::Tensor(tensor) => text.push_str(&content(*tensor)?),
        Leaf::Rows(number) => {
            let rows = &plan.rows[*number as usize];
            let _ = write!(text, "rows {} {:?}", rows.row_elements, rows.rows);
            for &tensor in &rows.tensors {
                text.push_str(&content(tensor)?);
            }
        }
        Leaf::Assembled(number, dtype) => {
            let assembled = &plan.assembled[*number as usize];
            let tensors = assembled.tensors();
            let _ = write!(text, "assembled {} {} {dtype:?}", assembled.rows, assembled.columns);
            for Patch { rows, columns, from } in &assembled.patches {
                let _ = match from {
                    PatchSource::Fill(number) => {
                        write!(text, " {rows:?} {columns:?} fill {number}")
                    }
                    PatchSource::Tensor { tensor, start, row_step, column_step } => {
                        // Which of its tensors, and not where that stands in the plan.
                        let which = tensors.iter().position(|known| known == tensor);
                        write!(
                            text,
                            " {rows:?} {columns:?} {which:?} {start} {row_step} {column_step}"
                        )
                    }
                };
            }
            for tensor in tensors {
                text.push_str(&content(tensor)?);
            }
        }
        Leaf::Product(product) => {
            let (rank, scale) = (product.rank, product.scale);
            let _ = write!(text, "product {rank} {scale:?} {}", product.transposed);
            if rank > 0 {
                text.push_str(&content(product.left)?);
                text.push_str(&content(product.right)?);
            }
        }
        Leaf::Matrix(step) => {
            let inner = matrix_identity(plan, merge, usize::from(*step), content)?;
            let _ = write!(text, "matrix {{\n{inner}}}");
        }
        // No matrix op reads a side of a result.
        Leaf::Factor => return None,
    }
    text.push('\n');
    Some(())
}
