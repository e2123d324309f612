// T rows, D hidden, V vocabulary, G gradient groups, B rows of one chunk.
//
// Logits exist for one chunk of rows, some whole blocks: the order of every sum is that of the blocks
// (ops/cross_entropy.h), whatever the chunk.
#include "ops/cross_entropy.h"

#include <limits>
#include <vector>

#include "backend/cpu/kernels_list.h"
#include "backend/cpu/matmul_problems.h"
#include "backend/cpu/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/cross_entropy.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/lanes-inl.h"
#include "backend/cpu/vector_math.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

float greatest(const float* x, int64_t n) {
  FloatVec most = splat(-std::numeric_limits<float>::infinity());
  for_vectors(
      n, [&](int64_t i, auto lanes) HWY_ATTR { most = hn::Max(most, lanes.keep(lanes.load(x + i), most)); });
  return hn::GetLane(hn::MaxOfLanes(FloatTag(), most));
}

float log_of(float x) {
  const hn::CappedTag<float, 4> d;
  return hn::GetLane(vector_log(d, hn::Set(d, x)));
}

// Turns logits into exp(logit − most) and returns their sum.
float exponentials(float* logits, int64_t n, float most) {
  float sum = 0;
  for (int64_t block = 0; block < n; block += kKBlock) {
    float* x = logits + block;
    sum += sum_in_lanes(std::min(kKBlock, n - block), [&](int64_t i, auto lanes, FloatVec& part) HWY_ATTR {
      const FloatVec e = vector_exp(FloatTag(), hn::Sub(lanes.load(x + i), splat(most)));
      lanes.store(e, x + i);
      part = hn::Add(part, e);
    });
  }
  return sum;
}

// The loss of one row; its logits become gradient_scale · (softmax − onehot(target)).
float loss_row(float* logits, int64_t n, int32_t target, float gradient_scale) {
  if (target < 0) {
    std::fill_n(logits, n, 0.0f);
    return 0;
  }
  const float most = greatest(logits, n), at_target = logits[target];
  const float sum = exponentials(logits, n, most);
  const FloatVec factor = splat(gradient_scale / sum);
  for_vectors(n, [&](int64_t i, auto lanes)
                     HWY_ATTR { lanes.store(hn::Mul(lanes.load(logits + i), factor), logits + i); });
  logits[target] -= gradient_scale;
  return log_of(sum) + (most - at_target);
}

}  // namespace

void loss_rows(Exec& exec, const Tensor& logits_BV, const int32_t* targets, float gradient_scale,
               float* loss) {
  const int64_t vocabulary = logits_BV.extent(1);
  float* logits = logits_BV.data<float>();
  exec.pool->for_ranges(
      logits_BV.extent(0), rows_per_piece(vocabulary), [&](int64_t begin, int64_t end, int) HWY_ATTR {
        for (int64_t t = begin; t < end; ++t)
          loss[t] = loss_row(logits + t * vocabulary, vocabulary, targets[t], gradient_scale);
      });
}

}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {

HWY_EXPORT(loss_rows);

struct Work {
  std::vector<KBlock> hidden, vocabulary;  // k-blocks over D and over V
  std::vector<KBlock> rows,
      group_rows;  // of a chunk, and those of one group; counted from the chunk's first row
  std::vector<MatmulProblem> weight_problems;

  static Work& of_thread(int64_t hidden_size, int64_t vocabulary_size) {
    static thread_local Work work;
    work.hidden.clear();
    work.vocabulary.clear();
    append_k_blocks(0, hidden_size, work.hidden);
    append_k_blocks(0, vocabulary_size, work.vocabulary);
    return work;
  }
};

// More rows read the weight and its gradient fewer times; their logits stay in a cache.
int64_t chunk_rows(int64_t vocabulary) {
  constexpr int64_t kMostRows = 512, kMostFloats = 4 << 20;
  return std::clamp(kMostFloats / std::max(vocabulary, int64_t{1}) / kRowBlock * kRowBlock, kRowBlock,
                    kMostRows);
}

void check_targets(const Tensor& targets_T, int64_t vocabulary) {
  for (int32_t target : targets_T.span<int32_t>())
    MORAY_CHECK(target < vocabulary, "target {} beyond the vocabulary of {}", target, vocabulary);
}

// Losses of rows [begin, end); logits_BV holds their gradients afterwards.
void losses(Exec& exec, const Tensor& h_TD, const Tensor& w_VD, const Tensor& targets_T, int64_t begin,
            int64_t end, double gradient_scale, const std::vector<KBlock>& hidden, const Tensor& logits_BV,
            const Tensor& loss_T) {
  const MatmulProblem problem = forward_problem(h_TD.rows(begin, end), w_VD, logits_BV, hidden);
  run_matmuls(exec, {&problem, 1});
  HWY_DYNAMIC_DISPATCH(loss_rows)
  (exec, logits_BV, targets_T.data<int32_t>() + begin, static_cast<float>(gradient_scale),
   loss_T.data<float>() + begin);
}

void forward(Exec& exec, const Tensor& h_TD, const Tensor& w_VD, const Tensor& targets_T,
             const Tensor& loss_T) {
  check_targets(targets_T, w_VD.extent(0));
  const Work& work = Work::of_thread(h_TD.extent(1), w_VD.extent(0));
  const int64_t rows = h_TD.extent(0), chunk = chunk_rows(w_VD.extent(0));
  const Tensor logits = Tensor::empty(*exec.allocator, {std::min(rows, chunk), w_VD.extent(0)}, DType::f32);
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t end = std::min(begin + chunk, rows);
    losses(exec, h_TD, w_VD, targets_T, begin, end, 0, work.hidden, logits.rows(0, end - begin), loss_T);
  }
}

