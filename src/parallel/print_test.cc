#include "parallel/print.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <regex>

#include "base/test_help.h"

namespace moray {
namespace {

Timeline timed(const Schedule& schedule, const ChunkCosts& costs = {}) {
  return simulate(schedule, uniform_cost(costs));
}

TEST(Print, Text) {
  const Schedule plain = make_schedule(ScheduleKind::kOneFOneB, 2, 2);
  EXPECT_EQ(schedule_text(plain, timed(plain)),
            "0 F0 F1 ......B0--- ...B1--- \n"
            "1 ...F0 B0--- F1 B1--- ......\n");
  const Schedule folded = make_schedule(ScheduleKind::kDualPipeV, 1, 2);
  EXPECT_EQ(schedule_text(folded, timed(folded)), "0 F0- F0' F1- B0'---- F1'&B0----- B1'---- b1- W1- \n");
}

TEST(Print, TextKeepsToItsWidth) {
  const Schedule schedule = make_schedule(ScheduleKind::kDualPipe, 4, 120);
  std::istringstream lines(schedule_text(schedule, timed(schedule), 300));
  std::string line;
  while (std::getline(lines, line)) {
    EXPECT_LE(line.size(), 302u);
    EXPECT_NE(line.find('#'), std::string::npos);
  }
}

TEST(Print, Listing) {
  EXPECT_EQ(schedule_listing(make_schedule(ScheduleKind::kZb1p, 2, 1)),
            "rank 0: F 0, send activation 0 to 1, receive gradient 0 from 1, Bi 0, W 0\n"
            "rank 1: receive activation 0 from 0, F 0, Bi 0, send gradient 0 to 0, W 0\n");
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// Every element closed by the one that opened it.
void expect_well_formed(const std::string& xml) {
  static const std::regex kTag(R"(<(/?)([a-z]+)((?:[^<>"]|"[^"<]*")*?)(/?)>)");
  std::vector<std::string> open;
  for (std::sregex_iterator tag(xml.begin(), xml.end(), kTag), end; tag != end; ++tag) {
    if ((*tag)[1].length() > 0) {
      ASSERT_FALSE(open.empty());
      ASSERT_EQ(open.back(), (*tag)[2].str());
      open.pop_back();
    } else if ((*tag)[4].length() == 0) {
      open.push_back((*tag)[2]);
    }
  }
  EXPECT_TRUE(open.empty());
  EXPECT_EQ(count(xml, "<"),
            static_cast<size_t>(
                std::distance(std::sregex_iterator(xml.begin(), xml.end(), kTag), std::sregex_iterator())));
}

TEST(Print, SvgHoldsEveryStep) {
  for (const ScheduleKind kind :
       {ScheduleKind::kOneFOneB, ScheduleKind::kZb1p, ScheduleKind::kDualPipe, ScheduleKind::kDualPipeV}) {
    const Schedule schedule = make_schedule(kind, 4, 8);
    const std::string svg = schedule_svg(schedule, timed(schedule), "a < b & \"c\"");
    expect_well_formed(svg);
    EXPECT_NE(svg.find("a &lt; b &amp; &quot;c&quot;"), std::string::npos);
    size_t cells = 0, pairs = 0;
    for (const auto& steps : schedule.steps) {
      cells += static_cast<size_t>(std::count_if(steps.begin(), steps.end(), is_compute));
      for (const Step& step : steps) pairs += step.kind == StepKind::kPair;
    }
    EXPECT_EQ(count(svg, "<title>"), cells);
    EXPECT_EQ(count(svg, "stroke=\"none\">"), cells + pairs);  // a number each, two on a pair
    EXPECT_EQ(count(svg, ">rank "), 4 + cells);                // at the left, and in each cell's title
    EXPECT_EQ(svg.find("overlapped") != std::string::npos, pairs > 0);
  }
}

TEST(Print, SvgOfStepsWithoutTime) {
  const Schedule schedule = make_schedule(ScheduleKind::kDualPipe, 2, 4);
  const std::string svg = schedule_svg(schedule, timed(schedule, {0, 0, 0, 0}), "");
  expect_well_formed(svg);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
}

TEST(Print, SvgHasALimit) {
  const Schedule schedule = make_schedule(ScheduleKind::kOneFOneB, 64, 1024);
  const Timeline timeline = timed(schedule);
  EXPECT_EQ(test::error_of([&] { schedule_svg(schedule, timeline, ""); }),
            "SVG: 131072 steps are more than a picture can show (100000)");
}

}  // namespace
}  // namespace moray
