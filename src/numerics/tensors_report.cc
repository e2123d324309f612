// Quantization losses of tensors as text.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>

#include "base/utf8.h"
#include "checkpoint/fp8_weights.h"
#include "numerics/tensors.h"

namespace moray::numerics {

namespace {

using Out = std::back_insert_iterator<std::string>;

constexpr int kNameWidth = 52;

// Several tensors as one: sums of sums, the farthest outlier.
struct Kind {
  int64_t tensors = 0;
  bool kept_high = false;
  double outlier = 0;
  TensorLoss sum;  // of one row

  void add(const TensorLoss& loss) {
    ++tensors;
    kept_high = !is_fp8_in_published_folders(loss.name);
    outlier = std::max(outlier, loss.outlier());
    sum.rows = 1;
    sum.columns += loss.rows * loss.columns;
    sum.squares += loss.squares;
    sum.far_out += loss.far_out;
    for (Sharing sharing : kSharings)
      for (ScaleFormat format : kScaleFormats) {
        QuantizationLoss& into = sum.losses[static_cast<size_t>(sharing)][static_cast<size_t>(format)];
        into.squares += loss.loss(sharing, format).squares;
        into.zeroed += loss.loss(sharing, format).zeroed;
      }
  }
};

void add_head(Out out, const char* what, int width, const char* count) {
  fmt::format_to(out, "{:<{}} {:>8} {:>8} {:>8}", "", width, "", "greatest", "beyond");
  for (const char* name : {"1×128 tile", "128×128 block", "tensor"}) fmt::format_to(out, "  {:>15}", name);
  fmt::format_to(out, "  {:>23}\n{:<{}} {:>8} {:>8} {:>8}", "become 0 (fp32)", what, width, count, "/ RMS",
                 fmt::format("{:g} RMS", TensorLoss::kFarOut));
  for (size_t i = 0; i < kSharings.size(); ++i) fmt::format_to(out, "  {:>7} {:>7}", "fp32", "2^n");
  for (Sharing sharing : kSharings) fmt::format_to(out, " {:>7}", sharing_name(sharing));
  fmt::format_to(out, "\n");
}

std::string share(int64_t count, double of) {
  return count == 0 ? "0" : fmt::format("{:.1e}", static_cast<double>(count) / of);
}

void add_row(Out out, const std::string& name, int width, const std::string& count, double outlier,
             const TensorLoss& loss) {
  fmt::format_to(out, "{:<{}} {:>8} {:>8.1f} {:>8}", printable(name), width, count, outlier,
                 share(loss.far_out, loss.elements()));
  for (Sharing sharing : kSharings) {
    fmt::format_to(out, " ");
    for (ScaleFormat format : kScaleFormats)
      fmt::format_to(out, " {:>6.3f}%", 100 * loss.relative_error(sharing, format));
  }
  for (Sharing sharing : kSharings)
    fmt::format_to(out, " {:>7}", share(loss.loss(sharing, ScaleFormat::fp32).zeroed, loss.elements()));
  fmt::format_to(out, "\n");
}

void add_outliers(Out out, const std::vector<TensorLoss>& losses, size_t worst) {
  std::vector<const TensorLoss*> order;
  for (const TensorLoss& loss : losses) order.push_back(&loss);
  std::stable_sort(order.begin(), order.end(),
                   [](const TensorLoss* a, const TensorLoss* b) { return a->outlier() > b->outlier(); });
  order.resize(std::min(order.size(), worst));
  if (order.empty()) return;
  fmt::format_to(out, "\nfarthest outliers\n");
  add_head(out, "tensor", kNameWidth, "");
  for (const TensorLoss* loss : order) {
    add_row(out, loss->name, kNameWidth, "", loss->outlier(), *loss);
    fmt::format_to(out, "    {:.4g} at [{}, {}] of [{}, {}]\n", loss->greatest, loss->greatest_row,
                   loss->greatest_column, loss->rows, loss->columns);
  }
}

}  // namespace

std::string tensors_table(const std::vector<TensorLoss>& losses, size_t worst, bool all) {
  std::map<std::string, Kind> kinds;
  double elements = 0;
  for (const TensorLoss& loss : losses) {
    kinds[tensor_kind(loss.name)].add(loss);
    elements += loss.elements();
  }
  std::string text = fmt::format(
      "E4M3 quantization of {} tensors, {:.0f} elements: RMS of the error / RMS of the elements, by what "
      "shares "
      "a scale\n(fp32: amax / 448; 2^n: rounded up to a power of two; *: kept in BF16 by the published "
      "folders)\n\n",
      losses.size(), elements);
  Out out(text);
  size_t width = 4;
  for (const auto& [name, kind] : kinds) width = std::max(width, name.size() + 2);
  add_head(out, "kind", static_cast<int>(width), "tensors");
  for (const auto& [name, kind] : kinds)
    add_row(out, name + (kind.kept_high ? " *" : ""), static_cast<int>(width), std::to_string(kind.tensors),
            kind.outlier, kind.sum);
  add_outliers(out, losses, worst);
  if (all) {
    fmt::format_to(out, "\nall tensors\n");
    add_head(out, "tensor", kNameWidth, "");
    for (const TensorLoss& loss : losses) add_row(out, loss.name, kNameWidth, "", loss.outlier(), loss);
  }
  return text;
}

}  // namespace moray::numerics
