// Attention, forward: online softmax over key blocks, with queries along the vector lanes.
//
// A task is one (sample, head, query block). Scores are kept transposed (keys × queries): the keys' rows are
// the left operand as they lie in memory, the queries are packed once a task, and every softmax step is
// vertical.
#include "backend/cpu/attention.h"
#include "backend/cpu/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention_forward.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/attention_block-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kBlock = kAttentionBlock;

// One thread's working memory for one query block.
struct Work {
  float* q_panels;                // queries as columns, the head's width as steps
  float* k_rows;                  // [kBlock, K]
  float* v_panels;                // values as columns, keys as steps
  float* scores;                  // [kBlock keys, kScoreStride]: scores, then probabilities
  float* run;                     // [kBlock queries, padded V]
  float *greatest, *sum, *alpha;  // of each query: running maximum, running sum, what the past is scaled by
};

Work work_for(const AttentionHead& head) {
  static thread_local GrowingBuffer buffer;
  const int64_t q = kBlock * head.key(), v = kBlock * padded(head.value);
  float* memory = buffer.floats(2 * q + 2 * v + kBlock * (kScoreStride + 3));
  Work work;
  const auto take = [&](int64_t floats) {
    float* taken = memory;
    memory += floats;
    return taken;
  };
  work.q_panels = take(q);
  work.v_panels = take(v);
  work.scores = take(kBlock * kScoreStride);
  work.run = take(v);
  work.greatest = take(kBlock);
  work.sum = take(kBlock);
  work.alpha = take(kBlock);
  work.k_rows = take(q);
  return work;
}

// Turns the scores of the queries from column `query` on into probabilities and joins them into the running
// softmax. Keys before `open` need no mask; keys from `count` on are seen by no query.
void softmax_columns(const Work& work, int64_t query, int64_t open, int64_t count, float scale,
                     const Visible& visible) {
  const FloatTag d;
  const FloatVec before = hn::Load(d, work.greatest + query);
  const Softened block =
      soften_columns(work.scores + query, kScoreStride, open, count, scale, before, visible);
  const FloatVec alpha = vector_exp_nonpositive(d, hn::Sub(before, block.greatest));
  hn::Store(block.greatest, d, work.greatest + query);
  hn::Store(alpha, d, work.alpha + query);
  hn::Store(hn::MulAdd(alpha, hn::Load(d, work.sum + query), block.sum), d, work.sum + query);
}

struct BlockPair {
  int64_t query_block, key_block;
  int64_t queries, keys;
  bool diagonal() const { return query_block == key_block; }
};

// On the diagonal the keys of group g are seen by the queries of groups from g on.
void score_block(const AttentionHead& head, const Work& work, const BlockPair& pair) {
  const int64_t group = pair.diagonal() ? kDiagonalGroup : pair.keys;
  for (int64_t key = 0; key < pair.keys; key += group) {
    const int64_t query = pair.diagonal() ? key : 0;
    multiply_over_width(
        std::min(group, pair.keys - key), {work.k_rows + key * head.key(), head.key()},
        {work.q_panels + query * head.key(), kPanel * head.key()}, head.key(),
        {work.scores + key * kScoreStride + query, kScoreStride, padded(pair.queries) - query});
  }
}

void softmax_block(const AttentionHead& head, const Work& work, const BlockPair& pair) {
  const FloatTag d;
  for (int64_t query = 0; query < pair.queries; query += kVectorLanes) {
    const int64_t row = pair.query_block * kBlock + query;
    alignas(64) float starts[kVectorLanes] = {};
    const bool masked = head.document_starts != nullptr;
    for (int64_t i = 0; masked && i < std::min(kVectorLanes, pair.queries - query); ++i)
      starts[i] = static_cast<float>(head.document_starts[row + i]);
    const Visible visible = {hn::Iota(d, static_cast<float>(row)), hn::Load(d, starts),
                             pair.key_block * kBlock};
    const int64_t count = pair.diagonal()
                              ? std::min(pair.keys, query / kDiagonalGroup * kDiagonalGroup + kDiagonalGroup)
                              : pair.keys;
    const int64_t open = masked ? 0 : pair.diagonal() ? std::min(query + 1, count) : count;
    softmax_columns(work, query, open, count, head.scale, visible);
  }
}

void value_block(const AttentionHead& head, const Work& work, const BlockPair& pair) {
  const int64_t group = pair.diagonal() ? kDiagonalGroup : pair.queries;
  const int64_t stride = padded(head.value);
  for (int64_t query = 0; query < pair.queries; query += group)
    multiply<Order::columns, Join::scale_add>(
        std::min(group, pair.queries - query), {work.scores + query, kScoreStride},
        {work.v_panels, kPanel * kBlock}, pair.diagonal() ? std::min(pair.keys, query + group) : pair.keys,
        {work.run + query * stride, stride, stride, work.alpha + query});
}

