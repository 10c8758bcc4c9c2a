//! The plan as JSON, for scripts.

use mixdown_checkpoint::adapter::OutputUpdate;
use mixdown_ops::account::Flat;
use mixdown_ops::matrix::MatrixLayout;
use mixdown_ops::program::Scope;
use mixdown_ops::{Instruction, Operand, Pass, Program};
use serde_json::{Map, Value, json};

use super::verb;
use crate::plan::{Assembled, Patch, PatchSource};
use crate::plan::{
    FactsRead, Group, Job, Leaf, MatrixOperand, MatrixStep, Merge, Plan, RowSource, Rows, Side,
    TensorRef, Work,
};

/// The whole plan. The same plan gives the same text.
pub fn json(plan: &Plan) -> Value {
    let programs: Vec<Value> = plan.programs.iter().map(|program| program_value(program)).collect();
    let origins: Vec<Value> = plan
        .origins
        .iter()
        .map(|origin| json!({"rule": origin.rule, "line": origin.line, "method": origin.method}))
        .collect();
    let groups: Vec<Value> = plan.groups.iter().map(group_value).collect();
    let left_out: Vec<Value> = plan
        .left_out
        .iter()
        .map(|left| json!({"tensor": reference(left.tensor), "reason": left.reason}))
        .collect();
    let output = &plan.output;
    let layers: Vec<Value> = output
        .layers
        .iter()
        .map(|change| json!({"prefix": change.prefix, "before": change.before, "sources": change.sources}))
        .collect();
    let mut value = json!({
        "models": plan.models,
        "tensors": plan.jobs.iter().map(job_value).collect::<Vec<_>>(),
        "programs": programs,
        "origins": origins,
        "groups": groups,
        "rows": plan.rows.iter().map(|rows| rows_value(rows)).collect::<Vec<_>>(),
        "assembled": plan.assembled.iter().map(|one| assembled_value(one)).collect::<Vec<_>>(),
        "left_out": left_out,
        "output": {
            "files_from": output.files_from,
            "dtype": output.dtype.map(|dtype| dtype.name()),
            "layers": layers,
            "tied": output.tied,
            "vocabulary": output.vocabulary,
            "files": output.files.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        },
    });
    if let Some(adapter) = &output.adapter {
        let update = |one: &OutputUpdate| json!({"tensor": one.base_tensor, "rank": one.rank});
        value["output"]["adapter"] = json!({
            "base": adapter.base,
            "updates": adapter.updates.iter().map(update).collect::<Vec<_>>(),
            "replacements": adapter.replacements,
        });
    }
    value
}

fn group_value(group: &Group) -> Value {
    json!({"title": group.title, "jobs": group.jobs, "layers": group.layers})
}

/// The group that a fact is about, by its number in the job; null for the job's own tensor.
fn scope_value(scope: Scope) -> Value {
    json!({"group": scope.group()})
}

fn reference(tensor: TensorRef) -> Value {
    json!([tensor.model, tensor.tensor])
}

fn job_value(job: &Job) -> Value {
    let work = match &job.work {
        Work::Copy { from, equal_to, within } => {
            let equal_to: Vec<Value> = equal_to.iter().map(|&tensor| reference(tensor)).collect();
            let mut work = json!({"copy": reference(*from), "equal_to": equal_to});
            if let Some(within) = within {
                work["within"] = json!(within);
            }
            work
        }
        Work::Merge(merge) => merge_value(merge),
    };
    let mut value = json!({
        "name": job.name,
        "dtype": job.dtype.name(),
        "shape": job.shape.dimensions(),
        "origin": job.origin,
        "work": work,
    });
    if let Some(treatment) = job.treatment {
        value["treatment"] = json!(treatment.word());
    }
    value
}

