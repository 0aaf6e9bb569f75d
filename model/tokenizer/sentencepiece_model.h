// SentencePiece's model file, read by hand.
//
// Why not through libsentencepiece: the distribution's build carries a private protobuf 3.14 whose
// symbols it exports, and a process that also holds libprotobuf 3.21 (every one that speaks gRPC)
// aborts on loading a model. So the model is read and applied here, and the library is the
// reference that the tests compare with.
#ifndef OCTET_MODEL_TOKENIZER_SENTENCEPIECE_MODEL_H_
#define OCTET_MODEL_TOKENIZER_SENTENCEPIECE_MODEL_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/ids.h"
#include "nlohmann/json.hpp"

namespace octet {

// Numbers as in sentencepiece_model.proto and in GGUF's token_type.
enum class SentencePieceType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct SentencePieceModel {
  struct Piece {
    std::string text;
    float score = 0;
    SentencePieceType type = SentencePieceType::kNormal;
  };
  enum class Kind : uint8_t { kUnigram = 1, kBpe = 2 };

  std::vector<Piece> pieces;  // by id
  Kind kind = Kind::kBpe;
  bool byte_fallback = false;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  std::string charsmap;  // precompiled normalisation rules (charsmap.h); empty: none
  // Ids of control pieces as the trainer set them; -1: none.
  TokenId unk_id = 0;
  TokenId bos_id = 1;
  TokenId eos_id = 2;
  TokenId pad_id = -1;
};

// The wire form of sentencepiece.ModelProto; bytes may be hostile. INVALID_ARGUMENT: truncated or
// malformed, more than kVocabMax pieces, pieces longer than kTokenBytesMax. UNIMPLEMENTED: model
// types word and char, whitespace as suffix, a denormalizer.
absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes);

// Our own schema, for a packed tokenizer.
nlohmann::json SentencePieceModelToJson(const SentencePieceModel& model);
absl::StatusOr<SentencePieceModel> SentencePieceModelFromJson(const nlohmann::json& json);

}  // namespace octet

#endif  // OCTET_MODEL_TOKENIZER_SENTENCEPIECE_MODEL_H_
