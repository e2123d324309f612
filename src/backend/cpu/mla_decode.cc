// Absorbed attention of one token: heads are what queries are in attention_forward.cc, along the vector
// lanes; all of them share the keys.
//
// H heads (Hp: padded to panels), R qk_rope_head_dim, C kv_lora_rank, P positions.
#include "ops/mla_decode.h"

#include "backend/cpu/attention.h"
#include "backend/cpu/kernels_list.h"
#include "backend/cpu/mla_absorb.h"
#include "backend/cpu/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/mla_decode.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/attention_block-inl.h"
#include "backend/cpu/narrow-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kBlock = kAttentionBlock;
constexpr int64_t kBlocksAThread = 16;  // whose parts of the output are kept
constexpr int64_t kAddsTogether = 1 << 15;

// What all tasks of one token share.
struct Decode {
  const std::byte *latents, *ropes;  // [P, C], [P, R]
  const float* scales;               // [P, ceil(C / 128)] of codes
  int64_t heads, heads_padded, positions, latent, rope;
  float scale;
  float* q_panels;  // heads as columns, C + R as steps

  int64_t width() const { return latent + rope; }
  int64_t blocks() const { return (positions + kBlock - 1) / kBlock; }
  int64_t block_keys(int64_t block) const { return std::min(kBlock, positions - block * kBlock); }
};

// What a block of positions gives each head, as if there were no other.
struct BlockOutput {
  float *greatest, *sum;  // [Hp], of its scores, and of exp(score − greatest)
  float* part;            // [H, Cp], latents weighed by them
};

// The type of rotary keys beside latents of type T.
template <class T>
using RopeOf = std::conditional_t<std::is_same_v<T, e4m3>, bf16, T>;

// A block's keys, cached as Stored, its latents here as they lie (T is Stored) or widened.
template <class T, class Stored>
struct Keys {
  int64_t count;
  const T* latents;  // [count, C], rows `stride` apart
  int64_t stride;
  const RopeOf<Stored>* ropes;  // [count, R]
  // Of the block behind this one, or of this one if it is the last.
  const Stored* next_latents;
  const RopeOf<Stored>* next_ropes;
};

// Panels, each of whose steps asks for kBytes more of what will be wanted: so it is there then, and memory
// works while the multipliers do. Asked for faster than memory gives, lines would hold up the loads behind
// them.
template <int64_t kBytes>
struct AskingPanels : RightOperand {
  const std::byte* ahead;

  HWY_INLINE AskingPanels from(int64_t column) const { return {RightOperand::from(column), ahead}; }
  HWY_INLINE FloatVec load(int64_t step, int v) const {
    if (v == 0) hwy::Prefetch(ahead + step * kBytes);
    return RightOperand::load(step, v);
  }
};

// Latents as the right operand, keys being the steps.
template <class T>
struct LatentColumns {
  const T* latents;  // at the first column
  int64_t stride;

  HWY_INLINE LatentColumns from(int64_t column) const { return {latents + column, stride}; }
  HWY_INLINE FloatVec load(int64_t step, int v) const {
    return WholeVector().load(latents + step * stride + v * kVectorLanes);
  }
};

template <class T>
HWY_INLINE void widen(const T* from, int64_t count, float* to) {
  for_vectors(count, [&](int64_t i, auto lanes) HWY_ATTR { lanes.store(lanes.load(from + i), to + i); });
}

// Scores [keys, Hp] before scaling, of a tile's keys and a part of their width at a time (the latent, then
// the rotary numbers), so that both operands stay in the first cache. Each tile asks for as much of the next
// block, in the order of memory.
template <class T, class Stored>
void score_keys(const Decode& decode, const Keys<T, Stored>& keys, float* scores) {
  alignas(64) float rows[kTileRows * kWidthBlock];
  const int64_t width = decode.width(), heads = decode.heads_padded;
  for (int64_t column = 0; column < width; column += kWidthBlock) {
    const int64_t steps = std::min(kWidthBlock, width - column);
    const int64_t of_latent = std::clamp(decode.latent - column, int64_t{0}, steps);
    for (int64_t first = 0; first < keys.count; first += kTileRows) {
      const int64_t count = std::min<int64_t>(kTileRows, keys.count - first);
      for (int64_t k = 0; k < count; ++k) {
        float* row = rows + k * kWidthBlock;
        const int64_t key = first + k, rope = column + of_latent - decode.latent;
        if (of_latent > 0) widen(keys.latents + key * keys.stride + column, of_latent, row);
        if (of_latent < steps)
          widen(keys.ropes + key * decode.rope + rope, steps - of_latent, row + of_latent);
      }
      const void* ahead = keys.next_ropes + first * decode.rope;
      if (of_latent > 0) ahead = keys.next_latents + column * kBlock + first * steps;
      const AskingPanels<kTileRows * sizeof(Stored)> right{
          {decode.q_panels + column * kPanel, kPanel * width}, static_cast<const std::byte*>(ahead)};
      const LeftOperand left{rows, kWidthBlock};
      const Output to{scores + first * heads, heads, heads};
      if (column == 0)
        multiply<Order::rows, Join::set>(count, left, right, steps, to);
      else
        multiply<Order::rows, Join::add>(count, left, right, steps, to);
    }
  }
}

