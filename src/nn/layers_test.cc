// Every layer's gradients, of parameters and of inputs, against central differences in float64. The loss is a
// fixed random linear function of the layer's output.
#include <gtest/gtest.h>

#include "backend/register.h"
#include "base/random.h"
#include "nn/experts.h"
#include "nn/mla.h"
#include "nn/mlp.h"
#include "nn/router.h"
#include "tests/support/gradient_check.h"

namespace moray {
namespace {

constexpr int64_t kSamples = 2, kLength = 5, kTokens = kSamples * kLength, kHidden = 6;

class Layers : public testing::Test {
 protected:
  static void SetUpTestSuite() { register_backends(); }

  Tensor random(Shape shape, double scale = 0.5, double mean = 0) {
    const Tensor tensor = exec_.empty(shape);
    Random source(11, stream_++);
    for (double& value : tensor.span<double>()) value = mean + scale * source.normal();
    return tensor;
  }

  // Gives every tensor of a layer random numbers and returns a tree of zeros for its gradients.
  template <class Layer>
  Layer gradients_of(Layer& layer) {
    Layer gradients = layer;
    gradients.visit("", [&](const std::string&, Tensor& tensor, ParameterKind kind) {
      if (kind == ParameterKind::buffer) return;
      tensor = kind == ParameterKind::experts  ? exec_.zeros(tensor.shape())
               : kind == ParameterKind::vector ? exec_.zeros({1, tensor.extent(0)})
                                               : exec_.zeros({1, tensor.extent(0), tensor.extent(1)});
    });
    return gradients;
  }

  template <class Layer>
  std::vector<NamedGradient> named(Layer& layer, Layer& gradients) {
    std::vector<NamedGradient> list;
    const std::vector<Parameter> values = list_parameters(layer), sums = list_parameters(gradients);
    for (size_t i = 0; i < values.size(); ++i)
      if (values[i].kind != ParameterKind::buffer)
        list.push_back(
            {values[i].name, *values[i].tensor, sums[i].tensor->reshape(values[i].tensor->shape())});
    return list;
  }

  static double dot(const Tensor& a, const Tensor& b) {
    double sum = 0;
    for (int64_t i = 0; i < a.elements(); ++i) sum += a.data<double>()[i] * b.data<double>()[i];
    return sum;
  }

