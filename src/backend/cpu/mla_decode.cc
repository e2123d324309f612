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
#include "backend/cpu/attention_tile-inl.h"
#include "backend/cpu/narrow-inl.h"
#include "backend/cpu/vector_math.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kBlock = kAttentionBlock;
constexpr int64_t kColumns = 64;       // of the output at a time: widened, 32 KB of a block
constexpr int64_t kBlocksAThread = 4;  // whose parts of the output are kept
constexpr int64_t kAddsTogether = 1 << 15;

// What all tasks of one token share.
struct Decode {
  const std::byte *latents, *ropes;  // [P, C], [P, R]
  const float* scales;               // [P, ceil(C / 128)] of codes
  int64_t heads, heads_padded, positions, latent, rope;
  float scale;
  float* q_panels;        // heads as columns, C + R as steps
  float* scores;          // [P, Hp]: scores, then probabilities
  float* block_greatest;  // [blocks, Hp]
  float* block_sum;       // [blocks, Hp]

  int64_t width() const { return latent + rope; }
  int64_t blocks() const { return (positions + kBlock - 1) / kBlock; }
  int64_t block_keys(int64_t block) const { return std::min(kBlock, positions - block * kBlock); }
};

// The type of rotary keys beside latents of type T.
template <class T>
using RopeOf = std::conditional_t<std::is_same_v<T, e4m3>, bf16, T>;

template <class Lanes>
HWY_INLINE FloatVec load_e4m3(const std::byte* codes, int64_t i, Lanes lanes) {
  return decode<e4m3>(load_codes<e4m3>(codes, i, lanes));
}

// put(i, numbers, lanes) for columns column + i of [column, column + count) of a cached latent, widened;
// column is a multiple of the lanes.
template <class T, class Put>
HWY_INLINE void widen_latent(const Decode& decode, int64_t position, int64_t column, int64_t count,
                             const Put& put) {
  const std::byte* from = decode.latents + (position * decode.latent + column) * int64_t{sizeof(T)};
  if constexpr (std::is_same_v<T, e4m3>) {
    const float* scales = decode.scales + position * ((decode.latent + kTile - 1) / kTile);
    for (int64_t done = 0, tile; done < count; done += tile) {
      tile = std::min(kTile - (column + done) % kTile, count - done);
      const FloatVec scale = splat(scales[(column + done) / kTile]);
      for_vectors(tile, [&](int64_t i, auto lanes) HWY_ATTR {
        put(done + i, hn::Mul(load_e4m3(from + done, i, lanes), scale), lanes);
      });
    }
  } else {
    for_vectors(count, [&](int64_t i, auto lanes)
                           HWY_ATTR { put(i, lanes.load(reinterpret_cast<const T*>(from) + i), lanes); });
  }
}

// Columns [column, column + count) of a key, its latent and then its rotary numbers.
template <class T>
HWY_INLINE void widen_key(const Decode& decode, int64_t position, int64_t column, int64_t count, float* to) {
  const int64_t of_latent = std::clamp(decode.latent - column, int64_t{0}, count);
  const auto store = [&to](int64_t i, FloatVec numbers, auto lanes)
                         HWY_ATTR { lanes.store(numbers, to + i); };
  widen_latent<T>(decode, position, column, of_latent, store);
  const auto* ropes = reinterpret_cast<const RopeOf<T>*>(decode.ropes) + position * decode.rope;
  const auto* rope = ropes + std::max(column - decode.latent, int64_t{0});
  to += of_latent;
  for_vectors(count - of_latent,
              [&](int64_t i, auto lanes) HWY_ATTR { store(i, lanes.load(rope + i), lanes); });
}

// Asks for `count` numbers of the latents from position `position` on, `index` times as many behind it: as
// memory lies, though columns of many positions are widened before the next columns.
template <class T>
HWY_INLINE void ask_for_latents(const Decode& decode, int64_t position, int64_t index, int64_t count) {
  constexpr int64_t kLineBytes = 64;
  const int64_t begin = index * count, of_all = (decode.positions - position) * decode.latent;
  const std::byte* from = decode.latents + (position * decode.latent + begin) * int64_t{sizeof(T)};
  if (begin + count <= of_all)
    for (int64_t line = 0; line < count * int64_t{sizeof(T)}; line += kLineBytes) hwy::Prefetch(from + line);
}

// A block's scores, some keys and steps of their width at a time, so that what is widened stays in the first
// cache.
template <class T>
void score_keys(const Decode& decode, int64_t block, float* scores) {
  constexpr int64_t kTogether = 24;  // whole tiles of either instruction set
  static thread_local GrowingBuffer buffer;
  const int64_t keys = decode.block_keys(block), width = decode.width(), heads = decode.heads_padded;
  float* rows = buffer.floats(kTogether * kWidthBlock);
  for (int64_t first = 0; first < keys; first += kTogether) {
    const int64_t count = std::min(kTogether, keys - first);
    const Output to{scores + first * heads, heads, heads};
    for (int64_t column = 0; column < width; column += kWidthBlock) {
      const int64_t steps = std::min(kWidthBlock, width - column);
      for (int64_t k = 0; k < count; ++k) {
        const int64_t position = block * kBlock + first + k;
        widen_key<T>(decode, position, column, steps, rows + k * kWidthBlock);
        ask_for_latents<T>(decode, block * kBlock + first + kTogether, column / kWidthBlock * count + k,
                           kWidthBlock);
      }
      const LeftOperand left{rows, kWidthBlock};
      const RightOperand right{decode.q_panels + column * kPanel, kPanel * width};
      if (column == 0)
        multiply<Order::rows, Join::set>(count, left, right, steps, to);
      else
        multiply<Order::rows, Join::add>(count, left, right, steps, to);
    }
  }
}

