// The command line: what all commands share, and each command with its options. What a command does is in its
// own file. By groups, as CLI11 compiles slowly.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace moray {

// Runs once CLI11 has read the command line; its result is the exit status.
using Action = std::function<int()>;

CLI::Validator at_least_one();
// A list whose option is given once for each: it does not take what follows, as a command's own arguments.
void one_each(CLI::Option* option);
void add_threads(CLI::App* command, int& threads);
void add_json(CLI::App* command, bool& json);
CLI::App* add_command(CLI::App& parent, const std::string& name, const std::string& about,
                      const std::string& examples);

void add_tokenizer(CLI::App& app, Action& action);
void add_data(CLI::App& app, Action& action);
void add_train(CLI::App& app, Action& action);
void add_report(CLI::App& app, Action& action);
void add_generate(CLI::App& app, Action& action);
void add_chat(CLI::App& app, Action& action);
void add_eval(CLI::App& app, Action& action);
void add_inspect(CLI::App& app, Action& action);
void add_verify(CLI::App& app, Action& action);
void add_quantize(CLI::App& app, Action& action);
void add_pull(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_plan(CLI::App& app, Action& action);
void add_numerics(CLI::App& app, Action& action);

}  // namespace moray
