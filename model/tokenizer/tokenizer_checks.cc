#include "model/tokenizer/tokenizer_checks.h"

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/tokenizer/utf8.h"

namespace octet {

absl::Status CheckEncodeText(std::string_view text) {
  if (text.size() > kEncodeBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("text is ", text.size(), " bytes long, allowed are ", kEncodeBytesMax));
  }
  const size_t valid = Utf8ValidLength(text);
  if (valid != text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("text is not UTF-8 at byte ", valid));
  }
  return absl::OkStatus();
}

absl::Status CheckTokenizerSettings(const TokenizerSettings& settings, uint32_t vocab_size) {
  const auto check = [&](const char* name, std::optional<TokenId> id) -> absl::Status {
    if (!id.has_value() || (*id >= 0 && static_cast<uint32_t>(*id) < vocab_size)) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer ", name, " is ", *id, ", allowed are ids below ", vocab_size));
  };
  OCTET_RETURN_IF_ERROR(check("bos_id", settings.bos_id));
  OCTET_RETURN_IF_ERROR(check("unk_id", settings.unk_id));
  OCTET_RETURN_IF_ERROR(check("pad_id", settings.pad_id));
  if (settings.eos_ids.size() > kStopIdsMax) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer has ", settings.eos_ids.size(),
                                                   " eos_ids, allowed are ", kStopIdsMax));
  }
  for (const TokenId id : settings.eos_ids) OCTET_RETURN_IF_ERROR(check("eos_ids", id));
  if (settings.chat_template.size() > kTemplateBytesMax ||
      Utf8ValidLength(settings.chat_template) != settings.chat_template.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("chat_template is not UTF-8 or longer than ", kTemplateBytesMax, " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace octet
