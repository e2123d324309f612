#include "numerics/quantization.h"

#include <gtest/gtest.h>

namespace moray::numerics {
namespace {

TEST(QuantizationSummary, SharesAreOfAllElementsOfAllSteps) {
  std::vector<StepMetrics> metrics(4);
  for (size_t i = 0; i < metrics.size(); ++i) metrics[i].step = static_cast<int64_t>(i) + 1;
  metrics[0].quantization = {{"weights", 100, 0.5, 0}, {"dispatch", 10, 0, 0.1}};
  metrics[2].quantization = {{"weights", 300, 0.1, 0}};
  const std::vector<QuantizationSummary> classes = summarize_quantization(metrics);
  ASSERT_EQ(classes.size(), 2u);
  EXPECT_EQ(classes[0].name, "weights");
  EXPECT_EQ(classes[0].steps, 2);
  EXPECT_DOUBLE_EQ(classes[0].elements, 200);
  EXPECT_DOUBLE_EQ(classes[0].underflow, 0.2);
  EXPECT_DOUBLE_EQ(classes[0].worst_underflow, 0.5);
  EXPECT_EQ(classes[0].worst_step, 1);
  EXPECT_DOUBLE_EQ(classes[0].last_underflow, 0.1);
  EXPECT_DOUBLE_EQ(classes[1].saturated, 0.1);
  const std::string table = quantization_table(classes);
  EXPECT_NE(table.find("weights"), std::string::npos);
  EXPECT_NE(table.find("2.00e-01"), std::string::npos) << table;
  EXPECT_TRUE(summarize_quantization({}).empty());
}

}  // namespace
}  // namespace moray::numerics
