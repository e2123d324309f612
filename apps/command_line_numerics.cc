// `moray numerics`: options and examples.
#include "apps/command_line.h"
#include "apps/numerics_command.h"

namespace moray {

namespace {

void add_numerics_products(CLI::App& numerics, Action& action) {
  auto* products = add_command(
      numerics, "products", "error of FP8 products on a modelled tensor core, K from 128 to 16384",
      "  moray numerics products\n"
      "  moray numerics products --bits 14 --promote-every 0 128 --html products.html\n");
  auto options = std::make_shared<NumericsProductsOptions>();
  products->add_option("--bits", options->study.bits, "bits that the accumulator keeps, 4 to 24")
      ->capture_default_str();
  products
      ->add_option("--promote-every", options->study.promotions,
                   "products after which the sum moves to FP32, a multiple of 32; 0: never")
      ->capture_default_str();
  products->add_flag("--round", options->round, "round to nearest even where Hopper truncates");
  products->add_option("--rows", options->study.rows, "rows of both matrices: rows² outputs")
      ->capture_default_str();
  products->add_option("--seed", options->study.seed, "of the matrices")->capture_default_str();
  products->add_option("--html", options->html, "file for a page with charts");
  add_threads(products, options->threads);
  add_json(products, options->json);
  products->callback([=, &action] { action = [=] { return run_numerics_products(*options); }; });
}

void add_numerics_tensors(CLI::App& numerics, Action& action) {
  auto* tensors = add_command(
      numerics, "tensors",
      "what FP8 loses of a checkpoint's tensors: tile, block and tensor scales, outliers",
      "  moray numerics tensors runs/tiny\n"
      "  moray numerics tensors runs/tiny/checkpoints/step-00000100/state/first_moments.safetensors --all\n");
  auto options = std::make_shared<NumericsTensorsOptions>();
  tensors->add_option("path", options->path, "model folder, checkpoint, run, or a .safetensors file")
      ->required();
  tensors->add_option("--worst", options->worst, "tensors with the farthest outliers to show")
      ->capture_default_str();
  tensors->add_flag("--all", options->all, "list every tensor");
  add_threads(tensors, options->threads);
  add_json(tensors, options->json);
  tensors->callback([=, &action] { action = [=] { return run_numerics_tensors(*options); }; });
}

void add_numerics_quantization(CLI::App& numerics, Action& action) {
  auto* quantization =
      add_command(numerics, "quantization",
                  "what share of each tensor class underflowed and saturated while training in FP8",
                  "  moray train recipes/fp8.toml --set run.quantization_interval_steps=100 --run runs/fp8\n"
                  "  moray numerics quantization runs/fp8\n");
  auto options = std::make_shared<NumericsQuantizationOptions>();
  quantization->add_option("run", options->run, "run folder")->required();
  add_json(quantization, options->json);
  quantization->callback([=, &action] { action = [=] { return run_numerics_quantization(*options); }; });
}

void add_numerics_compare(CLI::App& numerics, Action& action) {
  auto* compare = add_command(
      numerics, "compare", "two runs of one recipe in different precisions, beside the noise floor",
      "  moray numerics compare runs/bf16 runs/fp8 --html compare.html\n"
      "  moray numerics compare runs/bf16 runs/fp8 runs/bf16-perturbed --html compare.html\n"
      "  moray numerics compare runs/bf16 runs/fp8 --gradients\n");
  auto options = std::make_shared<NumericsCompareOptions>();
  compare->add_option("baseline", options->baseline, "run folder, the one in higher precision")->required();
  compare->add_option("run", options->run, "run folder to hold against it")->required();
  compare->add_option("floor", options->floor,
                      "run folder: the baseline again from initial weights one unit in the last place away");
  compare->add_option("--ema", options->comparison.ema_decay, "decay of the smoothing")
      ->capture_default_str();
  compare->add_option("--limit", options->comparison.limit, "relative error to stay within")
      ->capture_default_str();
  compare
      ->add_option(
          "--from-step", options->comparison.from_step,
          "first step that counts (default: the end of warm-up, where the learning rate is greatest)")
      ->check(at_least_one());
  compare->add_flag("--gradients", options->gradients,
                    "also the gradients of one batch at the baseline's newest checkpoint, layer by layer");
  compare->add_option("--samples", options->samples, "of that batch")->capture_default_str();
  compare->add_option("--html", options->html, "file for a page with charts");
  add_threads(compare, options->threads);
  add_json(compare, options->json);
  compare->callback([=, &action] { action = [=] { return run_numerics_compare(*options); }; });
}

}  // namespace

void add_numerics(CLI::App& app, Action& action) {
  CLI::App* numerics = app.add_subcommand("numerics", "a laboratory of FP8 arithmetic");
  numerics->require_subcommand(1);
  add_numerics_products(*numerics, action);
  add_numerics_tensors(*numerics, action);
  add_numerics_quantization(*numerics, action);
  add_numerics_compare(*numerics, action);
}

}  // namespace moray
