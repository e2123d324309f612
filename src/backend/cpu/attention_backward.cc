// Attention, backward: probabilities are computed again from the saved log-sum, one block at a time.
//
// A task is one (sample, head, key block): it keeps dk and dv of its keys and walks the query blocks in
// ascending order. dq of a query block sums over key blocks, so tasks take turns at it (Turns below). With
//   P = exp(S·scale − lse), D = rowsum(dO∘O), dS = P∘(dO·Vᵀ − D)·scale:
//   dV = Pᵀ·dO, dK = dSᵀ·Q, dQ = dS·K.
#include <immintrin.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "backend/cpu/attention.h"
#include "backend/cpu/pieces.h"
#include "backend/cpu/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention_backward.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/attention_block-inl.h"
#include "backend/cpu/vector_math.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kBlock = kAttentionBlock;

// Tasks go through this many heads key block by key block before the next ones: few enough for their rows to
// stay in cache, enough for threads to seldom meet at one head's dq.
constexpr int64_t kHeadsTogether = 4;

// One (sample, head): its inputs, and pointers to row 0 and the head's columns of everything else.
struct BackwardHead {
  AttentionHead in;
  const float *d_o, *lse, *row_dots;
  float *dq, *dkv;
  float* dk_rope;           // this head's share, rows of R
  int32_t* next_key_block;  // by query block: whose turn it is to add to dq
};

// Which key block may add to the dq of a query block next. The pool hands tasks out in ascending order, key
// blocks first, so the task that is waited for has always been started.
class Turns {
 public:
  explicit Turns(int32_t* next) : next_(next) {}

  void wait_for(int64_t query_block, int64_t key_block) const {
    std::atomic_ref<int32_t> next(next_[query_block]);
    for (int spins = 0; next.load(std::memory_order_acquire) != key_block; ++spins)
      if (spins < kSpins)
        _mm_pause();
      else
        std::this_thread::yield();
  }
  void pass_on(int64_t query_block, int64_t key_block) const {
    std::atomic_ref<int32_t>(next_[query_block])
        .store(static_cast<int32_t>(key_block + 1), std::memory_order_release);
  }

 private:
  static constexpr int kSpins = 2000;  // about 20 µs, as in the pool
  int32_t* next_;
};

// One thread's working memory for one key block.
struct Work {
  float *k_rows, *k_panels, *k_columns;  // keys as rows; as steps of panels; as columns of panels
  float* v_columns;                      // values' transposes: keys as columns
  float *q_panels, *do_panels;           // of the query block at hand, queries as steps
  float *p, *ds;                         // [kBlock queries, kScoreStride]
  float *dk, *dv;                        // [kBlock keys, padded width]: running sums
};

Work work_for(const AttentionHead& head) {
  static thread_local GrowingBuffer buffer;
  const int64_t k = kBlock * padded(head.key()), v = kBlock * padded(head.value), s = kBlock * kScoreStride;
  float* memory = buffer.floats(5 * k + 3 * v + 2 * s);
  Work work;
  const auto take = [&](int64_t floats) {
    float* taken = memory;
    memory += floats;
    return taken;
  };
  for (float** part : {&work.k_rows, &work.k_panels, &work.k_columns, &work.q_panels, &work.dk})
    *part = take(k);
  for (float** part : {&work.v_columns, &work.do_panels, &work.dv}) *part = take(v);
  for (float** part : {&work.p, &work.ds}) *part = take(s);
  return work;
}

struct BlockPair {
  int64_t query_block, key_block;
  int64_t queries, keys;
  bool diagonal() const { return query_block == key_block; }
  int64_t first_query() const { return query_block * kBlock; }
  int64_t first_key() const { return key_block * kBlock; }
  // On the diagonal, queries [query, query + query_group()) see keys before keys_seen(query) at most.
  int64_t query_group() const { return diagonal() ? kDiagonalGroup : queries; }
  int64_t keys_seen(int64_t query) const {
    return diagonal() ? std::min(keys, query + kDiagonalGroup) : keys;
  }
};

