//! The device that a merge may use: what can be typed, and what is wrong when there is none.

use std::fmt;
use std::str::FromStr;

use mixdown_cuda::{Devices, Found, NoCuda, Unusable};
use mixdown_diagnostics::{Diagnostic, codes};

/// A device that computes, as it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The best there is.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// CUDA devices: those of these numbers, or the first that can be used.
    Cuda(Numbers),
}

/// Numbers of devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers(u64);

impl Numbers {
    /// The first that can be used.
    pub const FIRST: Self = Self(0);

    /// One of them.
    ///
    /// **Errors.** Beyond [`MOST_DEVICES`].
    fn with(self, number: u32) -> Option<Self> {
        let bit = 1_u64.checked_shl(number)?;
        (self.0 & bit == 0).then_some(Self(self.0 | bit))
    }

    /// The numbers, ascending; none for the first that can be used.
    pub fn list(self) -> Option<Vec<u32>> {
        let list = (0..MOST_DEVICES).filter(|number| self.0 >> number & 1 == 1);
        (self.0 != 0).then(|| list.collect())
    }
}

/// Numbers of devices are below this.
const MOST_DEVICES: u32 = 64;

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(numbers) => match numbers.list() {
                None => write!(f, "cuda"),
                Some(list) => {
                    let list: Vec<String> = list.iter().map(u32::to_string).collect();
                    write!(f, "cuda:{}", list.join(","))
                }
            },
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => return Ok(Self::Cuda(Numbers::FIRST)),
            _ => {}
        }
        let list = text.strip_prefix("cuda:").unwrap_or("x").split(',');
        let mut numbers = list.map(|number| number.parse().ok());
        let all = numbers.try_fold(Numbers::FIRST, |all, number| all.with(number?));
        all.map(Self::Cuda).ok_or_else(|| {
            "write auto, cpu, cuda, cuda:N with the number of a device, or cuda:N,N with several".to_owned()
        })
    }
}

/// Why there is no CUDA device, as an error of somebody who asked for one.
pub fn no_cuda(device: Device, why: &NoCuda) -> Diagnostic {
    let (code, help) = match why {
        NoCuda::NoDriver => (
            codes::NO_CUDA_DRIVER,
            "install NVIDIA's driver, or in a container start it with access to the devices; \
             `--device cpu` merges without",
        ),
        NoCuda::Incomplete(_) | NoCuda::OldDriver { .. } => {
            (codes::OLD_CUDA_DRIVER, "install a newer driver; `--device cpu` merges without")
        }
        NoCuda::NoDevice => (
            codes::NO_CUDA_DEVICE,
            "look at `nvidia-smi` and at CUDA_VISIBLE_DEVICES; `--device cpu` merges without",
        ),
        NoCuda::Failed(_) => (
            codes::NO_CUDA_DRIVER,
            "look whether `nvidia-smi` works; `--device cpu` merges without a device",
        ),
    };
    Diagnostic::error(code, format!("`--device {device}` cannot be used: {why}")).help(help)
}

/// The device that is meant, of those that there are.
pub fn chosen(asked: Option<u32>, devices: &Devices) -> Result<&Found, Box<Diagnostic>> {
    let found = match asked {
        Some(number) => devices.found.iter().find(|found| found.number == number),
        None => {
            let usable = devices.found.iter().find(|found| found.unusable.is_none());
            usable.or(devices.found.first())
        }
    };
    let Some(found) = found else {
        let there: Vec<String> =
            devices.found.iter().map(|found| format!("cuda:{}", found.number)).collect();
        let headline = format!("there is no device `cuda:{}`", asked.unwrap_or(0));
        return Err(Diagnostic::error(codes::CUDA_DEVICE_NUMBER, headline)
            .fact("there are", there.join(", "))
            .help("`mixdown devices` lists them; numbers begin at 0")
            .into());
    };
    let Some(why) = &found.unusable else { return Ok(found) };
    let name = found.described.as_ref().map_or("a device", |described| &described.name);
    let code = match why {
        Unusable::Old { .. } => codes::OLD_CUDA_DEVICE,
        Unusable::Failed(_) => codes::CUDA_FAILED,
    };
    let mut diagnostic =
        Diagnostic::error(code, format!("`cuda:{}` ({name}) cannot be used: {why}", found.number));
    if let Some(described) = &found.described {
        diagnostic =
            diagnostic.fact("found", format!("compute capability {}", described.capability));
    }
    Err(diagnostic.help("`mixdown devices` lists others; `--device cpu` merges without").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "cuda", "cuda:0", "cuda:17", "cuda:0,1", "cuda:2,63"] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "gpu",
            "cuda:",
            "cuda:-1",
            "cuda:x",
            "cuda:4294967296",
            "CUDA",
            "cuda0",
            "cuda:64",
            "cuda:1,",
            "cuda:1,1",
        ] {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
    }
}
