#include "base/config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <tuple>
#include <utility>

#include "base/error.h"

namespace moray {

namespace {

constexpr int64_t kLargestExactInteger = int64_t{1} << 53;  // every integer up to here is a double
constexpr std::string_view kSetPrefix = "--set ";           // the source of values given on the command line

std::vector<std::string_view> split_key(std::string_view key) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t dot = key.find('.');
    parts.push_back(key.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    key.remove_prefix(dot + 1);
  }
}

bool is_bare_key(std::string_view part) {
  return !part.empty() && std::all_of(part.begin(), part.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  });
}

std::optional<size_t> index_of(std::string_view part) {
  size_t index = 0;
  const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
  if (error != std::errc() || end != part.data() + part.size()) return std::nullopt;
  return index;
}

std::string joined(const std::string& prefix, std::string_view part) {
  return prefix.empty() ? std::string(part) : fmt::format("{}.{}", prefix, part);
}

toml::node* child(toml::node& parent, std::string_view part) {
  if (toml::table* table = parent.as_table()) return table->get(part);
  const std::optional<size_t> index = index_of(part);
  return parent.is_array() && index ? parent.as_array()->get(*index) : nullptr;
}

// Literals of the resolved recipe, written so that TOML reads the same value back.
std::string literal(int64_t value) {
  return fmt::format("{}", value);
}
std::string literal(bool value) {
  return value ? "true" : "false";
}

std::string literal(double value) {
  if (std::isnan(value)) return "nan";
  std::string text = fmt::format("{}", value);  // the shortest decimal that rounds to this double
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

std::string literal(const std::string& value) {
  std::string text = "\"";
  for (char c : value) {
    if (c == '"' || c == '\\') {
      text += '\\';
      text += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      text += fmt::format("\\u{:04x}", static_cast<int>(c));
    } else {
      text += c;
    }
  }
  return text + '"';
}

template <class T>
std::string literal(const std::vector<T>& values) {
  std::string text = "[";
  for (size_t i = 0; i < values.size(); ++i) text += (i > 0 ? ", " : "") + literal(values[i]);
  return text + "]";
}

// "string \"abc\"" for messages; long values are cut.
std::string describe(const toml::node& node) {
  if (node.is_table()) return "a section";
  if (node.is_array()) return "an array";
  if (const auto* value = node.as_string()) {
    std::string text = literal(value->get());
    if (text.size() > 60) text = text.substr(0, 60) + "...";
    return "the string " + text;
  }
  if (const auto* value = node.as_integer()) return literal(value->get());
  if (const auto* value = node.as_floating_point()) return literal(value->get());
  if (const auto* value = node.as_boolean()) return literal(value->get());
  return "a date or time";
}

std::string place_of(const toml::node& node, const std::string& source) {
  const toml::source_region& region = node.source();
  if (!region.path) return source;
  if (region.path->starts_with(kSetPrefix)) return *region.path;
  return fmt::format("{}:{}", *region.path, region.begin.line);
}

std::string one_line(std::string_view text) {
  std::string line(text);
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line;
}

// The resolved recipe's sections as a tree, children in the order they were first asked for.
struct Section {
  std::string name;  // the last part
  std::vector<std::pair<std::string, std::string>> values;
  std::vector<Section> children;

  Section& open(std::string_view child_name) {
    for (Section& child : children) {
      if (child.name == child_name) return child;
    }
    return children.emplace_back(Section{std::string(child_name), {}, {}});
  }

  bool is_array() const {
    return !children.empty() && std::all_of(children.begin(), children.end(),
                                            [](const Section& c) { return index_of(c.name).has_value(); });
  }

  void write(const std::string& path, bool is_element, std::string& out) const {
    if (is_element) {
      out += fmt::format("\n[[{}]]\n", path);
    } else if (!values.empty() && !path.empty()) {
      out += fmt::format("\n[{}]\n", path);
    }
    for (const auto& [key, text] : values) out += fmt::format("{} = {}\n", key, text);
    for (const Section& child : children) {
      const std::string child_path = joined(path, child.name);
      if (!child.is_array()) {
        child.write(child_path, false, out);
        continue;
      }
      std::map<size_t, const Section*> elements;
      for (const Section& element : child.children) elements[*index_of(element.name)] = &element;
      for (const auto& [number, element] : elements) element->write(child_path, true, out);
    }
  }
};

}  // namespace

