// Absorbed attention of one token: heads are what queries are in attention_forward.cc, along the vector
// lanes; all of them share the keys.
//
// H heads (Hp: padded to panels), N qk_nope_head_dim, R qk_rope_head_dim, C kv_lora_rank, P positions.
#include "ops/mla_decode.h"

#include "backend/cpu/attention.h"
#include "backend/cpu/kernels_list.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/weight_integers.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/mla_decode.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/attention_block-inl.h"
#include "backend/cpu/narrow-inl.h"
#include "backend/cpu/vector_math.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kBlock = kAttentionBlock;
constexpr int64_t kTaskColumns = 64;  // of the output, in a task: 128 bytes of each BF16 latent

// `count` elements of row `row` of a weight, from `column` on, times `factor`, added to `sum`.
HWY_INLINE void add_weight_row(const StoredWeight& w, int64_t row, int64_t column, int64_t count, float factor,
                               float* sum) {
  const int64_t at = row * w.inputs() + column;
  alignas(64) float widened[kTile];
  const auto add = [&](const auto& load) HWY_ATTR {
    for_vectors(count, [&](int64_t i, auto lanes) HWY_ATTR {
      lanes.store(hn::MulAdd(splat(factor), load(i, lanes), lanes.load(sum + i)), sum + i);
    });
  };
  if (w.values_OI.dtype() == DType::f32) {
    const float* values = w.values_OI.data<float>() + at;
    add([values](int64_t i, auto lanes) HWY_ATTR { return lanes.load(values + i); });
  } else if (w.values_OI.dtype() == DType::bf16) {
    const bf16* values = w.values_OI.data<bf16>() + at;
    add([values](int64_t i, auto lanes) HWY_ATTR { return lanes.load(values + i); });
  } else if (w.is_integer()) {
    weight_integers(w, row, column, count, widened);
    const FloatVec scale = splat(weight_scale(w, row, column));
    add([&widened, scale](int64_t i, auto lanes) HWY_ATTR { return hn::Mul(lanes.load(widened + i), scale); });
  } else {
    const auto* codes = w.values_OI.raw() + at;
    const FloatVec scale = splat(
        w.scales.data<float>()[(w.first_row + row) / kTile * w.scales.extent(1) + column / kTile]);
    add([codes, scale](int64_t i, auto lanes) HWY_ATTR {
      return hn::Mul(decode<e4m3>(load_codes<e4m3>(codes, i, lanes)), scale);
    });
  }
}

// A task is 128 columns (at absolute multiples) of one head.
void absorb(Exec& exec, const Tensor& q, const StoredWeight& w, const MlaShape& shape, const Tensor& q_latent) {
  const int64_t latent = w.inputs(), nope = shape.qk_nope_head_dim, groups = (latent + kTile - 1) / kTile;
  exec.pool->for_each(shape.heads * groups, [&](int64_t index, int) HWY_ATTR {
    const int64_t head = index / groups, column = index % groups * kTile;
    const int64_t count = std::min(kTile, latent - column);
    for (int64_t t = 0; t < q.extent(0); ++t) {
      const float* query = q.data<float>() + t * shape.q_width() + head * (nope + shape.qk_rope_head_dim);
      float* run = q_latent.data<float>() + (t * shape.heads + head) * latent + column;
      std::fill_n(run, count, 0.0f);
      for (int64_t n = 0; n < nope; n += kWidthBlock) {
        alignas(64) float part[kTile] = {};
        for (int64_t i = n; i < std::min(n + kWidthBlock, nope); ++i)
          add_weight_row(w, head * (nope + shape.v_head_dim) + i, column, count, query[i], part);
        for_vectors(count, [&](int64_t i, auto lanes) HWY_ATTR {
          lanes.store(hn::Add(lanes.load(run + i), lanes.load(part + i)), run + i);
        });
      }
    }
  });
}

// Rows of f32 or bf16, widened.
template <class T>
HWY_INLINE void widen_row(const T* from, int64_t count, float* to) {
  for_vectors(count, [&](int64_t i, auto lanes) HWY_ATTR { lanes.store(lanes.load(from + i), to + i); });
}

// Columns [column, column + count) of a cached latent, widened.
template <class T>
HWY_INLINE void widen_latent(const CachedLatents& past, int64_t position, int64_t column, int64_t count, float* to) {
  const int64_t latent = past.latents_PC.extent(1);
  if constexpr (std::is_same_v<T, e4m3>) {
    const std::byte* codes = past.latents_PC.raw() + position * latent;
    const float* scales = past.scales_PG.data<float>() + position * past.scales_PG.extent(1);
    for (int64_t end = column + count, tile; column < end; column += tile) {
      tile = std::min(kTile - column % kTile, end - column);
      const FloatVec scale = splat(scales[column / kTile]);
      for_vectors(tile, [&](int64_t i, auto lanes) HWY_ATTR {
        lanes.store(hn::Mul(decode<e4m3>(load_codes<e4m3>(codes + column, i, lanes)), scale), to + i);
      });
      to += tile;
    }
  } else {
    widen_row(past.latents_PC.data<T>() + position * latent + column, count, to);
  }
}

