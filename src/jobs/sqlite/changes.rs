//! One change of a batch. A state that may not follow is refused: what has ended never runs again unasked.
use crate::formats::comfy::api::shapes::item;
use crate::jobs::model::{Body, Job, Reason, State, Time, Try};
use crate::jobs::sqlite::beside;
use crate::jobs::sqlite::deliveries;
use crate::jobs::sqlite::failure::Failure;
use crate::jobs::sqlite::rows::{self, Packer, change, int, uint};
use crate::jobs::store::Write;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};

type Done = Result<(), Failure>;

pub fn apply(connection: &Connection, packer: &mut Packer, write: &Write) -> Done {
    match write {
        Write::Accept { job, body } => accept(connection, packer, job, body),
        Write::Dispatch { id, instance, generation, at } => {
            let now = may_become(connection, id, State::Dispatched)?;
            let set = "UPDATE job SET state = ?2, dispatched = ?3, instance = ?4, generation = ?5, started = NULL \
                       WHERE seq = ?1";
            let values = params![now.seq, State::Dispatched.name(), int(*at), instance, int(*generation)];
            change(connection, set, values)
        }
        Write::Start { id, at } => {
            let now = may_become(connection, id, State::Running)?;
            let set = "UPDATE job SET state = ?2, started = ?3 WHERE seq = ?1";
            change(connection, set, params![now.seq, State::Running.name(), int(*at)])
        }
        Write::Cancel { id } => {
            change(connection, "UPDATE job SET cancelled = TRUE WHERE id = ?1 AND ended IS NULL", params![id])
        }
        Write::Requeue { id, tried } => requeue(connection, id, tried.as_ref()),
        Write::End { id, state, at, reason, history } => {
            let history = history.as_deref().map(|history| packer.pack(history)).transpose()?;
            let seq = end(connection, id, *state, *at, reason.as_ref(), history)?;
            forget_secrets(connection, packer, seq)
        }
        Write::Forget { ids } => ids.iter().try_for_each(|id| {
            // Only what is over: what was accepted and has not ended is nobody's to forget.
            change(connection, "DELETE FROM job WHERE id = ?1 AND ended IS NOT NULL", params![id])?;
            deliveries::orphaned(connection, id)
        }),
        Write::Again { id } => again(connection, id),
        Write::Uses { seq, assets, at } => beside::note_uses(connection, *seq, assets, *at),
        Write::Labels { seq, labels } => beside::note_labels(connection, *seq, labels.iter()),
        Write::Claim(claim) => beside::claim(connection, claim),
        Write::Asset(asset) => beside::keep(connection, asset),
        Write::Discard { id } => beside::discard(connection, id),
        Write::Deliver(delivery) => deliveries::insert(connection, delivery),
        Write::Tried(tried) => deliveries::tried(connection, tried),
        Write::Redeliver { ids, at } => deliveries::again(connection, ids, *at),
    }
}

/// Later ones are never given a number that was given before, whatever has been deleted.
pub fn count_on(connection: &Connection, batch: &[Write]) -> Done {
    let seq = |write: &Write| match write {
        Write::Accept { job, .. } => Some(job.seq),
        _ => None,
    };
    let last = batch.iter().filter_map(seq).max().unwrap_or_default();
    let set = "UPDATE counter SET value = CASE WHEN value < ?1 THEN ?1 ELSE value END WHERE name = 'seq'";
    change(connection, set, params![int(last)])
}

fn accept(connection: &Connection, packer: &mut Packer, job: &Job, body: &Body) -> Done {
    let content = packer.pack(body)?;
    let mut insert = connection.prepare_cached(rows::INSERT)?;
    rows::insert(&mut insert, job, content.len()).map_err(|failure| match failure {
        Failure::Sqlite(e) if e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            Failure::Wrong(format!("there is a job {} or one with the number {} already", job.id, job.seq))
        }
        other => other,
    })?;
    let insert = "INSERT INTO body (seq, content) VALUES (?1, ?2)";
    change(connection, insert, params![int(job.seq), content])
}

