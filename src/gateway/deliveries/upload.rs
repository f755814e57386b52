//! One try of an upload: PUT to S3, signed with AWS Signature V4, or to any address.
use crate::formats::sigv4::{self, Credentials, UNSIGNED, encoded_path};
use crate::gateway::deliveries::outbound::{Answer, Outbound, Progress, To};
use crate::gateway::deliveries::view::File;
use crate::protocol::callers::Origin;
use crate::protocol::deliveries::Upload;
use crate::protocol::web_address::WebAddress;
use crate::sys::clock;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request};
use serde_json::Value;

/// What S3 takes in one request.
const LARGEST: u64 = 5 << 30;

/// Whose file it is.
pub struct Named<'a> {
    pub service: &'a str,
    pub job: &'a str,
    pub file: &'a Value,
}

impl Named<'_> {
    /// The values of a template, each encoded; a file keeps its subfolder.
    fn fill(&self, template: &str) -> String {
        let text = |name: &str| self.file[name].as_str().unwrap_or_default();
        let parts = [text("subfolder"), text("filename")];
        let name = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        template
            .replace("{service}", &encoded_path(self.service))
            .replace("{job}", &encoded_path(self.job))
            .replace("{filename}", &encoded_path(&clean(&name)))
    }
}

/// A pack may choose any name: none leads out of its folder.
fn clean(name: &str) -> String {
    let parts = name.split(['/', '\\']).filter(|part| !matches!(*part, "" | "." | ".."));
    parts.collect::<Vec<_>>().join("/")
}

/// Where a file goes.
pub fn address(upload: &Upload, named: &Named) -> Result<WebAddress, String> {
    let text = match upload {
        Upload::Http { url, .. } => named.fill(url),
        Upload::S3 { bucket, key, region, endpoint, path_style, .. } => {
            let key = named.fill(key);
            let origin = match endpoint {
                Some(endpoint) => endpoint.clone(),
                None => Origin::parse(&format!("https://s3.{region}.amazonaws.com"))
                    .ok_or("its region is none")?,
            };
            let (scheme, host) = (origin.scheme(), origin.to_string());
            let host = host.split_once("://").map_or("", |(_, host)| host);
            let key = key.trim_start_matches('/');
            match path_style {
                true => format!("{scheme}://{host}/{bucket}/{key}"),
                false => format!("{scheme}://{bucket}.{host}/{key}"),
            }
        }
    };
    WebAddress::parse(&text).map_err(|why| format!("the address of an upload {why}"))
}

/// A job's own: it has no secret.
pub fn own_address(template: &str, named: &Named) -> Result<WebAddress, String> {
    address(&Upload::Http { url: template.into(), header: None }, named)
}

/// For people and records: no query, and S3's own way to say it.
pub fn shown(upload: Option<&Upload>, address: &WebAddress) -> String {
    match upload {
        Some(Upload::S3 { bucket, path_style, .. }) => {
            let key = address.target().trim_start_matches('/');
            let key = if *path_style { key.strip_prefix(bucket.as_str()).unwrap_or(key) } else { key };
            format!("s3://{bucket}/{}", key.trim_start_matches('/'))
        }
        _ => address.shown(),
    }
}

/// `upload`: of the service; none: a job's own.
pub async fn send(
    outbound: &Outbound,
    to: &To<'_>,
    upload: Option<&Upload>,
    secret: Option<&str>,
    file: File,
    progress: &Progress,
) -> Result<Answer, String> {
    let (length, kind) = (file.length, file.kind.clone());
    let mut request = Request::new(file);
    *request.method_mut() = Method::PUT;
    let headers = request.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if let Some(kind) = kind {
        headers.insert(CONTENT_TYPE, kind);
    }
    let hidden = |text: &str| -> Result<HeaderValue, String> {
        let value = HeaderValue::from_str(text)
            .map_err(|_| "the secret of [service.jobs.uploads] is no value of a header");
        let mut value = value?;
        value.set_sensitive(true);
        Ok(value)
    };
    let lacking = || "[service.jobs.uploads] has no secret".to_string();
    match upload {
        Some(Upload::Http { header: Some(name), .. }) => {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "it is no name of a header")?;
            headers.insert(name, hidden(secret.ok_or_else(lacking)?)?);
        }
        Some(Upload::S3 { region, access_key, .. }) => {
            if length > LARGEST {
                return Err("S3 takes no file of more than 5 GiB in one request".into());
            }
            let time = sigv4::time(&clock::rfc3339(clock::now()));
            let host = to.address.authority();
            // In the order of their names, as they are signed.
            let signed = [("host", host.as_str()), ("x-amz-content-sha256", UNSIGNED), ("x-amz-date", &time)];
            let of = Credentials { access_key, secret_key: secret.ok_or_else(lacking)?, region };
            let asked = sigv4::Request {
                method: "PUT",
                path: to.address.target(),
                headers: &signed,
                payload: UNSIGNED,
            };
            headers.insert(AUTHORIZATION, hidden(&sigv4::authorization(&asked, &of, &time))?);
            headers.insert("x-amz-content-sha256", HeaderValue::from_static(UNSIGNED));
            headers.insert("x-amz-date", HeaderValue::from_str(&time).map_err(|_| "there is no time")?);
        }
        _ => {}
    }
    let mut answer = outbound.send(to, request, progress).await?;
    answer.text = code(&answer.text).unwrap_or_default().to_string();
    Ok(answer)
}

/// What S3 calls an error: `<Code>SignatureDoesNotMatch</Code>`.
fn code(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    (code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn s3(endpoint: Option<&str>, path_style: bool) -> Upload {
        Upload::S3 {
            bucket: "pictures".into(),
            key: "{service}/{job}/{filename}".into(),
            region: "eu-central-1".into(),
            endpoint: endpoint.map(|text| Origin::parse(text).unwrap()),
            path_style,
            access_key: "A".into(),
        }
    }

    #[test]
    fn where_a_file_goes() {
        let file = json!({"filename": "a b+.png", "subfolder": "x/../y", "type": "output"});
        let named = Named { service: "demo", job: "7f3a", file: &file };
        let goes = |upload: &Upload| {
            let address = address(upload, &named).unwrap();
            (address.to_string(), shown(Some(upload), &address))
        };
        let key = "demo/7f3a/x/y/a%20b%2B.png";
        let s3_name = format!("s3://pictures/{key}");
        assert_eq!(
            goes(&s3(None, false)),
            (format!("https://pictures.s3.eu-central-1.amazonaws.com/{key}"), s3_name.clone())
        );
        assert_eq!(
            goes(&s3(Some("http://127.0.0.1:9000"), true)),
            (format!("http://127.0.0.1:9000/pictures/{key}"), s3_name)
        );
        let http = Upload::Http { url: "https://put.example/{job}?name={filename}".into(), header: None };
        assert_eq!(
            goes(&http),
            ("https://put.example/7f3a?name=x/y/a%20b%2B.png".into(), "https://put.example/7f3a?…".into())
        );
    }

    #[test]
    fn what_s3_calls_an_error() {
        assert_eq!(code("<Error><Code>AccessDenied</Code><Key>x</Key></Error>"), Some("AccessDenied"));
        assert_eq!(code("<Code>a b</Code>"), None);
        assert_eq!(code("no"), None);
    }
}
