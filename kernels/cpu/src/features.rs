//! Which vector instructions this machine has, and running a loop compiled for them.

/// A set of vector instructions that this machine is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// What every machine of this architecture has: SSE2, NEON.
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// A loop over one block.
///
/// `run` and all that it calls per element must be `#[inline(always)]`: what is not inlined is
/// compiled for the baseline.
pub(crate) trait Kernel {
    /// What the loop yields.
    type Output;

    /// The loop.
    fn run(self) -> Self::Output;
}

impl Features {
    /// The best that this machine has.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// All that this machine has, best first.
    pub fn available() -> Vec<Self> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            // Exactly the features that `avx512` and `avx2` below enable.
            let has_avx2 = is_x86_feature_detected!("avx2");
            let has_avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("popcnt");
            if has_avx512 && has_avx2 {
                levels.push(Self(Level::Avx512));
            }
            if has_avx2 {
                levels.push(Self(Level::Avx2));
            }
        }
        levels.push(Self(Level::Baseline));
        levels
    }

    /// The set of this name, if this machine has it.
    pub fn named(name: &str) -> Option<Self> {
        Self::available().into_iter().find(|features| features.name() == name)
    }

    /// Its name: `avx512`, `avx2`, `baseline`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Baseline => "baseline",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
        }
    }

    /// Whether these are the AVX-512 instructions that `avx512` below enables.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_avx512(self) -> bool {
        self.0 == Level::Avx512
    }

    /// Runs the loop, as compiled for these instructions.
    #[inline(always)]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Level::Baseline => kernel.run(),
            // SAFETY: a `Features` of this level is only made by `available`, which asked the
            // processor for each feature that the function enables.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512(kernel) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,popcnt")]
fn avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_baseline_is_always_there() {
        assert_eq!(Features::available().last(), Features::named("baseline").as_ref());
        assert_eq!(Features::named("mmx"), None);
        for features in Features::available() {
            assert_eq!(Features::named(features.name()), Some(features));
        }
    }
}
