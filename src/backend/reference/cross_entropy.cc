// T rows, D hidden, V vocabulary, G gradient groups.
#include "ops/cross_entropy.h"

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"
#include "backend/reference/sums.h"

namespace moray::reference {
namespace {

// The loss of one row; `logits` become the softmax's probabilities.
template <class T>
T row_loss(const T* h, const T* w, int64_t width, int32_t target, std::span<T> logits) {
  for (size_t v = 0; v < logits.size(); ++v)
    logits[v] = add_products(T{0}, h, 1, w + static_cast<int64_t>(v) * width, 1, width);
  const T most = *std::max_element(logits.begin(), logits.end());
  T sum = 0;
  for (T logit : logits) sum += std::exp(logit - most);
  const T lse = most + std::log(sum);
  const T loss = lse - logits[static_cast<size_t>(target)];
  for (T& logit : logits) logit = std::exp(logit - lse);
  return loss;
}

void forward(Exec&, const Tensor& h_TD, const Tensor& w_VD, const Tensor& targets_T, const Tensor& loss_T) {
  for_real_type(loss_T, [&]<class T>(T) {
    const int64_t width = h_TD.extent(1);
    Elements<T> h(h_TD), w(w_VD);
    std::vector<T> logits(static_cast<size_t>(w_VD.extent(0)));
    for (int64_t t = 0; t < h_TD.extent(0); ++t) {
      const int32_t target = targets_T.data<int32_t>()[t];
      loss_T.data<T>()[t] =
          target < 0 ? T{0} : row_loss<T>(h.data() + t * width, w.data(), width, target, logits);
    }
  });
}

// dlogits = gradient_scale · (softmax − onehot(target)), zero for rows without a target.
template <class T>
T row_gradient(const T* h, const T* w, int64_t width, int32_t target, T gradient_scale,
               std::span<T> dlogits) {
  if (target < 0) {
    std::fill(dlogits.begin(), dlogits.end(), T{0});
    return 0;
  }
  const T loss = row_loss(h, w, width, target, dlogits);
  dlogits[static_cast<size_t>(target)] -= 1;
  for (T& gradient : dlogits) gradient *= gradient_scale;
  return loss;
}

void forward_backward(Exec&, const Tensor& h_TD, const Tensor& w_VD, const Tensor& targets_T,
                      const SampleRows& rows, double gradient_scale, const Tensor& loss_T,
                      const Tensor& dh_TD, const Tensor& dw_GVD) {
  for_real_type(loss_T, [&]<class T>(T) {
    const int64_t width = h_TD.extent(1), vocabulary = w_VD.extent(0);
    Elements<T> h(h_TD), w(w_VD), dh(dh_TD), dw(dw_GVD);
    std::vector<T> dlogits_BV(static_cast<size_t>(kBlock * vocabulary));  // one block of rows
    for (int64_t s = 0; s < rows.samples; ++s) {
      const int64_t sample_end = (s + 1) * rows.rows_per_sample;
      T* dw_VD = dw.data() + rows.group(s) * vocabulary * width;
      for (int64_t begin = s * rows.rows_per_sample; begin < sample_end; begin += kBlock) {
        const int64_t count = std::min(kBlock, sample_end - begin);
        for (int64_t t = begin; t < begin + count; ++t) {
          T* dlogits = dlogits_BV.data() + (t - begin) * vocabulary;
          loss_T.data<T>()[t] =
              row_gradient<T>(h.data() + t * width, w.data(), width, targets_T.data<int32_t>()[t],
                              static_cast<T>(gradient_scale), {dlogits, static_cast<size_t>(vocabulary)});
          for (int64_t d = 0; d < width; ++d)
            dh.data()[t * width + d] = add_products(T{0}, dlogits, 1, w.data() + d, width, vocabulary);
        }
        for (int64_t v = 0; v < vocabulary; ++v)
          for (int64_t d = 0; d < width; ++d) {
            T& sum = dw_VD[v * width + d];
            sum = add_products(sum, dlogits_BV.data() + v, vocabulary, h.data() + begin * width + d, width,
                               count);
          }
      }
    }
    dh.store();
    dw.store();
  });
}

}  // namespace

CrossEntropyKernels cross_entropy_kernels() {
  return {.forward = forward, .forward_backward = forward_backward};
}

}  // namespace moray::reference
