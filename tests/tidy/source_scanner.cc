#include "tests/tidy/source_scanner.h"

#include <algorithm>
#include <cctype>
#include <cstddef>

namespace octet {
namespace {

bool IsWord(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// Copies text to out while blanking what is asked for.
class Blanker {
 public:
  Blanker(std::string_view text, bool blank_strings) : text_(text), blank_strings_(blank_strings) {}

  std::string Run() {
    while (at_ < text_.size()) {
      if (StartsWith("//")) {
        BlankUntil(LineCommentEnd());
      } else if (StartsWith("/*")) {
        const size_t end = text_.find("*/", at_ + 2);
        BlankUntil(end == std::string_view::npos ? text_.size() : end + 2);
      } else if (StartsWith("R\"") && (at_ == 0 || !IsWord(text_[at_ - 1]))) {
        Literal(RawStringEnd());
      } else if (text_[at_] == '"' || (text_[at_] == '\'' && !IsDigitSeparator())) {
        Literal(QuotedEnd(text_[at_]));
      } else {
        out_.push_back(text_[at_++]);
      }
    }
    return std::move(out_);
  }

 private:
  bool StartsWith(std::string_view prefix) const {
    return text_.substr(at_, prefix.size()) == prefix;
  }
  // 1'000'000, but not the start of u'x' or L'x'.
  bool IsDigitSeparator() const {
    return at_ > 0 && at_ + 1 < text_.size() &&
           std::isxdigit(static_cast<unsigned char>(text_[at_ - 1])) != 0 &&
           std::isxdigit(static_cast<unsigned char>(text_[at_ + 1])) != 0 &&
           (at_ + 2 >= text_.size() || text_[at_ + 2] != '\'');
  }
  // A line comment goes on after a backslash at the end of its line.
  size_t LineCommentEnd() const {
    size_t end = text_.find('\n', at_);
    while (end != std::string_view::npos && text_[end - 1] == '\\') end = text_.find('\n', end + 1);
    return end == std::string_view::npos ? text_.size() : end;
  }
  size_t RawStringEnd() const {
    const size_t open = text_.find('(', at_);
    if (open == std::string_view::npos) return text_.size();
    const std::string close = ")" + std::string(text_.substr(at_ + 2, open - at_ - 2)) + "\"";
    const size_t end = text_.find(close, open);
    return end == std::string_view::npos ? text_.size() : end + close.size();
  }
  // An unterminated literal ends at the end of its line.
  size_t QuotedEnd(char quote) const {
    size_t i = at_ + 1;
    while (i < text_.size() && text_[i] != quote && text_[i] != '\n') {
      i += text_[i] == '\\' ? 2 : 1;
    }
    return std::min(i < text_.size() && text_[i] == quote ? i + 1 : i, text_.size());
  }
  void BlankUntil(size_t end) {
    for (; at_ < end; ++at_) out_.push_back(text_[at_] == '\n' ? '\n' : ' ');
  }
  void Literal(size_t end) {
    if (blank_strings_) {
      BlankUntil(end);
    } else {
      out_.append(text_.substr(at_, end - at_));
      at_ = end;
    }
  }

  std::string_view text_;
  bool blank_strings_;
  size_t at_ = 0;
  std::string out_;
};

std::vector<std::string_view> SplitLines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    lines.push_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return lines;
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) {
    text.remove_prefix(1);
  }
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) {
    text.remove_suffix(1);
  }
  return text;
}

// The directive's name, or empty if the line is none.
std::string_view Directive(std::string_view line) {
  line = Trim(line);
  if (line.empty() || line.front() != '#') return {};
  line = Trim(line.substr(1));
  size_t end = 0;
  while (end < line.size() && IsWord(line[end])) ++end;
  return line.substr(0, end);
}

// Blanks preprocessor lines and every branch but the first of an #if, so that braces balance.
std::string BlankPreprocessor(std::string_view code) {
  std::string out;
  std::vector<bool> in_later_branch;
  bool continued = false;
  for (std::string_view line : SplitLines(code)) {
    const std::string_view directive = continued ? std::string_view() : Directive(line);
    bool skip = continued || !directive.empty();
    if (directive.substr(0, 2) == "if") in_later_branch.push_back(false);
    if (directive.substr(0, 2) == "el" && !in_later_branch.empty()) in_later_branch.back() = true;
    if (directive == "endif" && !in_later_branch.empty()) in_later_branch.pop_back();
    continued = skip && !line.empty() && line.back() == '\\';
    skip = skip ||
           std::find(in_later_branch.begin(), in_later_branch.end(), true) != in_later_branch.end();
    out += skip ? std::string() : std::string(line);
    out += '\n';
  }
  return out;
}

