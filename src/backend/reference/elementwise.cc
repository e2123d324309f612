#include "ops/elementwise.h"

#include <algorithm>
#include <cstring>

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"

namespace moray::reference {
namespace {

void add(Exec&, const Tensor& a, const Tensor& b, const Tensor& out) {
  for_sum_type(out, [&]<class T>(T) {
    Elements<T> left(a), right(b), sum(out);
    for (int64_t i = 0; i < out.elements(); ++i) sum.data()[i] = left.data()[i] + right.data()[i];
    sum.store();
  });
}

void concat_columns(Exec&, const Tensor& a_TA, const Tensor& b_TB, const Tensor& out) {
  for (int64_t t = 0; t < out.extent(0); ++t) {
    const Tensor a = a_TA.row(t), b = b_TB.row(t), row = out.row(t);
    std::memcpy(row.raw(), a.raw(), a.bytes());
    std::memcpy(row.raw() + a.bytes(), b.raw(), b.bytes());
  }
}

void split_columns(Exec&, const Tensor& x, const Tensor& a_TA, const Tensor& b_TB) {
  for (int64_t t = 0; t < x.extent(0); ++t) {
    const Tensor a = a_TA.row(t), b = b_TB.row(t), row = x.row(t);
    std::memcpy(a.raw(), row.raw(), a.bytes());
    std::memcpy(b.raw(), row.raw() + a.bytes(), b.bytes());
  }
}

void convert(Exec&, const Tensor& from, const Tensor& to) {
  for_sum_type(to, [&]<class T>(T) {
    Elements<T> source(from), target(to);
    std::copy_n(source.data(), to.elements(), target.data());
    target.store();
  });
}

}  // namespace

ElementwiseKernels elementwise_kernels() {
  return {.add = add, .concat_columns = concat_columns, .split_columns = split_columns, .convert = convert};
}

}  // namespace moray::reference
