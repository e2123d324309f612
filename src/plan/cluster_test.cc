#include "plan/cluster.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "plan/kernel_rates.h"

namespace moray::plan {
namespace {

const fs::path kClusters = fs::path(MORAY_SOURCE_DIR) / "clusters";

std::string error_of(const std::string& text) {
  try {
    parse_cluster(text, "x.toml");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Cluster, ShippedFilesAreRead) {
  for (const char* name : {"h800", "h100", "h200", "a100", "b200"}) {
    const Cluster cluster = read_cluster(kClusters / (std::string(name) + ".toml"));
    EXPECT_EQ(cluster.gpus_per_node.value, 8) << name;
    EXPECT_EQ(cluster.gpus_per_node.source, Source::datasheet);
    EXPECT_EQ(cluster.has_fp8(), std::string(name) != "a100");
    EXPECT_GT(cluster.node_bandwidth.value, cluster.network_bandwidth.value);
  }
  EXPECT_EQ(read_cluster(kClusters / "h800.toml").node_bandwidth.source, Source::measured);
}

TEST(Cluster, MistakesAreToldInOneLine) {
  const std::string good = read_file(kClusters / "h800.toml");
  EXPECT_EQ(error_of(good), "");
  EXPECT_NE(error_of(replaced(good, "sms =", "smss =")).find("'sms' is missing"), std::string::npos);
  EXPECT_NE(error_of(replaced(good, "\"measured\"", "\"guessed\"")).find("source is 'guessed'"),
            std::string::npos);
  EXPECT_NE(error_of(replaced(good, "value = 132", "value = 0")).find("expected a positive number"),
            std::string::npos);
  EXPECT_NE(error_of(replaced(good, "value = 8,", "value = 7.5,")).find("whole number"), std::string::npos);
  EXPECT_NE(error_of(replaced(good, "value = 8,", "value = nan,")).find("expected a positive number"),
            std::string::npos);
  EXPECT_NE(error_of(good + "\ncolour = 1\n").find("colour"), std::string::npos);
  for (const std::string& text : {replaced(good, "sms =", "smss ="), good + "\ncolour = 1\n"})
    EXPECT_EQ(error_of(text).find('\n'), std::string::npos);
}

TEST(KernelRates, FilesRoundTrip) {
  const KernelRates rates = KernelRates::assumed();
  const KernelRates again = parse_rates(rates_toml(rates), "r.toml");
  EXPECT_EQ(rates.source, again.source);
  for (size_t i = 0; i < kKernelClasses; ++i) EXPECT_NEAR(rates.efficiency[i], again.efficiency[i], 1e-4);
  EXPECT_THROW(parse_rates(replaced(rates_toml(rates), "cast = 0.6", "cast = 1.6"), "r.toml"), Error);
  EXPECT_NO_THROW(read_rates(kClusters / "rates-h800.toml"));
}

}  // namespace
}  // namespace moray::plan