struct Config::Impl {
  toml::table root;
  std::string source;
  std::set<std::string> known;                                 // every key anybody asked for
  std::vector<std::pair<std::string, std::string>> in_force;   // key and literal, in the order asked
  std::map<std::string, size_t, std::less<>> in_force_by_key;  // key to its place in in_force

  toml::node* find(const std::string& key) {
    toml::node* node = &root;
    for (std::string_view part : split_key(key)) {
      node = child(*node, part);
      if (node == nullptr) return nullptr;
    }
    return node;
  }

  std::string where(const toml::node& node, const std::string& key) const {
    return fmt::format("{}: '{}'", place_of(node, source), key);
  }

  [[noreturn]] void wrong_type(const toml::node& node, const std::string& key,
                               std::string_view expected) const {
    fail("{} must be {}, got {}", where(node, key), expected, describe(node));
  }

  template <class T>
  T record(const std::string& key, T value) {
    const auto [place, is_new] = in_force_by_key.emplace(key, in_force.size());
    if (is_new) {
      in_force.emplace_back(key, literal(value));
    } else {
      in_force[place->second].second = literal(value);
    }
    return value;
  }

  // The value of `key` turned by `convert(node)`, or the fallback; either way the key is known and in force.
  template <class T, class Convert>
  T read(const std::string& key, T fallback, Convert convert) {
    known.insert(key);
    const toml::node* node = find(key);
    return record(key, node == nullptr ? std::move(fallback) : convert(*node));
  }

  int64_t to_integer(const toml::node& node, const std::string& key) const {
    if (const auto* value = node.as_integer()) return value->get();
    const auto* value = node.as_floating_point();
    if (value == nullptr) wrong_type(node, key, "an integer");
    if (!(std::trunc(value->get()) == value->get())) wrong_type(node, key, "an integer");
    if (std::abs(value->get()) > static_cast<double>(kLargestExactInteger)) {
      fail("{} is too large to be exact as {}; write the integer in full", where(node, key), describe(node));
    }
    return static_cast<int64_t>(value->get());
  }

  double to_number(const toml::node& node, const std::string& key) const {
    if (const auto* value = node.as_floating_point()) return value->get();
    const auto* value = node.as_integer();
    if (value == nullptr) wrong_type(node, key, "a number");
    if (value->get() > kLargestExactInteger || value->get() < -kLargestExactInteger) {
      fail("{} = {} is too large to be exact as a number", where(node, key), value->get());
    }
    return static_cast<double>(value->get());
  }

  std::string to_string(const toml::node& node, const std::string& key) const {
    const auto* value = node.as_string();
    if (value == nullptr) wrong_type(node, key, "a string");
    return value->get();
  }

  template <class T>
  std::vector<T> to_list(const toml::node& node, const std::string& key, std::string_view expected,
                         T (Impl::*convert)(const toml::node&, const std::string&) const) const {
    const toml::array* array = node.as_array();
    if (array == nullptr) wrong_type(node, key, expected);
    std::vector<T> values;
    for (size_t i = 0; i < array->size(); ++i) {
      values.push_back((this->*convert)((*array)[i], fmt::format("{}[{}]", key, i)));
    }
    return values;
  }

  // Keys of the file nobody asked for, as (line, key, place).
  using Unknown = std::tuple<size_t, std::string, std::string>;
  void collect_unknown(const toml::node& node, const std::string& path, std::vector<Unknown>& unknown) const {
    const toml::array* array = node.as_array();
    const bool holds_tables =
        array != nullptr && !array->empty() && array->is_homogeneous(toml::node_type::table);
    if (const toml::table* table = node.as_table(); table != nullptr && !table->empty()) {
      for (const auto& [name, value] : *table) {
        const std::string part =
            is_bare_key(name.str()) ? std::string(name.str()) : literal(std::string(name.str()));
        collect_unknown(value, joined(path, part), unknown);
      }
    } else if (holds_tables && known.contains(path)) {
      for (size_t i = 0; i < array->size(); ++i) {
        collect_unknown((*array)[i], joined(path, std::to_string(i)), unknown);
      }
    } else if (!known.contains(path) && !(node.is_table() && is_known_section(path))) {
      unknown.emplace_back(node.source().begin.line, path, place_of(node, source));
    }
  }

