#include "base/json.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "base/error.h"

namespace moray {

using nlohmann::json;

namespace {

constexpr int kMaxDepth = 64;
constexpr size_t kMaxMessage = 160;

std::string brief(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  if (text.size() > kMaxMessage) text = text.substr(0, kMaxMessage) + "...";
  return text;
}

// nlohmann's messages begin with "[json.exception.name.number] ".
std::string reason(const json::exception& error) {
  const std::string text = error.what();
  const size_t end = text.find("] ");
  return brief(end == std::string::npos ? text : text.substr(end + 2));
}

[[noreturn]] void wrong_type(const json& value, std::string_view key, std::string_view expected,
                             const std::string& where) {
  const std::string got = value.is_object() ? "an object"
                          : value.is_array()
                              ? "an array"
                              : brief(value.dump(-1, ' ', false, json::error_handler_t::replace));
  fail("{}: '{}' must be {}, got {}", where, key, expected, got);
}

const json& require(const json& object, std::string_view key, std::string_view expected,
                    const std::string& where) {
  const json* value = json_find(object, key, where);
  if (value == nullptr) fail("{}: '{}' is missing ({} is needed)", where, key, expected);
  return *value;
}

}  // namespace

json parse_json(std::string_view text, const std::string& where) {
  // The library takes a NUL byte for the end of the text.
  if (text.find('\0') != std::string_view::npos) fail("{}: not JSON: it contains a NUL byte", where);
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) fail("{}: JSON nested deeper than {}", where, kMaxDepth);
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      fail("{}: the key '{}' appears twice in one object", where, brief(parsed.get<std::string>()));
    }
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::exception& error) {
    fail("{}: not JSON: {}", where, reason(error));
  }
}

const json* json_find(const json& object, std::string_view key, const std::string& where) {
  if (!object.is_object()) fail("{}: expected an object that holds '{}'", where, key);
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

int64_t json_integer(const json& object, std::string_view key, const std::string& where) {
  constexpr double kLargestExact = 0x1p53;
  const json& value = require(object, key, "an integer", where);
  if (value.is_number_unsigned() && value.get<uint64_t>() <= INT64_MAX) return value.get<int64_t>();
  if (value.is_number_integer() && !value.is_number_unsigned()) return value.get<int64_t>();
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (std::trunc(number) == number && std::abs(number) <= kLargestExact)
      return static_cast<int64_t>(number);
  }
  wrong_type(value, key, "an integer", where);
}

double json_number(const json& object, std::string_view key, const std::string& where) {
  const json& value = require(object, key, "a number", where);
  if (!value.is_number()) wrong_type(value, key, "a number", where);
  return value.get<double>();
}

bool json_boolean(const json& object, std::string_view key, const std::string& where) {
  const json& value = require(object, key, "true or false", where);
  if (!value.is_boolean()) wrong_type(value, key, "true or false", where);
  return value.get<bool>();
}

std::string json_string(const json& object, std::string_view key, const std::string& where) {
  const json& value = require(object, key, "a string", where);
  if (!value.is_string()) wrong_type(value, key, "a string", where);
  return value.get<std::string>();
}

const json& json_object(const json& object, std::string_view key, const std::string& where) {
  const json& value = require(object, key, "an object", where);
  if (!value.is_object()) wrong_type(value, key, "an object", where);
  return value;
}

const json& json_array(const json& object, std::string_view key, const std::string& where) {
  const json& value = require(object, key, "an array", where);
  if (!value.is_array()) wrong_type(value, key, "an array", where);
  return value;
}

int64_t json_integer(const json& object, std::string_view key, const std::string& where, int64_t fallback) {
  return json_find(object, key, where) == nullptr ? fallback : json_integer(object, key, where);
}

double json_number(const json& object, std::string_view key, const std::string& where, double fallback) {
  return json_find(object, key, where) == nullptr ? fallback : json_number(object, key, where);
}

bool json_boolean(const json& object, std::string_view key, const std::string& where, bool fallback) {
  return json_find(object, key, where) == nullptr ? fallback : json_boolean(object, key, where);
}

std::string json_string(const json& object, std::string_view key, const std::string& where,
                        const std::string& fallback) {
  return json_find(object, key, where) == nullptr ? fallback : json_string(object, key, where);
}

std::string json_quote(std::string_view text) {
  try {
    return json(text).dump();
  } catch (const json::exception&) {
    fail("'{}' is not valid UTF-8", brief(std::string(text)));
  }
}

}  // namespace moray
