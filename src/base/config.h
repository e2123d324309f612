// Recipes: a TOML file read strictly. Every key must be asked for by somebody; what is left over is an error
// that names the nearest valid key.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"

namespace moray {

class Config {
 public:
  // Throws Error with file, line and column when the text is no TOML.
  static Config parse(std::string_view text, const std::string& source);
  static Config read(const fs::path& path);

  // `assignment` is "section.key=value" (the command line's --set); the value is TOML, or else taken as a
  // string. "key.0.name=value" reaches into an array of tables. Throws Error when the key is malformed or
  // names a section.
  void set(const std::string& assignment);

  // Readers by dotted key. The one with `fallback` returns it when the key is absent. A value of the wrong
  // type throws Error naming the key, what was expected and what was found. Integers may be written as 4e6
  // when exact.
  bool has(const std::string& key);
  bool is_array(const std::string& key);  // false when absent
  int64_t integer(const std::string& key, int64_t fallback);
  double number(const std::string& key, double fallback);
  bool boolean(const std::string& key, bool fallback);
  std::string string(const std::string& key, const std::string& fallback);
  std::string string(const std::string& key);  // required
  std::vector<double> numbers(const std::string& key, std::vector<double> fallback);
  std::vector<std::string> strings(const std::string& key, std::vector<std::string> fallback);
  // The number of tables in an array of tables [[key]]; their keys are then read as "key.0.name",
  // "key.1.name", ...
  int64_t table_count(const std::string& key);

  // "recipe.toml:12: 'model.hidden_size'", to begin the message of an Error about a value that was read but
  // does not fit.
  std::string where(const std::string& key) const;

  // After all readers ran: throws Error for the first key nobody asked for, with the nearest key that exists.
  void reject_unknown_keys() const;
  // For who reads one section alone: the same of its keys, and of all that set() gave, which is meant for
  // this reader.
  void reject_unknown_keys(const std::string& section) const;

  // Every key asked for with the value in force (defaults included), as TOML: the resolved recipe of a run.
  // Parsed again and read by the same readers it gives the same values to the bit. Keys asked for only by
  // has() are left out.
  std::string resolved() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// The keys that two resolved recipes give other values, or that only one of them has; sorted.
std::vector<std::string> changed_keys(std::string_view resolved, std::string_view other);

// The number of single-character edits between two words (insert, delete, replace, swap neighbours).
size_t edit_distance(std::string_view a, std::string_view b);

}  // namespace moray
