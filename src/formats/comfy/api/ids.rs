//! The ids of jobs and clients that requests and answers carry. All are texts of the client's choice; since
//! 0.38 a job's must be a canonical lowercase UUID.
use crate::formats::comfy::api::query;
use crate::formats::hex::hex;
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
    query::decode(value).filter(|id| !id.is_empty())
}

/// Whether a text is a job's id as ComfyUI takes it from clients: a UUID, lowercase, with hyphens.
pub fn is_job_id(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, byte)| match i {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// A job's id of these random bytes, as ComfyUI makes one: a UUID of version 4.
pub fn job_id(mut random: [u8; 16]) -> String {
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let digits = hex(&random);
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
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
    fn ids_of_jobs() {
        assert!(is_job_id("632c0795-6093-485d-959e-6fa2f32398e4"));
        assert!(is_job_id("00000000-0000-0000-0000-000000000000"));
        for wrong in [
            "",
            "abc",
            "632C0795-6093-485D-959E-6FA2F32398E4",
            "632c07956093485d959e6fa2f32398e4",
            "{632c0795-6093-485d-959e-6fa2f32398e4}",
            "urn:uuid:632c0795-6093-485d-959e-6fa2f32398e4",
            "632c0795-6093-485d-959e-6fa2f32398e",
            "632c0795-6093-485d-959e-6fa2f32398e4 ",
            "632c0795-6093-485d-959e-6fa2f32398eg",
            "632c0795-6093-485d-959e6-fa2f32398e4",
        ] {
            assert!(!is_job_id(wrong), "{wrong}");
        }
        assert_eq!(job_id([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(job_id([0; 16]), "00000000-0000-4000-8000-000000000000");
        assert!(is_job_id(&job_id([7; 16])));
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
