#include "model/chat_template/lexer.h"

#include <charconv>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"
#include "model/tokenizer/utf8.h"

namespace octet::chat_template_internal {
namespace {

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsName(char c) { return IsNameStart(c) || IsDigit(c); }

// One kind of newline, and none at the end of the source.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
      continue;
    }
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    out.push_back('\n');
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)), rest_(source_) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (!rest_.empty()) {
      const size_t tag = FindTag();
      OCTET_RETURN_IF_ERROR(Text(tag));
      if (tag == std::string_view::npos) break;
      OCTET_RETURN_IF_ERROR(Tag());
    }
    Push(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("chat template, line ", line_, ": ", what));
  }

  void Push(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), line_});
  }

  bool StartsWith(std::string_view prefix) const {
    return rest_.substr(0, prefix.size()) == prefix;
  }

  // Moves on by count bytes and counts their lines.
  void Skip(size_t count) {
    for (const char c : rest_.substr(0, count)) line_ += c == '\n';
    rest_.remove_prefix(count);
  }

  size_t FindTag() const {
    for (size_t i = rest_.find('{'); i != std::string_view::npos; i = rest_.find('{', i + 1)) {
      const char next = i + 1 < rest_.size() ? rest_[i + 1] : '\0';
      if (next == '%' || next == '{' || next == '#') return i;
    }
    return std::string_view::npos;
  }

  // The text before the tag at `tag`, trimmed as the tag asks for.
  absl::Status Text(size_t tag) {
    std::string_view text = rest_.substr(0, tag);
    if (tag != std::string_view::npos) {
      const char sign = tag + 2 < rest_.size() ? rest_[tag + 2] : '\0';
      if (sign == '-') {
        while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
      } else if (sign != '+' && rest_[tag + 1] != '{') {
        const size_t newline = text.rfind('\n');
        const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
        bool blank = line > 0 || at_line_start_;
        for (const char c : text.substr(line)) blank = blank && IsSpace(c);
        if (blank) text = text.substr(0, line);
      }
    }
    if (!text.empty()) Push(Token::Kind::kText, std::string(text));
    Skip(tag == std::string_view::npos ? rest_.size() : tag);
    return absl::OkStatus();
  }

  // After the end of a tag: "-" takes all white space, else trims says whether a newline goes.
  void AfterTag(bool minus, bool trims) {
    at_line_start_ = false;
    size_t count = 0;
    if (minus) {
      while (count < rest_.size() && IsSpace(rest_[count])) ++count;
    } else if (trims && StartsWith("\n")) {
      count = 1;
    }
    if (count > 0) at_line_start_ = rest_[count - 1] == '\n';
    Skip(count);
  }

  absl::Status Tag() {
    const char kind = rest_[1];
    if (kind == '#') return Comment();
    Skip(2);
    if (StartsWith("-") || StartsWith("+")) Skip(1);
    if (kind == '%') {
      std::string_view rest = rest_;
      while (!rest.empty() && IsSpace(rest.front())) rest.remove_prefix(1);
      if (rest.substr(0, 3) == "raw" && (rest.size() == 3 || !IsName(rest[3]))) return Raw();
    }
    Push(kind == '%' ? Token::Kind::kBlockBegin : Token::Kind::kOutputBegin, "");
    brackets_.clear();
    while (true) {
      while (!rest_.empty() && IsSpace(rest_.front())) Skip(1);
      if (rest_.empty()) return Error("a tag is not closed");
      if (brackets_.empty() && TagEnd(kind)) return absl::OkStatus();
      OCTET_RETURN_IF_ERROR(TagToken());
    }
  }

  bool TagEnd(char kind) {
    const std::string_view close = kind == '%' ? "%}" : "}}";
    const bool sign = StartsWith("-") || (kind == '%' && StartsWith("+"));
    const bool minus = StartsWith("-");
    if (rest_.substr(sign ? 1 : 0, 2) != close) return false;
    Push(kind == '%' ? Token::Kind::kBlockEnd : Token::Kind::kOutputEnd, "");
    Skip(sign ? 3 : 2);
    AfterTag(minus, kind == '%' && !sign);
    return true;
  }

  absl::Status Comment() {
    const size_t end = rest_.find("#}", 2);
    if (end == std::string_view::npos) return Error("a comment is not closed");
    const char sign = end > 2 ? rest_[end - 1] : '\0';
    Skip(end + 2);
    AfterTag(sign == '-', sign != '+');
    return absl::OkStatus();
  }

  // {% raw %}text{% endraw %}: rest_ starts after "{%".
  absl::Status Raw() {
    const size_t open = rest_.find("%}");
    if (open == std::string_view::npos) return Error("a tag is not closed");
    const bool open_minus = rest_[open - 1] == '-';
    Skip(open + 2);
    AfterTag(open_minus, true);
    size_t at = rest_.find("{%");
    for (; at != std::string_view::npos; at = rest_.find("{%", at + 2)) {
      std::string_view tag = rest_.substr(at + 2);
      const bool minus = !tag.empty() && tag.front() == '-';
      if (minus) tag.remove_prefix(1);
      while (!tag.empty() && IsSpace(tag.front())) tag.remove_prefix(1);
      if (tag.substr(0, 6) != "endraw") continue;
      std::string_view text = rest_.substr(0, at);
      while (minus && !text.empty() && IsSpace(text.back())) text.remove_suffix(1);
      if (!text.empty()) Push(Token::Kind::kText, std::string(text));
      const size_t close = rest_.find("%}", at);
      if (close == std::string_view::npos) break;
      const bool close_minus = rest_[close - 1] == '-';
      Skip(close + 2);
      AfterTag(close_minus, true);
      return absl::OkStatus();
    }
    return Error("{% raw %} is not closed");
  }

  absl::Status TagToken() {
    const char c = rest_.front();
    if (c == '\'' || c == '"') return StringToken();
    if (IsDigit(c)) return NumberToken();
    if (IsNameStart(c)) {
      size_t length = 1;
      while (length < rest_.size() && IsName(rest_[length])) ++length;
      Push(Token::Kind::kName, std::string(rest_.substr(0, length)));
      Skip(length);
      return absl::OkStatus();
    }
    for (const std::string_view op : {"**", "//", "==", "!=", ">=", "<="}) {
      if (!StartsWith(op)) continue;
      Push(Token::Kind::kOperator, std::string(op));
      Skip(2);
      return absl::OkStatus();
    }
    if (std::string_view("+-*/%~[](){}<>=.:|,").find(c) == std::string_view::npos) {
      return Error(absl::StrCat("unexpected character ", std::string(1, c)));
    }
    if (c == '(' || c == '[' || c == '{') brackets_.push_back(c == '(' ? ')' : c + 2);
    if (c == ')' || c == ']' || c == '}') {
      if (brackets_.empty() || brackets_.back() != c) {
        return Error(absl::StrCat("unexpected ", std::string(1, c)));
      }
      brackets_.pop_back();
    }
    Push(Token::Kind::kOperator, std::string(1, c));
    Skip(1);
    return absl::OkStatus();
  }

  absl::Status NumberToken() {
    std::string digits;
    bool is_float = false;
    size_t i = 0;
    const auto run = [&] {
      for (; i < rest_.size() && (IsDigit(rest_[i]) || rest_[i] == '_'); ++i) {
        if (rest_[i] != '_') digits.push_back(rest_[i]);
      }
    };
    run();
    if (i + 1 < rest_.size() && rest_[i] == '.' && IsDigit(rest_[i + 1])) {
      is_float = true;
      digits.push_back(rest_[i++]);
      run();
    }
    if (i + 1 < rest_.size() && (rest_[i] == 'e' || rest_[i] == 'E')) {
      const size_t sign = rest_[i + 1] == '-' || rest_[i + 1] == '+' ? 1 : 0;
      if (i + 1 + sign < rest_.size() && IsDigit(rest_[i + 1 + sign])) {
        is_float = true;
        digits += rest_.substr(i, 1 + sign);
        i += 1 + sign;
        run();
      }
    }
    Push(is_float ? Token::Kind::kFloat : Token::Kind::kInt, digits);
    Skip(i);
    return absl::OkStatus();
  }

  // The length of a hexadecimal escape's digits by its letter, 0 for other letters.
  static size_t HexDigits(char letter) {
    return letter == 'x' ? 2 : letter == 'u' ? 4 : letter == 'U' ? 8 : 0;
  }

  absl::Status HexEscape(size_t at, size_t digits, std::string* value) {
    uint32_t code = 0;
    const std::string_view hex = rest_.substr(at, digits);
    const auto parsed = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
    if (hex.size() != digits || parsed.ptr != hex.data() + hex.size() || code > 0x10FFFF ||
        (code >= 0xD800 && code < 0xE000)) {
      return Error("a string has a bad \\x, \\u or \\U escape");
    }
    AppendUtf8(code, value);
    return absl::OkStatus();
  }

  absl::Status StringToken() {
    constexpr std::string_view kLetters = "nrtbfav\\'\"";
    constexpr std::string_view kValues = "\n\r\t\b\f\a\v\\'\"";
    const char quote = rest_.front();
    std::string value;
    for (size_t i = 1; i < rest_.size(); ++i) {
      const char c = rest_[i];
      if (c == quote) {
        Push(Token::Kind::kString, std::move(value));
        Skip(i + 1);
        return absl::OkStatus();
      }
      if (c != '\\' || i + 1 >= rest_.size()) {
        value.push_back(c);
        continue;
      }
      const char letter = rest_[++i];
      const size_t known = kLetters.find(letter);
      if (known != std::string_view::npos) {
        value.push_back(kValues[known]);
      } else if (const size_t digits = HexDigits(letter); digits > 0) {
        OCTET_RETURN_IF_ERROR(HexEscape(i + 1, digits, &value));
        i += digits;
      } else if (letter == '0') {
        value.push_back('\0');
      } else if (letter != '\n') {
        value.push_back('\\');
        value.push_back(letter);
      }
    }
    return Error("a string is not closed");
  }

  const std::string source_;
  std::string_view rest_;
  uint32_t line_ = 1;
  bool at_line_start_ = true;
  std::string brackets_;  // the closing brackets still to come
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Lex(std::string_view source) {
  return Lexer(NormalizeNewlines(source)).Run();
}

}  // namespace octet::chat_template_internal