  std::vector<Unknown> unknown() const {
    std::vector<Unknown> found;
    collect_unknown(root, "", found);
    return found;
  }

  void reject(const std::vector<Unknown>& found) const {
    if (found.empty()) return;
    const auto& [line, key, place] = *std::min_element(found.begin(), found.end());
    const std::string nearest = nearest_key(key);
    fail("{}: unknown key '{}'{}", place, key,
         nearest.empty() ? std::string() : fmt::format("; did you mean '{}'?", nearest));
  }

  bool is_known_section(const std::string& path) const {
    if (path.empty()) return true;
    const std::string prefix = path + '.';
    const auto next = known.lower_bound(prefix);
    return next != known.end() && next->starts_with(prefix);
  }

  // The known key with the fewest edits to `key`. A key in a wrong section counts as one edit plus those of
  // its name.
  std::string nearest_key(const std::string& key) const {
    const auto name_of = [](const std::string& path) {
      return std::string_view(path).substr(path.rfind('.') + 1);
    };
    std::string nearest;
    size_t fewest = 0;
    for (const std::string& candidate : known) {
      const size_t edits =
          std::min(edit_distance(key, candidate), 1 + edit_distance(name_of(key), name_of(candidate)));
      if (nearest.empty() || edits < fewest) {
        nearest = candidate;
        fewest = edits;
      }
    }
    return nearest;
  }
};

Config Config::parse(std::string_view text, const std::string& source) {
  Config config;
  config.impl_ = std::make_shared<Impl>();
  config.impl_->source = source;
  try {
    config.impl_->root = toml::parse(text, std::string_view(source));
  } catch (const toml::parse_error& error) {
    fail("{}:{}:{}: {}", source, error.source().begin.line, error.source().begin.column,
         one_line(error.description()));
  }
  return config;
}

Config Config::read(const fs::path& path) {
  return parse(read_file(path), path.string());
}

namespace {

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// `{value = <text>}`, or `{value = "<text>"}` where the text is no TOML value. Nodes keep `source` as their
// place.
toml::table parse_value(std::string_view text, const std::string& source) {
  try {
    toml::table table = toml::parse(fmt::format("value = {}", text), std::string_view(source));
    if (table.size() == 1 && text.find('\n') == std::string_view::npos) return table;
  } catch (const toml::parse_error&) {
  }
  try {
    return toml::parse("value = " + literal(std::string(text)), std::string_view(source));
  } catch (const toml::parse_error&) {
    fail("{}: the value is not valid UTF-8", source);
  }
}

}  // namespace

void Config::set(const std::string& assignment) {
  const size_t equals = assignment.find('=');
  const std::string key(trimmed(std::string_view(assignment).substr(0, equals)));
  std::vector<std::string_view> parts = split_key(key);
  if (equals == std::string::npos || !std::all_of(parts.begin(), parts.end(), is_bare_key)) {
    fail("--set '{}': expected section.key=value", assignment);
  }
  const std::string source = std::string(kSetPrefix) + key;
  toml::table parsed = parse_value(trimmed(std::string_view(assignment).substr(equals + 1)), source);

  toml::node* node = &impl_->root;
  std::string path;
  for (std::string_view part : std::vector(parts.begin(), parts.end() - 1)) {
    path = joined(path, part);
    toml::node* next = child(*node, part);
    if (next == nullptr && node->is_array()) fail("{}: there is no '{}'", source, path);
    if (next == nullptr) {
      node->as_table()->insert(part, toml::table{});
      next = node->as_table()->get(part);
    }
    if (!next->is_table() && !next->is_array()) {
      fail("{}: '{}' is a value ({}), not a section", source, path, describe(*next));
    }
    node = next;
  }
  const toml::node* old = child(*node, parts.back());
  if (old != nullptr && old->is_table()) fail("{}: '{}' is a section; set one of its keys", source, key);
  if (!node->is_table()) fail("{}: '{}' is an array; set it whole", source, path);
  node->as_table()->insert_or_assign(parts.back(), std::move(*parsed.get("value")));
}

bool Config::has(const std::string& key) {
  impl_->known.insert(key);
  return impl_->find(key) != nullptr;
}

int64_t Config::integer(const std::string& key, int64_t fallback) {
  return impl_->read(key, fallback, [&](const toml::node& node) { return impl_->to_integer(node, key); });
}

