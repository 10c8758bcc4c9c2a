//! One process from start to end: how long it took and how much memory it held.

use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a process took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// From its start until it ended.
    pub time: Duration,
    /// The most memory it held, in bytes.
    pub peak: u64,
}

/// Runs a command and waits for it. What it says is shown only when it fails.
pub fn measure(command: &mut Command) -> io::Result<Cost> {
    let log = std::env::temp_dir().join(format!("mixdown-bench-{}.log", std::process::id()));
    let file = std::fs::File::create(&log)?;
    let start = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
    let (status, peak) = wait(child.id())?;
    let time = start.elapsed();
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    // A log that cannot be removed is no reason to lose a measurement.
    let _ = std::fs::remove_file(&log);
    if status != 0 {
        return Err(io::Error::other(format!("{command:?} failed:\n{said}")));
    }
    Ok(Cost { time, peak })
}

/// Waits for a child; its wait status and peak resident memory in bytes.
fn wait(process: u32) -> io::Result<(i32, u64)> {
    let mut status = 0;
    // SAFETY: `rusage` is a plain C struct of integers, for which all zeros is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let process = process as libc::pid_t;
    // SAFETY: both pointers are to locals of the right type that outlive the call.
    let waited = unsafe { libc::wait4(process, &mut status, 0, &mut usage) };
    if waited != process {
        return Err(io::Error::last_os_error());
    }
    // Linux counts in KiB.
    Ok((status, usage.ru_maxrss as u64 * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_not_a_measurement() {
        let error = measure(Command::new("sh").args(["-c", "echo why; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
        let cost = measure(&mut Command::new("true")).unwrap();
        assert!(cost.peak > 0, "the peak is not read");
    }
}
