//! Quantities as people write them: sizes in bytes (IEC 80000-13: KiB, MiB, …; SI: kB, MB, …) and spans of time.
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::{Serialize, Serializer};
use std::borrow::Cow;

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub u64);

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

const SPANS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A number, which may have a fraction, and a unit: exact, and never more than a u64.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = (&text[..at], text[at..].trim_start());
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 6 {
        return None;
    }
    let scale = 10u64.pow(fraction.len() as u32);
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor) / u128::from(scale);
    u64::try_from(u128::from(whole.parse::<u64>().ok()?) * u128::from(factor) + part).ok()
}

impl Size {
    pub fn parse(text: &str) -> Result<Size, String> {
        parse(text, SIZES)
            .map(Size)
            .ok_or_else(|| format!("{text:?} is no size: write a number and a unit, as in \"24GiB\" (B, KiB, MiB, GiB, TiB; kB, MB, GB, TB)"))
    }
}

impl Span {
    pub fn parse(text: &str) -> Result<Span, String> {
        parse(text, SPANS).map(Span).ok_or_else(|| {
            format!(
                "{text:?} is no span of time: write a number and a unit, as in \"60s\" (ms, s, min, h, d)"
            )
        })
    }
}

struct Text(&'static str);

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.into())
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = input.deserialize_str(Text("a size with its unit, as in \"24GiB\""))?;
        Size::parse(&text).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = input.deserialize_str(Text("a span of time with its unit, as in \"60s\""))?;
        Span::parse(&text).map_err(D::Error::custom)
    }
}

/// The largest unit that leaves no fraction: the same quantity has one text.
fn text(value: u64, units: &[(&str, u64)]) -> String {
    let whole =
        units.iter().filter(|(_, factor)| value.is_multiple_of(*factor) && (value > 0 || *factor == 1));
    let (unit, factor) = whole.max_by_key(|(_, factor)| *factor).unwrap_or(&units[0]);
    format!("{}{unit}", value / factor)
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&text(self.0, SIZES))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&text(self.0, SPANS))
    }
}

fn schema(units: &[(&str, u64)], expects: &str) -> Schema {
    let units: Vec<&str> = units.iter().map(|(unit, _)| *unit).collect();
    json_schema!({"type": "string", "pattern": format!("^[0-9]+(\\.[0-9]{{1,6}})? ?({})$", units.join("|")),
        "x-expects": expects})
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema(SIZES, "a size with its unit, as in \"24GiB\" (B, KiB, MiB, GiB, TiB; kB, MB, GB, TB)")
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema(SPANS, "a span of time with its unit, as in \"60s\" (ms, s, min, h, d)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_and_nothing_else() {
        let size = |text| Size::parse(text).map(|s| s.0).ok();
        assert_eq!(
            ["24GiB", "1.5 GiB", "10GB", "0B", "512MiB"].map(size),
            [Some(24 << 30), Some(3 << 29), Some(10_000_000_000), Some(0), Some(512 << 20)]
        );
        assert_eq!(["24", "GiB", "24gib", "-1B", "1.GiB", "99999999TiB", "", "1 2B"].map(size), [None; 8]);
        let shown = |text: &str| serde_json::to_value(Size::parse(text).unwrap()).unwrap();
        assert_eq!(["24GiB", "1.5GiB", "0B", "1025B"].map(shown), ["24GiB", "1536MiB", "0B", "1025B"]);
        let span = |text| Span::parse(text).map(|s| s.0).ok();
        assert_eq!(
            ["60s", "500ms", "1.5min", "2h", "7d", "60"].map(span),
            [Some(60_000), Some(500), Some(90_000), Some(7_200_000), Some(604_800_000), None]
        );
    }
}
