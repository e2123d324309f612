#include "apps/command_line.h"

namespace moray {

// CLI::PositiveNumber prints the largest double there is.
CLI::Validator at_least_one() {
  return CLI::Validator(
      [](const std::string& value) {
        return value.starts_with('-') || value.find_first_not_of("0") == std::string::npos
                   ? value + " is less than 1"
                   : std::string();
      },
      "");
}

void one_each(CLI::Option* option) {
  option->allow_extra_args(false);
}

void add_threads(CLI::App* command, int& threads) {
  command->add_option("--threads", threads, "threads to use (default: MORAY_THREADS, else all cores)")
      ->check(at_least_one());
}

void add_json(CLI::App* command, bool& json) {
  command->add_flag("--json", json, "one JSON object on stdout; everything else goes to stderr");
}

CLI::App* add_command(CLI::App& parent, const std::string& name, const std::string& about,
                      const std::string& examples) {
  CLI::App* command = parent.add_subcommand(name, about);
  command->footer("Examples:\n" + examples);
  return command;
}

}  // namespace moray
