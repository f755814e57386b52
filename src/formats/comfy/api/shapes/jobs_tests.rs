use super::*;
use crate::formats::comfy::api::shapes::history;
use crate::formats::comfy::api::shapes::item::Extra;
use crate::formats::comfy::api::shapes::messages::{Failure, Node};
use serde_json::value::to_raw_value;

const HISTORY: &[u8] = include_bytes!("../../../../../tests/golden/comfyui-wire/history.json");
const JOBS: &[u8] = include_bytes!("../../../../../tests/golden/comfyui-wire/api_jobs.json");

fn waiting(status: Status) -> Listed<'static> {
    Listed {
        id: "a",
        status,
        number: 4.0,
        created: 5,
        started: Some(6),
        ended: None,
        workflow: Some("w"),
        entry: None,
    }
}

#[test]
fn recorded_jobs_of_a_recorded_history() {
    let history: Value = serde_json::from_slice(HISTORY).unwrap();
    let recorded: Value = serde_json::from_slice(JOBS).unwrap();
    let jobs = history.as_object().unwrap().iter().rev().map(|(id, entry)| {
        let prompt = &entry["prompt"];
        listed(&Listed {
            id,
            status: Status::of_entry(entry),
            number: prompt[0].as_f64().unwrap(),
            created: prompt[3]["create_time"].as_u64().unwrap(),
            started: None,
            ended: None,
            workflow: None,
            entry: Some(entry),
        })
    });
    let answer = Ask::parse("").unwrap().answer(jobs.collect(), 4);
    assert_eq!(answer.to_string(), recorded.to_string());
}

#[test]
fn a_job_that_has_not_ended() {
    let shown = json!({"id": "a", "status": "pending", "priority": 4, "create_time": 5, "outputs_count": 0,
        "previewable_outputs_count": 0, "workflow_id": "w"});
    assert_eq!(listed(&waiting(Status::Pending)), shown);
    assert_eq!(listed(&waiting(Status::InProgress))["status"], "in_progress");
    let [prompt, given] =
        [json!({"1": {}}), json!({"b": 2, "api_key_comfy_org": "k"})].map(|v| to_raw_value(&v).unwrap());
    let item = Item {
        number: 4.0,
        id: "a",
        prompt: Some(&prompt),
        extra: Extra { given: Some(&given), client_id: Some("A"), create_time: 5 },
        outputs_to_execute: None,
    };
    let mut detail = shown.clone();
    let extra = json!({"b": 2, "client_id": "A", "create_time": 5});
    detail["workflow"] = json!({"prompt": {"1": {}}, "extra_data": extra});
    assert_eq!(serde_json::to_value(detailed(&waiting(Status::Pending), item)).unwrap(), detail);

    let entry =
        json!({"outputs": {"1": {"result": ["a.obj"]}}, "status": {"status_str": "success", "messages": []}});
    let over = Listed { ended: Some(9), entry: Some(&entry), ..waiting(Status::Completed) };
    let model = json!({"filename": "a.obj", "type": "output", "subfolder": "", "mediaType": "3d"});
    let mut preview = model.clone();
    preview["nodeId"] = json!("1");
    let all = json!({"id": "a", "status": "completed", "priority": 4, "create_time": 5, "execution_start_time": 6,
        "execution_end_time": 9, "outputs_count": 1, "previewable_outputs_count": 1, "preview_output": preview,
        "workflow_id": "w", "outputs": {"1": {"result": [model]}}, "execution_status": entry["status"],
        "workflow": {"prompt": {"1": {}}, "extra_data": extra}});
    assert_eq!(serde_json::to_value(detailed(&over, item)).unwrap(), all);
}

#[test]
fn a_job_that_failed() {
    let failure = Failure { message: "it died", kind: "Died", ..Failure::default() };
    let entry = history::failed("a", Some(6), 8, &failure);
    assert_eq!(Status::of_entry(&entry), Status::Failed);
    let job = listed(&Listed { entry: Some(&entry), workflow: None, ..waiting(Status::Failed) });
    let error = &entry["status"]["messages"][1][1];
    let shown = json!({"id": "a", "status": "failed", "priority": 4, "create_time": 5, "execution_start_time": 6,
        "execution_end_time": 8, "execution_error": error, "outputs_count": 0, "previewable_outputs_count": 0});
    assert_eq!(job, shown);
    let entry = history::interrupted("a", Some(6), 8, Node::default());
    assert_eq!(Status::of_entry(&entry), Status::Cancelled);
    assert_eq!(Status::of_entry(&json!({"status": null})), Status::Completed);
}

#[test]
fn what_a_query_asks_for() {
    let plain = Ask {
        statuses: None,
        workflow_id: None,
        sort_by: SortBy::CreatedAt,
        descending: true,
        limit: None,
        offset: 0,
    };
    assert_eq!(Ask::parse("").unwrap(), plain);
    assert_eq!(
        Ask::parse("status=&workflow_id=&offset=-3&sort_by=CREATED_AT&sort_order=Desc").unwrap(),
        plain
    );
    let query = "status=%20Failed,,in_progress&workflow_id=a+b&sort_by=execution_duration&sort_order=asc&limit=5&offset=7";
    let all = Ask {
        statuses: Some(vec![Status::Failed, Status::InProgress]),
        workflow_id: Some("a b".into()),
        sort_by: SortBy::ExecutionDuration,
        descending: false,
        limit: Some(5),
        offset: 7,
    };
    assert_eq!(Ask::parse(query).unwrap(), all);
    assert_eq!(Ask::parse("status=,").unwrap().statuses, Some(vec![]));
}

#[test]
fn what_a_query_may_not_ask_for() {
    let cases = [
        (
            "status=failed,Odd,,no&limit=x",
            "Invalid status value(s): odd, no. Valid values: pending, in_progress, completed, failed, cancelled",
        ),
        ("sort_by=name&sort_order=x", "sort_by must be 'created_at' or 'execution_duration'"),
        ("sort_by=", "sort_by must be 'created_at' or 'execution_duration'"),
        ("sort_order=up&limit=x", "sort_order must be 'asc' or 'desc'"),
        ("limit=0", "limit must be a positive integer"),
        ("limit=-1", "limit must be a positive integer"),
        ("limit=&offset=x", "limit must be an integer"),
        ("limit=1.5", "limit must be an integer"),
        ("offset=x", "offset must be an integer"),
    ];
    for (query, message) in cases {
        let refused = Ask::parse(query).unwrap_err();
        assert_eq!((refused.status, refused.body), (400, json!({"error": message})), "{query}");
    }
    assert_eq!((not_found().status, not_found().body), (404, json!({"error": "Job not found"})));
    assert_eq!(cancelled(true), json!({"cancelled": true}));
}

#[test]
fn pages() {
    let ask = Ask::parse("limit=2&offset=1").unwrap();
    let page = |jobs: usize, total| ask.answer(vec![Value::Null; jobs], total)["pagination"].clone();
    let pagination =
        |total: u64, more: bool| json!({"offset": 1, "limit": 2, "total": total, "has_more": more});
    assert_eq!(page(2, 4), pagination(4, true));
    assert_eq!(page(2, 3), pagination(3, false));
    assert_eq!(page(0, 0), pagination(0, false));
}
