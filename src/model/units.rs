//! Units as the configuration and the API write them: rates here; durations by `humantime_serde`, sizes by `bytesize`.

use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// So many per second, minute or hour: `50/s`, `600/m`, `1000/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    pub count: NonZeroU32,
    pub per: Per,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Per {
    Second,
    Minute,
    Hour,
}

impl Rate {
    pub fn per_second(self) -> f64 {
        let seconds = match self.per {
            Per::Second => 1.0,
            Per::Minute => 60.0,
            Per::Hour => 3600.0,
        };
        f64::from(self.count.get()) / seconds
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let wrong =
            || format!("`{text}` is no rate: write a whole number above zero and a unit, such as \"50/s\", \"600/m\" or \"1000/h\"");
        let (count, per) = text.trim().split_once('/').ok_or_else(wrong)?;
        let per = match per.trim() {
            "s" => Per::Second,
            "m" => Per::Minute,
            "h" => Per::Hour,
            _ => return Err(wrong()),
        };
        Ok(Rate { count: count.trim().parse().map_err(|_| wrong())?, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per {
            Per::Second => "s",
            Per::Minute => "m",
            Per::Hour => "h",
        };
        write!(out, "{}/{per}", self.count)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Rate, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A list of durations as text with units, for `#[serde(with = "…")]`.
pub mod durations {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error, ser::SerializeSeq};

    pub fn serialize<S: Serializer>(list: &[Duration], to: S) -> Result<S::Ok, S::Error> {
        let mut sequence = to.serialize_seq(Some(list.len()))?;
        for duration in list {
            sequence.serialize_element(&humantime::format_duration(*duration).to_string())?;
        }
        sequence.end()
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Duration>, D::Error> {
        Vec::<String>::deserialize(from)?
            .iter()
            .map(|text| humantime::parse_duration(text).map_err(|wrong| D::Error::custom(format!("`{text}`: {wrong}"))))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_count_and_a_unit() {
        for (text, per_second) in [("50/s", 50.0), ("600/m", 10.0), ("3600/h", 1.0), (" 5 / s ", 5.0)] {
            assert_eq!(text.parse::<Rate>().expect(text).per_second(), per_second, "{text}");
        }
        for text in ["", "50", "0/s", "-1/s", "1.5/s", "50/d", "x/s", "50/s/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
