// Line charts as SVG text, for pages that need no script.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace moray {

struct ChartLine {
  std::string name;  // "" keeps the line out of the legend: give such lines last
  // Ascending in x. What is not finite is left out, on a logarithmic axis also y of 0 or less.
  std::vector<std::pair<double, double>> points;
  int colour = -1;    // place in the palette; -1: the line's place in the chart
  bool mark = false;  // a limit or the like: dashed, without dots
};

// x ticks are the x values of the first line where these are few, else round numbers. Few points are dots,
// many are thinned out to what a screen shows.
struct LineChart {
  std::string title, x_name;
  bool log_x = false;
  std::vector<ChartLine> lines;  // at least one point in all
  bool log_y = true;
  double width = 640;  // pixels at full size; twice as much for a card across the page
};

// Names and titles are put in as they are: without <, > and &.
std::string line_chart_svg(const LineChart& chart);

}  // namespace moray