fn requeue(connection: &Connection, id: &str, tried: Option<&Try>) -> Done {
    if tried.is_none() && look(connection, id)?.state == State::Queued {
        // It was to be given to an instance, which never came on disk.
        return Ok(());
    }
    let now = may_become(connection, id, State::Queued)?;
    let tries = match tried {
        Some(tried) => {
            let mut tries: Vec<Try> = rows::read_text(&now.tries, 3)?;
            tries.push(tried.clone());
            rows::text(&tries)?
        }
        None => now.tries,
    };
    let set = "UPDATE job SET state = ?2, tries = ?3, dispatched = NULL, started = NULL WHERE seq = ?1";
    change(connection, set, params![now.seq, State::Queued.name(), tries])
}

fn end(
    connection: &Connection,
    id: &str,
    state: State,
    at: Time,
    reason: Option<&Reason>,
    history: Option<Vec<u8>>,
) -> Result<i64, Failure> {
    if !state.is_over() {
        return Err(Failure::Wrong(format!("{} is no end of a job", state.name())));
    }
    let now = may_become(connection, id, state)?;
    let reason = reason.map(rows::text).transpose()?;
    let duration = rows::duration(now.started, Some(at));
    let bytes = history.as_ref().map_or(0, Vec::len);
    let set = "UPDATE job SET state = ?2, ended = ?3, duration = ?4, reason = ?5, bytes = bytes + ?6 WHERE seq = ?1";
    let bytes = int(bytes as u64);
    change(connection, set, params![now.seq, state.name(), int(at), duration, reason, bytes])?;
    if let Some(history) = history {
        let insert = "INSERT INTO history (seq, content) VALUES (?1, ?2)";
        change(connection, insert, params![now.seq, history])?;
    }
    Ok(now.seq)
}

/// Comfy's own nodes need the client's credentials while the job runs. Nobody does afterwards.
fn forget_secrets(connection: &Connection, packer: &mut Packer, seq: i64) -> Done {
    let mut select = connection.prepare_cached("SELECT content FROM body WHERE seq = ?1")?;
    let content: Option<Vec<u8>> = select.query_row([seq], |row| row.get(0)).optional()?;
    let Some(content) = content else { return Ok(()) };
    let text = rows::unpacked(&content)?;
    if !item::may_have_secrets(&text) {
        return Ok(());
    }
    let mut body: Body = rows::from_json(&text).map_err(Failure::damaged)?;
    item::forget_secrets(&mut body.extra_data);
    let shorter = packer.pack(&body)?;
    let fewer = int(content.len() as u64) - int(shorter.len() as u64);
    change(connection, "UPDATE job SET bytes = bytes - ?2 WHERE seq = ?1", params![seq, fewer])?;
    change(connection, "UPDATE body SET content = ?2 WHERE seq = ?1", params![seq, shorter])
}

fn again(connection: &Connection, id: &str) -> Done {
    let now = look(connection, id)?;
    if !now.state.is_over() {
        return Err(Failure::Wrong(format!("job {id} is {}: it has not ended", now.state.name())));
    }
    change(connection, "DELETE FROM history WHERE seq = ?1", params![now.seq])?;
    deliveries::forget(connection, id)?;
    let set = "UPDATE job SET state = ?2, dispatched = NULL, started = NULL, ended = NULL, duration = 0, \
               instance = NULL, generation = NULL, tries = '[]', reason = NULL, cancelled = FALSE, \
               bytes = (SELECT length(content) FROM body WHERE body.seq = job.seq) WHERE seq = ?1";
    change(connection, set, params![now.seq, State::Queued.name()])
}

/// What a change has to know of a job.
struct Now {
    seq: i64,
    state: State,
    started: Option<Time>,
    tries: String,
}

fn look(connection: &Connection, id: &str) -> Result<Now, Failure> {
    let mut select = connection.prepare_cached("SELECT seq, state, started, tries FROM job WHERE id = ?1")?;
    let read = |row: &Row| {
        let started: Option<i64> = row.get(2)?;
        Ok(Now {
            seq: row.get(0)?,
            state: rows::state(row, 1)?,
            started: started.map(uint),
            tries: row.get(3)?,
        })
    };
    let now = select.query_row([id], read).optional()?;
    now.ok_or_else(|| Failure::Wrong(format!("there is no job {id}")))
}

fn may_become(connection: &Connection, id: &str, next: State) -> Result<Now, Failure> {
    let now = look(connection, id)?;
    if !now.state.may_become(next) {
        let (state, next) = (now.state.name(), next.name());
        return Err(Failure::Wrong(format!("job {id} is {state} and cannot become {next}")));
    }
    Ok(now)
}