// What all tasks of one token share.
struct Decode {
  const CachedLatents& past;
  int64_t heads, heads_padded, positions, latent, rope;
  float scale;
  float* q_panels;         // heads as columns, C + R as steps
  float* scores;           // [P, Hp]: scores, then probabilities
  float* block_greatest;   // [blocks, Hp]
  float* block_sum;        // [blocks, Hp]

  int64_t width() const { return latent + rope; }
  int64_t blocks() const { return (positions + kBlock - 1) / kBlock; }
  int64_t block_keys(int64_t block) const { return std::min(kBlock, positions - block * kBlock); }
};

// The type of rotary keys beside latents of type T.
template <class T>
using RopeOf = std::conditional_t<std::is_same_v<T, e4m3>, bf16, T>;

template <class T>
void score_block(const Decode& decode, int64_t block) {
  static thread_local GrowingBuffer buffer;
  const int64_t keys = decode.block_keys(block), width = decode.width(), heads = decode.heads_padded;
  float* k_rows = buffer.floats(kBlock * width);
  for (int64_t k = 0; k < keys; ++k) {
    const int64_t position = block * kBlock + k;
    widen_latent<T>(decode.past, position, 0, decode.latent, k_rows + k * width);
    widen_row(decode.past.k_rope_PR.data<RopeOf<T>>() + position * decode.rope, decode.rope,
              k_rows + k * width + decode.latent);
  }
  float* scores = decode.scores + block * kBlock * heads;
  multiply_over_width(keys, {k_rows, width}, {decode.q_panels, kPanel * width}, width, {scores, heads, heads});
  for (int64_t h = 0; h < heads; h += kVectorLanes) {
    FloatVec greatest = splat(kLowestScore);
    for (int64_t k = 0; k < keys; ++k) {
      float* at = scores + k * heads + h;
      const FloatVec score = hn::Mul(hn::Load(FloatTag(), at), splat(decode.scale));
      hn::Store(score, FloatTag(), at);
      greatest = hn::Max(score, greatest);
    }
    hn::Store(greatest, FloatTag(), decode.block_greatest + block * heads + h);
  }
}

// Scores to exp(score − greatest), and their sum over the block.
void soften_block(const Decode& decode, int64_t block, const float* greatest) {
  const FloatTag d;
  const int64_t keys = decode.block_keys(block), heads = decode.heads_padded;
  for (int64_t h = 0; h < heads; h += kVectorLanes) {
    float* column = decode.scores + block * kBlock * heads + h;
    const FloatVec most = hn::Load(d, greatest + h);
    FloatVec lane[kVirtualLanes];
    for (FloatVec& sum : lane) sum = hn::Zero(d);
    for (int64_t k = 0; k < keys; ++k) {
      const FloatVec p = vector_exp_nonpositive(d, hn::Sub(hn::Load(d, column + k * heads), most));
      hn::Store(p, d, column + k * heads);
      lane[k % kVirtualLanes] = hn::Add(lane[k % kVirtualLanes], p);
    }
    for (int64_t half = kVirtualLanes / 2; half >= 1; half /= 2)
      for (int64_t j = 0; j < half; ++j) lane[j] = hn::Add(lane[j], lane[j + half]);
    hn::Store(lane[0], d, decode.block_sum + block * heads + h);
  }
}

// Columns [column, column + count) of every head's output; `sums` divide it.
template <class T>
void output_columns(const Decode& decode, int64_t column, int64_t count, const float* sums, float* o_latent) {
  static thread_local GrowingBuffer buffer;
  const int64_t stride = padded(count), heads = decode.heads_padded;
  float* rows = buffer.floats(kBlock * stride * 2 + decode.heads * stride);
  float *panels = rows + kBlock * stride, *run = panels + kBlock * stride;
  std::fill_n(run, decode.heads * stride, 0.0f);
  std::fill_n(rows, kBlock * stride, 0.0f);
  for (int64_t block = 0; block < decode.blocks(); ++block) {
    const int64_t keys = decode.block_keys(block);
    for (int64_t k = 0; k < keys; ++k)
      widen_latent<T>(decode.past, block * kBlock + k, column, count, rows + k * stride);
    pack_rows(rows, stride, keys, stride, kPanel * kBlock, panels);
    multiply<Order::columns, Join::add>(decode.heads, {decode.scores + block * kBlock * heads, heads},
                                        {panels, kPanel * kBlock}, keys, {run, stride, stride});
  }
  for (int64_t h = 0; h < decode.heads; ++h) {
    const FloatVec sum = splat(sums[h]);
    float* out = o_latent + h * decode.latent + column;
    for_vectors(count, [&](int64_t i, auto lanes) HWY_ATTR {
      lanes.store(hn::Div(lanes.load(run + h * stride + i), sum), out + i);
    });
  }
}