// p = Q·Kᵀ and ds = dO·Vᵀ.
void score_block(const BackwardHead& head, const Work& work, const BlockPair& pair) {
  const AttentionHead& in = head.in;
  for (int64_t query = 0; query < pair.queries; query += pair.query_group()) {
    const int64_t rows = std::min(pair.query_group(), pair.queries - query), row = pair.first_query() + query;
    const int64_t columns = padded(pair.keys_seen(query));
    multiply_over_width(rows, {in.q_row(row), in.q_stride}, {work.k_columns, kPanel * in.key()}, in.key(),
                        {work.p + query * kScoreStride, kScoreStride, columns});
    multiply_over_width(rows, {head.d_o + row * in.o_stride, in.o_stride},
                        {work.v_columns, kPanel * in.value}, in.value,
                        {work.ds + query * kScoreStride, kScoreStride, columns});
  }
}

// One query's row: p from scores to probabilities, ds from dO·Vᵀ to the scores' gradients. It sees the keys
// from `start` to `last` (positions in the block).
HWY_NOINLINE void softmax_row(float* p_row, float* ds_row, int64_t keys, int64_t start, int64_t last,
                              float scale_f, float lse_f, float dot_f) {
  const FloatTag d;
  const FloatVec scale = splat(scale_f), lse = splat(lse_f), dot = splat(dot_f);
  const FloatVec first_seen = splat(static_cast<float>(start)), last_seen = splat(static_cast<float>(last));
  for (int64_t k = 0; k < keys; k += kVectorLanes) {
    FloatVec p = vector_exp_nonpositive(d, hn::Sub(hn::Mul(hn::Load(d, p_row + k), scale), lse));
    if (k < start || k + kVectorLanes - 1 > last) {
      const FloatVec key = hn::Iota(d, static_cast<float>(k));
      p = hn::IfThenElseZero(hn::And(hn::Ge(key, first_seen), hn::Le(key, last_seen)), p);
    }
    hn::Store(p, d, p_row + k);
    const FloatVec gradient = hn::Sub(hn::Load(d, ds_row + k), dot);
    hn::Store(hn::Mul(hn::Mul(p, gradient), scale), d, ds_row + k);
  }
}

void softmax_block(const BackwardHead& head, const Work& work, const BlockPair& pair) {
  for (int64_t query = 0; query < pair.queries; ++query) {
    const int64_t row = pair.first_query() + query;
    const int64_t keys = pair.keys_seen(query / kDiagonalGroup * kDiagonalGroup);
    const int64_t start =
        head.in.document_starts != nullptr ? head.in.document_starts[row] - pair.first_key() : 0;
    softmax_row(work.p + query * kScoreStride, work.ds + query * kScoreStride, keys, start,
                row - pair.first_key(), head.in.scale, head.lse[row], head.row_dots[row]);
  }
}

// dv += Pᵀ·dO and dk += dSᵀ·Q; on the diagonal, keys of a group are seen by the queries from the group on.
void key_gradients(const BackwardHead& head, const Work& work, const BlockPair& pair) {
  const AttentionHead& in = head.in;
  const int64_t group = pair.diagonal() ? kDiagonalGroup : pair.keys;
  const int64_t k_stride = padded(in.key()), v_stride = padded(in.value);
  for (int64_t key = 0; key < pair.keys; key += group) {
    const int64_t rows = std::min(group, pair.keys - key), query = pair.diagonal() ? key : 0;
    const int64_t depth = pair.queries - query, at = query * kScoreStride + key;
    multiply<Order::columns, Join::add>(rows, {work.p + at, kScoreStride},
                                        {work.do_panels + query * kPanel, kPanel * kBlock}, depth,
                                        {work.dv + key * v_stride, v_stride, v_stride});
    multiply<Order::columns, Join::add>(rows, {work.ds + at, kScoreStride},
                                        {work.q_panels + query * kPanel, kPanel * kBlock}, depth,
                                        {work.dk + key * k_stride, k_stride, k_stride});
  }
}

