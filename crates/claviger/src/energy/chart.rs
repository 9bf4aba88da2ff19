//! How much longer a battery lasts than with the baseline, over the wake period.

use anyhow::{Result, anyhow};
use claviger_energy::{Day, Profile, RadioInCrypto, Schedule, Way};
use claviger_units::Span;
use plotters::prelude::*;

use crate::cli::energy::EnergyArgs;
use crate::duration;

/// All that is drawn: shares in per cent over periods in minutes.
#[derive(Debug)]
pub(super) struct Chart {
    title: String,
    y_desc: String,
    curves: Vec<Curve>,
}

#[derive(Debug)]
struct Curve {
    way: Way,
    off: Vec<(f64, f64)>,
    on: Vec<(f64, f64)>,
}

const SIZE: (u32, u32) = (1100, 680);
const GREY: RGBColor = RGBColor(110, 110, 110);
/// What the paper reports as less radio duty and less energy.
const PAPER_PCT: f64 = 18.0;
/// Wake periods from one minute to a day, in minutes.
const PERIODS: (f64, f64) = (1.0, 1_440.0);
/// Points of a curve: smooth to the eye.
const CURVE: u8 = 120;

impl Chart {
    /// Works out what is drawn.
    pub(super) fn of(profile: &Profile, ways: &[Way], args: &EnergyArgs) -> Result<Self> {
        let mut curves = Vec::new();
        for &way in ways.iter().filter(|way| **way != args.against) {
            let (mut off, mut on) = (Vec::new(), Vec::new());
            for minutes in periods() {
                let schedule = Schedule::new(Span::from_secs_f64(60.0 * minutes), args.renew)?;
                let days = Day::of(way, profile, schedule);
                // Where a device would never sleep there is nothing to draw.
                let Ok((day, baseline)) =
                    days.and_then(|day| Ok((day, Day::of(args.against, profile, schedule)?)))
                else {
                    continue;
                };
                let gain = |radio| 100.0 * day.life_gain(&baseline, radio);
                off.push((minutes, gain(RadioInCrypto::Off)));
                on.push((minutes, gain(RadioInCrypto::On)));
            }
            curves.push(Curve { way, off, on });
        }
        Ok(Self {
            title: format!(
                "{}, a key every {} (modelled)",
                profile.title,
                duration::in_words(args.renew)
            ),
            y_desc: format!("battery life against {} (%)", args.against),
            curves,
        })
    }

    /// Draws it.
    pub(super) fn to_svg(&self) -> Result<String> {
        let mut svg = String::new();
        let drawn = self.draw(&mut svg);
        // The library's error borrows what it drew on.
        drawn.map_err(|error| anyhow!("the chart cannot be drawn: {error}"))?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (from, to) = PERIODS;
        let (low, high) = self.heights();
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(72)
            .build_cartesian_2d((from..to).log_scale(), low..high)?;
        chart
            .configure_mesh()
            .x_desc("a reading every … minutes")
            .y_desc(&self.y_desc)
            .x_label_formatter(&|minutes| format!("{minutes:.0}"))
            .light_line_style(WHITE)
            .label_style(("sans-serif", 14))
            .draw()?;
        let level = |height: f64| [(from, height), (to, height)];
        let thin = GREY.stroke_width(1);
        chart.draw_series(LineSeries::new(level(0.0), thin))?;
        chart
            .draw_series(DashedLineSeries::new(level(PAPER_PCT), 2, 4, thin))?
            .label("18 %: the paper's figures 2a and 2b")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], thin));
        for (n, curve) in self.curves.iter().enumerate() {
            let style = Palette99::pick(n).stroke_width(2);
            chart
                .draw_series(LineSeries::new(curve.off.iter().copied(), style))?
                .label(curve.way.name())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
            chart.draw_series(DashedLineSeries::new(curve.on.iter().copied(), 6, 4, style))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(GREY)
            .label_font(("sans-serif", 13))
            .draw()?;
        let note = "line: radio off during cryptography; dashes: radio on";
        root.draw(&Text::new(note, (96, 650), ("sans-serif", 13)))?;
        root.present()?;
        Ok(())
    }

    /// Returns tens of per cent around all that is drawn.
    fn heights(&self) -> (f64, f64) {
        let points = self.curves.iter().flat_map(|curve| curve.off.iter().chain(&curve.on));
        let (low, high) = points.fold((0.0, PAPER_PCT), |(low, high): (f64, f64), (_, gain)| {
            (low.min(*gain), high.max(*gain))
        });
        ((low / 10.0).floor() * 10.0, (high / 10.0).ceil() * 10.0)
    }
}

fn periods() -> impl Iterator<Item = f64> {
    let (from, to) = PERIODS;
    (0..=CURVE).map(move |n| from * (to / from).powf(f64::from(n) / f64::from(CURVE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_shows_who_wins_who_loses_and_what_the_paper_says() {
        let args = EnergyArgs {
            profile: "fipy".into(),
            way: Vec::new(),
            wake: Span::from_secs(1_800),
            renew: Span::from_secs(1_800),
            against: Way::Dkg,
            json: false,
            csv: None,
            svg: None,
        };
        let profile = Profile::named("fipy").unwrap();
        let chart = Chart::of(&profile, &Way::ALL, &args).unwrap();
        assert_eq!(chart.curves.len(), Way::ALL.len() - 1);
        let (low, high) = chart.heights();
        assert!(low < 0.0 && high > PAPER_PCT, "{low} to {high}");
        let svg = chart.to_svg().unwrap();
        for part in ["<svg", "modelled", "push", "https", "18 %", "against dkg", "radio on"] {
            assert!(svg.contains(part), "{part}");
        }
    }
}
