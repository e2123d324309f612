#include "plan/trace.h"

#include <simdjson.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>

#include "base/error.h"

namespace moray::plan {

namespace {
using simdjson::dom::array;
using simdjson::dom::object;

constexpr double kMaxTime_us = 1e18;  // beyond any clock's microseconds; keeps differences finite

struct Rule {
  TraceClass kind;
  const char* first;  // both must occur in the name
  const char* second = "";
};

// The first rule that holds decides, so exceptions stand before what they are excepted from.
constexpr Rule kRules[] = {
    {TraceClass::synchronize, "notify"},
    {TraceClass::synchronize, "get_dispatch_layout"},
    {TraceClass::synchronize, "nccl"},
    {TraceClass::dispatch, "ep::", "dispatch<"},
    {TraceClass::combine, "ep::", "combine<"},
    {TraceClass::attention_backward, "FlashAttnBwd"},
    {TraceClass::attention_backward, "flash_bwd"},
    {TraceClass::attention_forward, "compute_attn"},
    {TraceClass::attention_forward, "FlashAttnFwd"},
    {TraceClass::attention_forward, "flash_fwd"},
    {TraceClass::transpose, "transpose"},
    {TraceClass::cast, "token_cast"},
    {TraceClass::cast, "cast_back"},
    {TraceClass::cast, "copy_tensor"},
    {TraceClass::cast, "direct_copy"},
    {TraceClass::other, "fill_tensormaps"},
    {TraceClass::wgrad_gemm, "fp8_dptp128c_acc"},
    {TraceClass::grouped_gemm, "m_grouped"},
    {TraceClass::dense_gemm, "fp8_ptp128c"},
    {TraceClass::dense_gemm, "fp8_gemm"},
    {TraceClass::other_gemm, "gemm"},
    {TraceClass::elementwise, "layer_norm"},
    {TraceClass::elementwise, "rotary"},
    {TraceClass::elementwise, "swiglu"},
    {TraceClass::elementwise, "elementwise"},
    {TraceClass::elementwise, "reduce"},
    {TraceClass::elementwise, "expand_to_fused"},
};

// Names the event in an error; events are counted from 0 in the file's order.
struct Reader {
  const std::string& where;
  int64_t event = 0;

  [[noreturn]] void wrong(const char* what) const { fail("{}: event {}: {}", where, event, what); }

  double time(const object& o, const char* key) const {
    double number = 0;
    if (o[key].get_double().get(number) != simdjson::SUCCESS)
      fail("{}: event {}: a kernel without a number '{}'", where, event, key);
    if (!std::isfinite(number) || std::abs(number) > kMaxTime_us)
      fail("{}: event {}: '{}' is {}", where, event, key, number);
    return number;
  }
  std::optional<std::string_view> text(const object& o, const char* key) const {
    std::string_view found;
    if (o[key].get_string().get(found) != simdjson::SUCCESS) return std::nullopt;
    return found;
  }
  std::optional<int64_t> integer(const object& o, const char* key) const {
    int64_t found = 0;
    if (o[key].get_int64().get(found) != simdjson::SUCCESS) return std::nullopt;
    return found;
  }
};

// The product of args.grid; 0 when it is absent or no sensible grid.
int64_t grid_blocks(const object& event) {
  constexpr int64_t kMaxSide = int64_t{1} << 31;  // of a CUDA grid
  array grid;
  if (event["args"]["grid"].get_array().get(grid) != simdjson::SUCCESS) return 0;
  double blocks = 1;
  for (const auto side : grid) {
    int64_t length = 0;
    if (side.get_int64().get(length) != simdjson::SUCCESS || length < 0 || length > kMaxSide) return 0;
    blocks *= static_cast<double>(length);
  }
  return blocks < 1e15 ? static_cast<int64_t>(blocks) : 0;
}

bool is_gpu_work(std::string_view category) {
  return category == "kernel" || category == "gpu_memcpy" || category == "gpu_memset";
}

// Of the first device listed: ranks of one job run on one kind.
void read_device(const simdjson::dom::element& document, Trace& trace) {
  std::string_view device_name;
  const auto device = document["deviceProperties"].at(0);
  if (device["name"].get_string().get(device_name) == simdjson::SUCCESS) trace.device = device_name;
  if (device["numSms"].get_int64().get(trace.sms) != simdjson::SUCCESS) trace.sms = 0;
}

void read_events(const array& events, const std::string& where, Trace& trace) {
  Reader reader{where};
  std::optional<int64_t> device;
  for (const auto item : events) {
    object event;
    if (item.get_object().get(event) != simdjson::SUCCESS) reader.wrong("not a JSON object");
    const auto category = reader.text(event, "cat");
    if (category && is_gpu_work(*category) && reader.text(event, "ph") == "X") {
      TraceKernel kernel;
      kernel.start_us = reader.time(event, "ts");
      kernel.duration_us = reader.time(event, "dur");
      if (kernel.duration_us < 0) reader.wrong("a negative duration");
      const auto stream = reader.integer(event, "tid"), pid = reader.integer(event, "pid");
      if (!stream || !pid) reader.wrong("a kernel needs integers 'pid' (device) and 'tid' (stream)");
      kernel.stream = *stream;
      if (device && *device != *pid) reader.wrong("kernels of a second device; one rank's trace is expected");
      device = *pid;
      kernel.blocks = grid_blocks(event);
      const auto kernel_name = reader.text(event, "name");
      if (!kernel_name) reader.wrong("a kernel without a name");
      kernel.kind = classify_kernel(*kernel_name);
      trace.kernels.push_back(kernel);
    }
    ++reader.event;
  }
}
}  // namespace

const char* name(TraceClass kind) {
  constexpr const char* kNames[kTraceClasses] = {
      "dense GEMM", "grouped GEMM", "wgrad GEMM",  "other GEMM", "attention forward", "attention backward",
      "cast",       "transpose",    "elementwise", "dispatch",   "combine",           "synchronize",
      "other"};
  return kNames[static_cast<int>(kind)];
}

bool is_communication(TraceClass kind) {
  return kind == TraceClass::dispatch || kind == TraceClass::combine || kind == TraceClass::synchronize;
}

TraceClass classify_kernel(std::string_view kernel_name) {
  const auto has = [&](const char* part) { return kernel_name.find(part) != std::string_view::npos; };
  for (const Rule& rule : kRules)
    if (has(rule.first) && has(rule.second)) return rule.kind;
  return TraceClass::other;
}

Trace parse_trace(std::string_view json, const std::string& where) {
  if (json.size() > kMaxTraceBytes)
    fail("{}: {} bytes of JSON; a trace may have {}", where, json.size(), kMaxTraceBytes);
  Trace trace;
  simdjson::dom::parser parser;
  simdjson::dom::element document;
  const simdjson::error_code error = parser.parse(json.data(), json.size()).get(document);
  if (error != simdjson::SUCCESS) fail("{}: not a JSON trace: {}", where, simdjson::error_message(error));
  array events;
  if (document["traceEvents"].get_array().get(events) != simdjson::SUCCESS)
    fail("{}: not a profiler trace: no array 'traceEvents'", where);
  read_events(events, where, trace);
  read_device(document, trace);
  if (trace.kernels.empty()) fail("{}: no GPU kernels in this trace", where);

  std::stable_sort(trace.kernels.begin(), trace.kernels.end(),
                   [](const TraceKernel& a, const TraceKernel& b) { return a.start_us < b.start_us; });
  const double origin = trace.kernels.front().start_us;
  for (TraceKernel& kernel : trace.kernels) kernel.start_us -= origin;
  return trace;
}

}  // namespace moray::plan