// dw += dlogitsᵀ · h of one chunk, its blocks in order within each group.
void add_weight_gradient(Exec& exec, const Tensor& dlogits_BV, const Tensor& h_BD, const SampleRows& rows,
                         int64_t first_row, const Tensor& dw_GVD, Work& work) {
  work.weight_problems.clear();
  work.group_rows.clear();
  work.group_rows.reserve(work.rows.size());  // the problems below point into it
  for (int64_t group = 0; group < rows.gradient_groups; ++group) {
    const size_t first = work.group_rows.size();
    for (const KBlock& block : work.rows)
      if (rows.group((first_row + block.begin) / rows.rows_per_sample) == group)
        work.group_rows.push_back(block);
    const size_t count = work.group_rows.size() - first;
    if (count > 0)
      work.weight_problems.push_back(backward_weight_problem(dlogits_BV, h_BD, dw_GVD.row(group),
                                                             {work.group_rows.data() + first, count}));
  }
  run_matmuls(exec, work.weight_problems);
}

// Fills work.rows with the blocks of rows from `begin` on that make the next chunk, of at most `most` rows;
// returns its end.
int64_t next_chunk(const SampleRows& rows, int64_t begin, int64_t most, Work& work) {
  work.rows.clear();
  int64_t end = begin;
  while (end < rows.rows()) {
    const int64_t sample_end = (end / rows.rows_per_sample + 1) * rows.rows_per_sample;
    const int64_t block_end = std::min(end + kRowBlock, sample_end);
    if (block_end - begin > most) break;
    work.rows.push_back({end - begin, block_end - end});
    end = block_end;
  }
  return end;
}

void forward_backward(Exec& exec, const Tensor& h_TD, const Tensor& w_VD, const Tensor& targets_T,
                      const SampleRows& rows, double gradient_scale, const Tensor& loss_T,
                      const Tensor& dh_TD, const Tensor& dw_GVD) {
  check_targets(targets_T, w_VD.extent(0));
  Work& work = Work::of_thread(h_TD.extent(1), w_VD.extent(0));
  const int64_t chunk = chunk_rows(w_VD.extent(0));
  const Tensor scratch =
      Tensor::empty(*exec.allocator, {std::min(rows.rows(), chunk), w_VD.extent(0)}, DType::f32);
  for (int64_t begin = 0; begin < rows.rows();) {
    const int64_t end = next_chunk(rows, begin, chunk, work);
    const Tensor dlogits_BV = scratch.rows(0, end - begin);
    losses(exec, h_TD, w_VD, targets_T, begin, end, gradient_scale, work.hidden, dlogits_BV, loss_T);
    const MatmulProblem to_hidden =
        backward_input_problem(dlogits_BV, w_VD, dh_TD.rows(begin, end), false, work.vocabulary);
    run_matmuls(exec, {&to_hidden, 1});
    add_weight_gradient(exec, dlogits_BV, h_TD.rows(begin, end), rows, begin, dw_GVD, work);
    begin = end;
  }
}

}  // namespace

void register_cross_entropy() {
  kernels<CrossEntropyKernels>(Device::cpu) = {forward, forward_backward};
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
