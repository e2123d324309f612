// Kernel slots that choose the instruction set at each call: a kernel file compiles one table of its family's
// functions for every target; a slot looks its function up in the table of the processor (or of the target
// forced, register.h).
#pragma once

#include <utility>

namespace moray::cpu {

template <auto kMember, auto kTable>
struct Dispatched;

template <class Kernels, class... Args, void (*Kernels::*kMember)(Args...), auto kTable>
struct Dispatched<kMember, kTable> {
  static void call(Args... args) { (kTable().*kMember)(std::forward<Args>(args)...); }
};

// The function to put into slot kMember; kTable() returns the Kernels of the current target.
template <auto kMember, auto kTable>
constexpr auto dispatched = &Dispatched<kMember, kTable>::call;

}  // namespace moray::cpu
