//! An answer that the gateway makes itself because a request cannot be served: a kind for programs, a message
//! for people, as JSON.
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{HeaderMap, StatusCode};
use serde_json::json;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    NoInstance,
    TooManyWaiting,
    TooManyConnections,
    InstanceRefused,
    InstanceEnded,
    InstanceGarbled,
    InstanceSlow,
    BodyTooLarge,
    NotAllowed,
    TooManyWrongKeys,
    TooManyRequests,
    CrossSite,
    UnknownHost,
    NoSuchPage,
    BadRequest,
    GatewayFailed,
    ClientSlow,
    /// The client is gone: nobody reads the answer, but the log and the metrics name the fault.
    ClientGone,
}

impl Fault {
    pub const ALL: [Fault; 18] = [
        Fault::NoInstance,
        Fault::TooManyWaiting,
        Fault::TooManyConnections,
        Fault::InstanceRefused,
        Fault::InstanceEnded,
        Fault::InstanceGarbled,
        Fault::InstanceSlow,
        Fault::BodyTooLarge,
        Fault::NotAllowed,
        Fault::TooManyWrongKeys,
        Fault::TooManyRequests,
        Fault::CrossSite,
        Fault::UnknownHost,
        Fault::NoSuchPage,
        Fault::BadRequest,
        Fault::GatewayFailed,
        Fault::ClientSlow,
        Fault::ClientGone,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fault::NoInstance => "no-instance",
            Fault::TooManyWaiting => "too-many-waiting",
            Fault::TooManyConnections => "too-many-connections",
            Fault::InstanceRefused => "instance-refused",
            Fault::InstanceEnded => "instance-ended",
            Fault::InstanceGarbled => "instance-garbled",
            Fault::InstanceSlow => "instance-slow",
            Fault::BodyTooLarge => "body-too-large",
            Fault::NotAllowed => "not-allowed",
            Fault::TooManyWrongKeys => "too-many-wrong-keys",
            Fault::TooManyRequests => "too-many-requests",
            Fault::CrossSite => "cross-site",
            Fault::UnknownHost => "unknown-host",
            Fault::NoSuchPage => "no-such-page",
            Fault::BadRequest => "bad-request",
            Fault::GatewayFailed => "gateway-failed",
            Fault::ClientSlow => "client-slow",
            Fault::ClientGone => "client-gone",
        }
    }

    pub fn status(self) -> StatusCode {
        match self {
            Fault::NoInstance | Fault::TooManyWaiting | Fault::TooManyConnections => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Fault::InstanceRefused | Fault::InstanceEnded | Fault::InstanceGarbled => StatusCode::BAD_GATEWAY,
            Fault::InstanceSlow => StatusCode::GATEWAY_TIMEOUT,
            Fault::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::NotAllowed => StatusCode::UNAUTHORIZED,
            Fault::TooManyWrongKeys | Fault::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Fault::CrossSite | Fault::UnknownHost => StatusCode::FORBIDDEN,
            Fault::NoSuchPage => StatusCode::NOT_FOUND,
            Fault::BadRequest | Fault::ClientGone => StatusCode::BAD_REQUEST,
            Fault::GatewayFailed => StatusCode::INTERNAL_SERVER_ERROR,
            Fault::ClientSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// Whether the instance is at fault, and counts it in its `failed`.
    pub fn is_instances(self) -> bool {
        matches!(
            self,
            Fault::InstanceRefused | Fault::InstanceEnded | Fault::InstanceGarbled | Fault::InstanceSlow
        )
    }
}

#[derive(Debug)]
pub struct Refusal {
    pub fault: Fault,
    pub message: String,
    /// Seconds after which to come again, where the kind does not say it.
    pub later: Option<u64>,
}

impl Refusal {
    pub fn new(fault: Fault, message: impl Into<String>) -> Refusal {
        Refusal { fault, message: message.into(), later: None }
    }

    pub fn body(&self, service: &str) -> Bytes {
        let status = self.fault.status().as_u16();
        let error = json!({
            "kind": self.fault.name(), "message": self.message, "service": service, "status": status,
        });
        Bytes::from(json!({ "error": error }).to_string())
    }

    pub fn headers(&self, service: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.fault {
            // A deploy is over in seconds; a full queue sooner.
            Fault::NoInstance => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("5"))),
            Fault::TooManyWaiting | Fault::TooManyConnections | Fault::TooManyRequests => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            // RFC 7617: with it a browser asks for the key by itself.
            Fault::NotAllowed => {
                let realm = format!("Basic realm=\"stillframe {service}\"");
                let realm = HeaderValue::from_str(&realm).unwrap_or(HeaderValue::from_static("Basic"));
                headers.insert(WWW_AUTHENTICATE, realm);
            }
            _ => {}
        }
        if let Some(seconds) = self.later {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_and_its_headers() {
        let refusal = Refusal::new(Fault::NoInstance, "none was ready within 15000 ms");
        assert_eq!(
            refusal.body("demo"),
            r#"{"error":{"kind":"no-instance","message":"none was ready within 15000 ms","service":"demo","status":503}}"#
        );
        assert_eq!(refusal.headers("demo")[RETRY_AFTER], "5");
        let refused = Refusal::new(Fault::NotAllowed, "no key");
        assert_eq!(refused.headers("demo")[WWW_AUTHENTICATE], "Basic realm=\"stillframe demo\"");
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<&str> = Fault::ALL.iter().map(|f| f.name()).collect();
        assert_eq!(names.len(), Fault::ALL.len());
        assert_eq!(Fault::ALL[Fault::ClientGone as usize], Fault::ClientGone);
    }
}
