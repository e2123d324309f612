#include "backend/cpu/int_panels.h"

#include <string_view>
#include <vector>

#include "backend/cpu/register.h"
#include "tensor/panels.h"

namespace moray::cpu {

namespace {

constexpr int64_t kTaskPanels = 4;

IntPanelsKernel kernel() {
  static const bool has_vnni = __builtin_cpu_supports("avx512vnni") != 0;
  return has_vnni && std::string_view(simd_name()) == "avx512" ? run_int_panels_vnni : run_int_panels_avx2;
}

// The activations of some products, each quantized once, in one piece of memory.
class Quantized {
 public:
  Quantized(Exec& exec, std::span<const WeightProduct> products) : exec_(exec) {
    for (const WeightProduct& p : products)
      if (in_int_panels(p.w_OI) && p.x_TI.extent(0) > 0) add(p.x_TI);
    quantize();
  }

  const IntActivations& of(const Tensor& x_TI) const { return all_[index_of(x_TI)].codes; }

 private:
  struct One {
    const float* from = nullptr;
    int64_t first_row = 0;  // of all
    IntActivations codes;
  };

  // Gate and up read the same rows.
  size_t index_of(const Tensor& x_TI) const {
    size_t i = 0;
    while (i < all_.size() && (all_[i].from != x_TI.data<float>() || all_[i].codes.rows != x_TI.extent(0)))
      ++i;
    return i;
  }

  void add(const Tensor& x_TI) {
    if (index_of(x_TI) < all_.size()) return;
    const int64_t rows = x_TI.extent(0), inputs = x_TI.extent(1), blocks = int_row_scales(inputs);
    const Tensor codes = Tensor::empty(*exec_.allocator, {rows, blocks * kIntBlock}, DType::i8);
    const Tensor scales = Tensor::empty(*exec_.allocator, {rows, blocks}, DType::f32);
    const Tensor sums = Tensor::empty(*exec_.allocator, {rows, 8 * blocks}, DType::u8);
    all_.push_back({x_TI.data<float>(),
                    rows_,
                    {rows, inputs, blocks * kIntBlock, blocks, codes.data<int8_t>(), scales.data<float>(),
                     reinterpret_cast<int16_t*>(sums.raw())}});
    kept_.insert(kept_.end(), {codes, scales, sums});
    rows_ += rows;
    elements_ += rows * inputs;
  }

  void quantize() {
    // Some tens of microseconds; less is not worth waking a thread.
    constexpr int64_t kTogether = 1 << 15;
    const int64_t piece = std::max(rows_ * kTogether / std::max(elements_, int64_t{1}), int64_t{1});
    exec_.pool->for_ranges(rows_, piece, [&](int64_t begin, int64_t end, int) {
      for (const One& one : all_)
        for (int64_t row = std::max(begin, one.first_row);
             row < std::min(end, one.first_row + one.codes.rows); ++row)
          quantize_row(one.from + (row - one.first_row) * one.codes.inputs, row - one.first_row, one.codes);
    });
  }

  Exec& exec_;
  std::vector<One> all_;
  std::vector<Tensor> kept_;
  int64_t rows_ = 0, elements_ = 0;
};

}  // namespace

void run_int_panels(Exec& exec, std::span<const WeightProduct> products) {
  const Quantized quantized(exec, products);
  std::vector<IntPanelsTask> tasks;
  for (const WeightProduct& p : products) {
    const StoredWeight& w = p.w_OI;
    if (!in_int_panels(w) || p.x_TI.extent(0) == 0) continue;
    IntPanelsTask task{&quantized.of(p.x_TI),
                       w.values_OI.dtype() == DType::u8,
                       w.values_OI.raw(),
                       w.values_OI.extent(1) * kPanelRows,
                       reinterpret_cast<const float*>(w.scales.raw()),
                       0,
                       0,
                       p.y_TO.data<float>(),
                       w.outputs()};
    const int64_t panels = w.outputs() / kPanelRows;
    for (task.panel_begin = 0; task.panel_begin < panels; task.panel_begin = task.panel_end) {
      task.panel_end = std::min(task.panel_begin + kTaskPanels, panels);
      tasks.push_back(task);
    }
  }
  if (tasks.empty()) return;
  const IntPanelsKernel run = kernel();
  exec.pool->for_stretches(static_cast<int64_t>(tasks.size()),
                           [&](int64_t index, int) { run(tasks[static_cast<size_t>(index)]); });
}

}  // namespace moray::cpu
