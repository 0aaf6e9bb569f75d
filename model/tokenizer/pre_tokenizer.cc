#include "model/tokenizer/pre_tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/utf8.h"

namespace octet {
namespace {

constexpr char kWhere[] = "tokenizer.json: pre_tokenizer";

// GPT-2's pattern, which ByteLevel uses.
constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string ReplaceSpaces(std::string_view text, std::string_view replacement) {
  std::string out;
  for (const char c : text) {
    if (c == ' ') {
      out += replacement;
    } else {
      out.push_back(c);
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::Parse(const nlohmann::json& json) {
  PreTokenizer result;
  result.json_ = json;
  OCTET_RETURN_IF_ERROR(result.ParseInto(json));
  return result;
}

nlohmann::json PreTokenizer::JsonOfPatterns(const std::vector<std::string>& patterns) {
  nlohmann::json list = nlohmann::json::array();
  for (const std::string& pattern : patterns) {
    list.push_back({{"type", "Split"},
                    {"pattern", {{"Regex", pattern}}},
                    {"behavior", "Isolated"},
                    {"invert", false}});
  }
  list.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", std::move(list)}};
}

absl::Status PreTokenizer::ParseInto(const nlohmann::json& json) {
  if (json.is_null()) return absl::OkStatus();
  OCTET_ASSIGN_OR_RETURN(const std::string type, JsonString(json, "type", kWhere));
  if (type == "Sequence") {
    const nlohmann::json* list = JsonFind(json, "pretokenizers");
    if (list == nullptr || !list->is_array()) {
      return absl::InvalidArgumentError(
          absl::StrCat(kWhere, ": a Sequence needs an array \"pretokenizers\""));
    }
    for (const nlohmann::json& entry : *list) OCTET_RETURN_IF_ERROR(ParseInto(entry));
    return absl::OkStatus();
  }
  if (steps_.size() >= kPreTokenizerStepsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(kWhere, ": more than ", kPreTokenizerStepsMax, " steps"));
  }
  Step step;
  if (type == "ByteLevel") {
    byte_level_ = true;
    OCTET_ASSIGN_OR_RETURN(const bool prefix, JsonBoolOr(json, "add_prefix_space", kWhere, true));
    OCTET_ASSIGN_OR_RETURN(const bool use_regex, JsonBoolOr(json, "use_regex", kWhere, true));
    step.prefix = prefix ? Prefix::kAlways : Prefix::kNever;
    step.prefix_text = " ";
    if (use_regex) {
      OCTET_ASSIGN_OR_RETURN(step.regex, SplitRegex::Compile(kGpt2Pattern));
    }
  } else if (type == "Digits") {
    OCTET_ASSIGN_OR_RETURN(const bool single, JsonBoolOr(json, "individual_digits", kWhere, false));
    OCTET_ASSIGN_OR_RETURN(step.regex, SplitRegex::Compile(single ? "\\p{N}" : "\\p{N}+"));
  } else if (type == "Split") {
    OCTET_RETURN_IF_ERROR(ParseSplit(json, &step));
  } else if (type == "Metaspace") {
    OCTET_RETURN_IF_ERROR(ParseMetaspace(json, &step));
  } else {
    return absl::UnimplementedError(
        absl::StrCat(kWhere, ": type ", JsonForError(type),
                     " is not supported (ByteLevel, Split, Digits, Metaspace, Sequence are)"));
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status PreTokenizer::ParseSplit(const nlohmann::json& json, Step* step) {
  const nlohmann::json* pattern = JsonFind(json, "pattern");
  const nlohmann::json empty = nlohmann::json::object();
  if (pattern == nullptr) pattern = &empty;
  if (JsonFind(*pattern, "String") != nullptr) {
    OCTET_ASSIGN_OR_RETURN(step->literal, JsonString(*pattern, "String", kWhere));
    if (step->literal.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(kWhere, ": Split on an empty string"));
    }
  } else {
    OCTET_ASSIGN_OR_RETURN(const std::string regex, JsonString(*pattern, "Regex", kWhere));
    OCTET_ASSIGN_OR_RETURN(step->regex, SplitRegex::Compile(regex));
  }
  OCTET_ASSIGN_OR_RETURN(step->invert, JsonBoolOr(json, "invert", kWhere, false));
  OCTET_ASSIGN_OR_RETURN(const std::string behavior, JsonString(json, "behavior", kWhere));
  constexpr std::pair<const char*, Behavior> kNames[] = {
      {"Removed", Behavior::kRemoved},
      {"Isolated", Behavior::kIsolated},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  for (const auto& [name, value] : kNames) {
    if (behavior == name) {
      step->behavior = value;
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(kWhere, ": field \"behavior\" is ", JsonForError(behavior),
                   ", allowed are Removed, Isolated, MergedWithPrevious, MergedWithNext and "
                   "Contiguous"));
}

absl::Status PreTokenizer::ParseMetaspace(const nlohmann::json& json, Step* step) {
  OCTET_ASSIGN_OR_RETURN(step->space, JsonStringOr(json, "replacement", kWhere, kMetaspace));
  if (step->space.empty() || step->space.size() > 4) {
    return absl::InvalidArgumentError(
        absl::StrCat(kWhere, ": field \"replacement\" must be one character"));
  }
  OCTET_ASSIGN_OR_RETURN(const bool add_prefix, JsonBoolOr(json, "add_prefix_space", kWhere, true));
  OCTET_ASSIGN_OR_RETURN(const std::string scheme, JsonStringOr(json, "prepend_scheme", kWhere,
                                                                add_prefix ? "always" : "never"));
  if (scheme == "always") {
    step->prefix = Prefix::kAlways;
  } else if (scheme == "first") {
    step->prefix = Prefix::kFirst;
  } else if (scheme != "never") {
    return absl::InvalidArgumentError(absl::StrCat(kWhere, ": field \"prepend_scheme\" is ",
                                                   JsonForError(scheme),
                                                   ", allowed are always, first and never"));
  }
  step->prefix_text = step->space;
  OCTET_ASSIGN_OR_RETURN(const bool split, JsonBoolOr(json, "split", kWhere, true));
  if (split) step->literal = step->space;
  step->behavior = Behavior::kMergedWithNext;
  return absl::OkStatus();
}

void PreTokenizer::Rewrite(const Step& step, bool at_start, PreTokens* tokens) {
  for (size_t i = 0; i < tokens->pieces.size(); ++i) {
    std::string_view& piece = tokens->pieces[i];
    if (!step.space.empty() && piece.find(' ') != std::string_view::npos) {
      tokens->storage.push_back(ReplaceSpaces(piece, step.space));
      piece = tokens->storage.back();
    }
    const bool wanted =
        step.prefix == Prefix::kAlways || (step.prefix == Prefix::kFirst && at_start && i == 0);
    if (!wanted || piece.substr(0, step.prefix_text.size()) == step.prefix_text) continue;
    tokens->storage.push_back(step.prefix_text + std::string(piece));
    piece = tokens->storage.back();
  }
}

absl::Status PreTokenizer::Cut(const Step& step, std::string_view piece,
                               std::vector<std::string_view>* out) {
  std::vector<SplitRegex::Span> matches;
  if (step.regex != nullptr) {
    OCTET_RETURN_IF_ERROR(step.regex->FindAll(piece, &matches));
  } else {
    for (size_t at = piece.find(step.literal); at != std::string_view::npos;
         at = piece.find(step.literal, at + step.literal.size())) {
      matches.push_back({at, at + step.literal.size()});
    }
  }
  struct Part {
    size_t begin, end;
    bool match;
  };
  std::vector<Part> parts;
  size_t done = 0;
  for (const SplitRegex::Span& match : matches) {
    if (match.begin > done) parts.push_back({done, match.begin, step.invert});
    parts.push_back({match.begin, match.end, !step.invert});
    done = match.end;
  }
  if (done < piece.size()) parts.push_back({done, piece.size(), step.invert});
  std::vector<Part> merged;
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool previous = i > 0 && parts[i - 1].match;
    bool join = false;
    if (step.behavior == Behavior::kMergedWithPrevious) join = parts[i].match && !previous;
    if (step.behavior == Behavior::kMergedWithNext) join = !parts[i].match && previous;
    if (step.behavior == Behavior::kContiguous) join = parts[i].match == previous;
    if (step.behavior == Behavior::kRemoved && parts[i].match) continue;
    if (join && i > 0) {
      merged.back().end = parts[i].end;
    } else {
      merged.push_back(parts[i]);
    }
  }
  for (const Part& part : merged) {
    if (part.end > part.begin) out->push_back(piece.substr(part.begin, part.end - part.begin));
  }
  return absl::OkStatus();
}

absl::Status PreTokenizer::Split(std::string_view text, bool at_start, PreTokens* out) const {
  out->pieces.clear();
  out->storage.clear();
  if (text.empty()) return absl::OkStatus();
  out->pieces.push_back(text);
  for (const Step& step : steps_) {
    if (step.prefix != Prefix::kNever || !step.space.empty()) Rewrite(step, at_start, out);
    if (step.regex == nullptr && step.literal.empty()) continue;
    std::vector<std::string_view> next;
    for (const std::string_view piece : out->pieces) OCTET_RETURN_IF_ERROR(Cut(step, piece, &next));
    out->pieces = std::move(next);
  }
  return absl::OkStatus();
}

}  // namespace octet
