//! Deliveries as rows. Those that are over go with their job; those that wait stay whatever becomes of it.
use crate::jobs::delivery::{Delivery, FindDeliveries, Kind, State, Tried};
use crate::jobs::model::Time;
use crate::jobs::sqlite::failure::Failure;
use crate::jobs::sqlite::rows::{self, change, int, uint};
use rusqlite::types::{Type, Value};
use rusqlite::{Connection, Row, params, params_from_iter};

/// A webhook tells of its job's uploads, so it waits for them: but not for those that fail, and for no longer than this.
const FOR_UPLOADS: u64 = 3_600_000;
const FOR_TRIES: i64 = 3;

const COLUMNS: &str = "id, job, kind, place, address, content, state, made, due, tries, ended, why, bytes";

/// What is over of the job that is about to be deleted.
pub const FORGET_OF_SEQ: &str =
    "DELETE FROM delivery WHERE job = (SELECT id FROM job WHERE seq = ?1) AND state <> 'waiting'";

type Done = Result<(), Failure>;

pub fn insert(connection: &Connection, delivery: &Delivery) -> Done {
    let content = rows::text(&delivery.content)?;
    let insert = format!(
        "INSERT INTO delivery ({COLUMNS}) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, NULL, NULL, NULL \
         WHERE NOT EXISTS (SELECT 1 FROM delivery WHERE job = ?2 AND kind = ?3 AND state = 'gone' \
                           AND place = ?4 AND coalesce(address, '') = coalesce(?5, '')) \
         ON CONFLICT (id) DO NOTHING"
    );
    let values = params![
        delivery.id,
        delivery.job,
        delivery.kind.name(),
        delivery.place,
        delivery.address,
        content,
        State::Waiting.name(),
        int(delivery.made),
        int(delivery.due),
        delivery.tries,
    ];
    change(connection, &insert, values)
}

/// One that was retried or forgotten meanwhile is left as it is.
pub fn tried(connection: &Connection, tried: &Tried) -> Done {
    let over = tried.state != State::Waiting;
    let set = "UPDATE delivery SET state = ?2, due = ?3, tries = tries + 1, ended = ?4, why = ?5, bytes = ?6 \
               WHERE id = ?1 AND state = 'waiting'";
    let ended = over.then(|| int(tried.at));
    let bytes = tried.bytes.map(int);
    let values = params![tried.id, tried.state.name(), int(tried.due), ended, tried.why, bytes];
    change(connection, set, values)?;
    if tried.state == State::Gone {
        gone(connection, tried)?;
    }
    if !over {
        return Ok(());
    }
    // Nobody asks for it where its job was forgotten meanwhile.
    let alone = "DELETE FROM delivery WHERE id = ?1 AND state <> 'waiting' \
                 AND NOT EXISTS (SELECT 1 FROM job WHERE job.id = delivery.job)";
    change(connection, alone, params![tried.id])
}

/// All that waits for the same receiver of the same job.
fn gone(connection: &Connection, tried: &Tried) -> Done {
    let others = "UPDATE delivery SET state = 'gone', ended = ?2, why = ?3 WHERE state = 'waiting' AND EXISTS \
                  (SELECT 1 FROM delivery AS told WHERE told.id = ?1 AND told.job = delivery.job \
                   AND told.kind = delivery.kind AND told.place = delivery.place \
                   AND coalesce(told.address, '') = coalesce(delivery.address, ''))";
    change(connection, others, params![tried.id, int(tried.at), tried.why])
}

pub fn again(connection: &Connection, ids: &[String], at: Time) -> Done {
    let over = "UPDATE delivery SET state = 'waiting', made = ?2, due = ?2, tries = 0, ended = NULL \
                WHERE id = ?1 AND state IN ('failed', 'gone')";
    let waits = "UPDATE delivery SET due = ?2 WHERE id = ?1 AND state = 'waiting'";
    ids.iter().try_for_each(|id| {
        change(connection, over, params![id, int(at)])?;
        change(connection, waits, params![id, int(at)])
    })
}

/// What is over of a job that was deleted.
pub fn orphaned(connection: &Connection, job: &str) -> Done {
    let delete = "DELETE FROM delivery WHERE job = ?1 AND state <> 'waiting' \
                  AND NOT EXISTS (SELECT 1 FROM job WHERE job.id = ?1)";
    change(connection, delete, params![job])
}

/// What is over of a job that runs again.
pub fn forget(connection: &Connection, job: &str) -> Done {
    change(connection, "DELETE FROM delivery WHERE job = ?1 AND state <> 'waiting'", params![job])
}

