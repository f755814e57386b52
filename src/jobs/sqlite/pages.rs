//! Pages of jobs in any order, each read from an index: however many jobs are kept, only those of the page and those
//! before it are looked at. Each state is walked for itself, and the walks are merged.
use crate::jobs::model::{Job, State};
use crate::jobs::sqlite::failure::Failure;
use crate::jobs::sqlite::rows::{self, int, uint};
use crate::jobs::store::{Find, Sort};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

pub fn find(connection: &Connection, find: &Find) -> Result<(Vec<Job>, u64), Failure> {
    // One view of the database for all that follows; there is nothing to commit.
    let view = connection.unchecked_transaction()?;
    let all = count(&view, find)?;
    let seqs = page(&view, find)?;
    let select = format!("SELECT {} FROM job WHERE seq = ?1", rows::COLUMNS);
    let mut select = view.prepare_cached(&select)?;
    let jobs = seqs.into_iter().map(|seq| select.query_row([seq], rows::job)).collect::<Result<_, _>>()?;
    Ok((jobs, all))
}

fn states(find: &Find) -> impl Iterator<Item = State> + '_ {
    State::ALL.into_iter().filter(|state| find.states.is_empty() || find.states.contains(state))
}

fn count(connection: &Connection, find: &Find) -> Result<u64, Failure> {
    let mut all = 0;
    for state in states(find) {
        let mut filter = Filter::default();
        let sql = format!("SELECT count(*) FROM job WHERE {}", filter.of(find, state));
        let mut select = connection.prepare_cached(&sql)?;
        all += uint(select.query_row(params_from_iter(filter.values), |row| row.get(0))?);
    }
    Ok(all)
}

/// The numbers of the jobs of a page, in its order.
fn page(connection: &Connection, find: &Find) -> Result<Vec<i64>, Failure> {
    let direction = if find.oldest_first { "ASC" } else { "DESC" };
    let up_to = find.limit.map_or(-1, |limit| int(limit.saturating_add(find.offset).min(i64::MAX as u64)));
    let mut filter = Filter::default();
    let mut walks = Vec::new();
    for state in states(find) {
        let mut wanted = filter.of(find, state);
        // What has not ended has neither an end nor a duration: it comes last by its end, and took no time.
        let (last, key) = match find.sort {
            Sort::Ended if state.is_over() => (0, "ended"),
            Sort::Duration if state.is_over() => (0, "duration"),
            Sort::Ended => (1, "0"),
            Sort::Accepted | Sort::Duration => (0, "0"),
        };
        let mut order = format!("seq {direction}");
        if key != "0" {
            wanted += " AND ended IS NOT NULL";
            order = format!("{key} {direction}, {order}");
        }
        let limit = filter.value(up_to.into());
        walks.push(format!(
            "SELECT * FROM (SELECT seq, {last} AS last, {key} AS key FROM job WHERE {wanted} ORDER BY {order} LIMIT {limit})"
        ));
    }
    let limit = filter.value(find.limit.map_or(-1, |limit| int(limit.min(i64::MAX as u64))).into());
    let offset = filter.value(int(find.offset.min(i64::MAX as u64)).into());
    let sql = format!(
        "SELECT seq FROM ({}) AS walk ORDER BY last, key {direction}, seq {direction} LIMIT {limit} OFFSET {offset}",
        walks.join(" UNION ALL ")
    );
    let mut select = connection.prepare_cached(&sql)?;
    let seqs = select.query_map(params_from_iter(filter.values), |row| row.get(0))?;
    Ok(seqs.collect::<Result<_, _>>()?)
}

/// Conditions, and the values of their parameters.
#[derive(Default)]
struct Filter {
    values: Vec<Value>,
}

impl Filter {
    fn value(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("?{}", self.values.len())
    }

    fn of(&mut self, find: &Find, state: State) -> String {
        let mut condition = format!("state = {}", self.value(state.name().to_string().into()));
        for (column, wanted) in [("owner", &find.owner), ("workflow", &find.workflow)] {
            if let Some(wanted) = wanted {
                condition += &format!(" AND {column} = {}", self.value(wanted.clone().into()));
            }
        }
        for (compared, least) in [("seq >", find.after), ("accepted >=", find.since), ("seq <", find.before)]
        {
            if let Some(least) = least {
                condition += &format!(" AND {compared} {}", self.value(int(least).into()));
            }
        }
        for (name, wanted) in &find.labels {
            let (name, wanted) = (self.value(name.clone().into()), self.value(wanted.clone().into()));
            condition += &format!(
                " AND EXISTS (SELECT 1 FROM label WHERE label.seq = job.seq AND label.name = {name} AND label.value = {wanted})"
            );
        }
        condition
    }
}