// The first `absent` queries of the block are not in q: zeros stand for them, and nothing becomes of them.
void start_queries(const AttentionHead& head, const Work& work, int64_t first_query, int64_t queries,
                   int64_t absent) {
  if (absent == 0) {
    pack_transposed(head.q_row(first_query), head.q_stride, queries, head.key(), work.q_panels);
  } else {
    std::fill_n(work.k_rows, absent * head.key(), 0.0f);
    for (int64_t query = absent; query < queries; ++query)
      std::copy_n(head.q_row(first_query + query), head.key(), work.k_rows + query * head.key());
    pack_transposed(work.k_rows, head.key(), queries, head.key(), work.q_panels);
  }
  std::fill_n(work.run, kBlock * padded(head.value), 0.0f);
  std::fill_n(work.greatest, kBlock, kLowestScore);
  std::fill_n(work.sum, kBlock, 0.0f);
}

// o = run / sum, lse = greatest + log(sum), from query `absent` of the block on, where o and lse point.
void finish_queries(const AttentionHead& head, const Work& work, int64_t queries, int64_t absent, float* o,
                    float* lse) {
  for (int64_t query = absent; query < queries; ++query) {
    const FloatVec sum = splat(work.sum[query]);
    const float* run = work.run + query * padded(head.value);
    float* o_row = o + (query - absent) * head.o_stride;
    for_vectors(head.value, [&](int64_t i, auto lanes)
                                HWY_ATTR { lanes.store(hn::Div(lanes.load(run + i), sum), o_row + i); });
  }
  for_vectors(queries - absent, [&](int64_t i, auto lanes) HWY_ATTR {
    const FloatVec log_sum = vector_log(FloatTag(), lanes.load(work.sum + absent + i));
    lanes.store(hn::Add(lanes.load(work.greatest + absent + i), log_sum), lse + i);
  });
}

// o and lse begin with head.first_query.
void forward_queries(const AttentionHead& head, int64_t query_block, float* o, float* lse) {
  const Work work = work_for(head);
  const int64_t first = query_block * kBlock, queries = head.block_rows(query_block);
  const int64_t absent = std::max<int64_t>(0, head.first_query - first);
  start_queries(head, work, first, queries, absent);
  for (int64_t key_block = head.first_key_block(query_block); key_block <= query_block; ++key_block) {
    const BlockPair pair = {query_block, key_block, queries, head.block_rows(key_block)};
    copy_keys(head, key_block * kBlock, pair.keys, work.k_rows);
    pack_rows(head.v_row(key_block * kBlock), head.kv_stride, pair.keys, head.value, kPanel * kBlock,
              work.v_panels);
    score_block(head, work, pair);
    softmax_block(head, work, pair);
    value_block(head, work, pair);
  }
  const int64_t row = first + absent - head.first_query;
  finish_queries(head, work, queries, absent, o + row * head.o_stride, lse + row);
}

// A head's query blocks follow each other, so that its keys stay in cache; the longest first.
void forward(Exec& exec, const Tensor& q, const Tensor& kv, const Tensor& k_rope, const MlaShape& shape,
             const AttentionMask& mask, const Tensor& o, const Tensor& lse_HT) {
  const int64_t rows = mask.rows_per_sample, queries = mask.queries();
  const int64_t first_block = mask.first_query / kBlock;
  const int64_t blocks = (rows + kBlock - 1) / kBlock - first_block, heads = mask.samples * shape.heads;
  exec.pool->for_each(blocks * heads, [&](int64_t index, int) HWY_ATTR {
    const int64_t sample = index / blocks / shape.heads, head_index = index / blocks % shape.heads;
    const AttentionHead head = attention_head(q, kv, k_rope, shape, mask, sample, head_index);
    forward_queries(head, first_block + blocks - 1 - index % blocks,
                    o.data<float>() + sample * rows * head.o_stride + head_index * head.value,
                    lse_HT.data<float>() + head_index * queries + sample * rows);
  });
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {
HWY_EXPORT(forward);
}  // namespace

void attention_forward(Exec& exec, const Tensor& q, const Tensor& kv, const Tensor& k_rope,
                       const MlaShape& shape, const AttentionMask& mask, const Tensor& o,
                       const Tensor& lse_HT) {
  check_attention(shape, mask);
  HWY_DYNAMIC_DISPATCH(forward)(exec, q, kv, k_rope, shape, mask, o, lse_HT);
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
