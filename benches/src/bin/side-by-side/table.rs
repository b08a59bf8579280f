//! Rounds of measurements, their medians, and the page of results.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::case::{Bound, Case, Goal, Measure, Metric, RATE};
use super::subject::{Stage, Subject};

/// The measurements of a case: for each round what each server came to, by metric.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    values: Vec<BTreeMap<Subject, Vec<Option<f64>>>>,
    /// What went wrong.
    pub(crate) failures: Vec<String>,
    /// The load generator was busy all the time.
    saturated: Vec<Subject>,
}

impl Rounds {
    /// Measures all servers once, in an order that changes from round to round.
    pub(crate) fn measure(&mut self, stage: &Stage, case: &Case) {
        let mut of_round = BTreeMap::new();
        let mut subjects: Vec<_> =
            case.subjects.iter().copied().filter(|subject| stage.has(*subject)).collect();
        let turn = self.values.len() % subjects.len().max(1);
        subjects.rotate_left(turn);
        for subject in subjects {
            let measured = stage.start(subject, case.tls).and_then(|server| {
                let mut args = case.args.clone();
                if case.pushes {
                    args.extend(["--push-url".to_owned(), server.push_url()]);
                }
                stage.load(&server, case.websocket, &args)
            });
            match measured {
                Ok(report) => {
                    let values = case.metrics.iter().map(|metric| metric.of(&report)).collect();
                    of_round.insert(subject, values);
                    let busy = report.pointer("/traffic/generator/cpu_percent");
                    let idle = report.pointer("/traffic/server/cpu_percent");
                    let percent = |of: Option<&serde_json::Value>| of?.as_f64();
                    if percent(busy).is_some_and(|busy| busy > 97.0)
                        && percent(idle).is_some_and(|server| server < 90.0)
                        && !self.saturated.contains(&subject)
                    {
                        self.saturated.push(subject);
                    }
                }
                Err(failure) => self.failures.push(format!("{}, {subject}: {failure}", case.name)),
            }
        }
        self.values.push(of_round);
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    fn value(&self, round: usize, subject: Subject, metric: usize) -> Option<f64> {
        *self.values[round].get(&subject)?.get(metric)?
    }

    fn of(&self, goal: &Goal) -> Vec<f64> {
        let rounds = 0..self.values.len();
        let value = |round, subject| self.value(round, subject, goal.metric);
        match goal.measure {
            Measure::Ratio(of, to) => rounds
                .filter_map(|round| Some(value(round, of)? / value(round, to)?))
                .filter(|ratio| ratio.is_finite())
                .collect(),
            Measure::Value(of) => rounds.filter_map(|round| value(round, of)).collect(),
        }
    }

    fn median_of(&self, subject: Subject, metric: usize) -> Option<f64> {
        median((0..self.values.len()).filter_map(|round| self.value(round, subject, metric)))
    }
}

fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    Some(match values.len() % 2 {
        0 => f64::midpoint(values[values.len() / 2 - 1], upper),
        _ => upper,
    })
}

/// A goal, and how far it was reached.
pub(crate) struct Verdict {
    pub(crate) goal: String,
    pub(crate) measured: String,
    pub(crate) rounds: String,
    /// None: it could not be measured.
    pub(crate) reached: Option<bool>,
    pub(crate) stretch: bool,
}

impl Verdict {
    /// Six of seven rounds have to reach a goal.
    fn of(case: &Case, rounds: &Rounds, goal: &Goal) -> Self {
        let (values, all) = (rounds.of(goal), rounds.len());
        let met = values.iter().filter(|value| goal.bound.is_met(**value)).count();
        let median = median(values.iter().copied());
        let Metric { name, unit, .. } = case.metrics[goal.metric];
        let bound = match (goal.bound, goal.measure) {
            (Bound::AtMost(most), Measure::Ratio(..)) => format!("at most {most} ×"),
            (Bound::AtLeast(least), Measure::Ratio(..)) => format!("at least {least} ×"),
            (Bound::AtMost(most), _) => format!("at most {most} {unit}"),
            (Bound::AtLeast(least), _) => format!("at least {least} {unit}"),
        };
        let about = match goal.measure {
            Measure::Ratio(of, to) => format!("{name}: {of} by {to}"),
            Measure::Value(of) => format!("{name}: {of}"),
        };
        Self {
            goal: format!("{}: {about}, {bound}", case.title),
            measured: median.map_or_else(|| "–".to_owned(), number),
            // What failed in a round has not reached it.
            rounds: format!("{met} of {all}"),
            reached: median.map(|median| goal.bound.is_met(median) && met * 7 >= all * 6),
            stretch: goal.stretch,
        }
    }
}

