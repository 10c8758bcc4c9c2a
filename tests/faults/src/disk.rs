//! A disk that loses what was not stored: from a folder as it was, and the changes of a run, the folder as a
//! power cut may leave it at any of these changes.
//!
//! Bytes and length of a file are safe when the file was stored after them; a name is safe when its folder was
//! stored after it, the one that gains it where a name moves. What is not safe may be lost or not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::random::Random;
use crate::tape::Change;

/// What becomes of changes that were not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All are lost.
    All,
    /// Names and lengths stay, bytes are lost: zeros stand in their place. So do file systems that write
    /// names before bytes.
    Bytes,
    /// Names stay up to some moment; bytes are lost, torn or kept, each as a coin falls.
    Any,
}

/// All kinds.
pub const LOSSES: [Loss; 3] = [Loss::All, Loss::Bytes, Loss::Any];

type Id = usize;

#[derive(Clone, Debug)]
enum Node {
    File { bytes: Vec<u8>, mode: u32 },
    Folder { names: BTreeMap<OsString, Id>, mode: u32 },
    Link(PathBuf),
}

/// A change in terms of nodes.
#[derive(Clone, Debug)]
enum Step {
    /// Names of folders get or lose their nodes, all at once. The folder that has to be stored comes first.
    Names(Vec<(Id, OsString, Option<Id>)>),
    Bytes(Id, u64, Vec<u8>),
    Length(Id, u64),
    Stored(Id),
}

/// A folder, and what a run changed in it.
#[derive(Debug)]
pub struct Recording {
    root: PathBuf,
    /// Nodes as they were before, and those that were made, empty.
    nodes: Vec<Node>,
    steps: Vec<Step>,
}

/// The root is the first node.
const ROOT: Id = 0;

impl Recording {
    /// A folder before a run. Files above it are no part.
    pub fn before(root: &Path) -> io::Result<Before> {
        let root = root.canonicalize()?;
        let mut before = Before { root: root.clone(), nodes: Vec::new(), inodes: HashMap::new() };
        before.add(&root)?;
        Ok(before)
    }

    /// The number of moments at which the power can go: after each change.
    pub fn moments(&self) -> usize {
        self.steps.len() + 1
    }

    /// Makes the folder what it is when the power goes after `moment` changes.
    pub fn restore(&self, moment: usize, loss: Loss, seed: u64) -> io::Result<()> {
        let nodes = self.after(moment, loss, &mut Random::new(seed));
        place(&nodes, ROOT, &self.root)
    }

    fn after(&self, moment: usize, loss: Loss, random: &mut Random) -> Vec<Node> {
        let steps = &self.steps[..moment];
        // Read backwards, so that what is stored later is known.
        let mut stored = HashSet::new();
        let mut is_safe = vec![false; steps.len()];
        for (at, step) in steps.iter().enumerate().rev() {
            match step {
                Step::Stored(id) => drop(stored.insert(*id)),
                Step::Names(names) => is_safe[at] = stored.contains(&names[0].0),
                Step::Bytes(id, ..) | Step::Length(id, _) => is_safe[at] = stored.contains(id),
            }
        }
        let names_until = match loss {
            Loss::All => 0,
            Loss::Bytes => moment,
            Loss::Any => random.below(moment + 1),
        };
        let mut nodes = self.nodes.clone();
        for (at, step) in steps.iter().enumerate() {
            let tossed = random.below(3);
            match step {
                Step::Names(names) if is_safe[at] || at < names_until => {
                    for (folder, name, id) in names {
                        let Node::Folder { names, .. } = &mut nodes[*folder] else { continue };
                        match id {
                            Some(id) => names.insert(name.clone(), *id),
                            None => names.remove(name),
                        };
                    }
                }
                Step::Bytes(id, start, new) => {
                    let Node::File { bytes, .. } = &mut nodes[*id] else { continue };
                    let kept = match (is_safe[at], loss) {
                        (true, _) => new.len(),
                        (false, Loss::All) => continue,
                        (false, Loss::Bytes) => 0,
                        (false, Loss::Any) => [0, new.len() / 2, new.len()][tossed],
                    };
                    let (start, end) = (*start as usize, *start as usize + new.len());
                    if bytes.len() < end {
                        bytes.resize(end, 0);
                    }
                    bytes[start..start + kept].copy_from_slice(&new[..kept]);
                }
                Step::Length(id, length) => {
                    let Node::File { bytes, .. } = &mut nodes[*id] else { continue };
                    if is_safe[at] || loss == Loss::Bytes || (loss == Loss::Any && tossed > 0) {
                        bytes.resize(*length as usize, 0);
                    }
                }
                Step::Names(_) | Step::Stored(_) => {}
            }
        }
        nodes
    }
}

