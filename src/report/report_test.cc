#include "report/report.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "report/assets.h"

namespace moray {
namespace {

RunRecord sample_run(const std::string& name, int64_t steps) {
  RunRecord run;
  run.name = name;
  for (int64_t step = 1; step <= steps; ++step) {
    StepMetrics m;
    m.step = step;
    m.tokens = step * 100;
    m.loss = static_cast<double>(step);
    m.mtp_loss = {2.0 * static_cast<double>(step)};
    m.grad_norm = step == steps / 2 ? 50.0 : 1.0;
    m.add_moe_layer(std::vector<int64_t>{1, 3, 0, 4});
    m.add_moe_layer(std::vector<int64_t>{2, 2, 2, 2});
    run.expert_load.push_back({step, m.expert_load});
    run.metrics.push_back(m);
  }
  return run;
}

std::string between(const std::string& text, const std::string& from, const std::string& to) {
  const size_t begin = text.find(from) + from.size();
  return text.substr(begin, text.find(to, begin) - begin);
}

nlohmann::json data_of(const std::string& html) {
  return nlohmann::json::parse(between(html, "<script type=\"application/json\" id=\"data\">", "</script>"));
}

TEST(ReportTest, HoldsTheCurves) {
  auto run = sample_run("demo", 10);
  run.metrics[4].validation_loss = 3.5;
  run.metrics[6].loss = std::numeric_limits<double>::quiet_NaN();
  const auto data = data_of(report_html({run}));
  const auto& json = data["runs"][0];
  EXPECT_EQ(json["name"], "demo");
  EXPECT_EQ(json["step"].size(), 10u);
  EXPECT_EQ(json["loss"][2], 3.0);
  EXPECT_TRUE(json["loss"][6].is_null());
  EXPECT_EQ(json["mtp_loss"][0][9], 20.0);
  EXPECT_EQ(json["validation_loss"][4], 3.5);
  EXPECT_TRUE(json["validation_loss"][5].is_null());
  EXPECT_EQ(json["balance"][0][0], 2.0);
  // Loads 0.5, 1.5, 0, 2 of the mean as bytes by log2 over [-3, 3]: 85, 152.4, 0, 170.
  EXPECT_EQ(json["expert_load"]["layers"][0]["experts"], 4);
  EXPECT_EQ(json["expert_load"]["layers"][0]["load"].get<std::string>().substr(0, 8), "VZgAqlWY");
}

TEST(ReportTest, LayersOfMtpModulesAreNamedSo) {
  auto run = sample_run("demo", 3);
  const auto names = [&] { return data_of(report_html({run}))["runs"][0]["moe_layers"]; };
  EXPECT_EQ(names(), (nlohmann::json{"MoE layer 1", "MTP layer"}));
  for (StepMetrics& m : run.metrics) m.mtp_loss = {1, 1};
  EXPECT_EQ(names(), (nlohmann::json{"MTP layer 1", "MTP layer 2"}));
  for (StepMetrics& m : run.metrics) m.mtp_loss.clear();
  EXPECT_EQ(names(), (nlohmann::json{"MoE layer 1", "MoE layer 2"}));
}

TEST(ReportTest, LongRunsAreThinnedAndKeepTheirPeaks) {
  const auto data = data_of(report_html({sample_run("long", 20'000)}));
  const auto& json = data["runs"][0];
  EXPECT_EQ(json["step"].size(), kMaxReportPoints);
  EXPECT_EQ(json["step"].back(), 20'000);
  double peak = 0;
  for (const auto& value : json["grad_norm"]) peak = std::max(peak, value.get<double>());
  EXPECT_EQ(peak, 50.0);
}

TEST(ReportTest, NothingFromFilesBecomesMarkup) {
  auto run = sample_run("</title><script>alert(1)</script>", 3);
  run.recipe = "</script><script>alert(2)</script><!-- \xff";
  run.evaluation = R"({"</script><img src=x>": "<b>"})";
  const std::string html = report_html({run});
  EXPECT_EQ(html.find("alert(1)</script>"), std::string::npos);
  EXPECT_EQ(html.find("alert(2)</script>"), std::string::npos);
  EXPECT_EQ(html.find("<img src=x>"), std::string::npos);
  EXPECT_NE(html.find("<title>&lt;/title&gt;&lt;script&gt;"), std::string::npos);
  EXPECT_EQ(data_of(html)["runs"][0]["name"], run.name);
  // The data, dygraphs, its synchronizer and ours; ours writes no HTML from strings.
  size_t scripts = 0;
  for (size_t at = html.find("<script"); at != std::string::npos; at = html.find("<script", at + 1))
    ++scripts;
  EXPECT_EQ(scripts, 4u);
  EXPECT_EQ(assets::report_js.find(".innerHTML"), std::string_view::npos);
}

TEST(ReportTest, FetchesNothing) {
  const std::string html = report_html({sample_run("a", 3), sample_run("b", 5)});
  EXPECT_NE(html.find("default-src 'none'"), std::string::npos);
  for (const char* fetch : {"<link", "src=\"http", "@import", "sourceMappingURL", "url(http"}) {
    EXPECT_EQ(html.find(fetch), std::string::npos) << fetch;
  }
  EXPECT_EQ(data_of(html)["title"], "a · b");
}

TEST(ReportTest, BrokenRunFoldersAreNamed) {
  const fs::path folder = fs::path(::testing::TempDir()) / ("moray_report_" + std::to_string(::getpid()));
  EXPECT_THROW(read_run(folder), Error);
  {
    MetricsWriter writer(folder, 0, 2);
    for (const StepMetrics& m : sample_run("x", 2).metrics) {
      StepMetrics full = m;
      full.expert_load = {{1.0, 1.0}};
      writer.write(full);
    }
  }
  EXPECT_EQ(read_run(folder).expert_load.size(), 2u);
  write_file_atomically(folder / "evaluation.json", "[1, 2");
  EXPECT_THROW(read_run(folder), Error);
  fs::remove(folder / "evaluation.json");
  write_file_atomically(folder / "expert_load.jsonl",
                        "{\"step\":1,\"load\":[[1,1]]}\n{\"step\":2,\"load\":[[1]]}\n");
  EXPECT_THROW(read_run(folder), Error);
  fs::remove(folder / "expert_load.jsonl");
  write_report({folder}, folder / "report.html");
  EXPECT_EQ(data_of(read_file(folder / "report.html"))["title"], folder.filename().string());
  fs::remove_all(folder);
}

}  // namespace
}  // namespace moray
