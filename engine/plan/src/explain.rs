//! The plan for people and scripts: a summary, JSON, Mermaid graphs, and the story of one tensor.

mod mermaid;
mod summary;
mod tensor;
mod value;

pub use mermaid::mermaid;
pub use summary::summary;
pub use tensor::{tensor, tensor_json};
pub use value::json;

use mixdown_ops::{Instruction, Program};

/// What an instruction does, in a few words.
fn verb(instruction: &Instruction) -> String {
    match instruction {
        Instruction::Load { input, .. } => format!("load input {input}"),
        Instruction::Round { dtype, .. } => format!("round to {dtype}"),
        Instruction::Map { op, .. } => op.name().to_owned(),
        Instruction::KeepLargest { .. } => "keep_largest".to_owned(),
        Instruction::KeepRandom { .. } => "keep_random".to_owned(),
        Instruction::Reduce { reduction, .. } => reduction.name().to_owned(),
        Instruction::Select { .. } => "find threshold".to_owned(),
        Instruction::Store { .. } => "store".to_owned(),
    }
}

/// Fused instructions and passes of a program.
fn size(program: &Program) -> (usize, usize) {
    let nodes =
        program.passes.iter().map(|pass| pass.instructions.len() + pass.prelude.len()).sum();
    (nodes, program.passes.len())
}

/// A count of bytes for people, in powers of 1000.
fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut size = count as f64;
    let mut unit = 0;
    while size >= 999.95 && unit + 1 < units.len() {
        size /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{size:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_powers_of_1000() {
        for (count, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (1_500_000_000, "1.5 GB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }
}
