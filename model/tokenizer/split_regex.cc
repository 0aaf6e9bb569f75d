#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/utf8.h"

namespace octet {
namespace {

struct MatchDataFree {
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};

absl::Status BadPattern(std::string_view pattern, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(
      "tokenizer pattern ", JsonForError(std::string(pattern)), " cannot be used: ", what));
}

absl::Status OtherDialect(std::string_view pattern, absl::string_view what) {
  return absl::UnimplementedError(absl::StrCat("tokenizer pattern ",
                                               JsonForError(std::string(pattern)), " uses ", what,
                                               ", which is not supported"));
}

// PCRE2's \s counts U+180E as white space, Oniguruma's does not: spell the property out. Refuses
// what the two dialects read differently.
absl::StatusOr<std::string> Translate(std::string_view pattern) {
  constexpr absl::string_view kSpace = "\\t-\\r\\x{85}\\p{Z}";
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        absl::StrAppend(&out, in_class ? "" : "[", kSpace, in_class ? "" : "]");
      } else if (escaped == 'S' && !in_class) {
        absl::StrAppend(&out, "[^", kSpace, "]");
      } else if (escaped == 'h' || escaped == 'H' || escaped == 'Q' || escaped == 'K') {
        return OtherDialect(pattern, absl::StrCat("\\", std::string(1, escaped)));
      } else {
        out.push_back(c);
        out.push_back(escaped);
      }
      continue;
    }
    if (in_class && c == '&' && pattern.substr(i, 2) == "&&") {
      return OtherDialect(pattern, "an intersection of classes");
    }
    if (in_class && c == '[' && pattern.substr(i, 2) != "[:") {
      return OtherDialect(pattern, "a class inside a class");
    }
    if (in_class && c == '[') {  // [:name:]
      const size_t end = pattern.find(":]", i);
      if (end == std::string_view::npos) return OtherDialect(pattern, "an open [:");
      out += pattern.substr(i, end + 2 - i);
      i = end + 1;
      continue;
    }
    if (c == '[' && !in_class) {
      in_class = true;
      out.push_back(c);
      if (pattern.substr(i + 1, 1) == "^") out.push_back(pattern[++i]);
      if (pattern.substr(i + 1, 1) == "]")
        return OtherDialect(pattern, "a class that starts with ]");
      continue;
    }
    if (c == ']') in_class = false;
    out.push_back(c);
  }
  return out;
}

}  // namespace

struct SplitRegex::Impl {
  ~Impl() {
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
};

SplitRegex::SplitRegex(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SplitRegex::~SplitRegex() = default;

absl::StatusOr<std::shared_ptr<const SplitRegex>> SplitRegex::Compile(std::string_view pattern) {
  if (pattern.size() > kRegexBytesMax) {
    return BadPattern(pattern, absl::StrCat("longer than ", kRegexBytesMax, " bytes"));
  }
  if (Utf8ValidLength(pattern) != pattern.size()) return BadPattern(pattern, "not UTF-8");
  OCTET_ASSIGN_OR_RETURN(const std::string translated, Translate(pattern));
  auto impl = std::make_unique<Impl>();
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                             &error, &offset, nullptr);
  if (impl->code == nullptr) {
    char message[128] = {};
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof(message));
    return BadPattern(pattern, absl::StrCat(message, " near byte ", offset));
  }
  impl->context = pcre2_match_context_create(nullptr);
  if (impl->context == nullptr) return absl::ResourceExhaustedError("out of memory");
  pcre2_set_match_limit(impl->context, kRegexMatchLimit);
  pcre2_set_heap_limit(impl->context, kRegexHeapKibMax);
  // Where no executable memory can be had, the interpreter runs instead.
  pcre2_jit_compile(impl->code, PCRE2_JIT_COMPLETE);
  return std::shared_ptr<const SplitRegex>(new SplitRegex(std::move(impl)));
}

absl::Status SplitRegex::FindAll(std::string_view text, std::vector<Span>* matches) const {
  const std::unique_ptr<pcre2_match_data, MatchDataFree> data(pcre2_match_data_create(1, nullptr));
  if (data == nullptr) return absl::ResourceExhaustedError("out of memory");
  const PCRE2_SPTR subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t at = 0;
  while (at <= text.size()) {
    int rc = pcre2_match(impl_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK, data.get(),
                         impl_->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(impl_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                       data.get(), impl_->context);
    }
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the tokenizer's pattern needs too many steps at byte ", at,
                       " of the text (PCRE2 ", rc, ")"));
    }
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
    const size_t begin = span[0];
    const size_t end = span[1];
    if (begin < at || end < begin) break;  // \K in a lookahead; cannot cut there
    if (end > begin || matches->empty() || matches->back().end != begin) {
      matches->push_back({begin, end});
    }
    at = end;
    if (end == begin) {
      if (at == text.size()) break;
      at += DecodeUtf8(text.substr(at)).length;
    }
  }
  return absl::OkStatus();
}

}  // namespace octet
