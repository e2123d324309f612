#include "hub/digest.h"

#include <openssl/evp.h>

#include <array>

#include "base/error.h"

namespace moray::hub {

namespace {
constexpr size_t kSha256Digits = 64, kSha1Digits = 40;
constexpr std::string_view kSha256Prefix = "sha256:";
}  // namespace

struct DigestStream::State {
  EVP_MD_CTX* context = nullptr;
  ~State() { ::EVP_MD_CTX_free(context); }
};

ContentDigest parse_digest(std::string_view text) {
  if (text.starts_with("W/")) text.remove_prefix(2);
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  const bool named = text.starts_with(kSha256Prefix);
  if (named) text.remove_prefix(kSha256Prefix.size());
  if (text.size() != kSha256Digits && (named || text.size() != kSha1Digits)) return {};
  if (text.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) return {};
  std::string hex(text);
  for (char& digit : hex)
    if (digit >= 'A' && digit <= 'F') digit = static_cast<char>(digit - 'A' + 'a');
  return {hex};
}

DigestStream::DigestStream(const ContentDigest& expected, uint64_t size) : state_(std::make_unique<State>()) {
  if (!expected.known()) return;
  const bool blob = expected.hex.size() == kSha1Digits;
  state_->context = ::EVP_MD_CTX_new();
  const int started = ::EVP_DigestInit_ex(state_->context, blob ? ::EVP_sha1() : ::EVP_sha256(), nullptr);
  if (started != 1) fail("libcrypto offers no {}", blob ? "SHA-1" : "SHA-256");
  if (blob) add(fmt::format("blob {}", size) + '\0');
}

DigestStream::~DigestStream() = default;
DigestStream::DigestStream(DigestStream&&) noexcept = default;
DigestStream& DigestStream::operator=(DigestStream&&) noexcept = default;

void DigestStream::add(std::string_view bytes) {
  if (state_->context != nullptr)
    MORAY_CHECK(::EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

std::string DigestStream::finish() {
  if (state_->context == nullptr) return "";
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  MORAY_CHECK(::EVP_DigestFinal_ex(state_->context, digest.data(), &size) == 1);
  std::string hex;
  for (unsigned i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

}  // namespace moray::hub