  Allocator allocator_;
  ThreadPool pool_{1};
  Exec exec_{Device::reference, &pool_, &allocator_, DType::f64};
  SampleRows rows_{kSamples, kLength, 0, 1};
  uint64_t stream_ = 0;
};

TEST_F(Layers, Linear) {
  Linear layer{random({4, kHidden})};
  const Tensor x = random({kTokens, kHidden}), weights = random({kTokens, 4});
  Linear gradients = gradients_of(layer);
  Linear::Saved saved;
  Linear::Deferred deferred;
  layer.forward(exec_, x, saved);
  const Tensor dx = layer.backward_input(exec_, weights, std::move(saved), deferred);
  layer.backward_weight(exec_, std::move(deferred), rows_, gradients);
  std::vector<NamedGradient> list = named(layer, gradients);
  list.push_back({"x", x, dx});
  expect_gradients(list, [&] {
    Linear::Saved unused;
    return dot(layer.forward(exec_, x, unused), weights);
  });
}

TEST_F(Layers, RmsNorm) {
  RmsNorm layer{random({kHidden}, 0.3, 1), 1e-6};
  const Tensor x = random({kTokens, kHidden}), weights = random({kTokens, kHidden});
  RmsNorm gradients = gradients_of(layer);
  RmsNorm::Saved saved;
  RmsNorm::Deferred deferred;
  layer.forward(exec_, x, saved);
  const Tensor dx = layer.backward_input(exec_, weights, std::move(saved), deferred);
  layer.backward_weight(exec_, std::move(deferred), rows_, gradients);
  std::vector<NamedGradient> list = named(layer, gradients);
  list.push_back({"x", x, dx});
  expect_gradients(list, [&] {
    RmsNorm::Saved unused;
    return dot(layer.forward(exec_, x, unused), weights);
  });
}

TEST_F(Layers, Mlp) {
  Mlp layer{{random({9, kHidden})}, {random({9, kHidden})}, {random({kHidden, 9})}};
  const Tensor x = random({kTokens, kHidden}), weights = random({kTokens, kHidden});
  Mlp gradients = gradients_of(layer);
  Mlp::Saved saved;
  Mlp::Deferred deferred;
  layer.forward(exec_, x, saved);
  const Tensor dx = layer.backward_input(exec_, weights, std::move(saved), deferred);
  layer.backward_weight(exec_, std::move(deferred), rows_, gradients);
  std::vector<NamedGradient> list = named(layer, gradients);
  list.push_back({"x", x, dx});
  expect_gradients(list, [&] {
    Mlp::Saved unused;
    return dot(layer.forward(exec_, x, unused), weights);
  });
}

TEST_F(Layers, Mla) {
  for (const bool q_lora : {true, false}) {
    SCOPED_TRACE(q_lora ? "with q_lora_rank" : "without");
    Mla layer;
    layer.shape = {2, 4, 2, 3, 0.4};
    layer.has_q_lora = q_lora;
    layer.q_proj.weight_OI = random({12, kHidden});
    layer.q_a_proj.weight_OI = random({5, kHidden});
    layer.q_a_layernorm.weight_D = random({5}, 0.3, 1);
    layer.q_b_proj.weight_OI = random({12, 5});
    layer.kv_a_proj_with_mqa.weight_OI = random({6, kHidden});
    layer.kv_a_layernorm.weight_D = random({4}, 0.3, 1);
    layer.kv_b_proj.weight_OI = random({14, 4});
    layer.o_proj.weight_OI = random({kHidden, 6});
    const Tensor x = random({kTokens, kHidden}), weights = random({kTokens, kHidden});
    const LayerContext context{
        rows_, {kSamples, kLength, {}}, make_rope_table(exec_, kLength, 2, 10000, std::nullopt)};
    Mla gradients = gradients_of(layer);
    Mla::Saved saved;
    Mla::Deferred deferred;
    layer.forward(exec_, x, context, saved);
    const Tensor dx = layer.backward_input(exec_, weights, context, std::move(saved), deferred);
    layer.backward_weight(exec_, std::move(deferred), rows_, gradients);
    std::vector<NamedGradient> list = named(layer, gradients);
    list.push_back({"x", x, dx});
    expect_gradients(list, [&] {
      Mla::Saved unused;
      return dot(layer.forward(exec_, x, context, unused), weights);
    });
  }
}

// Router, dispatch, experts and combine together, routing held fixed: the gates' gradients go through all of
// them.
TEST_F(Layers, RouterAndExperts) {
  constexpr int64_t kExperts = 4, kChoices = 2, kWidth = 5;
  for (const ScoringFunc scoring : {ScoringFunc::sigmoid, ScoringFunc::softmax}) {
    Router router;
    router.config = {scoring, 2, 1, kChoices, scoring == ScoringFunc::sigmoid, 1.5, true};
    router.weight_ED = random({kExperts, kHidden}, 1);
    router.has_bias = false;
    Experts experts{random({kExperts, kWidth, kHidden}), random({kExperts, kWidth, kHidden}),
                    random({kExperts, kHidden, kWidth})};
    const Tensor x = random({kTokens, kHidden}), weights = random({kTokens, kHidden});
    const Tensor ids = exec_.empty_i32({kTokens, kChoices});
    for (int64_t t = 0; t < kTokens; ++t) {
      ids.data<int32_t>()[2 * t] = static_cast<int32_t>(t % 3 == 0);  // expert 2 has no token
      ids.data<int32_t>()[2 * t + 1] = 3;
    }
    double balance = 0;
    std::vector<int64_t> load(kExperts);
    const auto forward = [&](Router::Saved& router_saved, Experts::Saved& experts_saved, DispatchPlan& plan) {
      router.forward(exec_, x, rows_, ids, router_saved, balance, load);
      plan = allocate_dispatch_plan(exec_, kTokens, kChoices, kExperts, kSamples);
      dispatch_plan(exec_, ids, plan);
      const Tensor x_RD = exec_.empty({kTokens * kChoices, kHidden}), out = exec_.empty({kTokens, kHidden});
      gather_rows(exec_, x, plan.token_R, x_RD);
      const Tensor y_RD = experts.forward(exec_, x_RD, plan.rows, experts_saved);
      combine_rows(exec_, y_RD, router_saved.gates_TK, ids, plan.row_TK, kExperts / 2, out);
      return out;
    };
    Router::Saved router_saved;
    Router::Deferred router_deferred;
    Experts::Saved experts_saved;
    Experts::Deferred experts_deferred;
    DispatchPlan plan;
    forward(router_saved, experts_saved, plan);

    const Tensor dy_RD = exec_.empty({kTokens * kChoices, kHidden}),
                 gate_R = exec_.empty({kTokens * kChoices});
    const Tensor dgate_R = exec_.empty({kTokens * kChoices}), dgates_TK = exec_.empty({kTokens, kChoices});
    gather_rows(exec_, weights, plan.token_R, dy_RD);
    gather_values(exec_, router_saved.gates_TK, plan.choice_R, gate_R);
    const Tensor dx_RD = experts.backward_input(exec_, dy_RD, plan.rows, gate_R, dgate_R,
                                                std::move(experts_saved), experts_deferred);
    const Tensor dx = exec_.empty({kTokens, kHidden});
    combine_rows(exec_, dx_RD, {}, ids, plan.row_TK, kExperts / 2, dx);
    gather_values(exec_, dgate_R, plan.row_TK, dgates_TK);
    router.backward_input(exec_, dgates_TK, rows_, 0, std::move(router_saved), router_deferred, dx);
    Router router_gradients = gradients_of(router);
    Experts experts_gradients = gradients_of(experts);
    router.backward_weight(exec_, std::move(router_deferred), rows_, router_gradients);
    experts.backward_weight(exec_, std::move(experts_deferred), plan.rows, experts_gradients);

    // Expert 2 is idle: its gradients are exactly zero, and the check would have nothing to hold on to.
    std::vector<NamedGradient> list = named(router, router_gradients);
    for (const NamedGradient& gradient : named(experts, experts_gradients)) {
      for (const double value : gradient.gradient.row(2).span<double>()) EXPECT_EQ(value, 0);
      for (const int64_t expert : {0, 1, 3})
        list.push_back({gradient.name, gradient.value.row(expert), gradient.gradient.row(expert)});
    }
    list.push_back({"x", x, dx});
    expect_gradients(list, [&] {
      Router::Saved unused_router;
      Experts::Saved unused_experts;
      DispatchPlan unused_plan;
      return dot(forward(unused_router, unused_experts, unused_plan), weights);
    });
  }
}

TEST_F(Layers, BalanceBiasMovesTowardsTheMean) {
  const Tensor bias = exec_.zeros({4});
  balance_bias_update(bias, {10, 0, 5, 5}, 0.001);
  EXPECT_EQ(bias.data<double>()[0], -0.001);
  EXPECT_EQ(bias.data<double>()[1], 0.001);
  EXPECT_EQ(bias.data<double>()[2], 0);
  balance_bias_update(bias, {1, 1, 1, 2}, 0.5);  // the mean is 1.25: not an integer
  EXPECT_EQ(bias.data<double>()[3], -0.5);
  EXPECT_EQ(bias.data<double>()[2], 0.5);
}

}  // namespace
}  // namespace moray
