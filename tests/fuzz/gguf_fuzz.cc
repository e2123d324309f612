// A GGUF file of any bytes: a vocabulary that makes a tokenizer, or refused in words.
#include "base/error.h"
#include "data/gguf_metadata.h"
#include "data/gguf_vocabulary.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moray;
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  try {
    const Tokenizer tokenizer = Tokenizer::from_parts(parse_gguf_vocabulary(file, "x.gguf"), "x.gguf");
    tokenizer.decode(tokenizer.encode("Hello, world 123\n"));
  } catch (const Error&) {
  }
  return 0;
}