fn merge_value(merge: &Merge) -> Value {
    let mut value = json!({
        "program": merge.program,
        "inputs": merge.leaves.iter().map(leaf_value).collect::<Vec<_>>(),
        "constants": merge.constants,
        "streams": merge.streams.iter().map(|key| format!("{key:016x}")).collect::<Vec<_>>(),
        "groups": merge.groups,
        "precision": merge.precision.name(),
    });
    if let Some(factor) = &merge.factor {
        let term = |(leaf, by): &(Leaf, f64)| json!([leaf_value(leaf), by]);
        value["factor"] = json!({
            "side": match factor.side { Side::Left => "left", Side::Right => "right" },
            "rank": factor.rank,
            "shape": [factor.rows, factor.columns],
            "terms": factor.terms.iter().map(term).collect::<Vec<_>>(),
        });
    }
    if !merge.matrices.is_empty() {
        value["matrices"] = merge.matrices.iter().map(matrix_value).collect();
    }
    value
}

fn leaf_value(leaf: &Leaf) -> Value {
    match leaf {
        Leaf::Tensor(tensor) => reference(*tensor),
        Leaf::Rows(rows) => json!({"rows": rows}),
        Leaf::Assembled(number, _) => json!({"assembled": number}),
        Leaf::Matrix(step) => json!({"matrix": step}),
        Leaf::Part(step, part) => json!({
            "matrix": step,
            "start": part.start,
            "steps": [part.row_step, part.column_step],
            "shape": [part.rows, part.columns],
        }),
        Leaf::Factor => json!("factor"),
        Leaf::Product(product) => json!({
            "left": reference(product.left),
            "right": reference(product.right),
            "rank": product.rank,
            "scale": product.scale.get(),
            "transposed": product.transposed,
        }),
    }
}

fn assembled_value(assembled: &Assembled) -> Value {
    let patch = |patch: &Patch| {
        let from = match patch.from {
            PatchSource::Fill(number) => json!(number),
            PatchSource::Tensor { tensor, start, row_step, column_step } => json!({
                "tensor": reference(tensor),
                "start": start,
                "steps": [row_step, column_step],
            }),
        };
        json!({
            "rows": [patch.rows.start, patch.rows.end],
            "columns": [patch.columns.start, patch.columns.end],
            "from": from,
        })
    };
    json!({
        "shape": [assembled.rows, assembled.columns],
        "dtype": assembled.dtype.name(),
        "patches": assembled.patches.iter().map(patch).collect::<Vec<_>>(),
    })
}

fn matrix_value(step: &MatrixStep) -> Value {
    let operand = |operand: &MatrixOperand| {
        let mut value = merge_value(&operand.merge);
        if (operand.rows, operand.columns) != (step.rows, step.columns) {
            value["shape"] = json!([operand.rows, operand.columns]);
        }
        if let Some(terms) = &operand.combination {
            let term = |(leaf, factor): &(Leaf, f64)| json!([leaf_value(leaf), factor]);
            value["combination"] = terms.iter().map(term).collect();
        }
        if !operand.facts.is_empty() {
            let FactsRead { scalars, cuts } = &operand.facts;
            value["facts"] = json!({"scalars": scalars, "cuts": cuts});
        }
        value
    };
    let mut told = Flat::default();
    step.op.parameters(&mut told);
    let parameters: Map<String, Value> =
        told.0.into_iter().map(|(name, value)| (name, value.into())).collect();
    let mut value = json!({
        "op": step.op.name(),
        "version": step.op.version(),
        "parameters": parameters,
        "shape": [step.rows, step.columns],
        "before_pass": step.before,
        "operands": step.operands.iter().map(operand).collect::<Vec<_>>(),
    });
    if !step.layout.is_plain() {
        let MatrixLayout { matrices, rows, columns, inputs_first } = step.layout;
        value["layout"] = json!({
            "matrices": matrices,
            "rows": rows,
            "columns": columns,
            "inputs_first": inputs_first,
        });
    }
    value
}

