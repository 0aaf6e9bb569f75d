#include "model/safetensors.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/checked_math.h"
#include "model/json.h"

namespace octet {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kDataAlignment = 4096;

std::string_view StdView(absl::string_view text) { return {text.data(), text.size()}; }

absl::Status Bad(absl::string_view where, absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", text));
}

// A JSON array of unsigned integers, at most `count_max` of them.
absl::StatusOr<std::vector<uint64_t>> UnsignedArray(const Json& entry, const char* key,
                                                    size_t count_max, absl::string_view where) {
  const Json* value = JsonFind(entry, key);
  if (value == nullptr || !value->is_array() || value->size() > count_max) {
    return Bad(where, absl::StrCat("field \"", key, "\" is ",
                                   value == nullptr ? "missing" : JsonForError(*value),
                                   ", allowed is an array of at most ", count_max, " integers"));
  }
  std::vector<uint64_t> out;
  for (const Json& element : *value) {
    if (!element.is_number_unsigned()) {
      return Bad(where, absl::StrCat("field \"", key, "\" holds ", JsonForError(element),
                                     ", allowed are integers from 0"));
    }
    out.push_back(element.get<uint64_t>());
  }
  return out;
}

absl::StatusOr<SafetensorsEntry> ParseEntry(const Json& value, uint64_t data_begin,
                                            uint64_t data_bytes, absl::string_view where) {
  if (!value.is_object()) {
    return Bad(where, absl::StrCat("entry is ", JsonForError(value), ", allowed is an object"));
  }
  SafetensorsEntry entry;
  OCTET_ASSIGN_OR_RETURN(entry.dtype, JsonString(value, "dtype", StdView(where)));
  const uint32_t bits = SafetensorsDTypeBits(entry.dtype);
  if (bits == 0) {
    return Bad(where, absl::StrCat("dtype is \"", entry.dtype.substr(0, 32),
                                   "\", known are BOOL, U8, I8, F8_E4M3, F8_E5M2, U16, I16, F16, "
                                   "BF16, U32, I32, F32, U64, I64, F64"));
  }
  OCTET_ASSIGN_OR_RETURN(entry.shape, UnsignedArray(value, "shape", kTensorRankMax, where));
  OCTET_ASSIGN_OR_RETURN(const std::vector<uint64_t> offsets,
                         UnsignedArray(value, "data_offsets", 2, where));
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    return Bad(where, "field \"data_offsets\" must hold a begin and an end that is not before it");
  }
  if (offsets[1] > data_bytes) {
    return absl::DataLossError(absl::StrCat(where, ": data ends at ", offsets[1],
                                            " but the file holds ", data_bytes,
                                            " bytes of data; it is truncated or damaged"));
  }
  uint64_t expected = bits / 8;
  for (const uint64_t dimension : entry.shape) {
    if (!CheckedMul(expected, dimension, &expected)) return Bad(where, "shape overflows");
  }
  if (expected != offsets[1] - offsets[0]) {
    return Bad(where, absl::StrCat("shape and dtype need ", expected, " bytes, data_offsets span ",
                                   offsets[1] - offsets[0]));
  }
  entry.begin = data_begin + offsets[0];
  entry.bytes = expected;
  return entry;
}

// Every byte of the data belongs to exactly one tensor.
absl::Status CheckCoverage(const SafetensorsHeader& header, uint64_t file_bytes,
                           absl::string_view where) {
  std::vector<std::pair<uint64_t, const std::string*>> order;
  for (const auto& [name, entry] : header.tensors) order.emplace_back(entry.begin, &name);
  // Empty tensors come before the one that shares their begin.
  std::sort(order.begin(), order.end(), [&](const auto& a, const auto& b) {
    const uint64_t a_bytes = header.tensors.at(*a.second).bytes;
    const uint64_t b_bytes = header.tensors.at(*b.second).bytes;
    return std::tie(a.first, a_bytes, *a.second) < std::tie(b.first, b_bytes, *b.second);
  });
  uint64_t at = header.data_begin;
  for (const auto& [begin, name] : order) {
    if (begin != at) {
      return Bad(where, absl::StrCat("tensor \"", *name, "\" starts at ", begin - header.data_begin,
                                     " but the one before ends at ", at - header.data_begin,
                                     begin > at ? ": a hole" : ": overlap"));
    }
    at += header.tensors.at(*name).bytes;
  }
  if (at != file_bytes) {
    return Bad(where,
               absl::StrCat("tensors end at ", at, " but the file is ", file_bytes, " bytes long"));
  }
  return absl::OkStatus();
}

