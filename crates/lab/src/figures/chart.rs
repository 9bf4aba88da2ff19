//! Curves, points with their intervals, and marks, as SVG.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// A picture of series over two axes.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Below it.
    pub x: Axis,
    /// Beside it.
    pub y: Axis,
    /// What is drawn, the first below all others.
    pub series: Vec<Series>,
    /// A line of small text at the bottom.
    pub note: String,
}

/// One direction of a chart.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows, with its unit.
    pub title: String,
    /// The ends.
    pub from: f64,
    /// The other end.
    pub to: f64,
    /// How its numbers go.
    pub scale: Scale,
}

/// How the numbers of an axis go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// In equal steps.
    Linear,
    /// In equal factors.
    Logarithmic,
}

/// Something drawn, with its name in the legend.
#[derive(Clone, Debug)]
pub struct Series {
    /// What the legend says; nothing of an empty name.
    pub name: String,
    /// Which colour: those of equal numbers are equal.
    pub colour: usize,
    /// How it is drawn.
    pub shape: Shape,
}

/// How a series is drawn.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A curve through points.
    Curve(Vec<(f64, f64)>),
    /// A dashed one.
    Dashes(Vec<(f64, f64)>),
    /// Points, each with the ends of its interval: x, [low, value, high].
    Points(Vec<(f64, [f64; 3])>),
    /// Crosses.
    Marks(Vec<(f64, f64)>),
}

const SIZE: (u32, u32) = (1000, 640);
/// Colours that people who see few of them can tell apart (Okabe and Ito), black last.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(110, 110, 110),
    RGBColor(0, 0, 0),
];
/// The colour of what others have printed.
pub const BLACK_MARK: usize = 7;
/// The colour of lines that only help the eye.
pub const GREY: usize = 6;

impl Chart {
    /// Draws it.
    ///
    /// # Errors
    ///
    /// Where the library cannot.
    pub fn to_svg(&self) -> Result<String> {
        let mut svg = String::new();
        let drawn = match (self.x.scale, self.y.scale) {
            (Scale::Linear, Scale::Linear) => self.draw(&mut svg, self.x.linear(), self.y.linear()),
            (Scale::Linear, Scale::Logarithmic) => {
                self.draw(&mut svg, self.x.linear(), (self.y.from..self.y.to).log_scale())
            }
            (Scale::Logarithmic, Scale::Linear) => {
                self.draw(&mut svg, (self.x.from..self.x.to).log_scale(), self.y.linear())
            }
            (Scale::Logarithmic, Scale::Logarithmic) => self.draw(
                &mut svg,
                (self.x.from..self.x.to).log_scale(),
                (self.y.from..self.y.to).log_scale(),
            ),
        };
        // The library's error borrows what it drew on.
        drawn.map_err(|error| anyhow!("the chart cannot be drawn: {error}"))?;
        Ok(svg)
    }

