// One row of one head at a time: a plain softmax over the keys it sees, and the textbook gradient.
//
// T rows, H heads, N qk_nope_head_dim, R qk_rope_head_dim, V v_head_dim.
#include "ops/mla_attention.h"

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"
#include "backend/reference/sums.h"

namespace moray::reference {
namespace {

struct Keys {
  int64_t begin, end;  // rows of the whole tensor
};

// The keys that `row` sees.
Keys visible_keys(const AttentionMask& mask, int64_t row) {
  const int64_t first = row / mask.rows_per_sample * mask.rows_per_sample;
  if (!mask.document_starts_T.defined()) return {first, row + 1};
  const int64_t start = mask.document_starts_T.data<int32_t>()[row];
  MORAY_CHECK(start >= 0 && first + start <= row, "document of row {} starts at {}", row - first, start);
  return {first + start, row + 1};
}

// Where a head's part of a row lies in the tensors of ops/mla_attention.h.
template <class T>
struct Head {
  const MlaShape& shape;
  int64_t head;

  T* q(T* q_T, int64_t row) const {
    return q_T + row * shape.q_width() + head * (shape.qk_nope_head_dim + shape.qk_rope_head_dim);
  }
  T* k(T* kv_T, int64_t row) const {
    return kv_T + row * shape.kv_width() + head * (shape.qk_nope_head_dim + shape.v_head_dim);
  }
  T* v(T* kv_T, int64_t row) const { return k(kv_T, row) + shape.qk_nope_head_dim; }
  T* k_rope(T* k_rope_TR, int64_t row) const { return k_rope_TR + row * shape.qk_rope_head_dim; }
  T* o(T* o_T, int64_t row) const { return o_T + row * shape.o_width() + head * shape.v_head_dim; }

  T score(T* q_T, int64_t row, T* kv_T, T* k_rope_TR, int64_t key) const {
    const int64_t nope = shape.qk_nope_head_dim;
    const T plain = add_products(T{0}, q(q_T, row), 1, k(kv_T, key), 1, nope);
    const T both =
        add_products(plain, q(q_T, row) + nope, 1, k_rope(k_rope_TR, key), 1, shape.qk_rope_head_dim);
    return both * static_cast<T>(shape.softmax_scale);
  }
};

// to[i] += factor · from[i]
template <class T>
void add_scaled(T factor, const T* from, T* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] += factor * from[i];
}

void forward(Exec&, const Tensor& q_T, const Tensor& kv_T, const Tensor& k_rope_TR, const MlaShape& shape,
             const AttentionMask& mask, const Tensor& o_T, const Tensor& lse_HT) {
  for_sum_type(o_T, [&]<class T>(T) {
    const int64_t rows = q_T.extent(0);
    Elements<T> q_all(q_T), kv_all(kv_T), k_rope_all(k_rope_TR), o_all(o_T);
    T *q = q_all.data(), *kv = kv_all.data(), *k_rope = k_rope_all.data(), *o = o_all.data();
    std::vector<T> scores(static_cast<size_t>(mask.rows_per_sample));
    for (int64_t h = 0; h < shape.heads; ++h)
      for (int64_t t = 0; t < rows; ++t) {
        const Head<T> head{shape, h};
        const Keys keys = visible_keys(mask, mask.first_query + t);
        const size_t count = static_cast<size_t>(keys.end - keys.begin);
        for (size_t j = 0; j < count; ++j)
          scores[j] = head.score(q, t, kv, k_rope, keys.begin + static_cast<int64_t>(j));
        const T most = *std::max_element(scores.begin(), scores.begin() + static_cast<int64_t>(count));
        T sum = 0;
        for (size_t j = 0; j < count; ++j) sum += std::exp(scores[j] - most);
        const T lse = most + std::log(sum);
        lse_HT.data<T>()[h * rows + t] = lse;
        std::fill_n(head.o(o, t), shape.v_head_dim, T{0});
        for (size_t j = 0; j < count; ++j)
          add_scaled(std::exp(scores[j] - lse), head.v(kv, keys.begin + static_cast<int64_t>(j)),
                     head.o(o, t), shape.v_head_dim);
      }
    o_all.store();
  });
}

// p = exp(score − lse), dp = do·v, dscore = p · (dp − Σ do·o) · softmax_scale.
void backward(Exec&, const Tensor& d_o_T, const Tensor& q_T, const Tensor& kv_T, const Tensor& k_rope_TR,
              const Tensor& o_T, const Tensor& lse_HT, const MlaShape& shape, const AttentionMask& mask,
              const Tensor& dq_T, const Tensor& dkv_T, const Tensor& dk_rope_TR) {
  dq_T.fill_zero();
  dkv_T.fill_zero();
  dk_rope_TR.fill_zero();
  for_sum_type(dq_T, [&]<class T>(T) {
    Elements<T> q_all(q_T), kv_all(kv_T), k_rope_all(k_rope_TR), o_all(o_T), d_o_all(d_o_T);
    Elements<T> dq_all(dq_T), dkv_all(dkv_T), dk_rope_all(dk_rope_TR);
    T *q = q_all.data(), *kv = kv_all.data(), *k_rope = k_rope_all.data(), *o = o_all.data();
    T *d_o = d_o_all.data(), *dq = dq_all.data(), *dkv = dkv_all.data(), *dk_rope = dk_rope_all.data();
    const int64_t rows = q_T.extent(0), nope = shape.qk_nope_head_dim, rope = shape.qk_rope_head_dim;
    for (int64_t h = 0; h < shape.heads; ++h)
      for (int64_t t = 0; t < rows; ++t) {
        const Head<T> head{shape, h};
        const T* gradient = head.o(d_o, t);
        const T mean = add_products(T{0}, gradient, 1, head.o(o, t), 1, shape.v_head_dim);
        const Keys keys = visible_keys(mask, t);
        for (int64_t key = keys.begin; key < keys.end; ++key) {
          const T p = std::exp(head.score(q, t, kv, k_rope, key) - lse_HT.data<T>()[h * rows + t]);
          const T dp = add_products(T{0}, gradient, 1, head.v(kv, key), 1, shape.v_head_dim);
          const T dscore = p * (dp - mean) * static_cast<T>(shape.softmax_scale);
          add_scaled(dscore, head.k(kv, key), head.q(dq, t), nope);
          add_scaled(dscore, head.k_rope(k_rope, key), head.q(dq, t) + nope, rope);
          add_scaled(dscore, head.q(q, t), head.k(dkv, key), nope);
          add_scaled(dscore, head.q(q, t) + nope, head.k_rope(dk_rope, key), rope);
          add_scaled(p, gradient, head.v(dkv, key), shape.v_head_dim);
        }
      }
    dq_all.store();
    dkv_all.store();
    dk_rope_all.store();
  });
}

}  // namespace

MlaAttentionKernels mla_attention_kernels() {
  return {.forward = forward, .backward = backward};
}

}  // namespace moray::reference
