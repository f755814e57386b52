//! Pages of jobs in any order, each read from an index: however many jobs are kept, only those of the page and those
//! between it and the nearer end are looked at. Where no index has all states in one order, each is walked for itself,
//! and the walks are merged.
use crate::jobs::model::{Job, State};
use crate::jobs::sqlite::failure::Failure;
use crate::jobs::sqlite::rows::{self, int, uint};
use crate::jobs::store::{Find, Sort};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

pub fn find(connection: &Connection, find: &Find) -> Result<(Vec<Job>, u64), Failure> {
    // One view of the database for all that follows; there is nothing to commit.
    let view = connection.unchecked_transaction()?;
    let counts = counts(&view, find)?;
    let all = counts.iter().map(|(_, count)| count).sum();
    let seqs = match near(find, all) {
        Some(page) => seqs(&view, find, &counts, &page)?,
        None => Vec::new(),
    };
    let select = format!("SELECT {} FROM job WHERE seq = ?1", rows::COLUMNS);
    let mut select = view.prepare_cached(&select)?;
    let jobs = seqs.into_iter().map(|seq| select.query_row([seq], rows::job)).collect::<Result<_, _>>()?;
    Ok((jobs, all))
}

/// The states that jobs are looked for in, with how many there are of each.
fn counts(connection: &Connection, find: &Find) -> Result<Vec<(State, u64)>, Failure> {
    let mut counts = Vec::new();
    for state in State::ALL {
        if find.states.is_empty() || find.states.contains(&state) {
            let mut filter = Filter::default();
            let sql = format!("SELECT count(*) FROM job WHERE {}", filter.of(find, Some(state)));
            let mut select = connection.prepare_cached(&sql)?;
            let count = select.query_row(params_from_iter(filter.values), |row| row.get(0))?;
            counts.push((state, uint(count)));
        }
    }
    Ok(counts)
}

/// A page as it is read: from the nearer end, because what is skipped is walked over.
struct Near {
    skipped: u64,
    length: u64,
    backwards: bool,
}

fn near(find: &Find, all: u64) -> Option<Near> {
    let behind = all.checked_sub(find.offset).filter(|behind| *behind > 0)?;
    let length = find.limit.map_or(behind, |limit| limit.min(behind));
    let after = behind - length;
    let backwards = after < find.offset;
    (length > 0).then_some(Near { skipped: if backwards { after } else { find.offset }, length, backwards })
}

/// What is walked, each of it from an index of its own; `None` is all that the page is of.
fn walks(find: &Find, counts: &[(State, u64)]) -> Vec<Option<State>> {
    let plain = find.owner.is_none() && find.workflow.is_none() && find.labels.is_empty();
    let whole = match find.sort {
        Sort::Accepted => counts.len() == State::ALL.len(),
        Sort::Ended => {
            let over = State::ALL.into_iter().filter(|state| state.is_over());
            counts.iter().map(|(state, _)| *state).eq(over)
        }
        Sort::Duration => false,
    };
    if plain && whole {
        return vec![None];
    }
    counts.iter().filter(|(_, count)| *count > 0).map(|(state, _)| Some(*state)).collect()
}

/// The numbers of the jobs of a page, in its order.
fn seqs(
    connection: &Connection,
    find: &Find,
    counts: &[(State, u64)],
    page: &Near,
) -> Result<Vec<i64>, Failure> {
    let direction = if find.oldest_first == page.backwards { "DESC" } else { "ASC" };
    let last_direction = if page.backwards { "DESC" } else { "ASC" };
    let mut filter = Filter::default();
    let up_to = filter.value(int(page.skipped.saturating_add(page.length)).into());
    let mut parts = Vec::new();
    for state in walks(find, counts) {
        let mut wanted = filter.of(find, state);
        // What has not ended has neither an end nor a duration: it comes last by its end, and took no time.
        let over = state.is_none_or(State::is_over);
        let (last, key) = match find.sort {
            Sort::Ended if over => (0, "ended"),
            Sort::Duration if over => (0, "duration"),
            Sort::Ended => (1, "0"),
            Sort::Accepted | Sort::Duration => (0, "0"),
        };
        let mut order = format!("seq {direction}");
        if key != "0" {
            wanted += " AND ended IS NOT NULL";
            order = format!("{key} {direction}, {order}");
        }
        parts.push((last, key, wanted, order));
    }
    let length = filter.value(int(page.length).into());
    let skipped = filter.value(int(page.skipped).into());
    let sql = match &parts[..] {
        [(_, _, wanted, order)] => {
            format!("SELECT seq FROM job WHERE {wanted} ORDER BY {order} LIMIT {length} OFFSET {skipped}")
        }
        parts => {
            let walk = |(last, key, wanted, order): &(i32, &str, String, String)| {
                format!(
                    "SELECT * FROM (SELECT seq, {last} AS last, {key} AS key FROM job WHERE {wanted} \
                     ORDER BY {order} LIMIT {up_to})"
                )
            };
            let walks: Vec<String> = parts.iter().map(walk).collect();
            format!(
                "SELECT seq FROM ({}) AS walk ORDER BY last {last_direction}, key {direction}, seq {direction} \
                 LIMIT {length} OFFSET {skipped}",
                walks.join(" UNION ALL ")
            )
        }
    };
    let mut select = connection.prepare_cached(&sql)?;
    let found = select.query_map(params_from_iter(filter.values), |row| row.get(0))?;
    let mut seqs = found.collect::<Result<Vec<i64>, _>>()?;
    if page.backwards {
        seqs.reverse();
    }
    Ok(seqs)
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

    fn of(&mut self, find: &Find, state: Option<State>) -> String {
        let mut condition = match state {
            Some(state) => format!("state = {}", self.value(state.name().to_string().into())),
            None => "TRUE".into(),
        };
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