template <class T, class Stored>
void attend_to(const Decode& decode, const Keys<T, Stored>& keys, const BlockOutput& out) {
  static thread_local GrowingBuffer buffer;
  const FloatTag d;
  const int64_t heads = decode.heads_padded;
  float* scores = buffer.floats(kBlock * heads);
  score_keys(decode, keys, scores);
  for (int64_t h = 0; h < heads; h += kVectorLanes) {
    const Softened softened = soften_columns(scores + h, heads, keys.count, keys.count, decode.scale,
                                             splat(kLowestScore), Visible());
    hn::Store(softened.greatest, d, out.greatest + h);
    hn::Store(softened.sum, d, out.sum + h);
  }
  multiply<Order::columns, Join::set>(decode.heads, {scores, heads},
                                      LatentColumns<T>{keys.latents, keys.stride}, keys.count,
                                      {out.part, padded(decode.latent), decode.latent});
}

template <class Lanes>
HWY_INLINE FloatVec load_e4m3(const e4m3* codes, int64_t i, Lanes lanes) {
  return decode<e4m3>(load_codes<e4m3>(reinterpret_cast<const std::byte*>(codes), i, lanes));
}

HWY_INLINE void widen_codes(const Decode& decode, int64_t position, const e4m3* from, float* to) {
  const float* scales = decode.scales + position * ((decode.latent + kTile - 1) / kTile);
  for (int64_t column = 0; column < decode.latent; column += kTile) {
    const FloatVec scale = splat(scales[column / kTile]);
    for_vectors(std::min(kTile, decode.latent - column), [&](int64_t i, auto lanes) HWY_ATTR {
      lanes.store(hn::Mul(load_e4m3(from + column, i, lanes), scale), to + column + i);
    });
  }
}

// Latents in whole panels of numbers are taken as they lie; codes, and other widths, are widened first.
template <class Stored>
void attend_block(const Decode& decode, int64_t block, const BlockOutput& out) {
  const int64_t first = block * kBlock, count = decode.block_keys(block), size = kBlock * decode.latent;
  const auto* latents = reinterpret_cast<const Stored*>(decode.latents) + block * size;
  const auto* ropes = reinterpret_cast<const RopeOf<Stored>*>(decode.ropes) + first * decode.rope;
  const bool last = block + 1 == decode.blocks();
  const auto* next = last ? latents : latents + size;
  const auto* next_ropes = last ? ropes : ropes + kBlock * decode.rope;
  if constexpr (!std::is_same_v<Stored, e4m3>)
    if (decode.latent % kPanel == 0)
      return attend_to(decode, Keys<Stored, Stored>{count, latents, decode.latent, ropes, next, next_ropes},
                       out);
  static thread_local GrowingBuffer buffer;
  // An odd number of cache lines, so that a column spreads over the cache.
  const int64_t stride = padded(decode.latent) + (padded(decode.latent) / kPanel % 2 == 0 ? kPanel : 0);
  float* rows = buffer.floats(kBlock * stride);
  for (int64_t k = 0; k < count; ++k) {
    const Stored* from = latents + k * decode.latent;
    if constexpr (std::is_same_v<Stored, e4m3>)
      widen_codes(decode, first + k, from, rows + k * stride);
    else
      widen(from, decode.latent, rows + k * stride);
  }
  attend_to(decode, Keys<float, Stored>{count, rows, stride, ropes, next, next_ropes}, out);
}

// What has been joined so far, and what each block of a round counts in it.
struct Joined {
  float *greatest, *sum;  // [Hp], over all blocks so far
  float *own, *past;  // [blocks of a round, Hp]: what a block's part and what was before are multiplied by
};

// Blocks in their order: as attention's forward pass meets them, but each with its own greatest score.
void weigh_blocks(const Decode& decode, int64_t count, const float* greatest, const float* sum,
                  const Joined& joined) {
  const FloatTag d;
  const int64_t heads = decode.heads_padded;
  for (int64_t h = 0; h < heads; h += kVectorLanes) {
    FloatVec so_far = hn::Load(d, joined.greatest + h), total = hn::Load(d, joined.sum + h);
    for (int64_t at = h; at < count * heads; at += heads) {
      const FloatVec of_block = hn::Load(d, greatest + at), most = hn::Max(of_block, so_far);
      const FloatVec own = vector_exp_nonpositive(d, hn::Sub(of_block, most));
      const FloatVec past = vector_exp_nonpositive(d, hn::Sub(so_far, most));
      hn::Store(own, d, joined.own + at);
      hn::Store(past, d, joined.past + at);
      total = hn::MulAdd(own, hn::Load(d, sum + at), hn::Mul(past, total));
      so_far = most;
    }
    hn::Store(so_far, d, joined.greatest + h);
    hn::Store(total, d, joined.sum + h);
  }
}

