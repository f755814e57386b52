//! What a job made, as a list of typed outputs. An output's id says which it is: the job, the node, and its place among
//! what that node made. So nothing has to be kept of it but the job.
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Output {
    pub node_id: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: Kind,
    pub content_type: String,
    pub size_bytes: u64,
    pub id: String,
    /// Nobody has read it for that.
    pub hash: Option<String>,
    pub url: String,
    pub url_expires_at: String,
    pub job_id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Image,
    Video,
    Audio,
    Text,
    File,
    Latent,
}

/// One thing that a node made.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    pub node: String,
    /// Its place among what the node made, from 0.
    pub at: usize,
    pub kind: Kind,
    pub name: String,
    pub content_type: String,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A file of the instances, by what `/view` asks for.
    File { folder: String, subfolder: String },
    /// Words, or values, that stand in the history itself.
    Here(Vec<u8>),
}

/// Of `outputs` in a history's entry: each node has lists by kind. Nothing is left out but flags (`animated`).
pub fn made(outputs: &Value) -> Vec<Made> {
    let mut all = Vec::new();
    for (node, lists) in outputs.as_object().into_iter().flatten() {
        let mut at = 0;
        for (key, items) in lists.as_object().into_iter().flatten() {
            for item in items.as_array().into_iter().flatten() {
                if let Some(made) = one(node, at, key, item) {
                    all.push(made);
                    at += 1;
                }
            }
        }
    }
    all
}

fn one(node: &str, at: usize, key: &str, item: &Value) -> Option<Made> {
    let made = |kind, name: String, content_type: String, content| {
        Some(Made { node: node.into(), at, kind, name, content_type, content })
    };
    match item {
        Value::Null | Value::Bool(_) => None,
        Value::Object(file) if file.get("filename").is_some_and(Value::is_string) => {
            let text = |key: &str| file.get(key).and_then(Value::as_str).unwrap_or_default();
            let name = text("filename");
            let content_type = match content_type(name) {
                // Video nodes say what they made, with an extension that may be anything.
                UNKNOWN if text("format").contains('/') => text("format").to_string(),
                known => known.to_string(),
            };
            let folder = if text("type").is_empty() { "output" } else { text("type") };
            let content = Content::File { folder: folder.into(), subfolder: text("subfolder").into() };
            made(kind(key, &content_type, name), name.into(), content_type, content)
        }
        Value::String(text) if key == "3d" || key == "result" && content_type(text).starts_with("model/") => {
            let content = Content::File { folder: "output".into(), subfolder: String::new() };
            made(Kind::File, text.clone(), content_type(text).into(), content)
        }
        Value::String(text) => {
            let name = format!("{key}_{at}.txt");
            made(
                Kind::Text,
                name,
                "text/plain; charset=utf-8".into(),
                Content::Here(text.clone().into_bytes()),
            )
        }
        other => {
            let name = format!("{key}_{at}.json");
            made(Kind::File, name, "application/json".into(), Content::Here(other.to_string().into_bytes()))
        }
    }
}

fn kind(key: &str, content_type: &str, name: &str) -> Kind {
    match content_type.split('/').next() {
        _ if key == "latents" || name.ends_with(".latent") => Kind::Latent,
        Some("image") => Kind::Image,
        Some("video") => Kind::Video,
        Some("audio") => Kind::Audio,
        Some("text") => Kind::Text,
        _ => match key {
            "images" => Kind::Image,
            "video" | "videos" | "gifs" => Kind::Video,
            "audio" => Kind::Audio,
            _ => Kind::File,
        },
    }
}

const UNKNOWN: &str = "application/octet-stream";

/// Of a file, by its name.
pub fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase()).as_deref() {
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("webp") => "image/webp",
        Some("gif") => "image/gif",
        Some("bmp") => "image/bmp",
        Some("tif" | "tiff") => "image/tiff",
        Some("avif") => "image/avif",
        Some("svg") => "image/svg+xml",
        Some("mp4" | "m4v") => "video/mp4",
        Some("webm") => "video/webm",
        Some("mkv") => "video/x-matroska",
        Some("mov") => "video/quicktime",
        Some("mp3") => "audio/mpeg",
        Some("wav") => "audio/wav",
        Some("flac") => "audio/flac",
        Some("ogg" | "opus") => "audio/ogg",
        Some("m4a") => "audio/mp4",
        Some("txt") => "text/plain",
        Some("md") => "text/markdown",
        Some("csv") => "text/csv",
        Some("json") => "application/json",
        Some("glb") => "model/gltf-binary",
        Some("gltf") => "model/gltf+json",
        Some("obj") => "model/obj",
        Some("fbx" | "usdz") => "model/vnd",
        _ => UNKNOWN,
    }
}

/// Which output an id is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub job: String,
    pub node: String,
    pub at: usize,
}

impl Place {
    /// An id has a point, and an uploaded asset's (a UUID) has none.
    pub fn id(&self) -> String {
        format!("{}.{}.{}", self.job, URL_SAFE_NO_PAD.encode(&self.node), self.at)
    }

    pub fn of_id(id: &str) -> Option<Place> {
        let mut parts = id.split('.');
        let (job, node, at) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || !at.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let node = String::from_utf8(URL_SAFE_NO_PAD.decode(node).ok()?).ok()?;
        Some(Place { job: job.into(), node, at: at.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kinds_of_outputs() {
        let outputs = json!({
            "9": {"images": [{"filename": "a.png", "subfolder": "s", "type": "output"}], "animated": [false]},
            "10": {"gifs": [{"filename": "b.bin", "type": "temp", "format": "video/h264-mp4"}], "text": ["words", null]},
            "11": {"audio": [{"filename": "c.flac"}], "latents": [{"filename": "d.latent"}], "result": [3, "e.glb"]},
        });
        let made = made(&outputs);
        let shown: Vec<_> = made.iter().map(|m| (m.node.as_str(), m.at, m.kind, m.name.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("9", 0, Kind::Image, "a.png"),
                ("10", 0, Kind::Video, "b.bin"),
                ("10", 1, Kind::Text, "text_1.txt"),
                ("11", 0, Kind::Audio, "c.flac"),
                ("11", 1, Kind::Latent, "d.latent"),
                ("11", 2, Kind::File, "result_2.json"),
                ("11", 3, Kind::File, "e.glb"),
            ]
        );
        assert_eq!(made[0].content, Content::File { folder: "output".into(), subfolder: "s".into() });
        assert_eq!(made[1].content_type, "video/h264-mp4");
        assert_eq!(made[2].content, Content::Here(b"words".to_vec()));
        assert_eq!(super::made(&Value::Null), []);
    }

    #[test]
    fn ids() {
        let place = Place { job: "632c0795-6093-485d-959e-6fa2f32398e4".into(), node: "5:3".into(), at: 12 };
        assert_eq!(Place::of_id(&place.id()), Some(place));
        for id in ["", "a", "a.b", "a.OQ.x", "a.OQ.-1", "a.OQ.1.2", "a.!.1"] {
            assert_eq!(Place::of_id(id), None, "{id}");
        }
    }
}
