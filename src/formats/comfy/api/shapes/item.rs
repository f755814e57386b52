//! A job as the queue and the history show it: a list of its number, its id, its nodes, `extra_data` and its output nodes.
use crate::formats::comfy::api::shapes::members::Members;
use crate::formats::comfy::api::shapes::number;
use crate::formats::comfy::api::submission::{CLIENT_ID, CREATE_TIME, SECRETS};
use serde::ser::{SerializeMap, SerializeTuple};
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// Written as ComfyUI's list of five. Its large parts stay the text that they are kept as.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    pub number: f64,
    pub id: &'a str,
    pub prompt: Option<&'a RawValue>,
    pub extra: Extra<'a>,
    /// A list.
    pub outputs_to_execute: Option<&'a RawValue>,
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_tuple(5)?;
        list.serialize_element(&number(self.number))?;
        list.serialize_element(self.id)?;
        list.serialize_element(&self.prompt)?;
        list.serialize_element(&self.extra)?;
        match self.outputs_to_execute {
            Some(outputs) => list.serialize_element(outputs)?,
            None => list.serialize_element::<[(); 0]>(&[])?,
        }
        list.end()
    }
}

/// `extra_data` as it is shown: with the client and the time of acceptance, which the server adds, and without credentials.
#[derive(Debug, Clone, Copy)]
pub struct Extra<'a> {
    /// As the client sent it.
    pub given: Option<&'a RawValue>,
    pub client_id: Option<&'a str>,
    /// Milliseconds since 1970.
    pub create_time: u64,
}

impl Serialize for Extra<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self.given.map(|given| Members::of(given.get())).unwrap_or_default().0 {
            if key != CLIENT_ID && key != CREATE_TIME && !SECRETS.contains(&key.as_ref()) {
                map.serialize_entry(&key, value)?;
            }
        }
        if let Some(client) = self.client_id {
            map.serialize_entry(CLIENT_ID, client)?;
        }
        map.serialize_entry(CREATE_TIME, &self.create_time)?;
        map.end()
    }
}

/// Whether a job's text may have credentials of Comfy's in it: one that does not name them has none.
pub fn may_have_secrets(text: &str) -> bool {
    SECRETS.iter().any(|secret| text.contains(secret))
}

/// Takes Comfy's credentials out of a job that no longer needs them: a history shows none.
pub fn forget_secrets(extra_data: &mut Value) {
    if let Value::Object(extra) = extra_data {
        for secret in SECRETS {
            extra.shift_remove(secret);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use serde_json::value::to_raw_value;

    #[test]
    fn of_a_job() {
        let given =
            json!({"a": 1, "api_key_comfy_org": "k", "auth_token_comfy_org": "t", "create_time": 1, "b": 2});
        let raw = to_raw_value(&given).unwrap();
        let extra = Extra { given: Some(&raw), client_id: Some("A"), create_time: 7 };
        let [prompt, outputs] = [json!({"1": {}}), json!(["1"])].map(|value| to_raw_value(&value).unwrap());
        let item =
            Item { number: 3.0, id: "x", prompt: Some(&prompt), extra, outputs_to_execute: Some(&outputs) };
        let text = r#"[3,"x",{"1":{}},{"a":1,"b":2,"client_id":"A","create_time":7},["1"]]"#;
        assert_eq!(serde_json::to_string(&item).unwrap(), text);
        let text = |number, extra| {
            let item = Item { number, extra, outputs_to_execute: None, ..item };
            serde_json::to_string(&item).unwrap()
        };
        let nobody = Extra { given: None, client_id: None, create_time: 7 };
        assert_eq!(text(-0.0, nobody), r#"[0,"x",{"1":{}},{"create_time":7},[]]"#);
        assert_eq!(text(-1.5, nobody), r#"[-1.5,"x",{"1":{}},{"create_time":7},[]]"#);
        assert_eq!(text(1e300, nobody), r#"[1e+300,"x",{"1":{}},{"create_time":7},[]]"#);
        assert!(may_have_secrets(&given.to_string()) && !may_have_secrets(r#"{"api_key": 1}"#));
        let mut given = given.clone();
        forget_secrets(&mut given);
        assert_eq!(given, json!({"a": 1, "create_time": 1, "b": 2}));
    }
}
