// The digests by which a hub names the content of files: SHA-256 of large ones, git's SHA-1 of blobs of
// others.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace moray::hub {

// What a file's content must hash to.
struct ContentDigest {
  std::string
      hex;  // 64 digits: SHA-256 of the content; 40: SHA-1 of "blob SIZE\0" and the content; "": unknown

  bool known() const { return !hex.empty(); }
};

// From a hub's words: 64 or 40 hexadecimal digits, of either case, quotes, "W/" and "sha256:" around them
// taken off; unknown for anything else.
ContentDigest parse_digest(std::string_view text);

// A digest being formed of the kind that `expected` is.
class DigestStream {
 public:
  DigestStream(const ContentDigest& expected, uint64_t size);
  ~DigestStream();
  DigestStream(DigestStream&&) noexcept;
  DigestStream& operator=(DigestStream&&) noexcept;

  void add(std::string_view bytes);
  std::string finish();  // "" when the expected one is unknown

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moray::hub