// A head's output from the parts of `count` blocks, joined with what o_latent holds of those before; divided
// by its sum of probabilities after the last ones.
void join_parts(const Decode& decode, const float* parts, int64_t count, const Joined& joined, bool last,
                int64_t head, float* o_latent) {
  const int64_t stride = padded(decode.latent), size = decode.heads * stride;
  float* out = o_latent + head * decode.latent;
  const FloatVec sum = splat(joined.sum[head]);
  for_vectors(decode.latent, [&](int64_t i, auto lanes) HWY_ATTR {
    FloatVec run = lanes.load(out + i);
    for (int64_t block = 0; block < count; ++block) {
      const int64_t at = block * decode.heads_padded + head;
      run = hn::MulAdd(splat(joined.own[at]), lanes.load(parts + block * size + head * stride + i),
                       hn::Mul(splat(joined.past[at]), run));
    }
    lanes.store(last ? hn::Div(run, sum) : run, out + i);
  });
}

template <class T>
void attend_of(Exec& exec, const Decode& decode, float* o_latent) {
  const int64_t blocks = decode.blocks(), heads = decode.heads_padded;
  const int64_t together = std::min<int64_t>(blocks, kBlocksAThread * exec.pool->threads());
  const int64_t part = decode.heads * padded(decode.latent);
  // Few additions are not worth waking a thread.
  const int64_t heads_together = std::max<int64_t>(1, kAddsTogether / (together * padded(decode.latent)));
  const Tensor parts = exec.empty({together, part}), of_blocks = exec.empty({4 * together + 2, heads});
  float* greatest = of_blocks.data<float>();
  float* sum = greatest + together * heads;
  const Joined joined{sum + 3 * together * heads, sum + (3 * together + 1) * heads, sum + together * heads,
                      sum + 2 * together * heads};
  std::fill_n(joined.greatest, heads, kLowestScore);
  std::fill_n(joined.sum, heads, 0.0f);
  std::fill_n(o_latent, decode.heads * decode.latent, 0.0f);
  for (int64_t first = 0; first < blocks; first += together) {
    const int64_t count = std::min(together, blocks - first);
    exec.pool->for_stretches(count, [&](int64_t i, int) HWY_ATTR {
      attend_block<T>(decode, first + i,
                      {greatest + i * heads, sum + i * heads, parts.data<float>() + i * part});
    });
    weigh_blocks(decode, count, greatest, sum, joined);
    exec.pool->for_ranges(decode.heads, heads_together, [&](int64_t begin, int64_t end, int) HWY_ATTR {
      for (int64_t head = begin; head < std::min(end, decode.heads); ++head)
        join_parts(decode, parts.data<float>(), count, joined, first + count == blocks, head, o_latent);
    });
  }
}

void attend(Exec& exec, const Tensor& q, const Tensor& q_latent, const CachedLatents& past,
            const MlaShape& shape, const Tensor& o_latent) {
  const int64_t heads = shape.heads, heads_padded = padded(heads), positions = past.latents_PC.extent(0);
  const int64_t latent = past.latents_PC.extent(1), rope = shape.qk_rope_head_dim, width = latent + rope;
  const Tensor rows = exec.empty({heads, width}), panels = exec.empty({heads_padded, width});
  for (int64_t h = 0; h < heads; ++h) {
    float* row = rows.data<float>() + h * width;
    std::copy_n(q_latent.data<float>() + h * latent, latent, row);
    std::copy_n(q.data<float>() + h * (shape.qk_nope_head_dim + rope) + shape.qk_nope_head_dim, rope,
                row + latent);
  }
  pack_transposed(rows.data<float>(), width, heads, width, panels.data<float>());
  const Decode decode{past.latents_PC.raw(),
                      past.k_rope_PR.raw(),
                      past.scales_PG.defined() ? past.scales_PG.data<float>() : nullptr,
                      heads,
                      heads_padded,
                      positions,
                      latent,
                      rope,
                      static_cast<float>(shape.softmax_scale),
                      panels.data<float>()};
  switch (past.latents_PC.dtype()) {
    case DType::bf16:
      return attend_of<bf16>(exec, decode, o_latent.data<float>());
    case DType::f8_e4m3:
      return attend_of<e4m3>(exec, decode, o_latent.data<float>());
    default:
      return attend_of<float>(exec, decode, o_latent.data<float>());
  }
}

}  // namespace

void decode_attend(Exec& exec, const Tensor& q, const Tensor& q_latent, const CachedLatents& past,
                   const MlaShape& shape, const Tensor& o_latent) {
  attend(exec, q, q_latent, past, shape, o_latent);
}

}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {
HWY_EXPORT(decode_attend);

void attend_slot(Exec& exec, const Tensor& q, const Tensor& q_latent, const CachedLatents& past,
                 const MlaShape& shape, const Tensor& o_latent) {
  HWY_DYNAMIC_DISPATCH(decode_attend)(exec, q, q_latent, past, shape, o_latent);
}
}  // namespace

void register_mla_decode() {
  kernels<MlaDecodeKernels>(Device::cpu) = {absorb_queries, attend_slot};
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
