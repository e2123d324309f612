#include "report/line_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>

#include "report/progress.h"

namespace moray {

namespace {

using Out = std::back_insert_iterator<std::string>;

// Pixels.
constexpr double kLeft = 58, kRight = 26, kTop = 30, kPlot = 260, kAxis = 42, kLegendLine = 18;
constexpr size_t kLegendColumns = 3;
constexpr size_t kMostDots = 40, kMostPoints = 600, kMostGivenTicks = 12;
// Told apart on light and dark pages, also by the colour-blind.
constexpr std::array kColours = {"#888888", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2"};

struct Range {
  double least = std::numeric_limits<double>::infinity(), most = -least;
  void include(double value) {
    least = std::min(least, value);
    most = std::max(most, value);
  }
  double share(double value) const { return most > least ? (value - least) / (most - least) : 0.5; }
};

// 1, 2 or 5 times a power of ten, so that about `steps` of them fill the range.
double round_step(double range, double steps) {
  const double power = std::pow(10, std::floor(std::log10(range / steps)));
  for (double factor : {1.0, 2.0, 5.0})
    if (range <= factor * power * steps) return factor * power;
  return 10 * power;
}

// The multiples of `step` in a range.
std::vector<double> ticks_between(double least, double most, double step) {
  std::vector<double> ticks;
  for (double n = std::ceil(least / step - 1e-9); n * step <= most + 1e-9 * step; ++n)
    ticks.push_back(n * step + 0.0);  // no -0
  return ticks;
}

// At most kMostPoints points: of each stretch the least and the greatest, so that no peak is lost.
std::vector<std::pair<double, double>> thinned(const std::vector<std::pair<double, double>>& points) {
  if (points.size() <= kMostPoints) return points;
  std::vector<std::pair<double, double>> kept;
  const auto by_y = [](const auto& a, const auto& b) { return a.second < b.second; };
  for (size_t i = 0; i < kMostPoints / 2; ++i) {
    const auto at = [&](size_t n) {
      return points.begin() + static_cast<ptrdiff_t>(n * points.size() / (kMostPoints / 2));
    };
    const auto [least, most] = std::minmax_element(at(i), at(i + 1), by_y);
    kept.push_back(std::min(*least, *most));
    if (least != most) kept.push_back(std::max(*least, *most));
  }
  return kept;
}

class Picture {
 public:
  explicit Picture(const LineChart& chart) : chart_(chart) {
    for (const ChartLine& line : chart.lines) {
      std::vector<std::pair<double, double>> drawn;
      for (const auto& point : line.points)
        if (std::isfinite(point.second) && (point.second > 0 || !chart.log_y)) drawn.push_back(point);
      for (const auto& [x, y] : drawn) x_.include(along_x(x)), y_.include(along_y(y));
      lines_.push_back(thinned(drawn));
    }
    if (!chart.log_y) y_step_ = round_step(y_.most > y_.least ? y_.most - y_.least : 1, 6);
    y_.least = std::floor(y_.least / y_step_) * y_step_;
    y_.most = std::max(std::ceil(y_.most / y_step_) * y_step_, y_.least + y_step_);
  }

  std::string svg() const {
    const auto named = static_cast<size_t>(std::count_if(
        chart_.lines.begin(), chart_.lines.end(), [](const ChartLine& line) { return !line.name.empty(); }));
    const size_t rows = (named + kLegendColumns - 1) / kLegendColumns;
    std::string text;
    Out out(text);
    fmt::format_to(
        out,
        "<svg viewBox=\"0 0 {:g} {:g}\" width=\"100%\" role=\"img\" font-size=\"12\" fill=\"currentColor\">\n"
        "<title>{}</title>\n<text x=\"0\" y=\"16\" font-size=\"14\" font-weight=\"600\">{}</text>\n",
        chart_.width, kTop + kPlot + kAxis + kLegendLine * static_cast<double>(rows), chart_.title,
        chart_.title);
    add_y_axis(out);
    add_x_axis(out);
    for (size_t i = 0; i < chart_.lines.size(); ++i) add_line(out, i);
    fmt::format_to(out, "</svg>\n");
    return text;
  }

 private:
  double along_x(double x) const { return chart_.log_x ? std::log2(x) : x; }
  double along_y(double y) const { return chart_.log_y ? std::log10(y) : y; }
  double at_x(double x) const { return kLeft + x_.share(along_x(x)) * (chart_.width - kLeft - kRight); }
  double at_y(double along) const { return kTop + kPlot * (1 - y_.share(along)); }

  void add_y_axis(Out out) const {
    for (double tick : ticks_between(y_.least, y_.most, y_step_))
      fmt::format_to(out,
                     "<path d=\"M{:g} {:.1f}H{:g}\" stroke=\"currentColor\" opacity=\"0.15\"/>\n"
                     "<text x=\"{:g}\" y=\"{:.1f}\" text-anchor=\"end\">{}{:.6g}</text>\n",
                     kLeft, at_y(tick), chart_.width - kRight, kLeft - 6, at_y(tick) + 4,
                     chart_.log_y ? "1e" : "", tick);
  }

  void add_x_axis(Out out) const {
    const std::vector<double> ticks = x_ticks();
    const bool large = !ticks.empty() && ticks.back() >= 1e5;
    for (double x : ticks)
      fmt::format_to(out, "<text x=\"{:.1f}\" y=\"{:g}\" text-anchor=\"middle\">{}</text>\n", at_x(x),
                     kTop + kPlot + 16, large ? short_count(x) : fmt::format("{:g}", x));
    fmt::format_to(out, "<text x=\"{:g}\" y=\"{:g}\" text-anchor=\"middle\">{}</text>\n",
                   (kLeft + chart_.width) / 2, kTop + kPlot + 32, chart_.x_name);
  }

  std::vector<double> x_ticks() const {
    if (chart_.lines[0].points.size() > kMostGivenTicks && !chart_.log_x)
      return ticks_between(x_.least, x_.most, round_step(x_.most - x_.least, 8));
    std::vector<double> ticks;
    for (const auto& [x, y] : chart_.lines[0].points) ticks.push_back(x);
    return ticks;
  }

  void add_line(Out out, size_t index) const {
    const ChartLine& line = chart_.lines[index];
    const std::string& name = line.name;
    const size_t place = line.colour < 0 ? index : static_cast<size_t>(line.colour);
    const char* colour = kColours[place % kColours.size()];
    std::string path, dots;
    for (const auto& [x, y] : lines_[index]) {
      const double left = at_x(x), top = at_y(along_y(y));
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", left, top);
      if (lines_[index].size() <= kMostDots && !line.mark)
        dots += fmt::format(
            "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"><title>{}: {:g}, {:.3g}</title></circle>", left, top,
            name, x, y);
    }
    fmt::format_to(
        out,
        "<g fill=\"{0}\"><path d=\"{1}\" fill=\"none\" stroke=\"{0}\" stroke-width=\"{3}\"{4}/>{2}</g>\n",
        colour, path, dots, dots.empty() ? 1.3 : 2, dashes(line));
    if (!name.empty()) add_legend(out, index, colour, line);
  }

  static const char* dashes(const ChartLine& line) { return line.mark ? " stroke-dasharray=\"6 4\"" : ""; }

  void add_legend(Out out, size_t index, const char* colour, const ChartLine& line) const {
    const double left =
        kLeft + static_cast<double>(index % kLegendColumns) * (chart_.width - kLeft) / kLegendColumns;
    const double top =
        kTop + kPlot + kAxis + kLegendLine * (static_cast<double>(index / kLegendColumns) + 0.5);
    fmt::format_to(out,
                   "<path d=\"M{:.1f} {:.1f}h16\" stroke=\"{}\" stroke-width=\"3\"{}/>"
                   "<text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n",
                   left, top - 3.5, colour, dashes(line), left + 20, top, line.name);
  }

  const LineChart& chart_;
  std::vector<std::vector<std::pair<double, double>>> lines_;  // what is drawn of each
  Range x_, y_;
  double y_step_ = 1;  // between ticks: a power of ten, or a round number
};

}  // namespace

std::string line_chart_svg(const LineChart& chart) {
  return Picture(chart).svg();
}

}  // namespace moray