pub fn due(connection: &Connection, place: &str, now: Time, most: u64) -> Result<Vec<Delivery>, Failure> {
    let select = format!(
        "SELECT {COLUMNS} FROM delivery WHERE state = 'waiting' AND place = ?1 AND due <= ?2 \
         AND (kind <> 'webhook' OR made < ?3 OR NOT EXISTS (SELECT 1 FROM delivery AS file \
              WHERE file.job = delivery.job AND file.kind = 'upload' AND file.state = 'waiting' \
              AND file.tries < ?4)) ORDER BY due LIMIT ?5"
    );
    let mut select = connection.prepare_cached(&select)?;
    let late = int(now.saturating_sub(FOR_UPLOADS));
    let most = int(most.min(i64::MAX as u64));
    let found = select.query_map(params![place, int(now), late, FOR_TRIES, most], row)?;
    Ok(found.collect::<Result<_, _>>()?)
}

pub fn counts(connection: &Connection) -> Result<(u64, u64), Failure> {
    let mut select = connection.prepare_cached("SELECT count(*) FROM delivery WHERE state = ?1")?;
    let mut count = |state: State| select.query_row([state.name()], |row| row.get(0)).map(uint);
    Ok((count(State::Waiting)?, count(State::Failed)?))
}

pub fn other_places(connection: &Connection, known: &[String]) -> Result<Vec<String>, Failure> {
    let select = "SELECT DISTINCT place FROM delivery WHERE state = 'waiting'";
    let mut select = connection.prepare_cached(select)?;
    let places = select.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    Ok(places.into_iter().filter(|place| !known.contains(place)).collect())
}

pub fn find(connection: &Connection, find: &FindDeliveries) -> Result<(Vec<Delivery>, u64), Failure> {
    let mut values: Vec<Value> = Vec::new();
    let mut wanted = vec!["1 = 1".to_string()];
    let mut one_of = |column: &str, of: Vec<String>| {
        if !of.is_empty() {
            let marks: Vec<String> = (1..=of.len()).map(|n| format!("?{}", values.len() + n)).collect();
            wanted.push(format!("{column} IN ({})", marks.join(", ")));
            values.extend(of.into_iter().map(Value::from));
        }
    };
    one_of("state", find.states.iter().map(|state| state.name().to_string()).collect());
    one_of("id", find.ids.clone());
    one_of("job", find.job.iter().cloned().collect());
    one_of("kind", find.kind.iter().map(|kind| kind.name().to_string()).collect());
    let wanted = wanted.join(" AND ");
    let view = connection.unchecked_transaction()?;
    let count = format!("SELECT count(*) FROM delivery WHERE {wanted}");
    let all = view.query_row(&count, params_from_iter(values.iter()), |row| row.get(0))?;
    let limit = find.limit.map_or(-1, |limit| int(limit.min(i64::MAX as u64)));
    values.push(limit.into());
    let select = format!(
        "SELECT {COLUMNS} FROM delivery WHERE {wanted} ORDER BY made DESC, id DESC LIMIT ?{}",
        values.len()
    );
    let mut select = view.prepare(&select)?;
    let found = select.query_map(params_from_iter(values), row)?;
    Ok((found.collect::<Result<_, _>>()?, uint(all)))
}

fn row(row: &Row) -> rusqlite::Result<Delivery> {
    let unknown = |at: usize, what: &str, name: String| {
        let text = format!("there is no {what} of a delivery {name}");
        rusqlite::Error::FromSqlConversionFailure(at, Type::Text, text.into())
    };
    let (kind, state): (String, String) = (row.get(2)?, row.get(6)?);
    Ok(Delivery {
        id: row.get(0)?,
        job: row.get(1)?,
        kind: Kind::of_name(&kind).ok_or_else(|| unknown(2, "kind", kind))?,
        place: row.get(3)?,
        address: row.get(4)?,
        content: rows::read_text(&row.get::<_, String>(5)?, 5)?,
        state: State::of_name(&state).ok_or_else(|| unknown(6, "state", state))?,
        made: uint(row.get(7)?),
        due: uint(row.get(8)?),
        tries: row.get(9)?,
        ended: row.get::<_, Option<i64>>(10)?.map(uint),
        why: row.get(11)?,
        bytes: row.get::<_, Option<i64>>(12)?.map(uint),
    })
}

#[cfg(test)]
#[path = "deliveries_tests.rs"]
mod tests;
