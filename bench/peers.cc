#include "bench/peers.h"

#include <fmt/format.h>

#include <string_view>

#include "backend/cpu/register.h"

#ifdef MORAY_OPENBLAS
#include <cblas.h>
#endif
#ifdef MORAY_ONEDNN
#include <oneapi/dnnl/dnnl.hpp>
extern "C" void omp_set_num_threads(int);
#endif

namespace moray {

namespace {

#ifdef MORAY_OPENBLAS
Contestant openblas(const PeerProduct& p, int threads) {
  openblas_set_num_threads(threads);
  const auto m = static_cast<blasint>(p.m), n = static_cast<blasint>(p.n), k = static_cast<blasint>(p.k);
  return {fmt::format("OpenBLAS ({})", openblas_get_corename()), [=] {
            cblas_sgemm(CblasRowMajor, p.a_transposed ? CblasTrans : CblasNoTrans,
                        p.b_transposed ? CblasTrans : CblasNoTrans, m, n, k, 1.0F, p.a,
                        p.a_transposed ? m : k, p.b, p.b_transposed ? k : n, 0.0F, p.c, n);
          }};
}
#endif

#ifdef MORAY_ONEDNN
dnnl::memory::desc plain(int64_t rows, int64_t columns, bool transposed) {
  const dnnl::memory::dims strides =
      transposed ? dnnl::memory::dims{1, rows} : dnnl::memory::dims{columns, 1};
  return {{rows, columns}, dnnl::memory::data_type::f32, strides};
}

Contestant onednn(const PeerProduct& p, int threads) {
  omp_set_num_threads(threads);
  // Like against like; has no effect after oneDNN's first product.
  if (std::string_view(cpu::simd_name()) == "avx2") dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2);
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const auto a = plain(p.m, p.k, p.a_transposed), b = plain(p.k, p.n, p.b_transposed),
             c = plain(p.m, p.n, false);
  const dnnl::memory::desc any({p.k, p.n}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::any);
  const dnnl::matmul::primitive_desc chosen({a, p.b_is_weight ? any : b, c}, engine);
  const dnnl::memory a_memory(a, engine, const_cast<float*>(p.a)), c_memory(c, engine, p.c);
  dnnl::memory b_memory(b, engine, const_cast<float*>(p.b));
  if (chosen.weights_desc() != b) {
    const dnnl::memory packed(chosen.weights_desc(), engine);
    dnnl::reorder(b_memory, packed).execute(stream, b_memory, const_cast<dnnl::memory&>(packed));
    stream.wait();
    b_memory = packed;
  }
  return {"oneDNN", [=, multiply = dnnl::matmul(chosen)]() mutable {
            multiply.execute(
                stream, {{DNNL_ARG_SRC, a_memory}, {DNNL_ARG_WEIGHTS, b_memory}, {DNNL_ARG_DST, c_memory}});
            stream.wait();
          }};
}
#endif

}  // namespace

std::vector<Contestant> peer_products([[maybe_unused]] const PeerProduct& product,
                                      [[maybe_unused]] int threads) {
  std::vector<Contestant> peers;
#ifdef MORAY_OPENBLAS
  peers.push_back(openblas(product, threads));
#endif
#ifdef MORAY_ONEDNN
  peers.push_back(onednn(product, threads));
#endif
  return peers;
}

}  // namespace moray
