// The rules themselves, as tables where possible.
#include <algorithm>
#include <cctype>
#include <map>
#include <regex>
#include <set>
#include <string>

#include "tests/tidy/source_scanner.h"

namespace octet {
namespace {

bool Contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}
bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}
bool EndsWith(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}
std::string FolderOf(std::string_view path) { return std::string(path.substr(0, path.find('/'))); }

// Test code, benchmarks and oracles are not serving code.
bool IsTest(std::string_view path) {
  return StartsWith(path, "tests/") || EndsWith(path, "_test.cc") || Contains(path, "test_util") ||
         Contains(path, "testing");
}
bool IsServing(std::string_view path) { return !IsTest(path) && !StartsWith(path, "bench/"); }

// Which folders a folder may include. Folders that are not listed see everything.
const std::map<std::string, std::set<std::string>>& AllowedFolders() {
  static const auto* const allowed = new std::map<std::string, std::set<std::string>>{
      {"core", {"core"}},
      {"kernels", {"core", "kernels"}},
      {"rpc", {"core", "rpc"}},
      {"model", {"core", "kernels", "model"}},
      {"transport", {"core", "kernels", "model", "rpc", "transport"}},
      {"router", {"core", "kernels", "model", "rpc", "transport", "router"}},
      {"expert_worker", {"core", "kernels", "model", "rpc", "transport", "expert_worker"}},
      {"coordinator", {"core", "rpc", "coordinator"}},
      {"client", {"core", "rpc", "client"}},
  };
  return *allowed;
}

const std::set<std::string>& OurFolders() {
  static const auto* const folders = new std::set<std::string>{
      "core",   "kernels",       "rpc",         "model", "transport", "router",
      "client", "expert_worker", "coordinator", "cli",   "bench",     "tests"};
  return *folders;
}

bool IsRpcHeader(std::string_view include) {
  return StartsWith(include, "grpc") || StartsWith(include, "google/") ||
         EndsWith(include, ".pb.h");
}
bool IsGpuHeader(std::string_view include) {
  return StartsWith(include, "cuda") || StartsWith(include, "nccl") ||
         StartsWith(include, "cublas");
}

// Pure parts: no gRPC or protobuf type may be named here.
bool IsFreeOfRpc(std::string_view path) {
  if (IsTest(path)) return false;
  static const std::set<std::string> folders = {"core", "model", "kernels"};
  return folders.count(FolderOf(path)) != 0 || Contains(path, "scheduler") ||
         Contains(path, "planner") || Contains(path, "cluster_state");
}

struct BannedPattern {
  std::regex pattern;
  std::string message;
  bool in_tests;    // also applies to tests
  bool in_serving;  // also applies to serving code and benchmarks
};

const std::vector<BannedPattern>& BannedPatterns() {
  const auto call = [](const char* names) {
    return std::regex(std::string("(^|[^A-Za-z0-9_.>])(std::|::)?(") + names + ")\\s*\\(");
  };
  static const auto* const patterns = new std::vector<BannedPattern>{
      {call("system|popen"), "starts a shell: use posix_spawn with an argument list", true, true},
      {call("strcpy|strcat|sprintf|vsprintf|gets"), "writes without a bound", true, true},
      {call("rand|srand|random_shuffle"), "is not reproducible: pass a seeded generator", true,
       true},
      {call("assert"), "vanishes in release builds: use OCTET_CHECK", true, true},
      {call("sleep|usleep|nanosleep|sleep_for|sleep_until|absl::SleepFor"),
       "sleeps in a test: wait for a condition instead", true, false},
      {std::regex("\\busing\\s+namespace\\b"), "imports a whole namespace", true, true},
  };
  return *patterns;
}

// The results of libm differ between machines; serving uses kernels/math.h.
const std::regex& LibmPattern() {
  static const auto* const pattern = new std::regex(
      "std::(exp|exp2|expm1|log|log2|log10|log1p|sin|cos|tan|tanh|pow|erf)f?\\s*\\("
      "|(^|[^A-Za-z0-9_.>:])(expf|exp2f|logf|log2f|sinf|cosf|tanf|tanhf|powf|erff)\\s*\\(");
  return *pattern;
}

template <typename Visit>
void ForEachLine(std::string_view text, Visit visit) {
  int number = 0;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    visit(++number, text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
}

int Columns(std::string_view line) {
  return static_cast<int>(std::count_if(line.begin(), line.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;  // counts UTF-8 characters
  }));
}

std::string GuardOf(const std::string& path) {
  std::string guard = "OCTET_";
  for (char c : path) {
    const auto u = static_cast<unsigned char>(c);
    guard.push_back(std::isalnum(u) != 0 ? static_cast<char>(std::toupper(u)) : '_');
  }
  return guard + "_";
}

}  // namespace

