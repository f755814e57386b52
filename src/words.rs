//! Words that people type: which known one is meant, and which names a pattern takes. And words that people read.

/// A text of somebody else, for people: control characters and bytes that are not UTF-8 escaped, so that a hostile
/// name can neither break a line of the report nor move the cursor.
pub fn show(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The end of a text: at most so many lines.
pub fn last_lines(text: &str, most: usize) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(most)..].to_vec()
}

/// The known key most like the unknown one; both are in serde's message.
pub fn nearest_field(message: &str) -> Option<&str> {
    let mut names = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let wrong = names.next()?;
    nearest(wrong, names)
}

/// The most like `wrong`, if any is like it at all.
pub fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, key) = known.map(|key| (edits(wrong, key), key)).min()?;
    (distance * 3 <= wrong.len().max(key.len())).then_some(key)
}

/// Letters to insert, remove or replace to make one word of the other (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Whether a pattern with `*` and `?` takes a name.
pub fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last `*` does not fit.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_text() {
        assert_eq!(last_lines("a\nb\nc\n", 2), ["b", "c"]);
        assert_eq!(last_lines("a", 2), ["a"]);
        assert!(last_lines("", 2).is_empty());
    }

    #[test]
    fn distances() {
        assert_eq!((edits("abc", "abc"), edits("", "ab"), edits("kitten", "sitting")), (0, 2, 3));
        assert_eq!(nearest("gpu-3", ["cpu", "gpu-1"].into_iter()), Some("gpu-1"));
        assert_eq!(nearest("zebra", ["cpu", "gpu-1"].into_iter()), None);
    }

    #[test]
    fn patterns() {
        for (pattern, name, takes) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("gpu-*", "gpu-12", true),
            ("*-eu-*", "a-b-eu-eu-1", true),
            ("g?u", "gpu", true),
            ("g?u", "gu", false),
            ("*a*b", "xaxbxa", false),
            ("*a*b", "xaxbxab", true),
        ] {
            assert_eq!(glob(pattern, name), takes, "{pattern} {name}");
        }
    }
}
