#include "model/tokenizer/golden_test_util.h"

#include <fstream>
#include <iterator>

#include "core/check.h"
#include "core/limits.h"
#include "model/json.h"

namespace octet {

std::string ReadGolden(const std::string& source_dir, const std::string& name) {
  std::ifstream file(source_dir + "/tests/golden/tokenizer/" + name, std::ios::binary);
  OCTET_CHECK(file.good()) << name;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<std::string> GoldenCorpus(const std::string& source_dir) {
  const auto json = ParseJsonBounded(ReadGolden(source_dir, "corpus.json"), kTokenizerBytesMax);
  OCTET_CHECK(json.ok()) << json.status();
  return json->get<std::vector<std::string>>();
}

std::vector<std::vector<TokenId>> GoldenIds(const std::string& source_dir,
                                            const std::string& name) {
  const std::string bytes = ReadGolden(source_dir, name);
  std::vector<std::vector<TokenId>> rows;
  size_t at = 0;
  const auto next = [&] {
    OCTET_CHECK_LE(at + 2, bytes.size());
    const uint32_t low = static_cast<uint8_t>(bytes[at]);
    const uint32_t high = static_cast<uint8_t>(bytes[at + 1]);
    at += 2;
    return low | high << 8;
  };
  while (at < bytes.size()) {
    std::vector<TokenId> row(next());
    for (TokenId& id : row) id = static_cast<TokenId>(next());
    rows.push_back(std::move(row));
  }
  return rows;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> GoldenTokenizer(const std::string& source_dir,
                                                           const std::string& name) {
  const std::string bytes = ReadGolden(source_dir, name);
  if (name == "smollm2.json") return DeserializeTokenizer(bytes);
  if (name.ends_with(".model")) return TokenizerFromSentencePiece(bytes);
  return TokenizerFromHfJson(bytes);
}

}  // namespace octet
