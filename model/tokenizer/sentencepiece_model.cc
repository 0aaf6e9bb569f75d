#include "model/tokenizer/sentencepiece_model.h"

#include <cmath>
#include <cstring>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/settings_json.h"

namespace octet {
namespace {

constexpr uint32_t kWireVarint = 0;
constexpr uint32_t kWire64 = 1;
constexpr uint32_t kWireBytes = 2;
constexpr uint32_t kWire32 = 5;

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.model: ", what));
}

// One field of a protobuf message. `number` holds varints and fixed32 bits, `bytes` the rest.
struct Field {
  uint32_t tag = 0;
  uint32_t wire = 0;
  uint64_t number = 0;
  std::string_view bytes;
  bool truth() const { return number != 0; }
  TokenId id() const { return static_cast<TokenId>(static_cast<uint32_t>(number)); }
};

// Walks over the fields of one message.
class FieldReader {
 public:
  explicit FieldReader(std::string_view bytes) : rest_(bytes) {}
  bool done() const { return rest_.empty(); }

  absl::StatusOr<Field> Next() {
    OCTET_ASSIGN_OR_RETURN(const uint64_t key, Varint());
    Field field;
    if (key >> 3 == 0 || key >> 3 > 0x1FFFFFFF) return Malformed("a field has a bad number");
    field.tag = static_cast<uint32_t>(key >> 3);
    field.wire = static_cast<uint32_t>(key & 7);
    switch (field.wire) {
      case kWireVarint: {
        OCTET_ASSIGN_OR_RETURN(field.number, Varint());
        return field;
      }
      case kWireBytes: {
        OCTET_ASSIGN_OR_RETURN(const uint64_t length, Varint());
        OCTET_ASSIGN_OR_RETURN(field.bytes, Take(length));
        return field;
      }
      case kWire32: {
        OCTET_ASSIGN_OR_RETURN(field.bytes, Take(4));
        uint32_t bits;
        std::memcpy(&bits, field.bytes.data(), 4);
        field.number = bits;
        return field;
      }
      case kWire64: {
        OCTET_ASSIGN_OR_RETURN(field.bytes, Take(8));
        return field;
      }
      default:
        return Malformed(absl::StrCat("field ", field.tag, " has wire type ", field.wire));
    }
  }

 private:
  absl::StatusOr<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) return Malformed("the file is truncated");
      const uint8_t byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    return Malformed("a number is longer than 10 bytes");
  }

  absl::StatusOr<std::string_view> Take(uint64_t length) {
    if (length > rest_.size()) return Malformed("the file is truncated");
    const std::string_view taken = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return taken;
  }

  std::string_view rest_;
};

absl::Status ParsePiece(std::string_view bytes, SentencePieceModel* model) {
  SentencePieceModel::Piece piece;
  FieldReader reader(bytes);
  while (!reader.done()) {
    OCTET_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.tag == 1 && field.wire == kWireBytes) {
      piece.text = field.bytes;
    } else if (field.tag == 2 && field.wire == kWire32) {
      const uint32_t bits = static_cast<uint32_t>(field.number);
      std::memcpy(&piece.score, &bits, 4);
    } else if (field.tag == 3 && field.wire == kWireVarint) {
      if (field.number < 1 || field.number > 6) {
        return Malformed(absl::StrCat("piece ", model->pieces.size(), " has type ", field.number,
                                      ", allowed are 1 to 6"));
      }
      piece.type = static_cast<SentencePieceType>(field.number);
    }
  }
  if (model->pieces.size() >= kVocabMax) {
    return Malformed(absl::StrCat("more than ", kVocabMax, " pieces"));
  }
  model->pieces.push_back(std::move(piece));
  return absl::OkStatus();
}

absl::Status ParseTrainerSpec(std::string_view bytes, SentencePieceModel* model) {
  uint64_t kind = 1;  // the proto's default is unigram
  FieldReader reader(bytes);
  while (!reader.done()) {
    OCTET_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.wire != kWireVarint) continue;
    switch (field.tag) {
      case 3:
        kind = field.number;
        break;
      case 24:
        if (field.truth()) {
          return absl::UnimplementedError(
              "tokenizer.model: treat_whitespace_as_suffix is not supported");
        }
        break;
      case 35:
        model->byte_fallback = field.truth();
        break;
      case 40:
        model->unk_id = field.id();
        break;
      case 41:
        model->bos_id = field.id();
        break;
      case 42:
        model->eos_id = field.id();
        break;
      case 43:
        model->pad_id = field.id();
        break;
      default:
        break;
    }
  }
  if (kind != 1 && kind != 2) {
    return absl::UnimplementedError(absl::StrCat("tokenizer.model: model_type ", kind,
                                                 " is not supported (1 unigram and 2 BPE are)"));
  }
  model->kind = static_cast<SentencePieceModel::Kind>(kind);
  return absl::OkStatus();
}

absl::Status ParseNormalizerSpec(std::string_view bytes, SentencePieceModel* model) {
  FieldReader reader(bytes);
  while (!reader.done()) {
    OCTET_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.tag == 2 && field.wire == kWireBytes) model->charsmap = field.bytes;
    if (field.wire != kWireVarint) continue;
    if (field.tag == 3) model->add_dummy_prefix = field.truth();
    if (field.tag == 4) model->remove_extra_whitespaces = field.truth();
    if (field.tag == 5) model->escape_whitespaces = field.truth();
  }
  return absl::OkStatus();
}

