//! Which prompts are asked.

/// Positions of the `count` prompts with the smallest BLAKE3 of seed and name, in the order of the
/// file. The choice depends neither on the order of the prompts nor on others that are added and
/// hash higher.
pub fn sample(ids: &[&str], count: usize, seed: u64) -> Vec<usize> {
    let mut ranked: Vec<([u8; 32], usize)> =
        ids.iter().enumerate().map(|(position, id)| (rank(id, seed), position)).collect();
    ranked.sort_unstable();
    let mut chosen: Vec<usize> =
        ranked.into_iter().take(count).map(|(_, position)| position).collect();
    chosen.sort_unstable();
    chosen
}

/// The seed as its decimal text, then the name.
fn rank(id: &str, seed: u64) -> [u8; 32] {
    let mut digest = blake3::Hasher::new();
    digest.update(seed.to_string().as_bytes()).update(b"\0").update(id.as_bytes());
    digest.finalize().into()
}

/// Positions of the prompts of these names, in the order of the file; or the names that no prompt has.
pub fn named<'a>(ids: &[&str], wanted: &'a [String]) -> Result<Vec<usize>, Vec<&'a str>> {
    let unknown: Vec<&str> =
        wanted.iter().map(String::as_str).filter(|id| !ids.contains(id)).collect();
    if !unknown.is_empty() {
        return Err(unknown);
    }
    Ok((0..ids.len()).filter(|&k| wanted.iter().any(|id| id == ids[k])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ids: &[&str], count: usize, seed: u64) -> Vec<String> {
        let mut names: Vec<String> =
            sample(ids, count, seed).into_iter().map(|k| ids[k].to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_sample_does_not_depend_on_the_order() {
        let ids: Vec<String> = (0..50).map(|n| format!("task/{n}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let reversed: Vec<&str> = ids.iter().rev().copied().collect();
        assert_eq!(names(&ids, 10, 2), names(&reversed, 10, 2));
        assert_ne!(names(&ids, 10, 2), names(&ids, 10, 3), "the seed matters");
        assert_eq!(names(&ids, 99, 2).len(), 50);
        let kept = names(&ids[..40], 10, 2);
        let more = names(&ids, 10, 2);
        let stayed = more.iter().filter(|id| kept.contains(id)).count();
        assert!(stayed >= 5, "new prompts replace few: {stayed}");
        let positions = sample(&ids, 10, 2);
        assert!(positions.windows(2).all(|pair| pair[0] < pair[1]), "in the order of the file");
    }

    #[test]
    fn names_are_taken_or_told() {
        let wanted = ["c".to_owned(), "a".to_owned()];
        assert_eq!(named(&["a", "b", "c"], &wanted), Ok(vec![0, 2]));
        assert_eq!(named(&["a", "b"], &wanted), Err(vec!["c"]));
    }
}
