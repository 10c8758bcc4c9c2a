//! Lets an output share blocks with an input on file systems that can (Btrfs, XFS, bcachefs).

use std::fs::File;
use std::io;

/// The part of a copy that can be shared: whole blocks at the same position within a block on both
/// sides. `None` when there is no such part.
///
/// Returns the offset of the part within the copy, and its length.
pub(crate) fn shareable(from: u64, to: u64, bytes: u64, block: u64) -> Option<(u64, u64)> {
    if block == 0 || from % block != to % block {
        return None;
    }
    let skip = (block - to % block) % block;
    let whole = bytes.checked_sub(skip)? / block * block;
    (whole > 0).then_some((skip, whole))
}

#[cfg(target_os = "linux")]
pub(crate) fn clone_range(from: (&File, u64), to: (&File, u64), bytes: u64) -> io::Result<()> {
    use std::os::fd::{AsRawFd, BorrowedFd};

    use rustix::ioctl::{Setter, ioctl, opcode};

    /// `struct file_clone_range` of linux/fs.h.
    #[repr(C)]
    struct Range {
        from: i64,
        from_offset: u64,
        bytes: u64,
        to_offset: u64,
    }
    /// `FICLONERANGE` of linux/fs.h.
    const CLONE_RANGE: rustix::ioctl::Opcode = opcode::write::<Range>(0x94, 13);

    fn share(to: BorrowedFd<'_>, range: Range) -> io::Result<()> {
        // SAFETY: the opcode is the one that the kernel documents for this structure, whose layout
        // is fixed by `repr(C)`; the kernel reads it and keeps no reference.
        Ok(unsafe { ioctl(to, Setter::<CLONE_RANGE, Range>::new(range)) }?)
    }

    let range =
        Range { from: from.0.as_raw_fd().into(), from_offset: from.1, bytes, to_offset: to.1 };
    share(std::os::fd::AsFd::as_fd(to.0), range)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn clone_range(_: (&File, u64), _: (&File, u64), _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_at_equal_positions_are_shared() {
        let check = |from, to, bytes, expected| {
            assert_eq!(shareable(from, to, bytes, 4096), expected, "{from} {to} {bytes}");
        };
        check(0, 0, 4096, Some((0, 4096)));
        check(0, 0, 4095, None);
        check(0, 8192, 10_000, Some((0, 8192)));
        check(100, 4196, 8192, Some((3996, 4096)));
        check(100, 4196, 3996 + 4096, Some((3996, 4096)));
        check(100, 4196, 3996 + 4095, None);
        check(100, 4196, 10, None);
        check(8, 16, 1 << 20, None);
        assert_eq!(shareable(0, 0, 100, 0), None);
    }

    /// Where the file system shares blocks, the bytes must arrive; where not, it must say so.
    #[test]
    fn a_clone_holds_the_bytes_or_fails() {
        let folder = tempfile::tempdir().unwrap();
        let data: Vec<u8> = (0..65536_u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(folder.path().join("from"), &data).unwrap();
        let from = File::open(folder.path().join("from")).unwrap();
        let to = File::create_new(folder.path().join("to")).unwrap();
        to.set_len(65536).unwrap();
        match clone_range((&from, 8192), (&to, 16384), 32768) {
            Ok(()) => {
                let found = std::fs::read(folder.path().join("to")).unwrap();
                assert_eq!(found[16384..49152], data[8192..40960]);
                assert!(found[..16384].iter().all(|&byte| byte == 0));
            }
            Err(error) => assert!(
                matches!(error.raw_os_error(), Some(18 | 22 | 25 | 38 | 95))
                    || error.kind() == io::ErrorKind::Unsupported,
                "{error}"
            ),
        }
    }
}
