//! The candidates: values of one parameter of a recipe or of several, as decimal text.
//!
//! Values are never floating-point numbers: they are names of folders, keys and overrides.

/// One parameter and its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Its path in the recipe, as for `--set`.
    pub path: String,
    /// Its values, as written.
    pub values: Vec<String>,
}

/// A point of the grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Path and value of each parameter.
    pub set: Vec<(String, String)>,
    /// What it is called: the value, or `path=value` of each where there are several.
    pub label: String,
    /// The name of its folder.
    pub folder: String,
}

/// All points of the grid, the last parameter changing fastest.
pub fn candidates(axes: &[Axis]) -> Vec<Candidate> {
    let mut sets: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for axis in axes {
        let longer = |set: &Vec<(String, String)>| {
            let set = set.clone();
            axis.values.iter().map(move |value| {
                let mut set = set.clone();
                set.push((axis.path.clone(), value.clone()));
                set
            })
        };
        sets = sets.iter().flat_map(longer).collect();
    }
    sets.into_iter().map(Candidate::new).collect()
}

impl Candidate {
    /// The candidate with these paths and values.
    pub fn new(set: Vec<(String, String)>) -> Self {
        let label = match set.as_slice() {
            [(_, value)] => value.clone(),
            set => {
                let each: Vec<String> =
                    set.iter().map(|(path, value)| format!("{path}={value}")).collect();
                each.join(", ")
            }
        };
        Self { folder: folder(&label), set, label }
    }
}

/// The label as the name of a folder. Labels that differ have names that differ.
fn folder(label: &str) -> String {
    const LONGEST: usize = 80;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-+=,".contains(c);
    let name = label.replace(", ", ",");
    if !name.is_empty()
        && name.len() <= LONGEST
        && !name.starts_with('.')
        && name.chars().all(is_plain)
    {
        return name;
    }
    let digest = blake3::hash(label.as_bytes()).to_hex();
    let name: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).take(40).collect();
    format!("_{name}-{}", &digest[..12])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_parameters_make_a_product() {
        let axis = |path: &str, values: &[&str]| Axis {
            path: path.to_owned(),
            values: values.iter().map(|&value| value.to_owned()).collect(),
        };
        let one = candidates(&[axis("parameters.t", &["0.0", "0.1"])]);
        assert_eq!((one[1].label.as_str(), one[1].folder.as_str()), ("0.1", "0.1"));
        let two = candidates(&[axis("a", &["1", "2"]), axis("b", &["x", "../y"])]);
        assert_eq!(two.len(), 4);
        assert_eq!(two[2].label, "a=2, b=x");
        assert_eq!(two[2].folder, "a=2,b=x");
        assert!(
            !two[3].folder.contains('/') && two[3].folder.starts_with('_'),
            "{}",
            two[3].folder
        );
    }
}
