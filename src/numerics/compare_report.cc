// A comparison of runs as text and as a page.
#include <fmt/format.h>

#include <cmath>
#include <iterator>

#include "base/markup.h"
#include "numerics/compare.h"
#include "report/assets.h"
#include "report/line_chart.h"
#include "report/progress.h"

namespace moray::numerics {

namespace {

using Out = std::back_insert_iterator<std::string>;

std::string percent(double share) {
  return fmt::format("{:.4f}%", 100 * share);
}

std::string signed_percent(double share) {
  return fmt::format("{:+.4f}%", 100 * share);
}

std::string by_third(const ErrorSummary& errors) {
  const auto& [first, second, last] = errors.greatest_by_third;
  return fmt::format("{:.4f} {:.4f} {:.4f}%", 100 * first, 100 * second, 100 * last);
}

// What is measured, by name, of one run.
struct Measured {
  std::string name;
  const ErrorSummary& errors;
};

std::vector<Measured> measured(const RunComparison& run) {
  std::vector<Measured> list = {{"loss", run.loss}};
  for (size_t depth = 0; depth < run.mtp_loss.size(); ++depth)
    list.push_back({fmt::format("MTP loss, depth {}", depth + 1), run.mtp_loss[depth]});
  return list;
}

// visit(run, what it is to the baseline)
template <class Visit>
void for_runs(const Comparison& comparison, const Visit& visit) {
  visit(comparison.run, "compared");
  if (comparison.floor) visit(*comparison.floor, "noise floor");
}

std::string verdict(const Comparison& comparison) {
  const auto within = [&](double error) { return error < comparison.options.limit ? "within" : "beyond"; };
  const double error = comparison.run.loss.greatest;
  std::string text = fmt::format("greatest error {} is {} the limit of {}", percent(error), within(error),
                                 percent(comparison.options.limit));
  if (comparison.run.loss.not_finite > 0)
    text +=
        fmt::format(", but {} steps are left out whose loss is not finite", comparison.run.loss.not_finite);
  if (comparison.floor && comparison.floor->loss.greatest > 0)
    text += fmt::format("; the noise floor's {} is {} it; {:.2f} times the floor",
                        percent(comparison.floor->loss.greatest), within(comparison.floor->loss.greatest),
                        error / comparison.floor->loss.greatest);
  return text;
}

std::string heading(const Comparison& comparison) {
  return fmt::format("relative error of the loss against {}, smoothed by an EMA of {:g}, steps {} to {}",
                     comparison.baseline, comparison.options.ema_decay, comparison.from_step,
                     comparison.last_step);
}

// The same run has the same colour in every chart.
enum Colour : int { kBaseline = 0, kRun = 1, kFloor = 2, kLimit = 5 };

// Lines from the first counted step on: what came before sets a scale that hides the rest.
ChartLine curve(const Comparison& comparison, const RunComparison& run, const std::string& name,
                Colour colour, double (*figure)(const ComparisonStep&)) {
  ChartLine line{escape_markup(name), {}, colour};
  for (const ComparisonStep& step : run.steps)
    if (step.step >= comparison.from_step)
      line.points.emplace_back(static_cast<double>(step.tokens), figure(step));
  return line;
}

// The floor below the run.
void add_curves(const Comparison& comparison, double (*figure)(const ComparisonStep&), LineChart& chart) {
  if (comparison.floor)
    chart.lines.push_back(
        curve(comparison, *comparison.floor, comparison.floor->name + " (noise floor)", kFloor, figure));
  chart.lines.push_back(curve(comparison, comparison.run, comparison.run.name, kRun, figure));
}

// Across the first line's range.
ChartLine limit_line(const LineChart& chart, double limit, const std::string& name) {
  const std::vector<std::pair<double, double>>& points = chart.lines[0].points;
  return {name, {{points.front().first, limit}, {points.back().first, limit}}, kLimit, true};
}

LineChart error_chart(const Comparison& comparison) {
  LineChart chart{"Relative error of the smoothed loss, %", "tokens", false, {}, false, 1280};
  add_curves(
      comparison, [](const ComparisonStep& step) { return 100 * step.error(); }, chart);
  const double limit = 100 * comparison.options.limit;
  chart.lines.push_back(limit_line(chart, limit, fmt::format("limit ±{:g}%", limit)));
  chart.lines.push_back(limit_line(chart, -limit, ""));
  return chart;
}

LineChart loss_chart(const Comparison& comparison) {
  LineChart chart{"Smoothed loss, nats a token", "tokens", false, {}, false};
  chart.lines.push_back(curve(comparison, comparison.run, comparison.baseline, kBaseline,
                              [](const ComparisonStep& step) { return step.baseline; }));
  add_curves(
      comparison, [](const ComparisonStep& step) { return step.other; }, chart);
  return chart;
}

LineChart size_chart(const Comparison& comparison) {
  LineChart chart{"Size of the error, %", "tokens", false, {}, true};
  add_curves(
      comparison, [](const ComparisonStep& step) { return 100 * std::abs(step.error()); }, chart);
  const double limit = 100 * comparison.options.limit;
  chart.lines.push_back(limit_line(chart, limit, fmt::format("limit {:g}%", limit)));
  return chart;
}

void add_chart(Out out, const LineChart& chart, const char* width) {
  fmt::format_to(out, "<div class=\"card{}\">{}</div>\n", width, line_chart_svg(chart));
}

void add_tile(Out out, const std::string& value, const std::string& name) {
  fmt::format_to(out, "<div class=\"card tile\"><b>{}</b><span>{}</span></div>\n", value,
                 escape_markup(name));
}

void add_rows(Out out, const Comparison& comparison) {
  fmt::format_to(
      out,
      "<div class=\"card scroll\"><table><tr><th>run</th><th>of</th><th>greatest</th><th>at step</th>"
      "<th>greatest by thirds</th><th>RMS</th><th>mean, signed</th><th>last, signed</th><th>steps beyond "
      "{}</th></tr>\n",
      percent(comparison.options.limit));
  for_runs(comparison, [&](const RunComparison& run, const char* role) {
    for (const Measured& m : measured(run))
      fmt::format_to(out,
                     "<tr><td>{} ({})</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>"
                     "<td>{}</td><td>{} of {}</td></tr>\n",
                     escape_markup(run.name), role, m.name, percent(m.errors.greatest),
                     m.errors.greatest_step, by_third(m.errors), percent(m.errors.rms),
                     signed_percent(m.errors.mean), signed_percent(m.errors.last), m.errors.beyond_limit,
                     m.errors.steps);
    if (run.validation_error)
      fmt::format_to(out,
                     "<tr><td>{} ({})</td><td>validation loss, not smoothed</td><td></td><td></td><td></td>"
                     "<td></td><td></td><td>{}</td><td></td></tr>\n",
                     escape_markup(run.name), role, signed_percent(*run.validation_error));
  });
  fmt::format_to(out, "</table></div>\n");
}

}  // namespace

std::string comparison_table(const Comparison& comparison) {
  std::string text = heading(comparison) + "\n\n";
  Out out(text);
  fmt::format_to(out, "{:<32} {:<18} {:>9} {:>9} {:>22} {:>9} {:>10} {:>10} {:>14}\n", "run", "of",
                 "greatest", "at step", "by thirds", "RMS", "mean", "last", "beyond limit");
  for_runs(comparison, [&](const RunComparison& run, const char* role) {
    const std::string name = fmt::format("{} ({})", run.name, role);
    for (const Measured& m : measured(run))
      fmt::format_to(out, "{:<32} {:<18} {:>9} {:>9} {:>22} {:>9} {:>10} {:>10} {:>6} of {:>4}\n", name,
                     m.name, percent(m.errors.greatest), m.errors.greatest_step, by_third(m.errors),
                     percent(m.errors.rms), signed_percent(m.errors.mean), signed_percent(m.errors.last),
                     m.errors.beyond_limit, m.errors.steps);
    if (run.validation_error)
      fmt::format_to(out, "{:<32} {:<18} {:>9} {:>9} {:>22} {:>9} {:>10} {:>10}\n", name, "validation loss",
                     "", "", "", "", "", signed_percent(*run.validation_error));
  });
  fmt::format_to(out, "\n{}\n", verdict(comparison));
  return text;
}

std::string comparison_html(const Comparison& comparison, const std::string& further) {
  const std::string title = fmt::format("{} against {}", comparison.run.name, comparison.baseline);
  std::string html;
  Out out(html);
  fmt::format_to(out,
                 "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                 "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                 "<title>{0} – moray</title>\n<style>{1}</style>\n</head>\n<body>\n<h1>{0}</h1>\n"
                 "<p class=\"quiet\">{2}</p>\n<p class=\"note\">{3}.</p>\n<div class=\"tiles\">\n",
                 escape_markup(title), assets::report_css, escape_markup(heading(comparison)),
                 escape_markup(verdict(comparison)));
  add_tile(out, percent(comparison.run.loss.greatest), "greatest error");
  add_tile(out, percent(comparison.options.limit), "limit");
  if (comparison.floor) add_tile(out, percent(comparison.floor->loss.greatest), "noise floor's greatest");
  add_tile(out, signed_percent(comparison.run.loss.mean), "mean error, signed");
  add_tile(out, signed_percent(comparison.run.loss.last), "error at the end");
  add_tile(out, short_count(static_cast<double>(comparison.run.steps.back().tokens)), "tokens");
  fmt::format_to(out, "</div>\n<div class=\"grid\">\n");
  add_chart(out, error_chart(comparison), " wide");
  add_chart(out, loss_chart(comparison), "");
  add_chart(out, size_chart(comparison), "");
  fmt::format_to(out, "</div>\n<h2>Figures</h2>\n");
  add_rows(out, comparison);
  fmt::format_to(out, "{}</body>\n</html>\n", further);
  return html;
}

}  // namespace moray::numerics
