//! The rate over loss as a picture: theory as a curve, simulated points with their intervals, and
//! the bound of all links without repeaters.

use anyhow::{Result, anyhow};
use claviger_lab::summary::theory_at;
use claviger_photonics::LinkPreset;
use claviger_units::Decibels;
use plotters::prelude::*;

use super::rate_table::RateRow;

/// All that is drawn; rates in bit/s over losses in dB.
#[derive(Debug)]
pub(crate) struct Chart {
    title: String,
    theory: Vec<(f64, f64)>,
    bound: Vec<(f64, f64)>,
    /// Loss, lower end, rate, upper end.
    simulated: Vec<(f64, [f64; 3])>,
    losses: (f64, f64),
}

const SIZE: (u32, u32) = (960, 640);
const THEORY: RGBColor = RGBColor(0, 90, 160);
const SIMULATED: RGBColor = RGBColor(200, 60, 20);
const BOUND: RGBColor = RGBColor(110, 110, 110);
/// Points of a curve: smooth to the eye.
const CURVE: u8 = 160;

impl Chart {
    /// Gathers what is drawn.
    pub(crate) fn of(preset: &LinkPreset, rows: &[RateRow]) -> Self {
        let mut losses = rows.iter().map(|row| row.point.loss.as_db());
        let first = losses.next().unwrap_or_default();
        let last = losses.next_back().unwrap_or(first);
        let curve =
            || (0..=CURVE).map(|n| first + (last - first) * f64::from(n) / f64::from(CURVE));
        let at = |db: f64| Decibels::from_db(db).ok().map(|loss| (db, loss));
        Self {
            title: format!(
                "{}, claim {} (simulated light)",
                preset.name(),
                preset.security().claim()
            ),
            theory: drawable(
                curve().filter_map(at).map(|(db, loss)| {
                    (db, theory_at(&preset.clone().with_loss(loss), None).as_bps())
                }),
            ),
            bound: drawable(curve().filter_map(at).map(|(db, loss)| {
                (db, claviger_lab::rate::bound(&preset.clone().with_loss(loss)).as_bps())
            })),
            simulated: rows.iter().filter_map(bar).collect(),
            losses: (first, last),
        }
    }
}

impl Chart {
    /// Draws it.
    pub(crate) fn to_svg(&self) -> Result<String> {
        let mut svg = String::new();
        let drawn = self.draw(&mut svg);
        // The library's error borrows what it drew on.
        drawn.map_err(|error| anyhow!("the chart cannot be drawn: {error}"))?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (low, high) = self.rates();
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(88)
            .build_cartesian_2d(self.left()..self.right(), (low..high).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("loss of the quantum channel (dB)")
            .y_desc("secret bits a second")
            .y_label_formatter(&|rate| in_words(*rate))
            .light_line_style(WHITE)
            .label_style(("sans-serif", 14))
            .draw()?;
        let (theory, bound) = (THEORY.stroke_width(2), BOUND.stroke_width(1));
        let above = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
            points.iter().copied().filter(|(_, rate)| (low..=high).contains(rate)).collect()
        };
        chart
            .draw_series(DashedLineSeries::new(above(&self.bound), 6, 4, bound))?
            .label("no link without repeaters exceeds this (PLOB)")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], bound));
        chart
            .draw_series(LineSeries::new(above(&self.theory), theory))?
            .label("theory, with all that a block pays")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], theory));
        if !self.simulated.is_empty() {
            let bars = self.simulated.iter().map(|(db, [from, rate, to])| {
                ErrorBar::new_vertical(*db, from.max(low), *rate, *to, SIMULATED.filled(), 7)
            });
            chart
                .draw_series(bars)?
                .label("simulated, 95 % interval")
                .legend(|(x, y)| Circle::new((x + 12, y), 3, SIMULATED.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(BOUND)
            .label_font(("sans-serif", 14))
            .draw()?;
        root.present()?;
        Ok(())
    }

    /// Returns powers of ten around all that is drawn.
    fn rates(&self) -> (f64, f64) {
        let points = self.simulated.iter().map(|(_, [_, rate, _])| *rate);
        let curves = self.theory.iter().chain(&self.bound).map(|(_, rate)| *rate);
        let (low, high) = points
            .chain(curves)
            .fold((f64::INFINITY, 1.0), |(low, high), rate| (rate.min(low), rate.max(high)));
        // Close to where no key is left the rate sinks without end.
        let low = low.clamp(high * FAINTEST, high / 10.0);
        (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil()))
    }

    const fn left(&self) -> f64 {
        self.losses.0
    }

    /// One loss alone still has a width.
    fn right(&self) -> f64 {
        self.losses.1.max(self.losses.0 + 1.0)
    }
}

/// What is drawn lies within so many decades of the largest.
const FAINTEST: f64 = 1e-8;

/// Without loss there is no bound, and without key no rate.
fn drawable(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    points.filter(|(_, rate)| rate.is_finite() && *rate > 0.0).collect()
}

fn bar(row: &RateRow) -> Option<(f64, [f64; 3])> {
    let estimate = row.run.as_ref()?.rate?;
    let rate = estimate.rate.as_bps();
    let margin = estimate.margin.map_or(0.0, claviger_units::BitRate::as_bps);
    Some((row.point.loss.as_db(), [rate - margin, rate, rate + margin]))
}

fn in_words(rate: f64) -> String {
    let units = [(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")];
    let fits = units.into_iter().find(|(size, _)| rate >= *size * 0.999);
    let (size, unit) = fits.unwrap_or((1.0, "bit/s"));
    format!("{} {unit}", rate / size)
}

#[cfg(test)]
mod tests {
    use claviger_lab::rate::RatePoint;

    use super::*;

    #[test]
    fn a_chart_has_curves_points_and_words() {
        let preset = LinkPreset::named("lab").unwrap();
        let row = |db: f64| {
            let point = RatePoint::of(&preset, Decibels::from_db(db).unwrap());
            RateRow { point, run: None }
        };
        let mut chart = Chart::of(&preset, &[row(0.0), row(20.0)]);
        chart.simulated.push((4.0, [1_800.0, 1_890.0, 1_980.0]));
        let svg = chart.to_svg().unwrap();
        for part in ["<svg", "claim era-heuristic", "PLOB", "simulated, 95 %", "1 kbit/s", "(dB)"] {
            assert!(svg.contains(part), "{part}");
        }
        assert!(chart.theory.len() > 100 && chart.theory.iter().all(|(_, rate)| *rate > 0.0));
        let (low, high) = chart.rates();
        assert!(low <= 1_800.0 && high >= 10_000_000.0, "{low} to {high}");
    }

    #[test]
    fn one_loss_alone_is_drawn_too() {
        let preset = LinkPreset::named("lab").unwrap();
        let point = RatePoint::of(&preset, Decibels::from_db(4.0).unwrap());
        assert!(Chart::of(&preset, &[RateRow { point, run: None }]).to_svg().is_ok());
    }

    #[test]
    fn rates_have_units() {
        assert_eq!(
            [1.0, 100.0, 1e3, 1e7, 1e9].map(in_words),
            ["1 bit/s", "100 bit/s", "1 kbit/s", "10 Mbit/s", "1 Gbit/s"]
        );
    }
}
