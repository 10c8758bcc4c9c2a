//! The images of the kernels, built into the program, and which of them a device takes.
//!
//! `images/make.py` makes them; `images/images.txt` says from which sources, and a test holds it to that.

use crate::probe::{Capability, Version};

/// Counted up when bits of results change.
pub const KERNELS_VERSION: u32 = 1;

/// How the products of a descent are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// In f32.
    Plain,
    /// On tensor cores, from two f16 terms of each number.
    Split,
    /// The same by groups of warps, which only compute capability 9.0 has.
    Groups,
}

impl Form {
    /// As results are known by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "f32",
            Self::Split => "f16 terms",
            Self::Groups => "f16 terms by warp groups",
        }
    }

    /// Those that a device has, the best one first.
    pub fn of(capability: Capability) -> &'static [Self] {
        match capability {
            Capability { major: 9, minor: 0 } => &[Self::Groups, Self::Split, Self::Plain],
            Capability { major: 8.., .. } => &[Self::Split, Self::Plain],
            _ => &[Self::Plain],
        }
    }
}

/// One image.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Its file.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
    fits: Fits,
}

#[derive(Clone, Copy, Debug)]
enum Fits {
    /// Machine code: devices of this major version, from this minor one on.
    Code(u32, u32),
    /// Machine code with what only this version has.
    Only(u32, u32),
    /// Text that the driver compiles, for devices from this version on.
    Text(u32, u32),
}

macro_rules! image {
    ($name:literal, $fits:expr) => {
        Image { name: $name, bytes: include_bytes!(concat!("../images/", $name)), fits: $fits }
    };
}

/// Of each form, the first that fits is taken.
pub const PLAIN: &[Image] = &[
    image!("descent_f32.sm_90a.cubin", Fits::Only(9, 0)),
    image!("descent_f32.sm_100a.cubin", Fits::Only(10, 0)),
    image!("descent_f32.sm_80.cubin", Fits::Code(8, 0)),
    image!("descent_f32.sm_75.cubin", Fits::Code(7, 5)),
    image!("descent_f32.sm_70.cubin", Fits::Code(7, 0)),
    image!("descent_f32.compute_70.ptx", Fits::Text(7, 0)),
];

/// As [`PLAIN`].
pub const SPLIT: &[Image] = &[
    image!("descent_f16.sm_90a.cubin", Fits::Only(9, 0)),
    image!("descent_f16.sm_100a.cubin", Fits::Only(10, 0)),
    image!("descent_f16.sm_80.cubin", Fits::Code(8, 0)),
    image!("descent_f16.compute_90.ptx", Fits::Text(9, 0)),
    image!("descent_f16.compute_80.ptx", Fits::Text(8, 0)),
];

/// As [`PLAIN`].
pub const GROUPS: &[Image] = &[image!("descent_sm90.sm_90a.cubin", Fits::Only(9, 0))];

/// The oldest driver that compiles the text of the images: that of their compiler.
pub const TEXT_DRIVER: Version = Version { major: 12, minor: 8 };

/// The image of a form for a device. None where only text fits and the driver is too old for it.
pub fn image(form: Form, capability: Capability, driver: Version) -> Option<&'static Image> {
    let images = match form {
        Form::Plain => PLAIN,
        Form::Split => SPLIT,
        Form::Groups => GROUPS,
    };
    let Capability { major, minor } = capability;
    images.iter().find(|image| match image.fits {
        Fits::Code(of, from) => of == major && from <= minor,
        Fits::Only(of, only) => of == major && only == minor,
        Fits::Text(of, from) => (of, from) <= (major, minor) && driver >= TEXT_DRIVER,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(form: Form, major: u32, minor: u32, driver_minor: u32) -> Option<&'static str> {
        let driver = Version { major: 12, minor: driver_minor };
        image(form, Capability { major, minor }, driver).map(|image| image.name)
    }

    #[test]
    fn each_device_gets_the_code_that_it_runs() {
        assert_eq!(name(Form::Plain, 7, 0, 0), Some("descent_f32.sm_70.cubin"));
        assert_eq!(name(Form::Plain, 7, 5, 0), Some("descent_f32.sm_75.cubin"));
        assert_eq!(name(Form::Plain, 7, 2, 0), Some("descent_f32.sm_70.cubin"));
        assert_eq!(name(Form::Split, 8, 0, 0), Some("descent_f16.sm_80.cubin"));
        assert_eq!(name(Form::Split, 8, 9, 0), Some("descent_f16.sm_80.cubin"));
        assert_eq!(name(Form::Split, 9, 0, 0), Some("descent_f16.sm_90a.cubin"));
        assert_eq!(name(Form::Split, 10, 0, 8), Some("descent_f16.sm_100a.cubin"));
    }

    #[test]
    fn newer_devices_get_text_where_their_driver_can_compile_it() {
        assert_eq!(name(Form::Split, 10, 3, 8), Some("descent_f16.compute_90.ptx"));
        assert_eq!(name(Form::Split, 12, 0, 9), Some("descent_f16.compute_90.ptx"));
        assert_eq!(name(Form::Plain, 12, 0, 9), Some("descent_f32.compute_70.ptx"));
        assert_eq!(name(Form::Split, 12, 0, 7), None);
        assert_eq!(name(Form::Split, 7, 5, 9), None);
    }
}