template <class T>
void attend_of(Exec& exec, const Decode& decode, float* o_latent) {
  const int64_t blocks = decode.blocks(), heads = decode.heads_padded;
  exec.pool->for_each(blocks, [&](int64_t block, int) HWY_ATTR { score_block<T>(decode, block); });
  const Tensor greatest = exec.empty({heads}), sums = exec.zeros({heads});
  std::copy_n(decode.block_greatest, heads, greatest.data<float>());
  for (int64_t i = heads; i < blocks * heads; ++i) {
    float& most = greatest.data<float>()[i % heads];
    most = std::max(most, decode.block_greatest[i]);
  }
  exec.pool->for_each(
      blocks, [&](int64_t block, int) HWY_ATTR { soften_block(decode, block, greatest.data<float>()); });
  for (int64_t i = 0; i < blocks * heads; ++i) sums.data<float>()[i % heads] += decode.block_sum[i];
  exec.pool->for_ranges(decode.latent, kTaskColumns, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    output_columns<T>(decode, begin, end - begin, sums.data<float>(), o_latent);
  });
}

void attend(Exec& exec, const Tensor& q, const Tensor& q_latent, const CachedLatents& past, const MlaShape& shape,
            const Tensor& o_latent) {
  const int64_t heads = shape.heads, heads_padded = padded(heads), positions = past.latents_PC.extent(0);
  const int64_t latent = past.latents_PC.extent(1), rope = shape.qk_rope_head_dim, width = latent + rope;
  const int64_t blocks = (positions + kBlock - 1) / kBlock;
  const Tensor rows = exec.empty({heads, width}), panels = exec.empty({heads_padded, width});
  const Tensor scores = exec.empty({blocks * kBlock, heads_padded}), of_blocks = exec.empty({2 * blocks, heads_padded});
  for (int64_t h = 0; h < heads; ++h) {
    float* row = rows.data<float>() + h * width;
    std::copy_n(q_latent.data<float>() + h * latent, latent, row);
    std::copy_n(q.data<float>() + h * (shape.qk_nope_head_dim + rope) + shape.qk_nope_head_dim, rope,
                row + latent);
  }
  pack_transposed(rows.data<float>(), width, heads, width, panels.data<float>());
  const Decode decode{past,
                      heads,
                      heads_padded,
                      positions,
                      latent,
                      rope,
                      static_cast<float>(shape.softmax_scale),
                      panels.data<float>(),
                      scores.data<float>(),
                      of_blocks.data<float>(),
                      of_blocks.data<float>() + blocks * heads_padded};
  switch (past.latents_PC.dtype()) {
    case DType::bf16: return attend_of<bf16>(exec, decode, o_latent.data<float>());
    case DType::f8_e4m3: return attend_of<e4m3>(exec, decode, o_latent.data<float>());
    default: return attend_of<float>(exec, decode, o_latent.data<float>());
  }
}

}  // namespace

void decode_absorb(Exec& exec, const Tensor& q, const StoredWeight& w, const MlaShape& shape,
                   const Tensor& q_latent) {
  absorb(exec, q, w, shape, q_latent);
}
void decode_attend(Exec& exec, const Tensor& q, const Tensor& q_latent, const CachedLatents& past,
                   const MlaShape& shape, const Tensor& o_latent) {
  attend(exec, q, q_latent, past, shape, o_latent);
}

}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {
HWY_EXPORT(decode_absorb);
HWY_EXPORT(decode_attend);

void absorb_slot(Exec& exec, const Tensor& q, const StoredWeight& w, const MlaShape& shape,
                 const Tensor& q_latent) {
  HWY_DYNAMIC_DISPATCH(decode_absorb)(exec, q, w, shape, q_latent);
}
void attend_slot(Exec& exec, const Tensor& q, const Tensor& q_latent, const CachedLatents& past, const MlaShape& shape,
                 const Tensor& o_latent) {
  HWY_DYNAMIC_DISPATCH(decode_attend)(exec, q, q_latent, past, shape, o_latent);
}
}  // namespace

void register_mla_decode() {
  kernels<MlaDecodeKernels>(Device::cpu) = {absorb_slot, attend_slot};
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
