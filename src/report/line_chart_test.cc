#include "report/line_chart.h"

#include <gtest/gtest.h>

#include <limits>
#include <regex>

namespace moray {
namespace {

// The texts of the picture, in order.
std::vector<std::string> texts(const std::string& svg) {
  static const std::regex kText("<text[^>]*>([^<]*)</text>");
  std::vector<std::string> found;
  for (std::sregex_iterator at(svg.begin(), svg.end(), kText), end; at != end; ++at)
    found.push_back((*at)[1]);
  return found;
}

size_t count(const std::string& svg, const std::string& what) {
  size_t found = 0;
  for (size_t at = svg.find(what); at != std::string::npos; at = svg.find(what, at + 1)) ++found;
  return found;
}

TEST(LineChart, TicksOfFewPointsAreTheirXAndOfALogarithmicAxisPowersOfTen) {
  const std::string svg = line_chart_svg({"title", "K", true, {{"line", {{128, 0.02}, {256, 3}, {512, 0}}}}});
  EXPECT_EQ(texts(svg), (std::vector<std::string>{"title", "1e-2", "1e-1", "1e0", "1e1", "128", "256", "512",
                                                  "K", "line"}));
  EXPECT_EQ(count(svg, "<circle"), 2u) << "0 has no logarithm";
}

TEST(LineChart, LinearAxesHaveRoundTicks) {
  ChartLine line{"error", {}};
  for (int i = 0; i < 30; ++i) line.points.emplace_back(7e4 * i, i - 11);
  const std::string svg = line_chart_svg({"t", "tokens", false, {line}, false});
  EXPECT_EQ(texts(svg), (std::vector<std::string>{"t", "-15", "-10", "-5", "0", "5", "10", "15", "20", "0",
                                                  "500k", "1.00M", "1.50M", "2.00M", "tokens", "error"}));
}

TEST(LineChart, LongLinesAreThinnedWithTheirPeaks) {
  ChartLine line{"line", {}};
  for (int i = 0; i < 100000; ++i) line.points.emplace_back(i, i == 77777 ? 1000 : i % 10);
  line.points[5].second = std::numeric_limits<double>::quiet_NaN();
  const std::string svg = line_chart_svg({"t", "x", false, {line}, false});
  EXPECT_LT(svg.size(), 20000u);
  EXPECT_EQ(count(svg, "<circle"), 0u);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_NE(svg.find(" 30.0L"), std::string::npos) << "the peak touches the top";
}

TEST(LineChart, ALimitIsDashedInTheLegendToo) {
  ChartLine limit{"limit", {{0, 2}, {1, 2}}};
  limit.mark = true;
  const std::string svg = line_chart_svg({"t", "x", false, {{"line", {{0, 1}, {1, 3}}}, limit}, false});
  EXPECT_EQ(count(svg, "stroke-dasharray"), 2u);
}

TEST(LineChart, OnePointIsAChart) {
  EXPECT_NE(line_chart_svg({"t", "x", false, {{"l", {{3, 0}}}}, false}).find("<circle"), std::string::npos);
}

}  // namespace
}  // namespace moray
