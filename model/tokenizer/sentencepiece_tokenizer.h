// SentencePiece models of type BPE and unigram, from tokenizer.model or a GGUF "llama" vocabulary.
#ifndef OCTET_MODEL_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_
#define OCTET_MODEL_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe_merge.h"
#include "model/tokenizer/byte_trie.h"
#include "model/tokenizer/charsmap.h"
#include "model/tokenizer/sentencepiece_model.h"
#include "model/tokenizer/tokenizer.h"

namespace octet {

// Gives the ids that libsentencepiece gives. Beyond it, control pieces and added tokens spelled in
// the text are found with parse_special; text after one starts anew (with its own dummy prefix).
class SentencePieceTokenizer : public Tokenizer {
 public:
  // added: tokens of a Hugging Face directory that the model file lacks.
  // INVALID_ARGUMENT: a piece that is empty, too long, not UTF-8 or there twice, a score that is no
  // number, no unknown piece, byte fallback without all 256 bytes.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(SentencePieceModel model,
                                                           std::vector<AddedToken> added,
                                                           TokenizerSettings settings);

  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override;
  std::string Serialize() const override;

 private:
  // What the model cuts a normalised text into: pieces of the vocabulary or unknown characters.
  struct Part {
    uint32_t begin;
    uint32_t length;
    TokenId id;  // -1: unknown
  };

  SentencePieceTokenizer(SentencePieceModel model, std::vector<AddedToken> added)
      : model_(std::move(model)), added_(std::move(added)) {}
  absl::Status FillPieces();
  absl::Status FillAdded();
  absl::Status FillRanks();

  std::string Normalize(std::string_view text) const;
  // The bytes that the normaliser consumes at the start of text and what it makes of them.
  Charsmap::Match NormalizeStep(std::string_view text) const;
  void EncodeText(std::string_view text, BpeScratch* scratch, std::vector<TokenId>* out) const;
  std::vector<Part> CutBpe(std::string_view text, BpeScratch* scratch) const;
  std::vector<Part> CutUnigram(std::string_view text) const;
  // Appends part, or, for an unused piece, what the merges joined to it (splits: piece → bytes of
  // its left part).
  void AppendResegmented(std::string_view text, Part part,
                         const absl::flat_hash_map<TokenId, uint32_t>& splits,
                         std::vector<Part>* out) const;
  TokenId PieceId(std::string_view text) const;
  SentencePieceType TypeOf(TokenId id) const { return model_.pieces[static_cast<size_t>(id)].type; }

  SentencePieceModel model_;
  std::vector<AddedToken> added_;
  Charsmap charsmap_;
  AddedTokenMatcher matcher_;                            // control pieces and added tokens
  ByteTrie user_defined_;                                // pieces that text always becomes
  ByteTrie trie_;                                        // unigram: all of piece_ids_
  absl::flat_hash_map<std::string, TokenId> piece_ids_;  // those that text can become
  std::vector<uint32_t> ranks_;                          // BPE: of each piece, by falling score
  std::array<TokenId, 256> byte_ids_;
  float score_min_ = 0;  // of normal pieces
  float score_max_ = 0;
};

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_SENTENCEPIECE_TOKENIZER_H_