/// A folder before a run.
#[derive(Debug)]
pub struct Before {
    root: PathBuf,
    nodes: Vec<Node>,
    inodes: HashMap<u64, Id>,
}

impl Before {
    fn add(&mut self, path: &Path) -> io::Result<Id> {
        let found = path.symlink_metadata()?;
        if let (Some(&id), false) = (self.inodes.get(&found.ino()), found.is_dir()) {
            return Ok(id);
        }
        let id = self.nodes.len();
        self.inodes.insert(found.ino(), id);
        let mode = found.mode() & 0o7777;
        if found.is_symlink() {
            self.nodes.push(Node::Link(fs::read_link(path)?));
        } else if found.is_dir() {
            self.nodes.push(Node::Folder { names: BTreeMap::new(), mode });
            let mut names = BTreeMap::new();
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                names.insert(entry.file_name(), self.add(&entry.path())?);
            }
            self.nodes[id] = Node::Folder { names, mode };
        } else {
            self.nodes.push(Node::File { bytes: fs::read(path)?, mode });
        }
        Ok(id)
    }

    /// The folder with what a run changed in it.
    pub fn record(mut self, changes: Vec<Change>) -> Recording {
        // Names as they are at each change, to find folders by their paths.
        let mut live: Vec<BTreeMap<OsString, Id>> = Vec::new();
        for node in &self.nodes {
            live.push(match node {
                Node::Folder { names, .. } => names.clone(),
                _ => BTreeMap::new(),
            });
        }
        let mut steps = Vec::new();
        for change in changes {
            if let Some(step) = self.step(change, &mut live) {
                if let Step::Names(names) = &step {
                    for (folder, name, id) in names {
                        match id {
                            Some(id) => live[*folder].insert(name.clone(), *id),
                            None => live[*folder].remove(name),
                        };
                    }
                }
                steps.push(step);
            }
        }
        Recording { root: self.root, nodes: self.nodes, steps }
    }

    fn step(&mut self, change: Change, live: &mut Vec<BTreeMap<OsString, Id>>) -> Option<Step> {
        let mut new = |inode: Option<u64>, node: Node| {
            let id = self.nodes.len();
            self.nodes.push(node);
            live.push(BTreeMap::new());
            // A number of a file that is gone may come again.
            inode.map(|inode| self.inodes.insert(inode, id));
            id
        };
        let made = match &change {
            Change::Made { inode, mode, .. } => {
                Some(new(Some(*inode), Node::File { bytes: Vec::new(), mode: *mode }))
            }
            Change::Folder { inode, mode, .. } => {
                Some(new(Some(*inode), Node::Folder { names: BTreeMap::new(), mode: *mode }))
            }
            Change::Pointed { target, .. } => Some(new(None, Node::Link(target.clone()))),
            _ => None,
        };
        let place = |path: &Path| find(&self.root, live, path);
        let at = |path: &Path| {
            let (folder, name) = place(path)?;
            live[folder].get(&name).copied()
        };
        Some(match change {
            Change::Made { path: None, .. } => return None,
            Change::Made { path: Some(path), .. }
            | Change::Folder { path, .. }
            | Change::Pointed { path, .. } => {
                let (folder, name) = place(&path)?;
                Step::Names(vec![(folder, name, made)])
            }
            Change::Bytes { inode, at, bytes } => Step::Bytes(*self.inodes.get(&inode)?, at, bytes),
            Change::Length { inode, length } => Step::Length(*self.inodes.get(&inode)?, length),
            Change::Stored { inode } => Step::Stored(*self.inodes.get(&inode)?),
            Change::Renamed { from, to } => {
                let ((old, old_name), (folder, name)) = (place(&from)?, place(&to)?);
                let moved = at(&from)?;
                Step::Names(vec![(folder, name, Some(moved)), (old, old_name, None)])
            }
            Change::Swapped { one, other } => {
                let ((first, first_name), (second, second_name)) = (place(&one)?, place(&other)?);
                let (a, b) = (at(&one)?, at(&other)?);
                Step::Names(vec![(second, second_name, Some(a)), (first, first_name, Some(b))])
            }
            Change::Linked { from, to } => {
                let (folder, name) = place(&to)?;
                Step::Names(vec![(folder, name, Some(at(&from)?))])
            }
            Change::Removed { path } => {
                let (folder, name) = place(&path)?;
                Step::Names(vec![(folder, name, None)])
            }
        })
    }
}