pub(crate) fn verdicts(case: &Case, rounds: &Rounds) -> Vec<Verdict> {
    case.goals.iter().map(|goal| Verdict::of(case, rounds, goal)).collect()
}

/// Two or three digits that matter.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 10_000.0 => format!("{:.0}", (value / 10.0).round() * 10.0),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The table of goals.
pub(crate) fn goals(verdicts: &[Verdict]) -> String {
    let mut text =
        "| goal | measured | rounds that reach it | |\n| --- | --- | --- | --- |\n".to_owned();
    for Verdict { goal, measured, rounds, reached, stretch } in verdicts {
        let verdict = match (reached, stretch) {
            (None, _) => "not measured",
            (Some(true), _) => "reached",
            (Some(false), false) => "**missed**",
            (Some(false), true) => "not reached (stretch)",
        };
        // Writing to a text does not fail.
        let _ = writeln!(text, "| {goal} | {measured} | {rounds} | {verdict} |");
    }
    text
}

/// The medians of a case, a line for each server.
pub(crate) fn medians(case: &Case, rounds: &Rounds) -> String {
    let mut text = format!("### {}\n\n| |", case.title);
    for Metric { name, unit, .. } in &case.metrics {
        let unit = if unit.is_empty() { String::new() } else { format!(", {unit}") };
        let _ = write!(text, " {name}{unit} |");
    }
    text.push_str("\n| --- |");
    text.push_str(&" --- |".repeat(case.metrics.len()));
    text.push('\n');
    for subject in &case.subjects {
        let _ = write!(text, "| {subject} |");
        for metric in 0..case.metrics.len() {
            let value = rounds.median_of(*subject, metric);
            let _ = write!(text, " {} |", value.map_or_else(|| "–".to_owned(), number));
        }
        text.push('\n');
    }
    // At a pace the generator waits busily.
    let paced = case.args.iter().any(|arg| arg == "--rate");
    let has_rate = case.metrics.iter().any(|metric| metric.name == RATE.name);
    for subject in rounds.saturated.iter().filter(|_| has_rate && !paced) {
        let _ = writeln!(
            text,
            "\nThe load generator was the slower one with {subject}: its rate and p99 say nothing, \
             its CPU for a message does."
        );
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::case::{Scale, cases};
    use super::*;

    fn rounds(case: &Case, ours: &[f64], floor: &[f64]) -> Rounds {
        let values = ours.iter().zip(floor).map(|(ours, floor)| {
            let of = |value: f64| vec![Some(value); case.metrics.len()];
            [(Subject::Ours, of(*ours)), (Subject::Socket, of(*floor))].into()
        });
        Rounds { values: values.collect(), ..Rounds::default() }
    }

    #[test]
    fn a_goal_is_reached_by_the_median_and_six_of_seven_rounds() {
        let case = cases(&Scale::full()).remove(0);
        let judged = |ours: &[f64]| {
            let rounds = rounds(&case, ours, &vec![4.0; ours.len()]);
            verdicts(&case, &rounds)[0].reached
        };
        assert_eq!(judged(&[4.0, 4.0, 4.9, 4.9, 5.0, 4.2, 9.0]), Some(true));
        assert_eq!(judged(&[4.0, 4.0, 4.9, 4.9, 5.0, 8.0, 9.0]), Some(false));
        assert_eq!(judged(&[6.0]), Some(false));
        // Without opamp-go its ratio is not measured, and so not missed.
        assert_eq!(verdicts(&case, &rounds(&case, &[4.0], &[4.0]))[1].reached, None);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([]), None);
    }

    #[test]
    fn every_goal_is_about_what_its_case_measures() {
        for case in cases(&Scale::quick()) {
            for goal in &case.goals {
                let of = match goal.measure {
                    Measure::Ratio(of, to) => vec![of, to],
                    Measure::Value(of) => vec![of],
                };
                assert!(of.iter().all(|subject| case.subjects.contains(subject)), "{}", case.name);
                assert!(goal.metric < case.metrics.len(), "{}", case.name);
            }
            let text = medians(&case, &Rounds::default());
            assert_eq!(
                text.lines().nth(2).map(|line| line.matches('|').count()),
                text.lines().nth(3).map(|line| line.matches('|').count())
            );
        }
    }
}
