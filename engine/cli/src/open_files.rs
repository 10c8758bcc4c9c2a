//! How many files the process may have open: each unfinished shard of an output is one.

/// Raises the limit to what the system lets a process give itself. Where it cannot, a merge into very
/// many shards says what to do.
#[cfg(unix)]
pub fn raise() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Other systems have no such limit.
#[cfg(not(unix))]
pub fn raise() {}
