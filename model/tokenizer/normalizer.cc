#include "model/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/json.h"

namespace octet {
namespace {

constexpr char kWhere[] = "tokenizer.json: normalizer";

struct FreeDeleter {
  void operator()(utf8proc_uint8_t* p) const { std::free(p); }
};

absl::StatusOr<std::string> UnicodeForm(std::string_view text, int options) {
  utf8proc_uint8_t* raw = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &raw,
                   static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE));
  const std::unique_ptr<utf8proc_uint8_t, FreeDeleter> owned(raw);
  if (length < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("text cannot be normalised: ", utf8proc_errmsg(length)));
  }
  return std::string(reinterpret_cast<const char*>(raw), static_cast<size_t>(length));
}

std::string ReplaceAll(std::string_view text, std::string_view pattern, std::string_view content,
                       size_t bytes_max) {
  std::string out;
  size_t at = 0;
  while (out.size() <= bytes_max) {
    const size_t hit = text.find(pattern, at);
    out += text.substr(at, hit - at);
    if (hit == std::string_view::npos) break;
    out += content;
    at = hit + pattern.size();
  }
  return out;
}

bool IsAscii(std::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<Normalizer> Normalizer::Parse(const nlohmann::json& json) {
  Normalizer normalizer;
  OCTET_RETURN_IF_ERROR(ParseInto(json, &normalizer.steps_));
  return normalizer;
}

absl::Status Normalizer::ParseInto(const nlohmann::json& json, std::vector<Step>* steps) {
  if (json.is_null()) return absl::OkStatus();
  Step step;
  OCTET_ASSIGN_OR_RETURN(step.type, JsonString(json, "type", kWhere));
  if (step.type == "Sequence") {
    const nlohmann::json* list = JsonFind(json, "normalizers");
    if (list == nullptr || !list->is_array()) {
      return absl::InvalidArgumentError(
          absl::StrCat(kWhere, ": a Sequence needs an array \"normalizers\""));
    }
    for (const nlohmann::json& entry : *list) OCTET_RETURN_IF_ERROR(ParseInto(entry, steps));
    return absl::OkStatus();
  }
  if (step.type == "Prepend") {
    OCTET_ASSIGN_OR_RETURN(step.content, JsonString(json, "prepend", kWhere));
  } else if (step.type == "Replace") {
    OCTET_ASSIGN_OR_RETURN(step.content, JsonString(json, "content", kWhere));
    const nlohmann::json* pattern = JsonFind(json, "pattern");
    if (pattern != nullptr && JsonFind(*pattern, "Regex") != nullptr) {
      return absl::UnimplementedError(
          absl::StrCat(kWhere, ": Replace of a Regex is not supported, only of a String"));
    }
    if (pattern == nullptr) pattern = &json;
    OCTET_ASSIGN_OR_RETURN(step.pattern, JsonString(*pattern, "String", kWhere));
    if (step.pattern.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(kWhere, ": Replace of an empty string"));
    }
  } else if (step.type != "NFC" && step.type != "NFD" && step.type != "NFKC" &&
             step.type != "NFKD") {
    return absl::UnimplementedError(
        absl::StrCat(kWhere, ": type ", JsonForError(step.type),
                     " is not supported (NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence are)"));
  }
  if (steps->size() >= kPreTokenizerStepsMax || step.content.size() > kTokenBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(kWhere, ": more than ", kPreTokenizerStepsMax,
                                                   " steps or ", kTokenBytesMax, " bytes"));
  }
  steps->push_back(std::move(step));
  return absl::OkStatus();
}

absl::StatusOr<std::string> Normalizer::ApplyStep(const Step& step, std::string_view text) {
  if (text.empty()) return std::string();
  if (step.type == "Prepend") return step.content + std::string(text);
  if (step.type == "Replace") {
    return ReplaceAll(text, step.pattern, step.content, 4 * kEncodeBytesMax);
  }
  if (IsAscii(text)) return std::string(text);  // every Unicode form leaves ASCII alone
  if (step.type == "NFC") return UnicodeForm(text, UTF8PROC_COMPOSE);
  if (step.type == "NFD") return UnicodeForm(text, UTF8PROC_DECOMPOSE);
  if (step.type == "NFKC") return UnicodeForm(text, UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
  return UnicodeForm(text, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
}

absl::StatusOr<std::string> Normalizer::Apply(std::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) {
    OCTET_ASSIGN_OR_RETURN(out, ApplyStep(step, out));
    if (out.size() > 4 * kEncodeBytesMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the tokenizer's normalizer makes more than ", 4 * kEncodeBytesMax,
                       " bytes of the text"));
    }
  }
  return out;
}

nlohmann::json Normalizer::ToJson() const {
  if (steps_.empty()) return nullptr;
  nlohmann::json list = nlohmann::json::array();
  for (const Step& step : steps_) {
    nlohmann::json entry = {{"type", step.type}};
    if (step.type == "Prepend") entry["prepend"] = step.content;
    if (step.type == "Replace") {
      entry["pattern"] = {{"String", step.pattern}};
      entry["content"] = step.content;
    }
    list.push_back(std::move(entry));
  }
  return {{"type", "Sequence"}, {"normalizers", std::move(list)}};
}

}  // namespace octet
