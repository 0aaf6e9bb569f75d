// Tokenizer files of every kind: any bytes give an error or a tokenizer that encodes, decodes whole
// characters, streams what it decodes and survives being written and read.
// Links: octet_model_tokenizer
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/check.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/utf8.h"

namespace {

absl::StatusOr<std::unique_ptr<octet::Tokenizer>> Load(std::string_view bytes) {
  if (bytes.substr(0, 1) != "{") return octet::TokenizerFromSentencePiece(bytes);
  if (bytes.find("octet_tokenizer") != std::string_view::npos) {
    return octet::DeserializeTokenizer(bytes);
  }
  return octet::TokenizerFromHfJson(bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = Load(bytes);
  if (!tokenizer.ok()) return 0;
  const auto again = octet::DeserializeTokenizer((*tokenizer)->Serialize());
  OCTET_CHECK(again.ok()) << again.status();
  // The file's own bytes are a text that its tokens occur in.
  std::string text = "ab  c1\n\xC3\xA9\xF0\x9F\x98\x80<s>";
  text += bytes.substr(0, octet::Utf8ValidLength(bytes.substr(0, 512)));
  for (const bool parse_special : {false, true}) {
    const auto ids = (*tokenizer)->Encode(text, {true, parse_special});
    if (!ids.ok()) continue;
    const auto same = (*again)->Encode(text, {true, parse_special});
    OCTET_CHECK(same.ok() && *same == *ids);
    const std::string decoded = (*tokenizer)->Decode(*ids, false);
    OCTET_CHECK_EQ(octet::Utf8ValidLength(decoded), decoded.size());
    octet::StreamDecoder stream(tokenizer->get(), false);
    std::string joined;
    for (const octet::TokenId id : *ids) {
      OCTET_CHECK(id >= 0 && static_cast<uint32_t>(id) < (*tokenizer)->vocab_size());
      joined += stream.Append(id);
    }
    joined += stream.Flush();
    OCTET_CHECK(joined == decoded);
  }
  return 0;
}