double Config::number(const std::string& key, double fallback) {
  return impl_->read(key, fallback, [&](const toml::node& node) { return impl_->to_number(node, key); });
}

bool Config::boolean(const std::string& key, bool fallback) {
  return impl_->read(key, fallback, [&](const toml::node& node) {
    if (!node.is_boolean()) impl_->wrong_type(node, key, "true or false");
    return node.as_boolean()->get();
  });
}

std::string Config::string(const std::string& key, const std::string& fallback) {
  return impl_->read(key, fallback, [&](const toml::node& node) { return impl_->to_string(node, key); });
}

std::string Config::string(const std::string& key) {
  if (!has(key)) fail("{}: the required key '{}' is missing", impl_->source, key);
  return string(key, {});
}

std::vector<double> Config::numbers(const std::string& key, std::vector<double> fallback) {
  return impl_->read(key, std::move(fallback), [&](const toml::node& node) {
    return impl_->to_list<double>(node, key, "an array of numbers", &Impl::to_number);
  });
}

std::vector<std::string> Config::strings(const std::string& key, std::vector<std::string> fallback) {
  return impl_->read(key, std::move(fallback), [&](const toml::node& node) {
    return impl_->to_list<std::string>(node, key, "an array of strings", &Impl::to_string);
  });
}

bool Config::is_array(const std::string& key) {
  impl_->known.insert(key);
  const toml::node* node = impl_->find(key);
  return node != nullptr && node->is_array();
}

int64_t Config::table_count(const std::string& key) {
  impl_->known.insert(key);
  const toml::node* node = impl_->find(key);
  if (node == nullptr) return 0;
  const toml::array* array = node->as_array();
  if (array == nullptr || (!array->empty() && !array->is_homogeneous(toml::node_type::table))) {
    impl_->wrong_type(*node, key, "an array of tables [[" + key + "]]");
  }
  return static_cast<int64_t>(array->size());
}

std::string Config::where(const std::string& key) const {
  const toml::node* node = impl_->find(key);
  return node == nullptr ? fmt::format("{}: '{}'", impl_->source, key) : impl_->where(*node, key);
}

void Config::reject_unknown_keys() const {
  impl_->reject(impl_->unknown());
}

void Config::reject_unknown_keys(const std::string& section) const {
  std::vector<Impl::Unknown> unknown = impl_->unknown();
  std::erase_if(unknown, [&](const Impl::Unknown& each) {
    const auto& [line, key, place] = each;
    return key != section && !key.starts_with(section + '.') && !place.starts_with(kSetPrefix);
  });
  impl_->reject(unknown);
}

std::vector<std::string> changed_keys(std::string_view resolved, std::string_view other) {
  const auto values = [](std::string_view text) {
    std::map<std::string, std::string> list;
    std::map<std::string, int> tables;  // how many [[name]] there were
    std::string section;
    std::istringstream lines{std::string(text)};
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("[[")) {
        const std::string name = line.substr(2, line.find(']') - 2);
        section = fmt::format("{}.{}.", name, tables[name]++);
      } else if (line.starts_with('[')) {
        section = line.substr(1, line.find(']') - 1) + '.';
      } else if (const size_t equals = line.find(" = "); equals != std::string::npos) {
        list[section + line.substr(0, equals)] = line.substr(equals + 3);
      }
    }
    return list;
  };
  const std::map<std::string, std::string> a = values(resolved), b = values(other);
  std::set<std::string> changed;
  for (const auto& [key, value] : a)
    if (const auto found = b.find(key); found == b.end() || found->second != value) changed.insert(key);
  for (const auto& [key, value] : b)
    if (!a.contains(key)) changed.insert(key);
  return {changed.begin(), changed.end()};
}

std::string Config::resolved() const {
  Section root;
  for (const auto& [key, text] : impl_->in_force) {
    Section* section = &root;
    std::vector<std::string_view> parts = split_key(key);
    for (size_t i = 0; i + 1 < parts.size(); ++i) section = &section->open(parts[i]);
    section->values.emplace_back(parts.back(), text);
  }
  std::string out;
  root.write("", false, out);
  return out.starts_with('\n') ? out.substr(1) : out;
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before_last(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    before_last.swap(last);
    last.swap(row);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before_last[j - 2] + 1);
      }
    }
  }
  return row[b.size()];
}

}  // namespace moray