template <Join kJoin>
void query_gradients(const BackwardHead& head, const Work& work, const BlockPair& pair) {
  const AttentionHead& in = head.in;
  for (int64_t query = 0; query < pair.queries; query += pair.query_group())
    multiply<Order::rows, kJoin>(
        std::min(pair.query_group(), pair.queries - query), {work.ds + query * kScoreStride, kScoreStride},
        {work.k_panels, kPanel * kBlock}, pair.keys_seen(query),
        {head.dq + (pair.first_query() + query) * in.q_stride, in.q_stride, in.key()});
}

void start_keys(const AttentionHead& in, const Work& work, int64_t first, int64_t keys) {
  copy_keys(in, first, keys, work.k_rows);
  pack_rows(work.k_rows, in.key(), keys, in.key(), kPanel * kBlock, work.k_panels);
  pack_transposed(work.k_rows, in.key(), keys, in.key(), work.k_columns);
  pack_transposed(in.v_row(first), in.kv_stride, keys, in.value, work.v_columns);
  std::fill_n(work.dk, kBlock * padded(in.key()), 0.0f);
  std::fill_n(work.dv, kBlock * padded(in.value), 0.0f);
}

void finish_keys(const BackwardHead& head, const Work& work, int64_t first, int64_t keys) {
  const AttentionHead& in = head.in;
  const auto copy = [](float* to, const float* from, int64_t count) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
  };
  for (int64_t k = 0; k < keys; ++k) {
    const float* dk = work.dk + k * padded(in.key());
    float* dkv = head.dkv + (first + k) * in.kv_stride;
    copy(dkv, dk, in.nope);
    copy(dkv + in.nope, work.dv + k * padded(in.value), in.value);
    copy(head.dk_rope + (first + k) * in.rope, dk + in.nope, in.rope);
  }
}

void backward_keys(const BackwardHead& head, int64_t key_block) {
  const AttentionHead& in = head.in;
  const Work work = work_for(in);
  const int64_t first_key = key_block * kBlock, keys = in.block_rows(key_block);
  const Turns turns(head.next_key_block);
  start_keys(in, work, first_key, keys);
  for (int64_t query_block = key_block; query_block < in.blocks(); ++query_block) {
    const int64_t first_key_block = in.first_key_block(query_block);
    if (first_key_block > key_block) continue;
    const BlockPair pair = {query_block, key_block, in.block_rows(query_block), keys};
    const int64_t row = pair.first_query();
    pack_rows(in.q_row(row), in.q_stride, pair.queries, in.key(), kPanel * kBlock, work.q_panels);
    pack_rows(head.d_o + row * in.o_stride, in.o_stride, pair.queries, in.value, kPanel * kBlock,
              work.do_panels);
    score_block(head, work, pair);
    softmax_block(head, work, pair);
    key_gradients(head, work, pair);
    if (key_block == first_key_block) {
      query_gradients<Join::set>(head, work, pair);
    } else {
      turns.wait_for(query_block, key_block);
      query_gradients<Join::add>(head, work, pair);
    }
    turns.pass_on(query_block, key_block);
  }
  finish_keys(head, work, first_key, keys);
}

// row_dots[head][row] = Σ dO·O over the head's columns.
void dot_rows(Exec& exec, const Tensor& d_o, const Tensor& o, int64_t heads, int64_t value,
              const Tensor& row_dots_HT) {
  const int64_t rows = o.extent(0);
  const float *do_all = d_o.data<float>(), *o_all = o.data<float>();
  float* dots = row_dots_HT.data<float>();
  exec.pool->for_ranges(rows, rows_per_piece(heads * value), [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for (int64_t index = begin * heads; index < end * heads; ++index) {
      const float *a = do_all + index * value, *b = o_all + index * value;
      dots[index % heads * rows + index / heads] =
          sum_in_lanes(value, [&](int64_t i, auto lanes, FloatVec& sum)
                                  HWY_ATTR { sum = hn::MulAdd(lanes.load(a + i), lanes.load(b + i), sum); });
    }
  });
}

