//! The figures: a table for people, JSON for programs.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::Outcome;
use crate::machine::Machine;

/// What a figure is to be.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Clone, Debug)]
struct Figure {
    measurement: String,
    name: String,
    value: f64,
    unit: &'static str,
    wanted: Option<Wanted>,
}

/// All that was measured, in the order of measuring.
pub struct Report {
    machine: Machine,
    settings: Value,
    figures: Vec<Figure>,
    measurement: String,
}

impl Report {
    pub fn new(machine: Machine, settings: Value) -> Self {
        Self { machine, settings, figures: Vec::new(), measurement: String::new() }
    }

    /// What the next figures belong to.
    pub fn measurement(&mut self, name: impl Into<String>) {
        self.measurement = name.into();
        eprintln!("{}", self.measurement);
    }

    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.push(name.into(), value, unit, None);
    }

    pub fn judge(&mut self, name: impl Into<String>, value: f64, unit: &'static str, wanted: Wanted) {
        self.push(name.into(), value, unit, Some(wanted));
    }

    fn push(&mut self, name: String, value: f64, unit: &'static str, wanted: Option<Wanted>) {
        eprintln!("    {name}: {} {unit}", Number(value));
        self.figures.push(Figure { measurement: self.measurement.clone(), name, value, unit, wanted });
    }

    /// As JSON, written so that a reader never sees half of it.
    pub fn write(&self, path: &Path) -> Outcome<()> {
        let figures: Vec<Value> = self.figures.iter().map(Figure::json).collect();
        let report = json!({ "machine": self.machine.json(), "settings": self.settings, "figures": figures });
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let unfinished = path.with_extension("json.part");
        fs::write(&unfinished, serde_json::to_vec_pretty(&report)?)?;
        fs::rename(unfinished, path)?;
        Ok(())
    }
}

impl Figure {
    fn is_met(&self) -> Option<bool> {
        self.wanted.map(|wanted| match wanted {
            Wanted::AtLeast(bound) => self.value >= bound,
            Wanted::AtMost(bound) => self.value <= bound,
        })
    }

    fn json(&self) -> Value {
        let wanted = self.wanted.map(|wanted| match wanted {
            Wanted::AtLeast(bound) => json!({ "at_least": bound }),
            Wanted::AtMost(bound) => json!({ "at_most": bound }),
        });
        json!({
            "measurement": self.measurement, "figure": self.name, "value": self.value, "unit": self.unit,
            "wanted": wanted, "met": self.is_met(),
        })
    }
}

/// A Markdown table, as `docs/performance.md` holds it.
impl Display for Report {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}\n", self.machine)?;
        writeln!(out, "| measurement | figure | value | wanted | met |")?;
        writeln!(out, "| --- | --- | ---: | ---: | --- |")?;
        let mut above = "";
        for figure in &self.figures {
            let measurement = if figure.measurement == above { "" } else { &figure.measurement };
            above = &figure.measurement;
            let wanted = figure.wanted.map(|wanted| wanted.to_string()).unwrap_or_default();
            let met = figure.is_met().map_or("", |met| if met { "yes" } else { "**no**" });
            let value = format!("{} {}", Number(figure.value), figure.unit);
            writeln!(out, "| {measurement} | {} | {} | {wanted} | {met} |", figure.name, value.trim_end())?;
        }
        Ok(())
    }
}

impl Display for Wanted {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(out, "≥ {}", Number(*bound)),
            Self::AtMost(bound) => write!(out, "≤ {}", Number(*bound)),
        }
    }
}

/// Whole with thousands apart from 1,000 up; three digits that count below.
struct Number(f64);

impl Display for Number {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Self(value) = *self;
        if value.abs() >= 1_000.0 {
            let digits = format!("{:.0}", value.abs());
            let head = digits.len() % 3;
            let mut groups: Vec<&str> = Vec::new();
            groups.extend(Some(&digits[..head]).filter(|head| !head.is_empty()));
            groups.extend((head..digits.len()).step_by(3).map(|at| &digits[at..at + 3]));
            let sign = if value < 0.0 { "-" } else { "" };
            return write!(out, "{sign}{}", groups.join(","));
        }
        let decimals = match value.abs() {
            whole if whole.fract() == 0.0 => 0,
            large if large >= 100.0 => 0,
            middle if middle >= 10.0 => 1,
            _ => 3,
        };
        write!(out, "{value:.decimals$}")
    }
}
