// A comparison of gradients as text and as cards of a page.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/markup.h"
#include "numerics/gradients.h"

namespace moray::numerics {

namespace {

using Out = std::back_insert_iterator<std::string>;

// A column: two gradients' angle in every row, or none where one of them is f32 itself.
struct Column {
  std::string name;
  const GradientAngle* (*angle)(const GradientRow&);
};

std::vector<Column> columns(const GradientComparison& comparison) {
  std::vector<Column> list = {{fmt::format("{} and {}", comparison.baseline, comparison.run),
                               [](const GradientRow& row) { return &row.runs; }}};
  // Against f32 only where neither run is f32: else the first column says it.
  if (comparison.all.baseline_f32 && comparison.all.run_f32) {
    list.push_back({fmt::format("f32 and {}", comparison.baseline),
                    [](const GradientRow& row) { return row.baseline_f32 ? &*row.baseline_f32 : nullptr; }});
    list.push_back({fmt::format("f32 and {}", comparison.run),
                    [](const GradientRow& row) { return row.run_f32 ? &*row.run_f32 : nullptr; }});
  }
  return list;
}

std::string heading(const GradientComparison& comparison) {
  return fmt::format("cosine of the gradients of {} samples after step {}, from the same weights",
                     comparison.samples, comparison.step);
}

std::string cosine_text(double cosine) {
  return fmt::format("{:.6f}", cosine);
}

std::string length_text(double relative_length) {
  return fmt::format("{:+.3f}%", 100 * relative_length);
}

void add_table_rows(Out out, const std::vector<Column>& list, const std::vector<GradientRow>& rows) {
  for (const GradientRow& row : rows) {
    fmt::format_to(out, "<tr><td>{}</td>", escape_markup(row.name));
    for (const Column& column : list) {
      const GradientAngle* angle = column.angle(row);
      fmt::format_to(out, "<td>{}</td><td>{}</td>", cosine_text(angle->cosine()),
                     length_text(angle->relative_length()));
    }
    fmt::format_to(out, "</tr>\n");
  }
}

void add_table(Out out, const GradientComparison& comparison, const char* what,
               const std::vector<GradientRow>& rows) {
  const std::vector<Column> list = columns(comparison);
  fmt::format_to(out, "<div class=\"card wide scroll\"><table><tr><th>{}</th>", what);
  for (const Column& column : list)
    fmt::format_to(out, "<th>{0}: cosine</th><th>{0}: length</th>", escape_markup(column.name));
  fmt::format_to(out, "</tr>\n");
  add_table_rows(out, list, rows);
  fmt::format_to(out, "</table></div>\n");
}

void add_text(Out out, const std::vector<Column>& list, const std::vector<GradientRow>& rows) {
  for (const GradientRow& row : rows) {
    fmt::format_to(out, "{:<28}", row.name);
    for (const Column& column : list) {
      const GradientAngle* angle = column.angle(row);
      fmt::format_to(out, " {:>10} {:>10}", cosine_text(angle->cosine()),
                     length_text(angle->relative_length()));
    }
    fmt::format_to(out, "\n");
  }
}

}  // namespace

std::string gradients_table(const GradientComparison& comparison) {
  const std::vector<Column> list = columns(comparison);
  std::string text = heading(comparison) + ", and relative difference of their lengths\n\n";
  Out out(text);
  fmt::format_to(out, "{:<28}", "layer");
  for (const Column& column : list) fmt::format_to(out, " {:>21}", column.name);
  fmt::format_to(out, "\n");
  add_text(out, list, {comparison.all});
  add_text(out, list, comparison.layers);
  fmt::format_to(out, "\nkind\n");
  add_text(out, list, comparison.kinds);
  return text;
}

std::string gradients_html(const GradientComparison& comparison) {
  std::string html;
  Out out(html);
  fmt::format_to(out,
                 "<h2>Gradients</h2>\n<p class=\"quiet\">{}; length: how much longer the second is.</p>\n",
                 heading(comparison));
  double most = 1e-12;
  for (const GradientRow& row : comparison.layers) most = std::max(most, 1 - row.runs.cosine());
  fmt::format_to(out,
                 "<div class=\"grid\">\n<div class=\"card wide\"><h3>1 − cosine of {} and {}, by "
                 "layer</h3><div class=\"bars\">\n",
                 comparison.baseline, comparison.run);
  for (const GradientRow& row : comparison.layers)
    fmt::format_to(out, "<span>{}</span><i class=\"ours\" style=\"width:{:.1f}%\"></i><span>{:.2e}</span>\n",
                   escape_markup(row.name), std::max(0.0, 100 * (1 - row.runs.cosine()) / most),
                   std::max(0.0, 1 - row.runs.cosine()));
  fmt::format_to(out, "</div></div>\n");
  std::vector<GradientRow> layers = {comparison.all};
  layers.insert(layers.end(), comparison.layers.begin(), comparison.layers.end());
  add_table(out, comparison, "layer", layers);
  add_table(out, comparison, "kind", comparison.kinds);
  fmt::format_to(out, "</div>\n");
  return html;
}

}  // namespace moray::numerics
