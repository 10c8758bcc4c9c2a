//! Which tensor of a base a name means that has other separators, or lacks what the base's names begin with.

use super::{Dialect, blocks};
use crate::index::Index;

/// The names of a base's modules, each turned around, so that those with one end stand together.
#[derive(Debug)]
pub(in crate::adapter) struct Places {
    /// The turned name of a module, of all its parts separated as in the adapter; the rest of the tensor's name;
    /// and the tensor.
    turned: Vec<(String, String, u32)>,
    separator: char,
    /// Residual layers in each block, if it is a U-Net.
    layers: u64,
}

impl Places {
    pub fn new(base: &Index, dialect: &Dialect) -> Self {
        let separator = dialect.separator;
        let modules: Vec<(String, &str)> = base
            .tensors()
            .iter()
            .map(|tensor| {
                let (module, end) = tensor.name.rsplit_once('.').unwrap_or((&tensor.name, ""));
                (module.replace('.', &separator.to_string()), end)
            })
            .collect();
        let layers = blocks::layers_per_block(modules.iter().map(|(module, _)| module.as_str()));
        let turned = |module: &str| module.chars().rev().collect::<String>();
        let mut all: Vec<(String, String, u32)> = Vec::with_capacity(modules.len());
        for (position, (module, end)) in (0_u32..).zip(&modules) {
            all.push((turned(module), (*end).to_owned(), position));
            // A U-Net in its authors' names is found by those of diffusers, too.
            if let Some(other) = blocks::in_diffusers(module, layers) {
                all.push((turned(&other), (*end).to_owned(), position));
            }
        }
        all.sort();
        Self { turned: all, separator, layers }
    }

    /// The tensors that a name of the adapter may mean, without its group: those of just this name, and where
    /// there are none, those whose names end with it. Blocks of a U-Net may have diffusers' names in the base.
    pub fn find(&self, name: &str) -> Vec<u32> {
        let (module, end) = name.rsplit_once('.').unwrap_or((name, ""));
        let found = self.of_module(module, end);
        match blocks::in_diffusers(module, self.layers).filter(|_| found.is_empty()) {
            Some(other) => self.of_module(&other, end),
            None => found,
        }
    }

    fn of_module(&self, module: &str, end: &str) -> Vec<u32> {
        let wanted: String = module.chars().rev().collect();
        let start = self.turned.partition_point(|(turned, ..)| *turned < wanted);
        let alike =
            self.turned[start..].iter().take_while(|(turned, ..)| turned.starts_with(&wanted));
        let alike = alike.filter(|(_, own, _)| own == end);
        let (mut exact, mut longer) = (Vec::new(), Vec::new());
        for (turned, _, position) in alike {
            match turned[wanted.len()..].chars().next() {
                None => exact.push(*position),
                Some(next) if next == self.separator => longer.push(*position),
                Some(_) => {}
            }
        }
        if exact.is_empty() { longer } else { exact }
    }
}

#[cfg(test)]
mod tests {
    use mixdown_tensor::{DType, Shape};

    use super::super::kohya::DIALECT;
    use super::*;

    /// In both directions: adapters in the authors' names on diffusers' U-Net, and the other way around.
    #[test]
    fn blocks_of_a_u_net_are_found_under_either_name() {
        let shape = || Shape::new(vec![2, 2]).unwrap();
        let start = "model.diffusion_model.";
        let pairs = [
            ("input_blocks.4.1.proj_in", "down_blocks.1.attentions.0.proj_in"),
            ("output_blocks.2.2.conv", "up_blocks.0.upsamplers.0.conv"),
        ];
        for [own, other] in [[0, 1], [1, 0]] {
            let names = pairs.map(|pair| {
                let pair = [pair.0, pair.1];
                let start = if own == 0 { start } else { "" };
                (format!("{start}{}.weight", pair[own]), pair[other].replace('.', "_"))
            });
            let tensors = names.iter().map(|(name, _)| (name.as_str(), DType::F32, shape()));
            let places = Places::new(&Index::of("b", tensors).unwrap(), &DIALECT);
            for (position, (name, wanted)) in (0..).zip(&names) {
                assert_eq!(places.find(&format!("{wanted}.weight")), [position], "{name}");
            }
        }
    }

    #[test]
    fn underscores_are_dots_or_underscores() {
        let names = [
            "down_blocks.0.attn1.to_q.weight",
            "down_blocks.0.attn1.to_q.bias",
            "down.blocks.1.proj.weight",
            "down_blocks.1.proj.weight",
            "model.diffusion_model.input_blocks.4.1.proj_in.weight",
            "other_input_blocks.9.proj_in.weight",
        ];
        let shape = || Shape::new(vec![2, 2]).unwrap();
        let base = Index::of("b", names.map(|name| (name, DType::F32, shape()))).unwrap();
        let places = Places::new(&base, &DIALECT);
        let found = |name: &str| {
            let found = places.find(name).into_iter();
            found.map(|at| base.tensors()[at as usize].name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(found("down_blocks_0_attn1_to_q.weight"), [names[0]]);
        assert_eq!(found("down_blocks_0_attn1_to_q.bias"), [names[1]]);
        assert_eq!(found("down_blocks_1_proj.weight").len(), 2, "which of two is not known");
        assert_eq!(found("input_blocks_4_1_proj_in.weight"), [names[4]]);
        assert!(found("locks_4_1_proj_in.weight").is_empty());
        assert!(found("attn1_to_k.weight").is_empty());
    }
}