// dk_rope = Σ over heads, ascending.
void join_heads(Exec& exec, const Tensor& shares_HTR, const Tensor& dk_rope) {
  const int64_t heads = shares_HTR.extent(0), elements = dk_rope.elements();
  const float* shares = shares_HTR.data<float>();
  float* out = dk_rope.data<float>();
  exec.pool->for_ranges(elements, std::max<int64_t>(1, kPieceElements / heads),
                        [&](int64_t begin, int64_t end, int) HWY_ATTR {
                          for_vectors(end - begin, [&](int64_t i, auto lanes) HWY_ATTR {
                            FloatVec sum = hn::Zero(FloatTag());
                            for (int64_t head = 0; head < heads; ++head)
                              sum = hn::Add(sum, lanes.load(shares + head * elements + begin + i));
                            lanes.store(sum, out + begin + i);
                          });
                        });
}

BackwardHead backward_head(const AttentionBackwardArgs& a, const Tensor& row_dots_HT,
                           const Tensor& shares_HTR, const Tensor& turns, int64_t sample,
                           int64_t head_index) {
  BackwardHead head;
  head.in = attention_head(a.q, a.kv, a.k_rope, a.shape, a.mask, sample, head_index);
  const AttentionHead& in = head.in;
  const int64_t row = sample * in.rows, total_rows = a.q.extent(0);
  head.d_o = a.d_o.data<float>() + row * in.o_stride + head_index * in.value;
  head.lse = a.lse_HT.data<float>() + head_index * total_rows + row;
  head.row_dots = row_dots_HT.data<float>() + head_index * total_rows + row;
  head.dq = a.dq.data<float>() + row * in.q_stride + head_index * in.key();
  head.dkv = a.dkv.data<float>() + row * in.kv_stride + head_index * (in.nope + in.value);
  head.dk_rope = shares_HTR.data<float>() + (head_index * total_rows + row) * in.rope;
  head.next_key_block = turns.data<int32_t>() + (sample * a.shape.heads + head_index) * in.blocks();
  return head;
}

void backward(Exec& exec, const AttentionBackwardArgs& a) {
  const int64_t rows = a.mask.rows_per_sample, total_rows = a.mask.samples * rows;
  const int64_t blocks = (rows + kBlock - 1) / kBlock, heads = a.mask.samples * a.shape.heads;
  const auto scratch = [&](Shape shape) { return Tensor::empty(*exec.allocator, shape, DType::f32); };
  const Tensor row_dots_HT = scratch({a.shape.heads, total_rows});
  const Tensor shares_HTR = scratch({a.shape.heads, total_rows, a.shape.qk_rope_head_dim});
  const Tensor turns = exec.empty_i32({heads, blocks});
  turns.fill_zero();
  dot_rows(exec, a.d_o, a.o, a.shape.heads, a.shape.v_head_dim, row_dots_HT);
  exec.pool->for_each(blocks * heads, [&](int64_t index, int) HWY_ATTR {
    const int64_t first_head = index / (kHeadsTogether * blocks) * kHeadsTogether;
    const int64_t together = std::min(kHeadsTogether, heads - first_head),
                  in_group = index - first_head * blocks;
    const int64_t head = first_head + in_group % together;
    backward_keys(
        backward_head(a, row_dots_HT, shares_HTR, turns, head / a.shape.heads, head % a.shape.heads),
        in_group / together);
  });
  if (a.shape.qk_rope_head_dim > 0) join_heads(exec, shares_HTR, a.dk_rope);
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {
HWY_EXPORT(backward);
}  // namespace

void attention_backward(Exec& exec, const Tensor& d_o, const Tensor& q, const Tensor& kv,
                        const Tensor& k_rope, const Tensor& o, const Tensor& lse_HT, const MlaShape& shape,
                        const AttentionMask& mask, const Tensor& dq, const Tensor& dkv,
                        const Tensor& dk_rope) {
  check_attention(shape, mask);
  HWY_DYNAMIC_DISPATCH(backward)(exec, {d_o, q, kv, k_rope, o, lse_HT, shape, mask, dq, dkv, dk_rope});
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
