//! The first places of a random permutation as torch's generator for processors draws it.

use std::collections::HashMap;

/// The Mersenne Twister MT19937.
///
/// Matsumoto and Nishimura 1998, with the initialization of 2002.
struct Twister {
    state: [u32; 624],
    next: usize,
}

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = [0; 624];
        state[0] = seed;
        for at in 1..624 {
            let before: u32 = state[at - 1];
            let mixed = before ^ (before >> 30);
            state[at] = mixed.wrapping_mul(1_812_433_253).wrapping_add(at as u32);
        }
        Self { state, next: 624 }
    }

    fn draw(&mut self) -> u32 {
        if self.next == 624 {
            for at in 0..624 {
                let upper = self.state[at] & 0x8000_0000;
                let joined = upper | (self.state[(at + 1) % 624] & 0x7fff_ffff);
                let odd = if joined & 1 == 0 { 0 } else { 0x9908_b0df };
                self.state[at] = self.state[(at + 397) % 624] ^ (joined >> 1) ^ odd;
            }
            self.next = 0;
        }
        let mut value = self.state[self.next];
        self.next += 1;
        value ^= value >> 11;
        value ^= (value << 7) & 0x9d2c_5680;
        value ^= (value << 15) & 0xefc6_0000;
        value ^ (value >> 18)
    }
}

/// `torch.randperm(elements, generator=torch.Generator().manual_seed(seed))[:count]`, without the rest.
///
/// torch exchanges each place with a later one that is drawn for it, so that the first are known after as
/// many draws.
pub(super) fn first_of_permutation(seed: u64, elements: u64, count: u64) -> Vec<u64> {
    let mut twister = Twister::new(seed as u32);
    let mut moved: HashMap<u64, u64> = HashMap::new();
    let mut found = Vec::new();
    for at in 0..count.min(elements) {
        // Draws of 32 bits are as good as all for few elements; for others torch takes two.
        let draw = match elements < u64::from(u32::MAX) / 20 {
            true => u64::from(twister.draw()),
            false => {
                let low = u64::from(twister.draw());
                (u64::from(twister.draw()) << 32) | low
            }
        };
        let other = at + draw % (elements - at);
        let value = |moved: &HashMap<u64, u64>, place: u64| *moved.get(&place).unwrap_or(&place);
        let (own, taken) = (value(&moved, at), value(&moved, other));
        found.push(taken);
        moved.insert(other, own);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ten thousandth number of the generator's definition: 4123659995 from the seed 5489.
    #[test]
    fn the_generator_is_the_one_of_its_definition() {
        let mut twister = Twister::new(5489);
        let last = (0..10_000).map(|_| twister.draw()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn a_permutation_has_each_place_once() {
        let mut all = first_of_permutation(777, 100, 100);
        let some = first_of_permutation(777, 100, 10);
        assert_eq!(all[..10], some);
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<u64>>());
    }
}
