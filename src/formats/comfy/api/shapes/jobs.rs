//! `/api/jobs` and `/api/jobs/{id}`: jobs in any state (`comfy_execution/jobs.py`).
use crate::formats::comfy::api::invalid::Invalid;
use crate::formats::comfy::api::query;
use crate::formats::comfy::api::shapes::item::{Extra, Item};
use crate::formats::comfy::api::shapes::{number, outputs};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    Pending,
    InProgress,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    pub const ALL: [Status; 5] =
        [Status::Pending, Status::InProgress, Status::Completed, Status::Failed, Status::Cancelled];

    pub fn name(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::InProgress => "in_progress",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }

    pub fn of_name(name: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.name() == name)
    }

    /// How a job ended, by its entry in an instance's history.
    pub fn of_entry(entry: &Value) -> Status {
        let status = &entry["status"];
        match status["status_str"].as_str() {
            Some("error") if message(status, "execution_interrupted").is_some() => Status::Cancelled,
            Some("error") => Status::Failed,
            _ => Status::Completed,
        }
    }
}

/// The data of a message in an entry's status.
fn message<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    let messages = status["messages"].as_array()?;
    messages
        .iter()
        .rev()
        .find(|message| message[0] == kind)
        .map(|message| &message[1])
        .filter(|data| data.is_object())
}

/// A job of a list.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    pub id: &'a str,
    pub status: Status,
    pub number: f64,
    /// Milliseconds since 1970: when it was accepted, when it began to run, when it ended.
    pub created: u64,
    pub started: Option<u64>,
    pub ended: Option<u64>,
    pub workflow: Option<&'a str>,
    /// Of a job that has ended: its entry in the history.
    pub entry: Option<&'a Value>,
}

/// One element of `jobs`. What is not known is left out, as there.
pub fn listed(job: &Listed) -> Value {
    Value::Object(fields(job))
}

fn fields(job: &Listed) -> Map<String, Value> {
    let none = Value::Null;
    let entry = job.entry.unwrap_or(&none);
    let status = &entry["status"];
    let over = job.entry.is_some();
    let at = |kinds: &[&str]| {
        kinds.iter().find_map(|kind| message(status, kind)).and_then(|data| data["timestamp"].as_u64())
    };
    let ends = ["execution_success", "execution_error", "execution_interrupted"];
    let made = outputs::summary(&entry["outputs"]);
    let fields = [
        ("id", Some(job.id.into())),
        ("status", Some(job.status.name().into())),
        ("priority", Some(number(job.number))),
        ("create_time", Some(job.created.into())),
        ("execution_start_time", at(&["execution_start"]).or(job.started.filter(|_| over)).map(Value::from)),
        ("execution_end_time", at(&ends).or(job.ended.filter(|_| over)).map(Value::from)),
        ("execution_error", message(status, "execution_error").cloned()),
        ("outputs_count", Some(made.count.into())),
        ("previewable_outputs_count", Some(made.previewable.into())),
        ("preview_output", made.preview),
        ("workflow_id", job.workflow.map(Value::from)),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))).collect()
}

/// `/api/jobs/{id}`: the same, with its nodes, and what it made once it has ended.
#[derive(Debug, Serialize)]
pub struct Detailed<'a> {
    #[serde(flatten)]
    fields: Map<String, Value>,
    workflow: Workflow<'a>,
}

#[derive(Debug, Serialize)]
struct Workflow<'a> {
    prompt: Option<&'a RawValue>,
    extra_data: Extra<'a>,
}

pub fn detailed<'a>(job: &Listed, item: Item<'a>) -> Detailed<'a> {
    let mut fields = fields(job);
    if let Some(entry) = job.entry {
        let none = json!({});
        let outputs = outputs::normalized(entry.get("outputs").unwrap_or(&none));
        fields.insert("outputs".into(), outputs);
        fields.insert("execution_status".into(), entry.get("status").cloned().unwrap_or(Value::Null));
    }
    Detailed { fields, workflow: Workflow { prompt: item.prompt, extra_data: item.extra } }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortBy {
    #[default]
    CreatedAt,
    ExecutionDuration,
}

/// What a request for `/api/jobs` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// `None`: in any state.
    pub statuses: Option<Vec<Status>>,
    pub workflow_id: Option<String>,
    pub sort_by: SortBy,
    pub descending: bool,
    pub limit: Option<u64>,
    pub offset: u64,
}

impl Ask {
    /// Of a query. What is wrong is told with ComfyUI's words, in its order.
    pub fn parse(query: &str) -> Result<Ask, Invalid> {
        let get = |name: &str| query::get(query, name);
        let statuses =
            get("status").filter(|text| !text.is_empty()).map(|text| statuses(&text)).transpose()?;
        let sort_by = match get("sort_by").map(|text| text.to_lowercase()).as_deref() {
            None | Some("created_at") => SortBy::CreatedAt,
            Some("execution_duration") => SortBy::ExecutionDuration,
            Some(_) => {
                return Err(Invalid::text(400, "sort_by must be 'created_at' or 'execution_duration'"));
            }
        };
        let descending = match get("sort_order").map(|text| text.to_lowercase()).as_deref() {
            None | Some("desc") => true,
            Some("asc") => false,
            Some(_) => return Err(Invalid::text(400, "sort_order must be 'asc' or 'desc'")),
        };
        let integer = |name: &str| match get(name) {
            None => Ok(None),
            Some(text) => match query::integer(&text) {
                None => Err(Invalid::text(400, &format!("{name} must be an integer"))),
                number => Ok(number),
            },
        };
        let limit = match integer("limit")? {
            Some(limit) if limit <= 0 => return Err(Invalid::text(400, "limit must be a positive integer")),
            limit => limit.and_then(|limit| u64::try_from(limit).ok()),
        };
        let offset = integer("offset")?.and_then(|offset| u64::try_from(offset).ok()).unwrap_or(0);
        let workflow_id = get("workflow_id").filter(|id| !id.is_empty());
        Ok(Ask { statuses, workflow_id, sort_by, descending, limit, offset })
    }

    /// The whole answer, of a page of jobs and how many there are without offset and limit.
    pub fn answer(&self, jobs: Vec<Value>, total: u64) -> Value {
        let has_more = self.offset.saturating_add(jobs.len() as u64) < total;
        let pagination =
            json!({"offset": self.offset, "limit": self.limit, "total": total, "has_more": has_more});
        json!({"jobs": jobs, "pagination": pagination})
    }
}

fn statuses(text: &str) -> Result<Vec<Status>, Invalid> {
    let names: Vec<String> =
        text.split(',').map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty()).collect();
    let unknown: Vec<&str> =
        names.iter().filter(|name| Status::of_name(name).is_none()).map(String::as_str).collect();
    if !unknown.is_empty() {
        let valid = Status::ALL.map(Status::name).join(", ");
        let message = format!("Invalid status value(s): {}. Valid values: {valid}", unknown.join(", "));
        return Err(Invalid::text(400, &message));
    }
    Ok(names.iter().filter_map(|name| Status::of_name(name)).collect())
}

/// `/api/jobs/{id}` of an id that is not known.
pub fn not_found() -> Invalid {
    Invalid::text(404, "Job not found")
}

/// What `/api/jobs/{id}/cancel` and `/api/jobs/cancel` answer: whether anything was cancelled.
pub fn cancelled(any: bool) -> Value {
    json!({"cancelled": any})
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
