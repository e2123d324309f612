#include "ops/elementwise.h"

#include <cstring>

#include "backend/cpu/dispatch.h"
#include "backend/cpu/element_type.h"
#include "backend/cpu/kernels_list.h"
#include "backend/cpu/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/elementwise.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

template <class T, class Whole>
void add_elements(Exec& exec, const Tensor& a_tensor, const Tensor& b_tensor, const Tensor& out_tensor) {
  const T *a = a_tensor.data<T>(), *b = b_tensor.data<T>();
  T* out = out_tensor.data<T>();
  exec.pool->for_ranges(out_tensor.elements(), kPieceElements, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for_vectors<Whole>(end - begin, [&](int64_t i, auto lanes) HWY_ATTR {
      lanes.store(hn::Add(lanes.load(a + begin + i), lanes.load(b + begin + i)), out + begin + i);
    });
    hwy::FlushStream();
  });
}

void add(Exec& exec, const Tensor& a, const Tensor& b, const Tensor& out) {
  const bool in_place = out.raw() == a.raw() || out.raw() == b.raw();
  for_written_type(out, [&]<class T, class Whole>(T, Whole) {
    if (in_place)
      add_elements<T, WholeVector>(exec, a, b, out);
    else
      add_elements<T, Whole>(exec, a, b, out);
  });
}

template <class From, class To>
void convert_elements(Exec& exec, const Tensor& from_tensor, const Tensor& to_tensor) {
  const From* from = from_tensor.data<From>();
  To* to = to_tensor.data<To>();
  exec.pool->for_ranges(to_tensor.elements(), kPieceElements, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for_vectors(end - begin, [&](int64_t i, auto lanes)
                                 HWY_ATTR { lanes.store(lanes.load(from + begin + i), to + begin + i); });
  });
}

void convert(Exec& exec, const Tensor& from, const Tensor& to) {
  for_element_type(from, [&]<class From>(From) {
    for_element_type(to, [&]<class To>(To) { convert_elements<From, To>(exec, from, to); });
  });
}

ElementwiseKernels kernel_table() {
  ElementwiseKernels table;
  table.add = add;
  table.convert = convert;
  return table;
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {

HWY_EXPORT(kernel_table);
ElementwiseKernels table() {
  return HWY_DYNAMIC_DISPATCH(kernel_table)();
}

size_t row_bytes(const Tensor& x) {
  return static_cast<size_t>(x.extent(1)) * dtype_bytes(x.dtype());
}

// Moves whole rows, of any type: body(row of a, row of b, row of both) for every row.
template <class Body>
void for_column_rows(Exec& exec, const Tensor& a_TA, const Tensor& b_TB, const Tensor& both,
                     const Body& body) {
  MORAY_CHECK(a_TA.dtype() == both.dtype() && b_TB.dtype() == both.dtype());
  const size_t a_bytes = row_bytes(a_TA), b_bytes = row_bytes(b_TB), both_bytes = row_bytes(both);
  exec.pool->for_ranges(both.extent(0), rows_per_piece(both.extent(1)), [&](int64_t begin, int64_t end, int) {
    for (auto t = static_cast<size_t>(begin); t < static_cast<size_t>(end); ++t)
      body(a_TA.raw() + t * a_bytes, b_TB.raw() + t * b_bytes, both.raw() + t * both_bytes);
  });
}

void concat_columns(Exec& exec, const Tensor& a_TA, const Tensor& b_TB, const Tensor& out) {
  const size_t a_bytes = row_bytes(a_TA), b_bytes = row_bytes(b_TB);
  for_column_rows(exec, a_TA, b_TB, out, [&](const std::byte* a, const std::byte* b, std::byte* both) {
    std::memcpy(both, a, a_bytes);
    std::memcpy(both + a_bytes, b, b_bytes);
  });
}

void split_columns(Exec& exec, const Tensor& x, const Tensor& a_TA, const Tensor& b_TB) {
  const size_t a_bytes = row_bytes(a_TA), b_bytes = row_bytes(b_TB);
  for_column_rows(exec, a_TA, b_TB, x, [&](std::byte* a, std::byte* b, const std::byte* both) {
    std::memcpy(a, both, a_bytes);
    std::memcpy(b, both + a_bytes, b_bytes);
  });
}

}  // namespace

void register_elementwise() {
  kernels<ElementwiseKernels>(Device::cpu) = {dispatched<&ElementwiseKernels::add, table>, concat_columns,
                                              split_columns, dispatched<&ElementwiseKernels::convert, table>};
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