fn rows_value(rows: &Rows) -> Value {
    let source = |row: &RowSource| match row {
        RowSource::Row(tensor, row) => json!([tensor, row]),
        RowSource::Zero => json!("zero"),
        RowSource::Mean(rows) => json!({"mean": rows}),
        RowSource::MeanOfRows => json!("mean_of_rows"),
    };
    json!({
        "tensors": rows.tensors.iter().map(|&tensor| reference(tensor)).collect::<Vec<_>>(),
        "row_elements": rows.row_elements,
        "rows": rows.rows.iter().map(source).collect::<Vec<_>>(),
    })
}

fn program_value(program: &Program) -> Value {
    json!({
        "inputs": program.inputs,
        "constants": program.constants,
        "scalars": program.scalars,
        "cuts": program.cuts,
        "streams": program.streams,
        "passes": program.passes.iter().map(pass_value).collect::<Vec<_>>(),
    })
}

fn pass_value(pass: &Pass) -> Value {
    let prelude: Vec<Value> = pass
        .prelude
        .iter()
        .map(|step| {
            let read = &step.arguments[..step.op.arity()];
            json!({"op": step.op.name(), "scalars": read, "to": step.to})
        })
        .collect();
    let slots: Vec<Value> = pass
        .reductions
        .iter()
        .map(|slot| {
            json!({"op": slot.reduction.name(), "to": slot.to, "scope": scope_value(slot.scope)})
        })
        .collect();
    let selections: Vec<Value> = pass
        .selections
        .iter()
        .map(|slot| {
            let mut value = json!({
                "density": slot.density,
                "ties": slot.ties.name(),
                "cut": slot.cut,
                "scope": scope_value(slot.scope),
            });
            if slot.is_count {
                value["is_count"] = json!(true);
            }
            if let Some(among) = slot.among {
                value["among"] = json!(among);
            }
            if let Some(magnitude) = slot.magnitude {
                value["magnitude"] = json!(magnitude);
            }
            value
        })
        .collect();
    let standings: Vec<Value> = pass
        .standings
        .iter()
        .map(|slot| {
            let op = slot.standing.name();
            json!({"op": op, "of": slot.of, "to": slot.to, "group": slot.group})
        })
        .collect();
    let mut value = json!({
        "inputs": pass.inputs,
        "registers": pass.registers,
        "scalar_steps": prelude,
        "instructions": pass.instructions.iter().map(instruction_value).collect::<Vec<_>>(),
        "reductions": slots,
        "selections": selections,
    });
    if !standings.is_empty() {
        value["standings"] = standings.into();
    }
    value
}

fn instruction_value(instruction: &Instruction) -> Value {
    let operand = |operand: &Operand| match operand {
        Operand::Register(register) => json!(format!("r{register}")),
        Operand::Scalar(scalar) => json!(format!("s{scalar}")),
    };
    let op = verb(instruction);
    match instruction {
        Instruction::Load { input, to } => json!({"op": "load", "input": input, "to": to}),
        Instruction::Round { from, to, .. } => json!({"op": op, "from": from, "to": to}),
        Instruction::Map { op: map, arguments, to } => {
            let read: Vec<Value> = arguments[..map.arity()].iter().map(operand).collect();
            json!({"op": op, "arguments": read, "to": to})
        }
        Instruction::KeepLargest { from, cut, to } => {
            json!({"op": op, "from": from, "cut": cut, "to": to})
        }
        Instruction::KeepRandom { from, density, stream, to } => {
            json!({"op": op, "from": from, "density": operand(density), "stream": stream, "to": to})
        }
        Instruction::Reduce { reduction, arguments, slot } => {
            let read: Vec<Value> = arguments[..reduction.arity()].iter().map(operand).collect();
            json!({"op": op, "arguments": read, "slot": slot})
        }
        Instruction::Select { from, slot } => json!({"op": op, "from": from, "slot": slot}),
        Instruction::Store { from } => json!({"op": op, "from": operand(from)}),
    }
}
