//! What one thread holds: a backend's worker, and one block of memory for all its buffers.

use mixdown_ops::Worker;

/// Buffers start at multiples of this: a cache line, and the widest vector register.
const ALIGN: usize = 64;

/// One thread's hold.
pub(crate) struct Hands {
    pub(crate) worker: Box<dyn Worker>,
    pub(crate) arena: Arena,
}

/// Memory that is cut anew into buffers for each stretch.
#[derive(Debug, Default)]
pub(crate) struct Arena(Vec<u8>);

impl Arena {
    /// Bytes that buffers of these sizes take.
    pub(crate) fn bytes(sizes: impl IntoIterator<Item = usize>) -> u64 {
        let slots = sizes.into_iter().map(|size| size.next_multiple_of(ALIGN) as u64);
        slots.sum::<u64>() + ALIGN as u64
    }

    /// Buffers of these sizes, in order. What is in them is left from before.
    pub(crate) fn split<const N: usize>(&mut self, sizes: [usize; N]) -> [&mut [u8]; N] {
        let mut buffers = self.split_list(&sizes).into_iter();
        std::array::from_fn(|_| buffers.next().expect("there are as many buffers as sizes"))
    }

    /// Buffers of these sizes, in order. What is in them is left from before.
    pub(crate) fn split_list(&mut self, sizes: &[usize]) -> Vec<&mut [u8]> {
        let needed = Self::bytes(sizes.iter().copied()) as usize;
        if self.0.len() < needed {
            // Not grown in place: the old content is not worth copying.
            self.0 = Vec::new();
            self.0 = vec![0; needed];
        }
        let skip = self.0.as_ptr().align_offset(ALIGN).min(ALIGN);
        let mut rest = &mut self.0[skip..];
        let mut buffers = Vec::with_capacity(sizes.len());
        for &size in sizes {
            let (slot, after) = rest.split_at_mut(size.next_multiple_of(ALIGN).min(rest.len()));
            buffers.push(&mut slot[..size]);
            rest = after;
        }
        buffers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_apart() {
        let mut arena = Arena::default();
        for sizes in [vec![1, 0, 64, 65, 3], vec![1000], vec![], vec![7, 7]] {
            let mut buffers = arena.split_list(&sizes);
            for (number, buffer) in buffers.iter_mut().enumerate() {
                assert_eq!(buffer.len(), sizes[number]);
                assert_eq!(buffer.as_ptr().align_offset(ALIGN), 0);
                buffer.fill(number as u8);
            }
            for (number, buffer) in buffers.iter().enumerate() {
                assert!(buffer.iter().all(|&byte| byte == number as u8), "buffers overlap");
            }
        }
    }

    #[test]
    fn holds_no_more_than_announced() {
        let mut arena = Arena::default();
        let sizes = [100, 64, 1];
        arena.split(sizes);
        assert_eq!(arena.0.len() as u64, Arena::bytes(sizes));
    }
}
