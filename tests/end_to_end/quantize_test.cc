// moray quantize as its users meet it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "workshop.h"

namespace moray::test {
namespace {

using nlohmann::json;

TEST(QuantizeCommand, TellsWhatItCosts) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const std::string model = workshop.trained(), output = scratch / "small", text = workshop.corpus() / "000.txt";
  expect_refusal(moray({"quantize", model, output, "--text", scratch / "none.txt"}), {"none.txt"});
  EXPECT_FALSE(fs::exists(output)) << "nothing is begun when the text cannot be read";
  const Outcome outcome = moray({"quantize", model, output, "--format", "4bit", "--text", text, "--json"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const json cost = json::parse(outcome.out)["cost"];
  EXPECT_GT(cost["divergence"], 0);
  EXPECT_LT(cost["divergence"], 0.1);
  const Outcome eval = moray({"eval", "--model", output, "--against", model, "--text", text, "--json"});
  EXPECT_EQ(json::parse(eval.out), cost);
  const Outcome plain = moray({"quantize", model, scratch / "eight", "--format", "8bit", "--text", text});
  EXPECT_NE(plain.out.find("KL divergence"), std::string::npos) << plain.out << plain.err;
}

}  // namespace
}  // namespace moray::test
