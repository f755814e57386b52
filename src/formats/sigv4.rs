//! AWS Signature Version 4 for one request to S3, by the steps of AWS's own description ("Authenticating Requests: Using
//! the Authorization Header"), in its order: canonical request, string to sign, signing key, signature.
use crate::formats::hex::hex;
use crate::formats::webhook::hmac;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// In the place of the body's SHA-256: a body that is streamed is not known when its head is signed.
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// Whose request it is, and where.
pub struct Credentials<'a> {
    pub access_key: &'a str,
    pub secret_key: &'a str,
    pub region: &'a str,
}

/// A request without a query, as it is sent.
pub struct Request<'a> {
    pub method: &'a str,
    /// Encoded already, and each segment once (S3 does not encode it again).
    pub path: &'a str,
    /// In lower case and in the order of their names, `host` and `x-amz-date` among them.
    pub headers: &'a [(&'a str, &'a str)],
    /// SHA-256 of the body in hex, or `UNSIGNED`.
    pub payload: &'a str,
}

/// ISO 8601 as AWS writes it, from RFC 3339 in UTC: `20130524T000000Z`.
pub fn time(rfc3339: &str) -> String {
    rfc3339.chars().filter(|c| !matches!(c, '-' | ':')).collect()
}

/// The value of `Authorization`. `time`: what `x-amz-date` says.
pub fn authorization(request: &Request, of: &Credentials, time: &str) -> String {
    let date = time.get(..8).unwrap_or(time);
    let names: Vec<&str> = request.headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    // 1. The canonical request.
    let mut canonical = format!("{}\n{}\n\n", request.method, request.path);
    for (name, value) in request.headers {
        // Writing to a string does not fail.
        let _ = writeln!(canonical, "{name}:{}", value.trim());
    }
    let _ = write!(canonical, "\n{names}\n{}", request.payload);
    // 2. The string to sign.
    let scope = format!("{date}/{}/s3/aws4_request", of.region);
    let digest = hex(&Sha256::digest(canonical.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}");
    // 3. The signing key.
    let mut key = hmac(format!("AWS4{}", of.secret_key).as_bytes(), &[date.as_bytes()]);
    for part in [of.region, "s3", "aws4_request"] {
        key = hmac(&key, &[part.as_bytes()]);
    }
    // 4. The signature.
    let signature = hex(&hmac(&key, &[to_sign.as_bytes()]));
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={signature}",
        of.access_key
    )
}

/// A key or a name as a path has it: what is not unreserved (RFC 3986, 2.3) is encoded, but `/`.
pub fn encoded_path(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/') {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: Credentials = Credentials {
        access_key: "AKIAIOSFODNN7EXAMPLE",
        secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        region: "us-east-1",
    };
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    /// "Example: PUT Object" of AWS's description.
    #[test]
    fn an_object_is_put() {
        let payload = hex(&Sha256::digest(b"Welcome to Amazon S3."));
        let headers = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("host", "examplebucket.s3.amazonaws.com"),
            ("x-amz-content-sha256", payload.as_str()),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ];
        let path = encoded_path("/test$file.text");
        assert_eq!(path, "/test%24file.text");
        let request = Request { method: "PUT", path: &path, headers: &headers, payload: &payload };
        assert_eq!(
            authorization(&request, &EXAMPLE, &time("2013-05-24T00:00:00Z")),
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class,\
             Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
    }

    /// "Example: GET Object".
    #[test]
    fn an_object_is_asked_for() {
        let headers = [
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
        ];
        let request = Request { method: "GET", path: "/test.txt", headers: &headers, payload: EMPTY };
        let value = authorization(&request, &EXAMPLE, "20130524T000000Z");
        let signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert!(value.ends_with(signature), "{value}");
    }

    #[test]
    fn names_are_encoded() {
        assert_eq!(encoded_path("a b/é+%.png"), "a%20b/%C3%A9%2B%25.png");
    }
}
