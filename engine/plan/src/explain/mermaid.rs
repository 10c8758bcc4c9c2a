//! Programs as Mermaid flow charts: one for each distinct program, with the tensors it serves.

use std::collections::HashMap;
use std::fmt::Write as _;

use mixdown_ops::{Instruction, Operand, Pass, Program};

use super::verb;
use crate::plan::{Plan, Work};

/// All programs of a plan as one Mermaid document.
pub fn mermaid(plan: &Plan) -> String {
    let mut text = String::from("flowchart TD\n");
    for (number, program) in plan.programs.iter().enumerate() {
        let served: Vec<&str> = plan
            .jobs
            .iter()
            .filter(|job| matches!(&job.work, Work::Merge(merge) if merge.program == number as u32))
            .map(|job| job.name.as_str())
            .collect();
        let title = match served.as_slice() {
            [] => continue,
            [only] => (*only).to_owned(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        };
        let _ = writeln!(text, "  subgraph p{number}[\"{}\"]", escape(&title));
        draw(&mut text, number, program);
        text.push_str("  end\n");
    }
    let copies = plan.jobs.iter().filter(|job| matches!(job.work, Work::Copy { .. })).count();
    if copies > 0 {
        let _ = writeln!(text, "  copies[\"{copies} tensors copied byte for byte\"]");
    }
    text
}

fn draw(text: &mut String, number: usize, program: &Program) {
    // A cut or a scalar of one pass is read by later ones: dotted arrows.
    let mut facts: HashMap<Fact, String> = HashMap::new();
    for (position, pass) in program.passes.iter().enumerate() {
        let _ = writeln!(text, "    subgraph p{number}s{position}[\"pass {}\"]", position + 1);
        draw_pass(text, &format!("p{number}s{position}"), pass, &mut facts);
        text.push_str("    end\n");
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Fact {
    Scalar(u32),
    Cut(u32),
}

fn draw_pass(text: &mut String, prefix: &str, pass: &Pass, facts: &mut HashMap<Fact, String>) {
    for (position, step) in pass.prelude.iter().enumerate() {
        let id = format!("{prefix}k{position}");
        let _ = writeln!(text, "      {id}([\"{}\"])", step.op.name());
        for argument in &step.arguments[..step.op.arity()] {
            arrow(text, facts.get(&Fact::Scalar(*argument)), &id, true);
        }
        facts.insert(Fact::Scalar(step.to), id);
    }
    let mut registers: HashMap<u32, String> = HashMap::new();
    for (position, instruction) in pass.instructions.iter().enumerate() {
        let id = format!("{prefix}i{position}");
        let (open, close) = match instruction {
            Instruction::Load { .. } | Instruction::Store { .. } => ("[/", "/]"),
            Instruction::Reduce { .. } | Instruction::Select { .. } => ("([", "])"),
            _ => ("[", "]"),
        };
        let _ = writeln!(text, "      {id}{open}\"{}\"{close}", escape(&verb(instruction)));
        let operands: Vec<Operand> = match instruction {
            Instruction::Load { .. } => Vec::new(),
            Instruction::Round { from, .. } | Instruction::Select { from, .. } => {
                vec![Operand::Register(*from)]
            }
            Instruction::KeepLargest { from, cut, .. } => {
                arrow(text, facts.get(&Fact::Cut(*cut)), &id, true);
                vec![Operand::Register(*from)]
            }
            Instruction::KeepRandom { from, density, .. } => {
                vec![Operand::Register(*from), *density]
            }
            Instruction::Map { op, arguments, .. } => arguments[..op.arity()].to_vec(),
            Instruction::Reduce { reduction, arguments, .. } => {
                arguments[..reduction.arity()].to_vec()
            }
            Instruction::Store { from } => vec![*from],
        };
        for operand in operands {
            match operand {
                Operand::Register(register) => arrow(text, registers.get(&register), &id, false),
                Operand::Scalar(scalar) => arrow(text, facts.get(&Fact::Scalar(scalar)), &id, true),
            }
        }
        match instruction {
            Instruction::Load { to, .. }
            | Instruction::Round { to, .. }
            | Instruction::Map { to, .. }
            | Instruction::KeepLargest { to, .. }
            | Instruction::KeepRandom { to, .. } => {
                registers.insert(*to, id);
            }
            Instruction::Reduce { slot, .. } => {
                facts.insert(Fact::Scalar(pass.reductions[*slot as usize].to), id);
            }
            Instruction::Select { slot, .. } => {
                let slot = &pass.selections[*slot as usize];
                if let Some(magnitude) = slot.magnitude {
                    facts.insert(Fact::Scalar(magnitude), id.clone());
                }
                facts.insert(Fact::Cut(slot.cut), id);
            }
            Instruction::Store { .. } => {}
        }
    }
}

/// An arrow, unless the operand is a number of the recipe.
fn arrow(text: &mut String, from: Option<&String>, to: &str, dotted: bool) {
    if let Some(from) = from {
        let _ = writeln!(text, "      {from} {} {to}", if dotted { "-.->" } else { "-->" });
    }
}

/// A label: in Mermaid, markup and quotes are codes of characters.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in mixdown_diagnostics::escape(text).chars() {
        match c {
            '"' | '#' | '%' | '&' | '<' | '>' | '`' | '\\' => {
                let _ = write!(out, "#{};", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_label_acts() {
        assert_eq!(escape("model.layers.0 (x) [y] {z}"), "model.layers.0 (x) [y] {z}");
        assert_eq!(
            escape("<script>\"%%{`#\u{1b}\u{202e}\n"),
            "#60;script#62;#34;#37;#37;{#96;#35;#92;u{1b}#92;u{202e}#92;n"
        );
    }
}
