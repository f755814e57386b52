//! The `Range` of a download (RFC 9110, 14): one range of bytes. What asks for several is answered whole, as it may be.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// The first byte, and how many.
    Some {
        first: u64,
        length: u64,
    },
    /// Nothing of it is there.
    None,
}

pub fn part(header: Option<&str>, size: u64) -> Part {
    let Some(ranges) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Part::Whole;
    };
    let Some((first, last)) = ranges.trim().split_once('-') else { return Part::Whole };
    if ranges.contains(',') {
        return Part::Whole;
    }
    let number = |text: &str| {
        let text = text.trim();
        // More digits than a size has are as good as all of it.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (number(first), number(last)) {
        (Some(first), last) if first < size => {
            let last = match last {
                Some(last) => last.min(size - 1),
                None if ranges.ends_with('-') => size - 1,
                None => return Part::Whole,
            };
            if last < first { Part::Whole } else { Part::Some { first, length: last - first + 1 } }
        }
        (Some(first), Some(last)) if last < first => Part::Whole,
        (Some(_), _) => Part::None,
        (None, Some(0)) => Part::None,
        (None, Some(_)) if size == 0 => Part::None,
        (None, Some(suffix)) if first.trim().is_empty() => {
            let length = suffix.min(size);
            Part::Some { first: size - length, length }
        }
        _ => Part::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let some = |first, length| Part::Some { first, length };
        for (header, found) in [
            ("bytes=0-3", some(0, 4)),
            ("bytes=2-", some(2, 8)),
            ("bytes=-3", some(7, 3)),
            ("bytes=-30", some(0, 10)),
            ("bytes=9-99999999999999999999999", some(9, 1)),
            ("bytes=10-", Part::None),
            ("bytes=10-12", Part::None),
            ("bytes=-0", Part::None),
            ("bytes=5-4", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=1-x", Part::Whole),
            ("bytes=", Part::Whole),
            ("items=0-1", Part::Whole),
        ] {
            assert_eq!(part(Some(header), 10), found, "{header}");
        }
        assert_eq!(part(None, 10), Part::Whole);
        assert_eq!((part(Some("bytes=0-0"), 0), part(Some("bytes=-1"), 0)), (Part::None, Part::None));
    }
}