absl::Status RefuseDenormalizer(std::string_view bytes) {
  FieldReader reader(bytes);
  while (!reader.done()) {
    OCTET_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.tag == 2 && !field.bytes.empty()) {
      return absl::UnimplementedError("tokenizer.model: denormalizer_spec is not supported");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes) {
  if (bytes.size() > kTokenizerBytesMax) {
    return Malformed(
        absl::StrCat("is ", bytes.size(), " bytes long, allowed are ", kTokenizerBytesMax));
  }
  SentencePieceModel model;
  model.kind = SentencePieceModel::Kind::kUnigram;
  FieldReader reader(bytes);
  while (!reader.done()) {
    OCTET_ASSIGN_OR_RETURN(const Field field, reader.Next());
    if (field.wire != kWireBytes) continue;
    if (field.tag == 1) OCTET_RETURN_IF_ERROR(ParsePiece(field.bytes, &model));
    if (field.tag == 2) OCTET_RETURN_IF_ERROR(ParseTrainerSpec(field.bytes, &model));
    if (field.tag == 3) OCTET_RETURN_IF_ERROR(ParseNormalizerSpec(field.bytes, &model));
    if (field.tag == 5) OCTET_RETURN_IF_ERROR(RefuseDenormalizer(field.bytes));
  }
  if (model.pieces.empty()) return Malformed("holds no pieces");
  return model;
}

nlohmann::json SentencePieceModelToJson(const SentencePieceModel& model) {
  nlohmann::json tokens = nlohmann::json::array();
  nlohmann::json scores = nlohmann::json::array();
  nlohmann::json types = nlohmann::json::array();
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    tokens.push_back(piece.text);
    scores.push_back(piece.score);
    types.push_back(static_cast<int>(piece.type));
  }
  return {{"model_type", model.kind == SentencePieceModel::Kind::kBpe ? "bpe" : "unigram"},
          {"tokens", std::move(tokens)},
          {"scores", std::move(scores)},
          {"types", std::move(types)},
          {"byte_fallback", model.byte_fallback},
          {"add_dummy_prefix", model.add_dummy_prefix},
          {"remove_extra_whitespaces", model.remove_extra_whitespaces},
          {"escape_whitespaces", model.escape_whitespaces},
          {"charsmap", absl::Base64Escape(model.charsmap)},
          {"unk_id", model.unk_id},
          {"bos_id", model.bos_id},
          {"eos_id", model.eos_id},
          {"pad_id", model.pad_id}};
}

absl::StatusOr<SentencePieceModel> SentencePieceModelFromJson(const nlohmann::json& json) {
  constexpr char kWhere[] = "tokenizer: sentencepiece";
  SentencePieceModel model;
  OCTET_ASSIGN_OR_RETURN(const std::string kind, JsonString(json, "model_type", kWhere));
  if (kind != "bpe" && kind != "unigram") {
    return absl::InvalidArgumentError(absl::StrCat(
        kWhere, ": field \"model_type\" is ", JsonForError(kind), ", allowed are bpe and unigram"));
  }
  model.kind = kind == "bpe" ? SentencePieceModel::Kind::kBpe : SentencePieceModel::Kind::kUnigram;
  OCTET_ASSIGN_OR_RETURN(std::vector<std::string> tokens, TokensFromJson(json));
  const nlohmann::json* scores = JsonFind(json, "scores");
  const nlohmann::json* types = JsonFind(json, "types");
  if (scores == nullptr || types == nullptr || !scores->is_array() || !types->is_array() ||
      scores->size() != tokens.size() || types->size() != tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(kWhere, ": \"scores\" and \"types\" must be as long as \"tokens\""));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    const nlohmann::json& type = (*types)[i];
    const nlohmann::json& score = (*scores)[i];
    if (!score.is_number() || !type.is_number_unsigned() || type.get<uint64_t>() < 1 ||
        type.get<uint64_t>() > 6) {
      return absl::InvalidArgumentError(
          absl::StrCat(kWhere, ": scores[", i, "] is no number or types[", i, "] not 1 to 6"));
    }
    model.pieces.push_back({std::move(tokens[i]), score.get<float>(),
                            static_cast<SentencePieceType>(type.get<uint64_t>())});
  }
  OCTET_ASSIGN_OR_RETURN(model.byte_fallback, JsonBoolOr(json, "byte_fallback", kWhere, false));
  OCTET_ASSIGN_OR_RETURN(model.add_dummy_prefix,
                         JsonBoolOr(json, "add_dummy_prefix", kWhere, true));
  OCTET_ASSIGN_OR_RETURN(model.remove_extra_whitespaces,
                         JsonBoolOr(json, "remove_extra_whitespaces", kWhere, true));
  OCTET_ASSIGN_OR_RETURN(model.escape_whitespaces,
                         JsonBoolOr(json, "escape_whitespaces", kWhere, true));
  OCTET_ASSIGN_OR_RETURN(const std::string charsmap, JsonStringOr(json, "charsmap", kWhere, ""));
  if (!absl::Base64Unescape(charsmap, &model.charsmap)) {
    return absl::InvalidArgumentError(absl::StrCat(kWhere, ": field \"charsmap\" is no base64"));
  }
  const std::pair<const char*, TokenId*> ids[] = {{"unk_id", &model.unk_id},
                                                  {"bos_id", &model.bos_id},
                                                  {"eos_id", &model.eos_id},
                                                  {"pad_id", &model.pad_id}};
  for (const auto& [key, id] : ids) {
    OCTET_ASSIGN_OR_RETURN(const int64_t value,
                           JsonIntOr(json, key, kWhere, -1, kVocabMax - 1, *id));
    *id = static_cast<TokenId>(value);
  }
  return model;
}

}  // namespace octet
