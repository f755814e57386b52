//! Jobs in ComfyUI's own shapes: what `/queue`, `/prompt`, `/history` and `/api/jobs` answer, for whoever keeps jobs in the
//! place of one process. Pure: from plain data to JSON, and from requests to plain data.
pub mod history;
pub mod item;
pub mod jobs;
pub mod members;
pub mod messages;
pub mod outputs;
pub mod queue;
pub mod requests;

use serde_json::Value;

/// A place in the queue as ComfyUI prints it: the server's own are whole numbers.
pub fn number(number: f64) -> Value {
    // Larger ones do not pass through a float unharmed.
    const WHOLE: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= WHOLE {
        Value::from(number as i64)
    } else {
        Value::from(number)
    }
}
