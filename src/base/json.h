// Strict reading of small JSON files: model configs, indices, manifests. Bulk JSON (corpora) goes elsewhere.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace moray {

// Parses a whole document. Throws Error beginning with `where` (a file's path) for bad syntax, invalid UTF-8,
// a key twice in one object, nesting deeper than 64, or anything after the document.
nlohmann::json parse_json(std::string_view text, const std::string& where);

// The value of `key`, or nullptr when it is absent or null. `object` must be an object, or Error.
const nlohmann::json* json_find(const nlohmann::json& object, std::string_view key, const std::string& where);

// The value of `key` as the type named. Without a fallback an absent (or null) key throws Error, a wrong type
// always does: "config.json: 'hidden_size' must be an integer, got "abc"". Integers may be written 1e4 or
// 10000.0 where exact.
int64_t json_integer(const nlohmann::json& object, std::string_view key, const std::string& where);
int64_t json_integer(const nlohmann::json& object, std::string_view key, const std::string& where,
                     int64_t fallback);
double json_number(const nlohmann::json& object, std::string_view key, const std::string& where);
double json_number(const nlohmann::json& object, std::string_view key, const std::string& where,
                   double fallback);
bool json_boolean(const nlohmann::json& object, std::string_view key, const std::string& where);
bool json_boolean(const nlohmann::json& object, std::string_view key, const std::string& where,
                  bool fallback);
std::string json_string(const nlohmann::json& object, std::string_view key, const std::string& where);
std::string json_string(const nlohmann::json& object, std::string_view key, const std::string& where,
                        const std::string& fallback);
const nlohmann::json& json_object(const nlohmann::json& object, std::string_view key,
                                  const std::string& where);
const nlohmann::json& json_array(const nlohmann::json& object, std::string_view key,
                                 const std::string& where);

// `text` as a JSON string with its quotes; Error when it is not UTF-8.
std::string json_quote(std::string_view text);

}  // namespace moray
