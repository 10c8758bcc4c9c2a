//! How much memory this machine has left for a merge: what is free or can be freed at once, within the limits of
//! the process's control groups and of its address space.

use std::path::{Path, PathBuf};

/// Bytes that are available now; none where the system does not tell, which only Linux does.
pub fn available() -> Option<u64> {
    of(Path::new("/"))
}

/// The same of a system whose files are below this folder.
fn of(root: &Path) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let machine = kilobytes(&read("proc/meminfo")?, "MemAvailable:")?;
    let groups = read("proc/self/cgroup").unwrap_or_default();
    let of_groups = folders(&groups).into_iter().filter_map(|group| group.room(root)).min();
    let of_space = address_space(
        &read("proc/self/limits").unwrap_or_default(),
        &read("proc/self/status").unwrap_or_default(),
    );
    [Some(machine), of_groups, of_space].into_iter().flatten().min()
}

/// A number of kilobytes from a list of names and numbers.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What is left of a limit of the address space (`ulimit -v`).
fn address_space(limits: &str, status: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(kilobytes(status, "VmSize:")?))
}

/// A folder that tells the limit of a control group, in the words of its version.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    folder: PathBuf,
    limit: &'static str,
    used: &'static str,
    /// What of the used bytes is a cache of files that the system gives up at once.
    cache: &'static str,
}

impl Group {
    fn of_version_2(path: &Path) -> Self {
        Self {
            folder: Path::new("sys/fs/cgroup").join(path),
            limit: "memory.max",
            used: "memory.current",
            cache: "inactive_file ",
        }
    }

    fn of_version_1(path: &Path) -> Self {
        Self {
            folder: Path::new("sys/fs/cgroup/memory").join(path),
            limit: "memory.limit_in_bytes",
            used: "memory.usage_in_bytes",
            cache: "total_inactive_file ",
        }
    }

    /// Bytes that this group may still take; none without a limit.
    fn room(&self, root: &Path) -> Option<u64> {
        let read = |name: &str| std::fs::read_to_string(root.join(&self.folder).join(name)).ok();
        let number = |text: String| text.trim().parse::<u64>().ok();
        let limit = number(read(self.limit)?)?;
        let used = number(read(self.used)?)?;
        let cache = read("memory.stat").and_then(|stat| {
            let line = stat.lines().find_map(|line| line.strip_prefix(self.cache))?;
            line.trim().parse().ok()
        });
        Some(limit.saturating_sub(used.saturating_sub(cache.unwrap_or(0))))
    }
}

/// The groups of a process and all above them, each of which may have a limit. In a container the first ones
/// are often not to be seen, and the last one is the container's own.
fn folders(groups: &str) -> Vec<Group> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let paths = Path::new(path.trim_start_matches('/')).ancestors();
        if controllers.is_empty() {
            found.extend(paths.map(Group::of_version_2));
        } else if controllers.split(',').any(|one| one == "memory") {
            found.extend(paths.map(Group::of_version_1));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system's files in a folder of their own.
    struct System(PathBuf);

    impl System {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let name = format!("mixdown-available-{}-{name}", std::process::id());
            let root = std::env::temp_dir().join(name);
            for (path, text) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for System {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const MEMORY: (&str, &str) =
        ("proc/meminfo", "MemTotal:  16000000 kB\nMemFree:   1 kB\nMemAvailable:   8000000 kB\n");

    #[track_caller]
    fn check(name: &str, files: &[(&str, &str)], expected: Option<u64>) {
        let system = System::new(name, files);
        assert_eq!(of(&system.0), expected, "{name}");
    }

    #[test]
    fn the_narrowest_limit_counts() {
        const ALL: u64 = 8_000_000 * 1024;
        check("nothing", &[("proc/version", "")], None);
        check("machine", &[MEMORY], Some(ALL));
        let group = ("proc/self/cgroup", "0::/a/b\n");
        let wide = ("sys/fs/cgroup/a/b/memory.max", "max\n");
        check("no limit", &[MEMORY, group, wide], Some(ALL));
        // The cache of files in a group is given up at once.
        let above = [
            ("sys/fs/cgroup/a/memory.max", "1000000\n"),
            ("sys/fs/cgroup/a/memory.current", "700000\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 300000\n"),
        ];
        let files = [&[MEMORY, group, wide][..], &above].concat();
        check("the group above", &files, Some(600_000));
        let first = [
            ("proc/self/cgroup", "5:cpu:/x\n4:memory,hugetlb:/docker/1\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000\n"),
        ];
        check("version 1", &[&[MEMORY][..], &first].concat(), Some(4000));
        let full = [
            ("sys/fs/cgroup/memory.max", "100\n"),
            ("sys/fs/cgroup/memory.current", "200\n"),
            ("proc/self/cgroup", "0::/\n"),
        ];
        check("full", &[&[MEMORY][..], &full].concat(), Some(0));
        let space = [
            (
                "proc/self/limits",
                "Limit  Soft  Hard\nMax address space   9000000 unlimited bytes\n",
            ),
            ("proc/self/status", "Name: x\nVmSize:\t  1000 kB\n"),
        ];
        check("address space", &[&[MEMORY][..], &space].concat(), Some(9_000_000 - 1_024_000));
        let free = ("proc/self/limits", "Max address space   unlimited unlimited bytes\n");
        check("no such limit", &[MEMORY, free, space[1]], Some(ALL));
    }
}
