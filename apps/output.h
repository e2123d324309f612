// Standard output, whose loss is an error: a full disk, a closed stream.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace moray {

// At once, not at the end. Throws Error.
void write_output(std::string_view text);
// The same for text of a model: what would steer a terminal (base/utf8.h) does not reach one, lines and tabs
// do.
void write_text(std::string_view text);
// Throws Error when anything written so far is lost.
void flush_output();

// Where a standard stream is closed, the next file to be opened would take its place and be written to. Each
// such stream becomes one that can only fail.
void occupy_standard_streams();

// One line for a message whatever files hold: printable (base/utf8.h), and what is longer than a page is cut.
std::string on_one_line(std::string_view text);

// One object on standard output; names that are no UTF-8 do not stop it. On one line, or indented.
void print_json(const nlohmann::ordered_json& json, int indent = -1);

}  // namespace moray
