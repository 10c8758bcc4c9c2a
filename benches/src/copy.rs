//! The yardstick: reads so many models and writes one, in a plain loop, until it is durable.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::make::MODELS;

/// Bytes read at a time; blocks of 256 KiB to 1 MiB are the fastest.
const BLOCK: u64 = 512 * 1024;

/// Reads the first `models` models side by side and writes the bytes of the last, with two threads.
pub fn copy(folder: &Path, models: usize, to: &Path) -> io::Result<Duration> {
    let names = MODELS[..models].iter().map(|(name, _)| name);
    let inputs: Vec<PathBuf> =
        names.map(|name| folder.join(name).join("model.safetensors")).collect();
    copy_last(&inputs, to)
}

/// Copies one file, with two threads.
pub fn copy_file(from: &Path, to: &Path) -> io::Result<Duration> {
    copy_last(&[from.to_owned()], to)
}

fn copy_last(inputs: &[PathBuf], to: &Path) -> io::Result<Duration> {
    let start = Instant::now();
    let inputs = inputs.iter().map(File::open).collect::<io::Result<Vec<File>>>()?;
    let output = File::create(to)?;
    let length = inputs.last().map_or(Ok(0), |file| file.metadata().map(|data| data.len()))?;
    const THREADS: u64 = 2;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (inputs, output) = (&inputs, &output);
                scope.spawn(move || copy_blocks(inputs, output, length, thread, THREADS))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    output.sync_all()?;
    Ok(start.elapsed())
}

fn copy_blocks(
    inputs: &[File],
    output: &File,
    length: u64,
    first: u64,
    step: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK as usize];
    for block in (first..length.div_ceil(BLOCK)).step_by(step as usize) {
        let offset = block * BLOCK;
        let bytes = &mut buffer[..BLOCK.min(length - offset) as usize];
        for input in inputs {
            input.read_exact_at(bytes, offset)?;
        }
        output.write_all_at(bytes, offset)?;
    }
    Ok(())
}