/// The folder of a path and its name there; none outside of the root.
fn find(root: &Path, live: &[BTreeMap<OsString, Id>], path: &Path) -> Option<(Id, OsString)> {
    let below = path.strip_prefix(root).ok()?;
    let mut folder = ROOT;
    for part in below.parent()? {
        folder = *live[folder].get(part)?;
    }
    Some((folder, below.file_name()?.to_owned()))
}

/// Makes a path what the node is. A file that has the right bytes already is left alone, because what a merge
/// is of depends on the times of its inputs.
fn place(nodes: &[Node], id: Id, path: &Path) -> io::Result<()> {
    let found = path.symlink_metadata().ok();
    let is_folder = found.as_ref().is_some_and(fs::Metadata::is_dir);
    match &nodes[id] {
        Node::Link(target) => {
            clear(path)?;
            std::os::unix::fs::symlink(target, path)
        }
        Node::File { bytes, mode } => {
            let is_right = found.is_some_and(|found| {
                let is_plain = found.is_file() && found.nlink() == 1;
                is_plain && found.mode() & 0o7777 == *mode
            });
            if is_right && fs::read(path)? == *bytes {
                return Ok(());
            }
            clear(path)?;
            fs::write(path, bytes)?;
            fs::set_permissions(path, fs::Permissions::from_mode(*mode))
        }
        Node::Folder { names, mode } => {
            if !is_folder {
                clear(path)?;
                fs::DirBuilder::new().mode(*mode).create(path)?;
            }
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                if !names.contains_key(&entry.file_name()) {
                    clear(&entry.path())?;
                }
            }
            names.iter().try_for_each(|(name, id)| place(nodes, *id, &path.join(name)))
        }
    }
}

/// Removes what stands at a path.
fn clear(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file is written, stored and renamed; which moments keep what can be told by hand.
    #[test]
    fn what_was_not_stored_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::write(root.join("old"), "old").unwrap();
        let before = Recording::before(&root).unwrap();
        let root_inode = fs::metadata(&root).unwrap().ino();
        let bytes = |text: &str| Change::Bytes { inode: 7, at: 0, bytes: text.into() };
        let recording = before.record(vec![
            Change::Made { path: Some(root.join("new")), inode: 7, mode: 0o644 },
            bytes("text"),
            Change::Stored { inode: 7 },
            Change::Renamed { from: root.join("new"), to: root.join("old") },
            Change::Stored { inode: root_inode },
            bytes("more"),
        ]);
        let at = |moment, loss| {
            recording.restore(moment, loss, 1).unwrap();
            let read = |name: &str| fs::read_to_string(root.join(name)).ok();
            [read("new"), read("old")].map(|text| text.unwrap_or_else(|| "-".to_owned()))
        };
        assert_eq!(at(2, Loss::All), ["-", "old"]);
        assert_eq!(at(2, Loss::Bytes), ["\0\0\0\0", "old"]);
        assert_eq!(at(3, Loss::All), ["-", "old"], "its name was not stored");
        assert_eq!(at(3, Loss::Bytes), ["text", "old"]);
        assert_eq!(at(4, Loss::All), ["-", "old"]);
        assert_eq!(at(4, Loss::Bytes), ["-", "text"]);
        assert_eq!(at(5, Loss::All), ["-", "text"]);
        assert_eq!(at(6, Loss::All), ["-", "text"]);
        assert_eq!(at(6, Loss::Bytes), ["-", "text"]);
    }
}
