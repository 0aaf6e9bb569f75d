// The house rules that a machine can check, as pure functions from (path, text) to findings. The
// scanner knows C++ only as far as comments, literals, preprocessor lines and braces; that is
// enough for these rules and takes milliseconds for the whole tree.
#ifndef OCTET_TESTS_TIDY_SOURCE_SCANNER_H_
#define OCTET_TESTS_TIDY_SOURCE_SCANNER_H_

#include <string>
#include <string_view>
#include <vector>

namespace octet {

inline constexpr int kFileLinesMax = 600;
inline constexpr int kFunctionLinesMax = 70;
inline constexpr int kLineColumnsMax = 100;  // characters, not bytes

// One broken rule. `path` is relative to the repository root, `line` counts from 1.
struct Finding {
  std::string path;
  int line = 0;
  std::string message;
};

// A function definition: the line its declaration starts on and the line of its closing brace.
struct FunctionExtent {
  std::string name;
  int first_line = 0;
  int last_line = 0;
  int lines() const { return last_line - first_line + 1; }
};

// An #include with quotes or angle brackets.
struct Include {
  std::string path;
  int line = 0;
};

// Text with comments, and with `blank_strings` also string and character literals, replaced by
// spaces. Every line break stays, so line numbers stay.
std::string BlankComments(std::string_view text, bool blank_strings);

// Outermost function definitions in file order. Of #if alternatives only the first branch counts.
std::vector<FunctionExtent> FindFunctions(std::string_view text);

std::vector<Include> FindIncludes(std::string_view text);

// Each checks one rule on one file.
std::vector<Finding> CheckLengths(const std::string& path, std::string_view text);
std::vector<Finding> CheckIncludes(const std::string& path, std::string_view text);
std::vector<Finding> CheckBannedCalls(const std::string& path, std::string_view text);
std::vector<Finding> CheckHeader(const std::string& path, std::string_view text);

// All of them.
std::vector<Finding> CheckFile(const std::string& path, std::string_view text);

}  // namespace octet

#endif  // OCTET_TESTS_TIDY_SOURCE_SCANNER_H_
