#include "data/tiktoken.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_map>

#include "base/error.h"
#include "data/byte_level.h"

namespace moray {

namespace {
constexpr size_t kMaxTokenBytes = 1024;  // published ones have 256 at most; all cuts of a token are tried

void place_token(TokenizerParts& parts, int32_t rank, std::string bytes, const std::string& where) {
  const auto id = static_cast<size_t>(rank);
  if (id >= parts.token_bytes.size()) parts.token_bytes.resize(id + 1);
  if (!parts.token_bytes[id].empty()) fail("{}: the rank {} occurs twice", where, rank);
  parts.token_bytes[id] = std::move(bytes);
}

// Every way to join two tokens to a third; in the order of the results, and among equals of the parts.
void derive_merges(TokenizerParts& parts, const std::string& source) {
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t id = 0; id < parts.token_bytes.size(); ++id)
    if (!parts.token_bytes[id].empty()) ids.emplace(parts.token_bytes[id], static_cast<int32_t>(id));
  for (const AddedToken& token : parts.added_tokens) ids.erase(token.content);
  for (size_t id = 0; id < parts.token_bytes.size(); ++id) {
    const std::string_view bytes = parts.token_bytes[id];
    const auto whole = ids.find(bytes);
    if (whole == ids.end() || whole->second != static_cast<int32_t>(id)) continue;
    const size_t first = parts.merges.size();
    if (first > kMaxMerges)
      fail("{}: tokens are made of others in more than {} ways: not a vocabulary", source, kMaxMerges);
    for (size_t cut = 1; cut < bytes.size(); ++cut) {
      const auto left = ids.find(bytes.substr(0, cut));
      if (left == ids.end()) continue;
      const auto right = ids.find(bytes.substr(cut));
      if (right != ids.end()) parts.merges.push_back({left->second, right->second, whole->second});
    }
    std::sort(parts.merges.begin() + static_cast<ptrdiff_t>(first), parts.merges.end(),
              [](const Merge& a, const Merge& b) {
                return std::pair(a.left, a.right) < std::pair(b.left, b.right);
              });
  }
}

bool has_every_byte(const std::vector<std::string>& tokens) {
  std::array<bool, 256> seen{};
  for (const std::string& token : tokens)
    if (token.size() == 1) seen[static_cast<uint8_t>(token[0])] = true;
  return std::find(seen.begin(), seen.end(), false) == seen.end();
}

// A vocabulary in the byte-level alphabet: tokens outside it are special.
void read_byte_level(TokenizerParts& parts) {
  for (size_t id = 0; id < parts.token_bytes.size(); ++id) {
    std::string& token = parts.token_bytes[id];
    if (token.empty()) continue;
    if (auto bytes = from_byte_level(token))
      token = std::move(*bytes);
    else
      parts.added_tokens.push_back({.id = static_cast<int32_t>(id), .content = token});
  }
}
}  // namespace

std::optional<std::string> decode_base64(std::string_view text) {
  const auto value = [](char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
  };
  if (text.size() % 4 != 0) return std::nullopt;
  std::string bytes;
  for (size_t i = 0; i < text.size(); i += 4) {
    const std::string_view group = text.substr(i, 4);
    const size_t digits = std::min(group.find('='), size_t{4});
    if (digits < 2 || (digits < 4 && i + 4 != text.size()) ||
        group.substr(digits) != std::string_view("==").substr(0, 4 - digits))
      return std::nullopt;
    uint32_t bits = 0;
    for (size_t digit = 0; digit < 4; ++digit) {
      const int six = digit < digits ? value(group[digit]) : 0;
      if (six < 0) return std::nullopt;
      bits = bits << 6 | static_cast<uint32_t>(six);
    }
    for (size_t byte = 0; byte + 1 < digits; ++byte)
      bytes.push_back(static_cast<char>(bits >> (16 - 8 * byte) & 0xff));
  }
  return bytes;
}

TokenizerParts parse_tiktoken(std::string_view text, const std::string& source) {
  TokenizerParts parts;
  parts.ranks_are_ids = true;
  parts.ignore_merges = true;
  for (size_t number = 1; !text.empty(); ++number) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const std::string where = fmt::format("{}: line {}", source, number);
    const size_t space = line.find(' ');
    if (space == std::string_view::npos) fail("{}: not 'BASE64 RANK'", where);
    auto bytes = decode_base64(line.substr(0, space));
    if (!bytes || bytes->empty())
      fail("{}: '{}' is no base64 of a token", where, line.substr(0, space).substr(0, 80));
    if (bytes->size() > kMaxTokenBytes)
      fail("{}: a token of {} bytes, expected at most {}", where, bytes->size(), kMaxTokenBytes);
    int32_t rank = -1;
    const std::string_view digits = line.substr(space + 1);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), rank);
    if (error != std::errc() || end != digits.data() + digits.size() || rank < 0 || rank >= kMaxVocabulary)
      fail("{}: '{}' is no rank", where, digits.substr(0, 80));
    place_token(parts, rank, std::move(*bytes), where);
  }
  if (has_every_byte(parts.token_bytes)) {
    parts.splits = {kimi_split()};
  } else {
    read_byte_level(parts);
    if (!has_every_byte(parts.token_bytes))
      fail("{}: no token for some bytes: not a byte-level vocabulary", source);
    const bool deepseek =
        std::any_of(parts.added_tokens.begin(), parts.added_tokens.end(),
                    [](const AddedToken& token) { return token.content == kBeginOfSentence; });
    if (!deepseek)
      fail("{}: tokens in the byte-level alphabet, but no {}: it is unknown how this model splits texts",
           source, kBeginOfSentence);
    parts.splits = deepseek_v3_splits();
    parts.begin_of_sentence = kBeginOfSentence;
    parts.end_of_sentence = kEndOfSentence;
    parts.add_begin_of_sentence = true;
  }
  derive_merges(parts, source);
  return parts;
}

void add_reserved_tokens(TokenizerParts& parts) {
  if (parts.splits != std::vector{kimi_split()}) return;
  constexpr size_t kReserved = 256;
  size_t ranks = 0;  // ids from here on are no ranks
  std::vector<bool> added(parts.token_bytes.size());
  for (const AddedToken& token : parts.added_tokens) added[static_cast<size_t>(token.id)] = true;
  for (size_t id = 0; id < parts.token_bytes.size(); ++id)
    if (!added[id] && !parts.token_bytes[id].empty()) ranks = id + 1;
  if (parts.token_bytes.size() < ranks + kReserved) parts.token_bytes.resize(ranks + kReserved);
  for (size_t id = ranks; id < ranks + kReserved; ++id) {
    if (!parts.token_bytes[id].empty()) continue;
    parts.token_bytes[id] = fmt::format("<|reserved_token_{}|>", id);
    parts.added_tokens.push_back({.id = static_cast<int32_t>(id), .content = parts.token_bytes[id]});
  }
}

}  // namespace moray
