// A tokenizer.json of any bytes: a tokenizer whose encoding decodes to the text, or refused in words.
#include "base/error.h"
#include "data/tokenizer.h"
#include "data/tokenizer_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moray;
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const Tokenizer tokenizer = Tokenizer::from_json(text, "tokenizer.json");
    for (const char* sample : {"Hello, world 123\n", "\xe4\xb8\xad\xe6\x96\x87 e\xcc\x81", "<think>"})
      for (SpecialTokens special : {SpecialTokens::ignore, SpecialTokens::parse})
        tokenizer.decode(tokenizer.encode(sample, special));
  } catch (const Error&) {
  }
  try {
    TokenizerParts parts;
    apply_tokenizer_config(text, "tokenizer_config.json", parts);
  } catch (const Error&) {
  }
  return 0;
}
