// The command `moray`.
#include <csignal>
#include <cstdio>

#include "apps/bus_error.h"
#include "apps/command_line.h"
#include "apps/output.h"
#include "base/error.h"

namespace {

// --help is no error; any other is told in one line.
int report_parse_error(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) return app.exit(error);
  std::string command = "moray";
  for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
    at = at->get_subcommands().front();
    command += " " + at->get_name();
  }
  std::string what = error.what();
  if (const std::vector<std::string> unknown = app.remaining();
      app.get_subcommands().empty() && !unknown.empty())
    what = "'" + unknown.front() + "' is no command";
  std::fprintf(stderr, "moray: %s; see `%s --help`\n", moray::on_one_line(what).c_str(), command.c_str());
  constexpr int kUsage = 2;
  return kUsage;
}

}  // namespace

int main(int argc, char** argv) {
  moray::occupy_standard_streams();
  ::signal(SIGPIPE, SIG_DFL);  // `moray ... | head` ends quietly
  ::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is an error of the write, told in words
  moray::report_bus_errors();
  CLI::App app("moray: train and run DeepSeek-V3-class models");
  app.set_version_flag("--version", "moray " MORAY_VERSION);
  app.require_subcommand(1);
  app.footer("moray COMMAND --help shows a command's options, with examples.");
  moray::Action action;
  moray::add_tokenizer(app, action);
  moray::add_data(app, action);
  moray::add_train(app, action);
  moray::add_generate(app, action);
  moray::add_chat(app, action);
  moray::add_eval(app, action);
  moray::add_inspect(app, action);
  moray::add_verify(app, action);
  moray::add_quantize(app, action);
  moray::add_pull(app, action);
  moray::add_report(app, action);
  moray::add_bench(app, action);
  moray::add_plan(app, action);
  moray::add_numerics(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return report_parse_error(app, error);
  }
  try {
    const int status = action();
    moray::flush_output();
    return status;
  } catch (const moray::Error& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "moray: %s\n", moray::on_one_line(error.what()).c_str());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "moray: out of memory\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "moray: %s\n", moray::on_one_line(error.what()).c_str());
  }
  return 1;
}