    fn draw<X, Y>(&self, svg: &mut String, x: X, y: Y) -> Result<(), Box<dyn std::error::Error>>
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 20))
            .margin(16)
            .margin_bottom(34)
            .x_label_area_size(48)
            .y_label_area_size(84)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(&self.x.title)
            .y_desc(&self.y.title)
            .x_label_formatter(&|value| grouped(*value))
            .y_label_formatter(&|value| grouped(*value))
            .light_line_style(WHITE)
            .label_style(("sans-serif", 14))
            .draw()?;
        for Series { name, colour, shape } in &self.series {
            let colour = COLOURS[colour % COLOURS.len()];
            let (thick, thin) = (colour.stroke_width(2), colour.stroke_width(1));
            let inside = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
                points.iter().copied().filter(|(_, y)| self.y.holds(*y)).collect()
            };
            let line = move |(x, y): (i32, i32)| PathElement::new([(x, y), (x + 24, y)], thick);
            match shape {
                Shape::Curve(points) => {
                    let drawn = chart.draw_series(LineSeries::new(inside(points), thick))?;
                    if !name.is_empty() {
                        drawn.label(name).legend(line);
                    }
                }
                Shape::Dashes(points) => {
                    let dashes = DashedLineSeries::new(inside(points), 6, 4, thin);
                    let drawn = chart.draw_series(dashes)?;
                    if !name.is_empty() {
                        drawn.label(format!("{name} (dashes)")).legend(line);
                    }
                }
                Shape::Points(points) => {
                    let bars = points.iter().filter(|(_, [_, y, _])| self.y.holds(*y)).map(
                        |(x, [low, y, high])| {
                            let ends = (low.max(self.y.from), high.min(self.y.to));
                            ErrorBar::new_vertical(*x, ends.0, *y, ends.1, colour.filled(), 8)
                        },
                    );
                    let drawn = chart.draw_series(bars)?;
                    if !name.is_empty() {
                        drawn
                            .label(name)
                            .legend(move |(x, y)| Circle::new((x + 12, y), 4, colour.filled()));
                    }
                }
                Shape::Marks(points) => {
                    let crosses = inside(points).into_iter().map(|at| Cross::new(at, 7, thick));
                    let drawn = chart.draw_series(crosses)?;
                    if !name.is_empty() {
                        drawn.label(name).legend(move |(x, y)| Cross::new((x + 12, y), 6, thick));
                    }
                }
            }
        }
        if self.series.iter().any(|series| !series.name.is_empty()) {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .background_style(WHITE.mix(0.85))
                .border_style(COLOURS[GREY])
                .label_font(("sans-serif", 13))
                .draw()?;
        }
        root.draw(&Text::new(self.note.as_str(), (20, 618), ("sans-serif", 13)))?;
        root.present()?;
        Ok(())
    }
}

impl Axis {
    fn linear(&self) -> RangedCoordf64 {
        (self.from..self.to).into()
    }

    fn holds(&self, value: f64) -> bool {
        (self.from..=self.to).contains(&value)
    }
}

/// Writes a number with a space before each three digits, from 10 000 on.
fn grouped(value: f64) -> String {
    let text = super::sheet::number(value);
    if text.contains('.') || text.len() < 5 {
        return text;
    }
    let digits = text.chars().enumerate();
    let spaced = digits.flat_map(|(place, digit)| {
        let gap = place > 0 && (text.len() - place).is_multiple_of(3);
        gap.then_some(' ').into_iter().chain([digit])
    });
    spaced.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!([0.01, 1000.0, 1e4, 1e7].map(grouped), ["0.01", "1000", "10 000", "10 000 000"]);
    }

    #[test]
    fn every_shape_is_drawn_on_every_scale() -> Result<()> {
        for x in [Scale::Linear, Scale::Logarithmic] {
            for y in [Scale::Linear, Scale::Logarithmic] {
                let axis =
                    |title: &str, scale| Axis { title: title.into(), from: 1.0, to: 100.0, scale };
                let series = [
                    ("curve", Shape::Curve(vec![(1.0, 1.0), (9.0, 50.0)])),
                    ("dashed", Shape::Dashes(vec![(1.0, 1.0), (9.0, 500.0)])),
                    ("points", Shape::Points(vec![(5.0, [4.0, 5.0, 6.0])])),
                    ("marks", Shape::Marks(vec![(6.0, 6.0)])),
                ];
                let series = series.into_iter().enumerate();
                let series = series.map(|(colour, (name, shape))| Series {
                    name: name.into(),
                    colour,
                    shape,
                });
                let svg = Chart {
                    title: "a title".into(),
                    x: axis("across", x),
                    y: axis("upwards", y),
                    series: series.collect(),
                    note: "a note".into(),
                }
                .to_svg()?;
                for part in ["a title", "across", "upwards", "dashed (dashes)", "points", "a note"]
                {
                    assert!(svg.contains(part), "{part}");
                }
            }
        }
        Ok(())
    }
}
