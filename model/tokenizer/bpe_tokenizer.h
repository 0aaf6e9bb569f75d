// Byte-pair encoding with ranked merges: byte-level (GPT-2 and its heirs) and byte-fallback
// (SentencePiece models that were converted to tokenizer.json).
#ifndef OCTET_MODEL_TOKENIZER_BPE_TOKENIZER_H_
#define OCTET_MODEL_TOKENIZER_BPE_TOKENIZER_H_

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe_merge.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/tokenizer.h"

namespace octet {

// Everything a BPE tokenizer is made of; Create checks it.
struct BpeSpec {
  std::vector<std::string> tokens;  // by id, as the vocabulary spells them; empty: no such id
  std::vector<AddedToken> added;    // their ids may lie in tokens or after
  std::vector<std::pair<TokenId, TokenId>> merges;  // best first
  nlohmann::json normalizer;                        // Normalizer::Parse
  nlohmann::json pre_tokenizer;                     // PreTokenizer::Parse
  bool byte_level = true;            // tokens spell bytes in GPT-2's alphabet; else text with "▁"
  bool byte_fallback = false;        // "<0x00>" to "<0xFF>" stand for what has no token
  std::optional<TokenId> model_unk;  // for what has neither token nor bytes; none: it is left out
  bool fuse_unk = false;             // one model_unk for a run of them
  bool ignore_merges = false;        // a piece that is a token needs no merges
  bool drop_leading_space = false;
  TokenizerSettings settings;
};

class BpeTokenizer : public Tokenizer {
 public:
  // INVALID_ARGUMENT: ids out of range, a merge of or into unknown tokens, text that is not UTF-8.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(BpeSpec spec);

  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override;
  std::string Serialize() const override;

 private:
  explicit BpeTokenizer(BpeSpec spec) : spec_(std::move(spec)) {}
  absl::Status FillVocabulary();
  absl::Status FillMerges();
  absl::Status FillAdded();

  // Encodes text between raw added tokens.
  absl::Status EncodeText(std::string_view text, bool at_start, bool parse_special,
                          BpeScratch* scratch, std::vector<TokenId>* out) const;
  void EncodePiece(std::string_view piece, BpeScratch* scratch, std::vector<TokenId>* out) const;
  // Fills scratch->symbols with the smallest pieces of text.
  void AddSymbols(std::string_view piece, std::vector<BpeSymbol>* symbols) const;
  void AddUnknown(std::string_view piece, uint32_t begin, uint32_t length,
                  std::vector<BpeSymbol>* symbols) const;

  BpeSpec spec_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  AddedTokenMatcher raw_added_;                           // matched in the text as given
  AddedTokenMatcher normalized_added_;                    // matched after the normalizer
  absl::flat_hash_map<std::string, TokenId> encode_ids_;  // bytes or text of a piece → id
  absl::flat_hash_map<uint64_t, BpeMergeResult> merges_;  // left << 32 | right
  std::array<TokenId, 256> byte_ids_;                     // -1: no token for this byte
  bool bytes_complete_ = false;                           // byte fallback can spell every byte
};

// GPT-2's printable alphabet for bytes. nullopt: a character outside of it.
std::optional<std::string> BytesOfAlphabet(std::string_view token);
// The byte that "<0x0A>" stands for, or -1.
int ByteOfToken(std::string_view token);

// The reader of Serialize's JSON, for DeserializeTokenizer.
absl::StatusOr<BpeSpec> BpeSpecFromJson(const nlohmann::json& json);
nlohmann::json BpeSpecToJson(const BpeSpec& spec);

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_BPE_TOKENIZER_H_
