#include "model/tokenizer/gguf_pre.h"

#include "absl/strings/str_cat.h"
#include "model/json.h"

namespace octet {
namespace {

constexpr char kGpt2[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Llama 3 and Qwen 2 differ in how many digits stay together.
constexpr char kLlama3[] =
    R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2[] =
    R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// GPT-4o cuts words where lower case meets upper case; Mistral's Tekken is that without
// contractions.
constexpr char kGpt4o[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kTekken[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

bool OneOf(std::string_view pre, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    if (pre == name) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<GgufPre> FindGgufPre(std::string_view pre) {
  if (OneOf(pre, {"", "default"})) {
    return GgufPre{{R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}};
  }
  if (OneOf(pre, {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "roberta-bpe"})) {
    return GgufPre{{kGpt2}};
  }
  if (OneOf(pre, {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"})) {
    return GgufPre{{R"(\p{N})", kGpt2}};
  }
  if (pre == "falcon") return GgufPre{{R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2, "[0-9][0-9][0-9]"}};
  if (OneOf(pre, {"llama3", "llama-v3", "llama-bpe", "falcon3"})) {
    return GgufPre{{kLlama3}, /*ignore_merges=*/true, /*add_bos=*/true};
  }
  if (OneOf(pre, {"dbrx", "smaug-bpe"})) return GgufPre{{kLlama3}};
  if (OneOf(pre, {"qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"})) return GgufPre{{kQwen2}};
  if (OneOf(pre, {"gpt-4o", "llama4"})) return GgufPre{{kGpt4o}};
  if (pre == "tekken") return GgufPre{{kTekken}, /*ignore_merges=*/true, /*add_bos=*/true};
  return absl::UnimplementedError(absl::StrCat(
      "tokenizer.ggml.pre is ", JsonForError(std::string(pre)),
      ", which is not known (gpt-2, smollm, llama-bpe, qwen2, starcoder, refact, falcon, "
      "dbrx, gpt-4o, tekken and others are)"));
}

}  // namespace octet
