//! The ids of jobs and clients that requests and answers carry. All are texts of the client's choice; since
//! 0.38 a job's must be a canonical lowercase UUID.
use serde::Deserialize;

/// The bodies of POST /prompt (`client_id`, and `prompt_id` if the client chose it), of its 200 answer
/// (`prompt_id`), of POST /interrupt (`prompt_id`) and of POST /queue and /history (`delete`).
#[derive(Deserialize, Default)]
#[serde(default)]
struct Ids {
    prompt_id: Option<String>,
    client_id: Option<String>,
    delete: Vec<String>,
}

fn ids(body: &[u8]) -> Ids {
    // Not JSON, or other types: then it names nothing, and the instance says what is wrong with it.
    serde_json::from_slice(body).unwrap_or_default()
}

/// The client that a job's body names.
pub fn client_of(body: &[u8]) -> Option<String> {
    ids(body).client_id
}

/// The jobs that a body names.
pub fn jobs_of(body: &[u8]) -> Vec<String> {
    let ids = ids(body);
    ids.prompt_id.into_iter().chain(ids.delete).collect()
}

/// The job that an answer names.
pub fn job_of(answer: &[u8]) -> Option<String> {
    ids(answer).prompt_id
}

/// The `clientId` of a WebSocket's query, decoded as ComfyUI decodes it.
pub fn client_id(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("clientId="))?;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(b) = rest.next() {
        bytes.push(match b {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok().filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ids_of_queries() {
        assert_eq!(client_id("a=b&clientId=x%20y").as_deref(), Some("x y"));
        assert_eq!(client_id("clientId=").as_deref(), None);
        assert_eq!(client_id("clientId=%zz"), None);
        assert_eq!(client_id("clientid=x"), None);
    }

    #[test]
    fn ids_of_bodies() {
        assert_eq!(jobs_of(br#"{"delete": ["a", "b"]}"#), ["a", "b"]);
        assert_eq!(jobs_of(br#"{"prompt_id": "a"}"#), ["a"]);
        assert!(jobs_of(br#"{"delete": 3}"#).is_empty());
        assert!(jobs_of(b"nonsense").is_empty());
        assert_eq!(client_of(br#"{"prompt": {"1": {}}, "client_id": "c"}"#).as_deref(), Some("c"));
        assert_eq!(job_of(br#"{"prompt_id": "p", "number": 1, "node_errors": {}}"#).as_deref(), Some("p"));
    }
}