// What stands before a '{', outside functions.
struct Head {
  std::string text;
  int first_line = 0;
  bool after_brace_initializer = false;  // directly after the '}' of `: member_{x} {`
};

// A head opens a function if it has a parameter list that no top-level '=' follows.
bool OpensFunction(const Head& head) {
  if (Trim(head.text).empty()) return head.after_brace_initializer;
  int depth = 0;
  bool has_parameters = false;
  for (size_t i = 0; i < head.text.size(); ++i) {
    const char c = head.text[i];
    if (c == '(') ++depth;
    if (c == ')') {
      --depth;
      has_parameters = has_parameters || depth == 0;
    }
    const bool comparison =
        c == '=' &&
        ((i + 1 < head.text.size() && head.text[i + 1] == '=') ||
         (i > 0 && std::string_view("=<>!").find(head.text[i - 1]) != std::string_view::npos));
    if (c == '=' && depth == 0 && !comparison) has_parameters = false;
  }
  return has_parameters;
}

// The identifier, with its qualifiers, before the first '('.
std::string FunctionName(const std::string& head) {
  const size_t open = head.find('(');
  if (open == std::string::npos) return "(unnamed)";
  size_t end = open;
  while (end > 0 && std::isspace(static_cast<unsigned char>(head[end - 1])) != 0) --end;
  size_t begin = end;
  while (begin > 0 &&
         (IsWord(head[begin - 1]) || head[begin - 1] == ':' || head[begin - 1] == '~')) {
    --begin;
  }
  return begin == end ? "(operator)" : head.substr(begin, end - begin);
}

// Walks blanked code and collects function bodies.
class FunctionFinder {
 public:
  std::vector<FunctionExtent> Run(std::string_view code) {
    for (char c : code) {
      if (c == '\n') ++line_;
      if (c == '{') {
        Open();
      } else if (c == '}') {
        Close();
      } else if (function_depth_ == 0) {
        Between(c);
      }
    }
    return std::move(functions_);
  }

 private:
  void Open() {
    ++depth_;
    if (function_depth_ != 0) return;
    if (parens_ == 0 && OpensFunction(head_)) {
      const bool nameless = Trim(head_.text).empty() || Trim(head_.text).front() == ',';
      current_.name = nameless ? last_name_ : FunctionName(head_.text);
      current_.first_line = head_.first_line == 0 ? line_ : head_.first_line;
      last_name_ = current_.name;
      function_depth_ = depth_;
    } else {
      head_ = Head();
    }
  }
  void Close() {
    if (function_depth_ == depth_ && depth_ > 0) {
      current_.last_line = line_;
      functions_.push_back(current_);
      function_depth_ = 0;
      head_ = Head();
      head_.after_brace_initializer = true;
    } else if (function_depth_ == 0) {
      head_ = Head();
    }
    if (depth_ > 0) --depth_;
  }
  void Between(char c) {
    if (c == '(') ++parens_;
    if (c == ')' && parens_ > 0) --parens_;
    if (c == ';' && parens_ == 0) {
      head_ = Head();
      return;
    }
    if (std::isspace(static_cast<unsigned char>(c)) == 0 && head_.first_line == 0) {
      head_.first_line = line_;
    }
    head_.text.push_back(c);
  }

  int line_ = 1;
  int depth_ = 0;
  int parens_ = 0;
  int function_depth_ = 0;  // depth inside the current function's braces; 0: outside
  Head head_;
  FunctionExtent current_;
  std::string last_name_;
  std::vector<FunctionExtent> functions_;
};

}  // namespace

std::string BlankComments(std::string_view text, bool blank_strings) {
  return Blanker(text, blank_strings).Run();
}

std::vector<FunctionExtent> FindFunctions(std::string_view text) {
  return FunctionFinder().Run(BlankPreprocessor(BlankComments(text, /*blank_strings=*/true)));
}

std::vector<Include> FindIncludes(std::string_view text) {
  std::vector<Include> includes;
  const std::string code = BlankComments(text, /*blank_strings=*/false);
  int number = 0;
  for (std::string_view line : SplitLines(code)) {
    ++number;
    if (Directive(line) != "include") continue;
    const size_t open = line.find_first_of("\"<");
    if (open == std::string_view::npos) continue;
    const size_t close = line.find_first_of("\">", open + 1);
    if (close == std::string_view::npos) continue;
    includes.push_back({std::string(line.substr(open + 1, close - open - 1)), number});
  }
  return includes;
}

}  // namespace octet