bool IsPlainFileName(absl::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find('/') == absl::string_view::npos && name.find('\0') == absl::string_view::npos;
}

bool Exists(const std::string& path) {
  struct stat st;
  return stat(path.c_str(), &st) == 0;
}

}  // namespace

uint32_t SafetensorsDTypeBits(absl::string_view dtype) {
  static constexpr struct {
    const char* name;
    uint32_t bits;
  } kTypes[] = {{"BOOL", 8}, {"U8", 8},   {"I8", 8},   {"F8_E4M3", 8}, {"F8_E5M2", 8},
                {"U16", 16}, {"I16", 16}, {"F16", 16}, {"BF16", 16},   {"U32", 32},
                {"I32", 32}, {"F32", 32}, {"U64", 64}, {"I64", 64},    {"F64", 64}};
  for (const auto& type : kTypes) {
    if (dtype == type.name) return type.bits;
  }
  return 0;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensors(absl::string_view file,
                                                   absl::string_view where) {
  if (file.size() < 8) {
    return absl::DataLossError(
        absl::StrCat(where, ": ", file.size(), " bytes are too few for a safetensors file"));
  }
  uint64_t header_bytes = 0;
  memcpy(&header_bytes, file.data(), 8);
  if (header_bytes > kSafetensorsHeaderBytesMax) {
    return Bad(where, absl::StrCat("header length is ", header_bytes, ", allowed is at most ",
                                   kSafetensorsHeaderBytesMax));
  }
  if (header_bytes > file.size() - 8) {
    return absl::DataLossError(absl::StrCat(where, ": header length is ", header_bytes,
                                            " but only ", file.size() - 8, " bytes follow"));
  }
  const absl::string_view text = file.substr(8, header_bytes);
  if (text.empty() || text[0] != '{') return Bad(where, "header does not start with '{'");
  const auto json = ParseJsonBounded(StdView(text), kSafetensorsHeaderBytesMax);
  if (!json.ok()) return Bad(where, absl::StrCat("header: ", json.status().message()));
  SafetensorsHeader header;
  header.data_begin = 8 + header_bytes;
  if (json->size() > kTensorsMax + 1) {
    return Bad(where, absl::StrCat(json->size(), " tensors, allowed are at most ", kTensorsMax));
  }
  for (const auto& [name, value] : json->items()) {
    if (name == "__metadata__") {
      const bool strings =
          value.is_object() &&
          std::all_of(value.begin(), value.end(), [](const Json& v) { return v.is_string(); });
      if (!strings) return Bad(where, "__metadata__ must map strings to strings");
      continue;
    }
    const std::string tensor_where = absl::StrCat(where, ": tensor \"", name.substr(0, 256), "\"");
    OCTET_ASSIGN_OR_RETURN(
        SafetensorsEntry entry,
        ParseEntry(value, header.data_begin, file.size() - header.data_begin, tensor_where));
    header.tensors.emplace(name, std::move(entry));
  }
  OCTET_RETURN_IF_ERROR(CheckCoverage(header, file.size(), where));
  return header;
}

absl::Status SafetensorsReader::AddShard(const std::string& path,
                                         absl::flat_hash_map<std::string, bool>* wanted) {
  OCTET_ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));
  OCTET_ASSIGN_OR_RETURN(SafetensorsHeader header, ParseSafetensors(file->bytes(), path));
  for (auto& [name, entry] : header.tensors) {
    if (wanted != nullptr) {
      const auto it = wanted->find(name);
      if (it == wanted->end()) continue;
      it->second = true;
    }
    tensors_.emplace(name, SafetensorsTensor{entry.dtype, std::move(entry.shape),
                                             file->data() + entry.begin, entry.bytes});
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status SafetensorsReader::OpenSharded(absl::string_view directory,
                                            absl::string_view index_path) {
  OCTET_ASSIGN_OR_RETURN(const std::string text,
                         ReadSmallFile(index_path, kSafetensorsHeaderBytesMax));
  const auto json = ParseJsonBounded(text, kSafetensorsHeaderBytesMax);
  if (!json.ok()) return Bad(index_path, json.status().message());
  const Json* map = JsonFind(*json, "weight_map");
  if (map == nullptr || !map->is_object()) {
    return Bad(index_path, "field \"weight_map\" must be an object of tensor names to file names");
  }
  if (map->size() > kTensorsMax) {
    return Bad(index_path,
               absl::StrCat(map->size(), " tensors, allowed are at most ", kTensorsMax));
  }
  absl::flat_hash_map<std::string, absl::flat_hash_map<std::string, bool>> shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get_ref<const std::string&>())) {
      return Bad(index_path, absl::StrCat("tensor \"", tensor.substr(0, 256), "\" is in file ",
                                          JsonForError(shard),
                                          ", allowed is a plain file name in this directory"));
    }
    shards[shard.get_ref<const std::string&>()][tensor] = false;
  }
  if (shards.size() > kShardsMax) {
    return Bad(index_path, absl::StrCat(shards.size(), " files, allowed are ", kShardsMax));
  }
  for (auto& [shard, wanted] : shards) {
    const std::string path = absl::StrCat(directory, "/", shard);
    OCTET_RETURN_IF_ERROR(AddShard(path, &wanted));
    for (const auto& [tensor, found] : wanted) {
      if (!found) {
        return Bad(index_path, absl::StrCat("tensor \"", tensor, "\" is not in ", path));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<SafetensorsReader>> SafetensorsReader::Open(
    absl::string_view directory) {
  std::unique_ptr<SafetensorsReader> reader(new SafetensorsReader());
  const std::string single = absl::StrCat(directory, "/model.safetensors");
  const std::string index = absl::StrCat(directory, "/model.safetensors.index.json");
  if (Exists(single)) {
    OCTET_RETURN_IF_ERROR(reader->AddShard(single, nullptr));
  } else if (Exists(index)) {
    OCTET_RETURN_IF_ERROR(reader->OpenSharded(directory, index));
  } else {
    return absl::NotFoundError(
        absl::StrCat(directory,
                     " has neither model.safetensors nor model.safetensors.index.json (weights in "
                     "other formats must be converted to safetensors first)"));
  }
  return reader;
}

const SafetensorsTensor* SafetensorsReader::Find(absl::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

SafetensorsPlan PlanSafetensors(std::vector<SafetensorsPlan::Tensor> tensors) {
  SafetensorsPlan plan;
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  uint64_t at = 0;
  for (SafetensorsPlan::Tensor& tensor : tensors) {
    const uint32_t bits = SafetensorsDTypeBits(tensor.dtype);
    OCTET_CHECK(bits != 0);
    tensor.bytes = bits / 8;
    for (const uint64_t dimension : tensor.shape) {
      OCTET_CHECK(CheckedMul(tensor.bytes, dimension, &tensor.bytes));
    }
    tensor.begin = at;
    OCTET_CHECK(CheckedAdd(at, tensor.bytes, &at));
    OCTET_CHECK(!json.contains(tensor.name));
    json[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {tensor.begin, at}}};
  }
  std::string text = json.dump();
  const uint64_t data_begin =
      (8 + text.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment;
  text.resize(data_begin - 8, ' ');
  const uint64_t header_bytes = text.size();
  plan.header.assign(reinterpret_cast<const char*>(&header_bytes), 8);
  plan.header += text;
  for (SafetensorsPlan::Tensor& tensor : tensors) tensor.begin += data_begin;
  plan.file_bytes = data_begin + at;
  plan.tensors = std::move(tensors);
  return plan;
}

}  // namespace octet
