// Traces: hand-made ones with sums worked out on paper, hostile ones, and DeepSeek's own against the figures
// of facts §4.
#include "plan/trace.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/test_help.h"
#include "data/byte_stream.h"
#include "plan/trace_report.h"

namespace moray::plan {
namespace {

std::string event(const std::string& name, int stream, double start, double duration) {
  return fmt::format(
      R"({{"ph": "X", "cat": "kernel", "name": "{}", "pid": 0, "tid": {}, "ts": {}, "dur": {}, "args": {{"grid": [4, 5, 1]}}}})",
      name, stream, start, duration);
}

std::string trace_of(const std::vector<std::string>& events) {
  return fmt::format(R"({{"traceEvents": [{}]}})", fmt::join(events, ","));
}

Trace published_trace() {
  const std::unique_ptr<ByteStream> stream =
      ByteStream::open(fs::path(MORAY_SOURCE_DIR) / "tests/golden/plan/deepseek_v3_train_fb_pair.json.xz");
  std::string text(8 << 20, '\0');
  text.resize(stream->read(text));
  return parse_trace(text, "trace");
}

TEST(Trace, SumsOfAHandMadeTrace) {
  // Two computing kernels overlap by 2, communication runs 3..10 and 12..13, computation 1..8:
  // idle 8..8, 10..12.
  const Trace trace =
      parse_trace(trace_of({event("m_grouped", 7, 1001, 4), event("fp8_dptp128c_acc", 23, 1003, 5),
                            event("ep::dispatch<8>", 27, 1003, 7), event("ep::combine<8>", 27, 1012, 1),
                            R"({"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": 0, "dur": 5000})",
                            R"({"ph": "M"})"}),
                  "t");
  ASSERT_EQ(trace.kernels.size(), 4u);
  EXPECT_EQ(trace.kernels[0].blocks, 20);
  const TraceReport report = summarize(trace);
  EXPECT_DOUBLE_EQ(report.span_ms, 0.012);
  EXPECT_DOUBLE_EQ(report.compute_busy_ms, 0.007);
  EXPECT_DOUBLE_EQ(report.communication_busy_ms, 0.008);
  EXPECT_DOUBLE_EQ(report.hidden_ms, 0.005);
  EXPECT_DOUBLE_EQ(report.exposed_ms, 0.003);
  EXPECT_DOUBLE_EQ(report.idle_ms, 0.002);
  EXPECT_DOUBLE_EQ(report.of(TraceClass::grouped_gemm).share_ms, 0.003);
  EXPECT_DOUBLE_EQ(report.of(TraceClass::wgrad_gemm).share_ms, 0.004);
  EXPECT_DOUBLE_EQ(report.of(TraceClass::wgrad_gemm).kernel_ms, 0.005);
  EXPECT_EQ(report.streams.size(), 3u);
}

TEST(Trace, FirstLaunches) {
  const Trace trace = parse_trace(trace_of({event("m_grouped", 7, 0, 1), event("m_grouped", 7, 2, 1),
                                            event("rotary", 7, 4, 1), event("rotary", 7, 6, 1)}),
                                  "t");
  const Trace half = first_launches(trace, 0.5);
  ASSERT_EQ(half.kernels.size(), 2u);
  EXPECT_EQ(half.kernels[0].kind, TraceClass::grouped_gemm);
  EXPECT_EQ(half.kernels[1].kind, TraceClass::elementwise);
}

TEST(Trace, PublishedPair) {
  const Trace trace = published_trace();
  EXPECT_EQ(trace.device, "NVIDIA H800");
  EXPECT_EQ(trace.sms, 132);
  const TraceReport report = summarize(trace);
  constexpr double kRounding = 0.05;  // facts §4 gives tenths
  EXPECT_NEAR(report.span_ms, 129.0, kRounding);
  EXPECT_NEAR(report.communication_busy_ms, 113.4, kRounding);
  EXPECT_NEAR(report.hidden_share(), 0.963, 0.0005);
  EXPECT_NEAR(report.exposed_ms, 4.2, kRounding);
  EXPECT_NEAR(report.idle_ms, 0.5, kRounding);
  EXPECT_NEAR(report.of(TraceClass::wgrad_gemm).kernel_ms, 32.8, kRounding);
  EXPECT_NEAR(report.of(TraceClass::grouped_gemm).kernel_ms, 22.9, kRounding);
  EXPECT_NEAR(report.of(TraceClass::dense_gemm).kernel_ms, 18.8, kRounding);
  EXPECT_NEAR(report.of(TraceClass::attention_backward).kernel_ms, 17.0, kRounding);
  EXPECT_NEAR(report.of(TraceClass::attention_forward).kernel_ms, 5.0, 0.06);  // 4.948
  EXPECT_NEAR(report.of(TraceClass::cast).kernel_ms + report.of(TraceClass::transpose).kernel_ms, 19.3,
              kRounding);
  EXPECT_NEAR(report.of(TraceClass::dispatch).shortest_ms, 3.1, kRounding);
  EXPECT_NEAR(report.of(TraceClass::dispatch).longest_ms, 4.6, kRounding);
  EXPECT_NEAR(report.of(TraceClass::combine).shortest_ms, 5.8, kRounding);
  EXPECT_NEAR(report.of(TraceClass::combine).longest_ms, 6.5, kRounding);
  EXPECT_EQ(report.compute_sms, 112);
  EXPECT_EQ(report.communication_sms, 20);

  double shares = 0;
  for (int c = 0; c < kTraceClasses; ++c)
    if (!is_communication(static_cast<TraceClass>(c)))
      shares += report.classes[static_cast<size_t>(c)].share_ms;
  EXPECT_NEAR(shares, report.compute_busy_ms, 1e-6);
}

TEST(Trace, HostileTextGetsOneLine) {
  const auto error = [](const std::string& text) { return test::error_of([&] { parse_trace(text, "t"); }); };
  const std::string good = event("m_grouped", 7, 0, 1);
  EXPECT_EQ(error(trace_of({})), "t: no GPU kernels in this trace");
  EXPECT_EQ(error("{\"traceEvents\": 3}"), "t: not a profiler trace: no array 'traceEvents'");
  EXPECT_EQ(error("[]").substr(0, 3), "t: ");
  EXPECT_EQ(error("").substr(0, 3), "t: ");
  EXPECT_EQ(error(trace_of({"7"})), "t: event 0: not a JSON object");
  EXPECT_EQ(error(trace_of({good, event("x", 7, 0, -1)})), "t: event 1: a negative duration");
  EXPECT_EQ(error(trace_of({event("x", 7, 1e300, 1)})), "t: event 0: 'ts' is 1e+300");
  EXPECT_EQ(error(trace_of({R"({"ph": "X", "cat": "kernel", "name": "x", "ts": "0", "dur": 1})"})),
            "t: event 0: a kernel without a number 'ts'");
  EXPECT_EQ(error(trace_of({R"({"ph": "X", "cat": "kernel", "name": "x", "ts": 0, "dur": 1, "tid": 7})"})),
            "t: event 0: a kernel needs integers 'pid' (device) and 'tid' (stream)");
  EXPECT_EQ(error(trace_of({R"({"ph": "X", "cat": "kernel", "ts": 0, "dur": 1, "tid": 7, "pid": 0})"})),
            "t: event 0: a kernel without a name");
  EXPECT_EQ(
      error(trace_of(
          {good, R"({"ph": "X", "cat": "kernel", "name": "x", "ts": 0, "dur": 1, "tid": 7, "pid": 1})"})),
      "t: event 1: kernels of a second device; one rank's trace is expected");
}

TEST(Trace, EveryPrefixIsRefused) {
  const std::string whole = trace_of({event("m_grouped", 7, 0, 1), event("rotary", 7, 2, 1)});
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_EQ(test::error_of([&] { parse_trace(whole.substr(0, size), "t"); }).substr(0, 3), "t: ") << size;
  EXPECT_EQ(test::error_of([&] {
              parse_trace(trace_of({event(std::string(5, '[') + "\\u", 7, 0, 1)}), "t");
            }).substr(0, 3),
            "t: ");
}

}  // namespace
}  // namespace moray::plan
