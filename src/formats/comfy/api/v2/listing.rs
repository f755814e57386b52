//! The query of `GET /api/v2/jobs`, newest first: `limit`, `cursor`, `status`, and `metadata[name]=value` for each
//! label that is wanted.
use crate::formats::comfy::api::query;
use crate::formats::comfy::api::v2::job::Status;
use crate::formats::comfy::api::v2::refusal::Refused;
use std::collections::BTreeMap;

const LIMIT: u64 = 50;
const MOST: u64 = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub limit: u64,
    /// Only jobs that were accepted before this one.
    pub before: Option<u64>,
    /// Empty: all.
    pub statuses: Vec<Status>,
    pub labels: BTreeMap<String, String>,
}

pub fn parse(text: &str) -> Result<Listing, Refused> {
    let mut listing = Listing { limit: LIMIT, before: None, statuses: Vec::new(), labels: BTreeMap::new() };
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let plain = |text: &str| {
            query::decode(text).ok_or_else(|| Refused::request("the query has an escape that is none"))
        };
        let (name, value) = (plain(name)?, plain(value)?);
        match name.as_str() {
            "limit" => {
                let limit = query::integer(&value).and_then(|limit| u64::try_from(limit).ok());
                let limit = limit.filter(|limit| (1..=MOST).contains(limit));
                listing.limit =
                    limit.ok_or_else(|| Refused::request(format!("limit must be from 1 to {MOST}")))?;
            }
            "cursor" => {
                let before = value.strip_prefix('j').and_then(|digits| digits.parse().ok());
                let wrong =
                    || Refused::new(400, "invalid_cursor", "cursor must be the next_cursor of a page");
                listing.before = Some(before.ok_or_else(wrong)?);
            }
            "status" => {
                for status in value.split(',').map(str::trim).filter(|status| !status.is_empty()) {
                    let known = Status::of_name(status);
                    listing
                        .statuses
                        .push(known.ok_or_else(|| Refused::request(format!("there is no status {status}")))?);
                }
            }
            _ => {
                let Some(label) = name.strip_prefix("metadata") else { continue };
                let label = label.strip_prefix('[').and_then(|label| label.strip_suffix(']'));
                let wrong =
                    || Refused::new(400, "invalid_metadata_filter", "a filter is metadata[name]=value");
                listing
                    .labels
                    .insert(label.filter(|label| !label.is_empty()).ok_or_else(wrong)?.into(), value);
            }
        }
    }
    Ok(listing)
}

/// The `next_cursor` of a page that ends with this job.
pub fn cursor(seq: u64) -> String {
    format!("j{seq}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let all = parse("").unwrap();
        assert_eq!((all.limit, all.before, all.statuses.len(), all.labels.len()), (50, None, 0, 0));
        let text = format!(
            "metadata%5Bclient%5D=acme+x&limit=2&cursor={}&status=queued,canceled&other=1",
            cursor(7)
        );
        let some = parse(&text).unwrap();
        assert_eq!((some.limit, some.before), (2, Some(7)));
        assert_eq!(some.statuses, [Status::Queued, Status::Canceled]);
        assert_eq!(some.labels["client"], "acme x");
        for (query, code) in [
            ("limit=0", "invalid_request"),
            ("limit=101", "invalid_request"),
            ("limit=x", "invalid_request"),
            ("cursor=7", "invalid_cursor"),
            ("cursor=", "invalid_cursor"),
            ("status=lost", "invalid_request"),
            ("metadata=x", "invalid_metadata_filter"),
            ("metadata[]=x", "invalid_metadata_filter"),
            ("limit=%zz", "invalid_request"),
        ] {
            assert_eq!(parse(query).unwrap_err().code, code, "{query}");
        }
    }
}
