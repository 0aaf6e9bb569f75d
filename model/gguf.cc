#include "model/gguf.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/checked_math.h"

namespace octet {
namespace {

struct TensorType {
  uint32_t id;
  const char* format;
  uint32_t block;        // elements
  uint32_t block_bytes;  // of one block
};

constexpr TensorType kTensorTypes[] = {
    {0, "f32", 1, 4},       {1, "f16", 1, 2},       {2, "q4_0", 32, 18}, {3, "q4_1", 32, 20},
    {6, "q5_0", 32, 22},    {7, "q5_1", 32, 24},    {8, "q8_0", 32, 34}, {12, "q4_k", 256, 144},
    {13, "q5_k", 256, 176}, {14, "q6_k", 256, 210}, {30, "bf16", 1, 2},
};

uint32_t ScalarBytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

// A name from the file as it may stand in an error.
std::string Printable(absl::string_view name) { return absl::CHexEscape(name.substr(0, 128)); }

class Parser {
 public:
  Parser(absl::string_view file, absl::string_view where) : file_(file), where_(where) {}

  absl::StatusOr<GgufHeader> Run();

 private:
  uint64_t Left() const { return file_.size() - at_; }
  absl::Status Bad(absl::string_view text) const {
    return absl::InvalidArgumentError(absl::StrCat(where_, ": ", text));
  }
  absl::Status Short(absl::string_view what) const {
    return absl::DataLossError(
        absl::StrCat(where_, ": the file ends inside ", what, "; it is truncated or damaged"));
  }
  template <typename T>
  absl::Status Read(T* out, absl::string_view what) {
    if (Left() < sizeof(T)) return Short(what);
    memcpy(out, file_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return absl::OkStatus();
  }
  absl::Status ReadString(std::string* out, absl::string_view what);
  absl::Status ReadScalar(GgufType type, GgufValue* value, absl::string_view what);
  absl::Status ReadArray(GgufValue* value, const std::string& key);
  absl::Status ReadKeyValue();
  absl::Status ReadTensor();
  absl::Status PlaceTensors();
  absl::StatusOr<uint64_t> Alignment() const;

  const absl::string_view file_;
  const absl::string_view where_;
  uint64_t at_ = 0;
  GgufHeader header_;
};

absl::Status Parser::ReadString(std::string* out, absl::string_view what) {
  uint64_t length = 0;
  OCTET_RETURN_IF_ERROR(Read(&length, what));
  if (length > kGgufStringBytesMax) {
    return Bad(absl::StrCat(what, " is ", length, " bytes long, allowed are at most ",
                            kGgufStringBytesMax));
  }
  if (length > Left()) return Short(what);
  out->assign(file_.data() + at_, length);
  at_ += length;
  return absl::OkStatus();
}

template <typename T>
T LoadAs(const char* p) {
  T value;
  memcpy(&value, p, sizeof(T));
  return value;
}

absl::Status Parser::ReadScalar(GgufType type, GgufValue* value, absl::string_view what) {
  const uint32_t bytes = ScalarBytes(type);
  if (Left() < bytes) return Short(what);
  const char* p = file_.data() + at_;
  at_ += bytes;
  switch (type) {
    case GgufType::kBool:
    case GgufType::kU8:
      value->u = LoadAs<uint8_t>(p);
      if (type == GgufType::kBool && value->u > 1) {
        return Bad(absl::StrCat(what, " is the boolean ", value->u, ", allowed are 0 and 1"));
      }
      break;
    case GgufType::kU16:
      value->u = LoadAs<uint16_t>(p);
      break;
    case GgufType::kU32:
      value->u = LoadAs<uint32_t>(p);
      break;
    case GgufType::kU64:
      value->u = LoadAs<uint64_t>(p);
      break;
    case GgufType::kI8:
      value->i = LoadAs<int8_t>(p);
      break;
    case GgufType::kI16:
      value->i = LoadAs<int16_t>(p);
      break;
    case GgufType::kI32:
      value->i = LoadAs<int32_t>(p);
      break;
    case GgufType::kI64:
      value->i = LoadAs<int64_t>(p);
      break;
    case GgufType::kF32:
      value->f = LoadAs<float>(p);
      break;
    case GgufType::kF64:
      value->f = LoadAs<double>(p);
      break;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return absl::OkStatus();
}

absl::Status Parser::ReadArray(GgufValue* value, const std::string& key) {
  const std::string what = absl::StrCat("array \"", Printable(key), "\"");
  uint32_t element = 0;
  uint64_t count = 0;
  OCTET_RETURN_IF_ERROR(Read(&element, what));
  OCTET_RETURN_IF_ERROR(Read(&count, what));
  if (element > static_cast<uint32_t>(GgufType::kF64) ||
      element == static_cast<uint32_t>(GgufType::kArray)) {
    return Bad(
        absl::StrCat(what, " has elements of type ", element, ", allowed are scalars and strings"));
  }
  value->element = static_cast<GgufType>(element);
  if (count > kGgufArrayElementsMax) {
    return Bad(absl::StrCat(what, " has ", count, " elements, allowed are at most ",
                            kGgufArrayElementsMax));
  }
  const bool strings = value->element == GgufType::kString;
  const uint64_t element_bytes_min = strings ? 8 : ScalarBytes(value->element);
  if (count > Left() / element_bytes_min) return Short(what);
  if (strings) {
    value->strings.resize(count);
    for (std::string& s : value->strings) OCTET_RETURN_IF_ERROR(ReadString(&s, what));
    return absl::OkStatus();
  }
  const bool floats = value->element == GgufType::kF32 || value->element == GgufType::kF64;
  if (floats) {
    value->floats.reserve(count);
  } else {
    value->integers.reserve(count);
  }
  for (uint64_t i = 0; i < count; ++i) {
    GgufValue scalar;
    OCTET_RETURN_IF_ERROR(ReadScalar(value->element, &scalar, what));
    if (floats) {
      value->floats.push_back(scalar.f);
    } else {
      value->integers.push_back(scalar.i + static_cast<int64_t>(scalar.u));  // one of them is 0
    }
  }
  return absl::OkStatus();
}

absl::Status Parser::ReadKeyValue() {
  std::string key;
  OCTET_RETURN_IF_ERROR(ReadString(&key, "a metadata key"));
  const std::string what = absl::StrCat("metadata \"", Printable(key), "\"");
  uint32_t type = 0;
  OCTET_RETURN_IF_ERROR(Read(&type, what));
  if (type > static_cast<uint32_t>(GgufType::kF64)) {
    return Bad(absl::StrCat(what, " has type ", type, ", allowed are 0 to 12"));
  }
  GgufValue value;
  value.type = static_cast<GgufType>(type);
  if (value.type == GgufType::kString) {
    OCTET_RETURN_IF_ERROR(ReadString(&value.s, what));
  } else if (value.type == GgufType::kArray) {
    OCTET_RETURN_IF_ERROR(ReadArray(&value, key));
  } else {
    OCTET_RETURN_IF_ERROR(ReadScalar(value.type, &value, what));
  }
  if (!header_.values.emplace(std::move(key), std::move(value)).second) {
    return Bad(absl::StrCat(what, " appears twice"));
  }
  return absl::OkStatus();
}

absl::Status Parser::ReadTensor() {
  std::string name;
  OCTET_RETURN_IF_ERROR(ReadString(&name, "a tensor name"));
  const std::string what = absl::StrCat("tensor \"", Printable(name), "\"");
  uint32_t rank = 0;
  OCTET_RETURN_IF_ERROR(Read(&rank, what));
  if (rank == 0 || rank > kGgufRankMax) {
    return Bad(absl::StrCat(what, " has ", rank, " dimensions, allowed are 1 to ", kGgufRankMax));
  }
  GgufTensor tensor;
  tensor.dims.resize(rank);
  uint64_t elements = 1;
  for (uint64_t& dim : tensor.dims) {
    OCTET_RETURN_IF_ERROR(Read(&dim, what));
    if (dim == 0 || !CheckedMul(elements, dim, &elements)) {
      return Bad(absl::StrCat(what, " has a dimension of 0 or too many elements"));
    }
  }
  uint32_t id = 0;
  OCTET_RETURN_IF_ERROR(Read(&id, what));
  const TensorType* type = std::find_if(std::begin(kTensorTypes), std::end(kTensorTypes),
                                        [&](const TensorType& t) { return t.id == id; });
  if (type == std::end(kTensorTypes)) {
    return Bad(absl::StrCat(what, " has type ", id,
                            ", known are 0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 6 Q5_0, 7 Q5_1, 8 Q8_0, "
                            "12 Q4_K, 13 Q5_K, 14 Q6_K, 30 BF16"));
  }
  if (tensor.dims[0] % type->block != 0) {
    return Bad(absl::StrCat(what, " has rows of ", tensor.dims[0], " elements, ", type->format,
                            " needs a multiple of ", type->block));
  }
  if (!CheckedMul(elements / type->block, type->block_bytes, &tensor.bytes)) {
    return Bad(absl::StrCat(what, " has too many elements"));
  }
  OCTET_ASSIGN_OR_RETURN(tensor.format, WeightFormatFromName(type->format));
  OCTET_RETURN_IF_ERROR(Read(&tensor.begin, what));  // still relative to the data section
  if (!header_.tensors.emplace(std::move(name), std::move(tensor)).second) {
    return Bad(absl::StrCat(what, " appears twice"));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Parser::Alignment() const {
  OCTET_ASSIGN_OR_RETURN(const int64_t alignment,
                         GgufIntOr(header_, "general.alignment", 1,
                                   static_cast<int64_t>(kGgufAlignmentMax), 32, where_));
  if ((alignment & (alignment - 1)) != 0) {
    return Bad(absl::StrCat("general.alignment is ", alignment, ", allowed are powers of two"));
  }
  return static_cast<uint64_t>(alignment);
}

// Turns relative offsets into absolute ones: tensors follow each other, padded to the alignment.
absl::Status Parser::PlaceTensors() {
  OCTET_ASSIGN_OR_RETURN(const uint64_t alignment, Alignment());
  uint64_t data_begin = 0;
  if (!CheckedRoundUp(at_, alignment, &data_begin)) return Bad("header is too long");
  std::vector<std::pair<const std::string*, GgufTensor*>> order;
  for (auto& [name, tensor] : header_.tensors) order.emplace_back(&name, &tensor);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::tie(a.second->begin, *a.first) < std::tie(b.second->begin, *b.first);
  });
  uint64_t expected = 0;
  for (const auto& [name, tensor] : order) {
    const std::string what = absl::StrCat("tensor \"", Printable(*name), "\"");
    if (tensor->begin != expected) {
      return Bad(absl::StrCat(what, " starts at ", tensor->begin, " but the one before ends at ",
                              expected, tensor->begin > expected ? ": a hole" : ": overlap"));
    }
    uint64_t end = 0;
    if (!CheckedAdd(tensor->begin, data_begin, &tensor->begin) ||
        !CheckedAdd(tensor->begin, tensor->bytes, &end)) {
      return Bad(absl::StrCat(what, " lies beyond any file"));
    }
    if (end > file_.size()) {
      return absl::DataLossError(absl::StrCat(where_, ": ", what, " ends at ", end,
                                              " but the file is ", file_.size(),
                                              " bytes long; it is truncated or damaged"));
    }
    if (!CheckedRoundUp(end - data_begin, alignment, &expected)) {
      return Bad(absl::StrCat(what, " lies beyond any file"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufHeader> Parser::Run() {
  char magic[4];
  OCTET_RETURN_IF_ERROR(Read(&magic, "the magic"));
  if (memcmp(magic, "GGUF", 4) != 0) return Bad("does not start with \"GGUF\"");
  uint32_t version = 0;
  OCTET_RETURN_IF_ERROR(Read(&version, "the version"));
  if (version != 3) return Bad(absl::StrCat("GGUF version ", version, ", supported is 3"));
  uint64_t tensors = 0;
  uint64_t values = 0;
  OCTET_RETURN_IF_ERROR(Read(&tensors, "the number of tensors"));
  OCTET_RETURN_IF_ERROR(Read(&values, "the number of metadata values"));
  // A value takes at least 13 bytes (key length, type, one byte), a tensor at least 32.
  if (values > kGgufKeyValuesMax || values > Left() / 13) {
    return Bad(absl::StrCat(values, " metadata values, more than ", kGgufKeyValuesMax,
                            " or than the file can hold"));
  }
  if (tensors > kTensorsMax || tensors > Left() / 32) {
    return Bad(
        absl::StrCat(tensors, " tensors, more than ", kTensorsMax, " or than the file can hold"));
  }
  for (uint64_t i = 0; i < values; ++i) OCTET_RETURN_IF_ERROR(ReadKeyValue());
  OCTET_ASSIGN_OR_RETURN(const int64_t splits,
                         GgufIntOr(header_, "split.count", 0, 65535, 0, where_));
  if (splits > 1) {
    return absl::UnimplementedError(
        absl::StrCat(where_, ": is one of ", splits,
                     " parts (split.count); join them into one file first, e.g. with "
                     "llama-gguf-split --merge"));
  }
  for (uint64_t i = 0; i < tensors; ++i) OCTET_RETURN_IF_ERROR(ReadTensor());
  OCTET_RETURN_IF_ERROR(PlaceTensors());
  return std::move(header_);
}

absl::Status WrongValue(absl::string_view where, absl::string_view key, absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": metadata \"", key, "\" is not ", allowed));
}

const GgufValue* FindValue(const GgufHeader& header, absl::string_view key) {
  const auto it = header.values.find(key);
  return it == header.values.end() ? nullptr : &it->second;
}

absl::StatusOr<std::optional<bool>> OptionalBool(const GgufHeader& header, absl::string_view key,
                                                 absl::string_view where) {
  const GgufValue* value = FindValue(header, key);
  if (value == nullptr) return std::optional<bool>();
  if (value->type != GgufType::kBool) return WrongValue(where, key, "a boolean");
  return std::optional<bool>(value->u != 0);
}

absl::StatusOr<std::optional<TokenId>> OptionalToken(const GgufHeader& header,
                                                     absl::string_view key,
                                                     absl::string_view where) {
  if (FindValue(header, key) == nullptr) return std::optional<TokenId>();
  // Writers mark an absent token with the largest unsigned value.
  OCTET_ASSIGN_OR_RETURN(const int64_t id, GgufIntOr(header, key, -1, UINT32_MAX, -1, where));
  if (id < 0 || id >= static_cast<int64_t>(kVocabMax)) return std::optional<TokenId>();
  return std::optional<TokenId>(static_cast<TokenId>(id));
}

}  // namespace

absl::StatusOr<GgufHeader> ParseGguf(absl::string_view file, absl::string_view where) {
  return Parser(file, where).Run();
}

absl::StatusOr<std::unique_ptr<GgufReader>> GgufReader::Open(absl::string_view path) {
  std::unique_ptr<GgufReader> reader(new GgufReader());
  OCTET_ASSIGN_OR_RETURN(reader->file_, MappedFile::Open(path));
  OCTET_ASSIGN_OR_RETURN(reader->header_, ParseGguf(reader->file_->bytes(), path));
  return reader;
}

const GgufTensor* GgufReader::Find(absl::string_view name) const {
  const auto it = header_.tensors.find(name);
  return it == header_.tensors.end() ? nullptr : &it->second;
}

absl::StatusOr<int64_t> GgufInt(const GgufHeader& header, absl::string_view key, int64_t min,
                                int64_t max, absl::string_view where) {
  const GgufValue* value = FindValue(header, key);
  if (value == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": metadata \"", key, "\" is missing"));
  }
  const std::string allowed = absl::StrCat("an integer from ", min, " to ", max);
  int64_t number = 0;
  switch (value->type) {
    case GgufType::kU8:
    case GgufType::kU16:
    case GgufType::kU32:
    case GgufType::kU64:
      if (value->u > static_cast<uint64_t>(INT64_MAX)) return WrongValue(where, key, allowed);
      number = static_cast<int64_t>(value->u);
      break;
    case GgufType::kI8:
    case GgufType::kI16:
    case GgufType::kI32:
    case GgufType::kI64:
      number = value->i;
      break;
    default:
      return WrongValue(where, key, allowed);
  }
  if (number < min || number > max) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": metadata \"", key, "\" is ", number, ", allowed is ", allowed));
  }
  return number;
}

absl::StatusOr<int64_t> GgufIntOr(const GgufHeader& header, absl::string_view key, int64_t min,
                                  int64_t max, int64_t fallback, absl::string_view where) {
  if (FindValue(header, key) == nullptr) return fallback;
  return GgufInt(header, key, min, max, where);
}

absl::StatusOr<double> GgufFloatOr(const GgufHeader& header, absl::string_view key, double fallback,
                                   absl::string_view where) {
  const GgufValue* value = FindValue(header, key);
  if (value == nullptr) return fallback;
  if (value->type != GgufType::kF32 && value->type != GgufType::kF64) {
    return WrongValue(where, key, "a floating-point number");
  }
  return value->f;
}

absl::StatusOr<std::string> GgufStringOr(const GgufHeader& header, absl::string_view key,
                                         absl::string_view fallback, absl::string_view where) {
  const GgufValue* value = FindValue(header, key);
  if (value == nullptr) return std::string(fallback);
  if (value->type != GgufType::kString) return WrongValue(where, key, "a string");
  return value->s;
}

absl::StatusOr<GgufTokenizerData> GgufTokenizer(const GgufHeader& header, absl::string_view where) {
  GgufTokenizerData data;
  OCTET_ASSIGN_OR_RETURN(data.model, GgufStringOr(header, "tokenizer.ggml.model", "", where));
  OCTET_ASSIGN_OR_RETURN(data.pre, GgufStringOr(header, "tokenizer.ggml.pre", "", where));
  OCTET_ASSIGN_OR_RETURN(data.chat_template,
                         GgufStringOr(header, "tokenizer.chat_template", "", where));
  const auto strings = [&](absl::string_view key, std::vector<std::string>* out) {
    const GgufValue* value = FindValue(header, key);
    if (value == nullptr) return absl::OkStatus();
    if (value->type != GgufType::kArray || value->element != GgufType::kString) {
      return WrongValue(where, key, "an array of strings");
    }
    *out = value->strings;
    return absl::OkStatus();
  };
  OCTET_RETURN_IF_ERROR(strings("tokenizer.ggml.tokens", &data.tokens));
  OCTET_RETURN_IF_ERROR(strings("tokenizer.ggml.merges", &data.merges));
  if (const GgufValue* value = FindValue(header, "tokenizer.ggml.scores"); value != nullptr) {
    if (value->type != GgufType::kArray || value->element != GgufType::kF32) {
      return WrongValue(where, "tokenizer.ggml.scores", "an array of f32");
    }
    data.scores.assign(value->floats.begin(), value->floats.end());
  }
  if (const GgufValue* value = FindValue(header, "tokenizer.ggml.token_type"); value != nullptr) {
    if (value->type != GgufType::kArray || value->element != GgufType::kI32) {
      return WrongValue(where, "tokenizer.ggml.token_type", "an array of i32");
    }
    data.token_types.assign(value->integers.begin(), value->integers.end());
  }
  const std::pair<const char*, std::optional<TokenId>*> tokens[] = {
      {"tokenizer.ggml.bos_token_id", &data.bos_id},
      {"tokenizer.ggml.eos_token_id", &data.eos_id},
      {"tokenizer.ggml.eot_token_id", &data.eot_id},
      {"tokenizer.ggml.unknown_token_id", &data.unk_id},
      {"tokenizer.ggml.padding_token_id", &data.pad_id}};
  for (const auto& [key, out] : tokens) {
    OCTET_ASSIGN_OR_RETURN(*out, OptionalToken(header, key, where));
  }
  OCTET_ASSIGN_OR_RETURN(data.add_bos, OptionalBool(header, "tokenizer.ggml.add_bos_token", where));
  OCTET_ASSIGN_OR_RETURN(data.add_space_prefix,
                         OptionalBool(header, "tokenizer.ggml.add_space_prefix", where));
  return data;
}

}  // namespace octet