std::vector<Finding> CheckLengths(const std::string& path, std::string_view text) {
  std::vector<Finding> findings;
  int lines = 0;
  ForEachLine(text, [&](int number, std::string_view line) {
    lines = number;
    // A raw string, a pattern for instance, can't be broken.
    if (Columns(line) > kLineColumnsMax && !Contains(line, "R\"")) {
      findings.push_back({path, number,
                          "line has " + std::to_string(Columns(line)) +
                              " characters, allowed are " + std::to_string(kLineColumnsMax)});
    }
  });
  if (lines > kFileLinesMax) {
    findings.push_back({path, lines,
                        "file has " + std::to_string(lines) + " lines, allowed are " +
                            std::to_string(kFileLinesMax)});
  }
  if (EndsWith(path, ".proto")) return findings;
  for (const FunctionExtent& function : FindFunctions(text)) {
    if (function.lines() > kFunctionLinesMax) {
      findings.push_back({path, function.first_line,
                          "function " + function.name + " has " + std::to_string(function.lines()) +
                              " lines, allowed are " + std::to_string(kFunctionLinesMax)});
    }
  }
  return findings;
}

std::vector<Finding> CheckIncludes(const std::string& path, std::string_view text) {
  std::vector<Finding> findings;
  const std::string from = FolderOf(path);
  const auto allowed = AllowedFolders().find(from);
  for (const Include& include : FindIncludes(text)) {
    const auto add = [&](const std::string& message) {
      findings.push_back({path, include.line, "includes " + include.path + ": " + message});
    };
    const std::string to = FolderOf(include.path);
    const bool ours = OurFolders().count(to) != 0 && Contains(include.path, "/");
    if (ours && allowed != AllowedFolders().end() && allowed->second.count(to) == 0 &&
        include.path != "coordinator/client.h" && !(to == "tests" && IsTest(path))) {
      add(from + " must not depend on " + to);
    }
    if (IsFreeOfRpc(path) && IsRpcHeader(include.path)) {
      add("no gRPC or protobuf type may appear here");
    }
    if (IsGpuHeader(include.path) && !StartsWith(path, "kernels/cuda/") &&
        !StartsWith(path, "kernels/fake_gpu") && !StartsWith(path, "transport/nccl")) {
      add("CUDA and NCCL types stay in kernels/cuda, kernels/fake_gpu and transport/nccl");
    }
    if (StartsWith(include.path, "../") || StartsWith(include.path, "./")) {
      add("write the path from the repository root");
    }
  }
  return findings;
}

std::vector<Finding> CheckBannedCalls(const std::string& path, std::string_view text) {
  std::vector<Finding> findings;
  const bool test = IsTest(path);
  const std::string code = BlankComments(text, /*blank_strings=*/true);
  ForEachLine(code, [&](int number, std::string_view line) {
    const std::string owned(line);
    std::smatch match;
    for (const BannedPattern& banned : BannedPatterns()) {
      if (test ? !banned.in_tests : !banned.in_serving) continue;
      if (std::regex_search(owned, match, banned.pattern)) {
        findings.push_back({path, number, "`" + match.str() + "` " + banned.message});
      }
    }
    if (IsServing(path) && std::regex_search(owned, match, LibmPattern())) {
      findings.push_back(
          {path, number, "`" + match.str() + "` differs between machines: use kernels/math.h"});
    }
  });
  static const std::regex todo("\\b(TODO|FIXME)\\b");
  ForEachLine(text, [&](int number, std::string_view line) {
    const std::string owned(line);
    if (path != "tests/tidy/source_rules.cc" && !StartsWith(path, "tests/tidy/") &&
        std::regex_search(owned, todo)) {
      findings.push_back({path, number, "unfinished work is not committed"});
    }
  });
  return findings;
}

std::vector<Finding> CheckHeader(const std::string& path, std::string_view text) {
  std::vector<Finding> findings;
  if (!EndsWith(path, ".h")) return findings;
  if (!StartsWith(text, "//") && !StartsWith(text, "/*")) {
    findings.push_back({path, 1, "a header starts with a comment that says what it is for"});
  }
  const std::string guard = GuardOf(path);
  const std::string code = BlankComments(text, /*blank_strings=*/false);
  const size_t start = code.find_first_not_of(" \n");
  const std::string expected = "#ifndef " + guard + "\n#define " + guard + "\n";
  if (start == std::string::npos || code.compare(start, expected.size(), expected) != 0) {
    findings.push_back({path, 1, "the include guard must be " + guard});
  }
  return findings;
}

std::vector<Finding> CheckFile(const std::string& path, std::string_view text) {
  std::vector<Finding> all = CheckLengths(path, text);
  if (EndsWith(path, ".proto")) return all;
  for (auto* check : {&CheckIncludes, &CheckBannedCalls, &CheckHeader}) {
    std::vector<Finding> findings = (*check)(path, text);
    all.insert(all.end(), findings.begin(), findings.end());
  }
  return all;
}

}  // namespace octet