template <class T>
void score_block(const Decode& decode, int64_t block) {
  const int64_t keys = decode.block_keys(block), heads = decode.heads_padded;
  float* scores = decode.scores + block * kBlock * heads;
  score_keys<T>(decode, block, scores);
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

// Columns [column, column + kColumns) of a block's part of every head's output, [H, Cp].
template <class T>
void output_block(const Decode& decode, int64_t block, int64_t column, float* parts) {
  static thread_local GrowingBuffer buffer;
  constexpr int64_t kPanelStride = kPanel * kBlock;
  const int64_t heads = decode.heads_padded, keys = decode.block_keys(block), stride = padded(decode.latent);
  const int64_t count = std::min(kColumns, decode.latent - column);
  float* panels = buffer.floats(kBlock * kColumns);
  if (count % kPanel != 0) std::fill_n(panels, kBlock * kColumns, 0.0f);
  for (int64_t k = 0; k < keys; ++k) {
    widen_latent<T>(decode, block * kBlock + k, column, count,
                    [&](int64_t i, FloatVec numbers, auto lanes) HWY_ATTR {
                      lanes.store(numbers, panels + i / kPanel * kPanelStride + k * kPanel + i % kPanel);
                    });
    ask_for_latents<T>(decode, (block + 1) * kBlock, column / kColumns * kBlock + k, kColumns);
  }
  multiply<Order::columns, Join::set>(decode.heads, {decode.scores + block * kBlock * heads, heads},
                                      {panels, kPanelStride}, keys, {parts + column, stride, padded(count)});
}

// A head's output from the parts of `count` blocks: the first ones, or joined with what o_latent holds of
// those before. After the last ones divide_by is its sum of probabilities, else null.
void join_parts(const Decode& decode, const float* parts, int64_t count, bool first, const float* divide_by,
                int64_t head, float* o_latent) {
  const int64_t stride = padded(decode.latent), size = decode.heads * stride;
  float* out = o_latent + head * decode.latent;
  for_vectors(decode.latent, [&](int64_t i, auto lanes) HWY_ATTR {
    FloatVec run = first ? hn::Zero(FloatTag()) : lanes.load(out + i);
    for (int64_t block = 0; block < count; ++block)
      run = hn::Add(run, lanes.load(parts + block * size + head * stride + i));
    lanes.store(divide_by != nullptr ? hn::Div(run, splat(*divide_by)) : run, out + i);
  });
}

template <class T>
void attend_of(Exec& exec, const Decode& decode, float* o_latent) {
  const int64_t blocks = decode.blocks(), heads = decode.heads_padded;
  exec.pool->for_stretches(blocks, [&](int64_t block, int) HWY_ATTR { score_block<T>(decode, block); });
  const Tensor greatest = exec.empty({heads}), sums = exec.zeros({heads});
  std::copy_n(decode.block_greatest, heads, greatest.data<float>());
  for (int64_t i = heads; i < blocks * heads; ++i) {
    float& most = greatest.data<float>()[i % heads];
    most = std::max(most, decode.block_greatest[i]);
  }
  exec.pool->for_each(
      blocks, [&](int64_t block, int) HWY_ATTR { soften_block(decode, block, greatest.data<float>()); });
  for (int64_t i = 0; i < blocks * heads; ++i) sums.data<float>()[i % heads] += decode.block_sum[i];
  const int64_t together = std::min<int64_t>(blocks, kBlocksAThread * exec.pool->threads());
  const int64_t part = decode.heads * padded(decode.latent),
                groups = (decode.latent + kColumns - 1) / kColumns;
  // Few additions are not worth waking a thread.
  const int64_t heads_together = std::max<int64_t>(1, kAddsTogether / (together * padded(decode.latent)));
  const Tensor parts = exec.empty({together, part});
  for (int64_t first = 0; first < blocks; first += together) {
    const int64_t count = std::min(together, blocks - first);
    exec.pool->for_stretches(count * groups, [&](int64_t i, int) HWY_ATTR {
      output_block<T>(decode, first + i / groups, i % groups * kColumns,
                      parts.data<float>() + i / groups * part);
    });
    const bool last = first + count == blocks;
    exec.pool->for_ranges(decode.heads, heads_together, [&](int64_t begin, int64_t end, int) HWY_ATTR {
      for (int64_t head = begin; head < std::min(end, decode.heads); ++head)
        join_parts(decode, parts.data<float>(), count, first == 0, last ? sums.data<float>() + head : nullptr,
                   head, o_latent);
    });
  }
}

void attend(Exec& exec, const Tensor& q, const Tensor& q_latent, const CachedLatents& past,
            const MlaShape& shape, const Tensor& o_latent) {
  const int64_t heads = shape.heads, heads_padded = padded(heads), positions = past.latents_PC.extent(0);
  const int64_t latent = past.latents_PC.extent(1), rope = shape.qk_rope_head_dim, width = latent + rope;
  const int64_t blocks = (positions + kBlock - 1) / kBlock;
  const Tensor rows = exec.empty({heads, width}), panels = exec.empty({heads_padded, width});
  const Tensor scores = exec.empty({blocks * kBlock, heads_padded}),
               of_blocks = exec.empty({2 * blocks, heads_padded});
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
                      panels.data<float>(),
                      scores.data<float>(),
                      of_blocks.data<float>(),
                      of_blocks.data<float>() + blocks * heads_padded};
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
