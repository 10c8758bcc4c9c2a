//! What can be a hub id, and what can be a revision.

/// Whether a reference can be a hub id: `name` or `organization/name`, of letters, digits, `-`,
/// `_` and `.`, without `..` or `--`, and not beginning or ending with `.` or `-`.
pub(super) fn is_hub_id(reference: &str) -> bool {
    let parts: Vec<&str> = reference.split('/').collect();
    parts.len() <= 2
        && reference.len() <= 96
        && !reference.contains("--")
        && !reference.contains("..")
        && parts.iter().all(|part| is_plain(part) && !part.starts_with('-') && !part.ends_with('-'))
}

/// Whether a revision can be joined to a path: `main`, `v1.0`, `refs/pr/3`, a commit.
pub(super) fn is_revision(revision: &str) -> bool {
    revision.len() <= 255 && revision.split('/').all(is_plain)
}

/// Whether a revision is a full commit, which no branch can move.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_plain(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('.')
        && !part.ends_with('.')
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is taken for an id becomes part of a path and of an address.
    #[test]
    fn only_ids_are_taken_for_ids() {
        for id in ["gpt2", "org/name", "Qwen/Qwen2.5-0.5B", "a_b/c.d"] {
            assert!(is_hub_id(id), "{id}");
        }
        let others = [
            "", "/", "./a", "../a", "a/", "/a", "a/b/c", "a b", "a\\b", "a//b", "a/..", "org/.git",
            "a--b/c", "a/b?x", "a/b#c", "a%2fb", "~/a", "C:\\a", "a/b.", "-a/b", "é/b",
        ];
        for other in others {
            assert!(!is_hub_id(other), "{other}");
        }
    }

    #[test]
    fn revisions_cannot_leave_their_folder() {
        for revision in ["main", "v1.0", "refs/pr/3", "0123abc"] {
            assert!(is_revision(revision), "{revision}");
        }
        for other in ["", "..", "../main", "a//b", "/etc", "a/../b", "a b", "main\n", "a?b"] {
            assert!(!is_revision(other), "{other}");
        }
    }
}
