#include <utf8proc.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"
#include "model/chat_template/runtime.h"
#include "model/tokenizer/utf8.h"

namespace octet::chat_template_internal {
namespace {

// str.isspace() of a character; the separators U+001C to U+001F count beside White_Space.
bool IsPythonSpace(uint32_t code) { return IsWhiteSpace(code) || (code >= 0x1C && code <= 0x1F); }

bool IsLetter(uint32_t code) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

enum class Case { kUpper, kLower };

void AppendCase(uint32_t code, Case to, std::string* out) {
  const auto c = static_cast<utf8proc_int32_t>(code);
  if (to == Case::kUpper && code == 0xDF) {  // the one common letter whose capital is two
    *out += "SS";
    return;
  }
  AppendUtf8(static_cast<uint32_t>(to == Case::kUpper ? utf8proc_toupper(c) : utf8proc_tolower(c)),
             out);
}

// next(code, is_first, after_letter) chooses the case of each character.
template <typename Choose>
std::string MapCase(std::string_view text, const Choose& choose) {
  std::string out;
  bool first = true;
  bool after_letter = false;
  while (!text.empty()) {
    const Utf8Char c = DecodeUtf8(text);
    AppendCase(c.code, choose(first, after_letter), &out);
    after_letter = IsLetter(c.code);
    first = false;
    text.remove_prefix(c.length);
  }
  return out;
}

std::string Title(std::string_view text) {
  return MapCase(
      text, [](bool, bool after_letter) { return after_letter ? Case::kLower : Case::kUpper; });
}

absl::Status BadArgument(std::string_view method, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(std::string(method), "(): ", std::string(what)));
}

// The text of an argument, or nullptr when it is not given or none.
absl::StatusOr<const std::string*> TextArgument(const Args& args, size_t at, std::string_view name,
                                                std::string_view method) {
  const Value* value = args.Get(at, name);
  if (value == nullptr || value->is_none()) return nullptr;
  if (!value->is_string()) return BadArgument(method, value->TypeName() + " in place of a string");
  return &value->text();
}

absl::StatusOr<const std::string*> NeedText(const Args& args, size_t at, std::string_view name,
                                            std::string_view method) {
  OCTET_ASSIGN_OR_RETURN(const std::string* text, TextArgument(args, at, name, method));
  if (text == nullptr) return BadArgument(method, "an argument is missing");
  return text;
}

absl::StatusOr<int64_t> IntArgument(const Args& args, size_t at, std::string_view name,
                                    std::string_view method, int64_t fallback) {
  const Value* value = args.Get(at, name);
  if (value == nullptr) return fallback;
  if (!value->is_integer())
    return BadArgument(method, value->TypeName() + " in place of an integer");
  return value->integer();
}

// str.split() without a separator: at runs of white space.
void SplitAtSpace(std::string_view text, int64_t count, std::vector<Value>* out) {
  text = Strip(text, nullptr, true, false);
  while (!text.empty()) {
    size_t end = 0;
    while (end < text.size()) {
      const Utf8Char c = DecodeUtf8(text.substr(end));
      if (IsPythonSpace(c.code)) break;
      end += c.length;
    }
    if (count >= 0 && static_cast<int64_t>(out->size()) == count) end = text.size();
    out->push_back(Value::String(std::string(text.substr(0, end))));
    text = Strip(text.substr(end), nullptr, true, false);
  }
}

Result Split(std::string_view text, const Args& args, bool from_right, Budget* budget) {
  OCTET_ASSIGN_OR_RETURN(const std::string* separator, TextArgument(args, 0, "sep", "split"));
  OCTET_ASSIGN_OR_RETURN(const int64_t count, IntArgument(args, 1, "maxsplit", "split", -1));
  OCTET_RETURN_IF_ERROR(budget->Charge(1 + text.size() / 8));
  std::vector<Value> parts;
  if (separator == nullptr) {
    if (from_right && count >= 0) return BadArgument("rsplit", "maxsplit needs a separator here");
    SplitAtSpace(text, count, &parts);
    return Value::List(std::move(parts));
  }
  if (separator->empty()) return BadArgument("split", "the separator is empty");
  while (count < 0 || static_cast<int64_t>(parts.size()) < count) {
    const size_t at = from_right ? text.rfind(*separator) : text.find(*separator);
    if (at == std::string_view::npos) break;
    const std::string_view after = text.substr(at + separator->size());
    parts.push_back(Value::String(std::string(from_right ? after : text.substr(0, at))));
    text = from_right ? text.substr(0, at) : after;
    OCTET_RETURN_IF_ERROR(budget->Charge(1));
  }
  parts.push_back(Value::String(std::string(text)));
  if (from_right) std::reverse(parts.begin(), parts.end());
  return Value::List(std::move(parts));
}

// startswith and endswith take one string or a list of them.
Result HasAffix(std::string_view text, const Args& args, bool start) {
  const Value* value = args.Get(0, start ? "prefix" : "suffix");
  std::vector<Value> affixes;
  if (value != nullptr && value->is_list()) affixes = value->items();
  if (value != nullptr && value->is_string()) affixes.push_back(*value);
  if (value == nullptr || (!value->is_list() && !value->is_string())) {
    return BadArgument(start ? "startswith" : "endswith", "needs a string");
  }
  for (const Value& affix : affixes) {
    if (!affix.is_string()) return BadArgument("startswith", "needs strings");
    if (start ? text.starts_with(affix.text()) : text.ends_with(affix.text())) {
      return Value::Bool(true);
    }
  }
  return Value::Bool(false);
}

Result Find(std::string_view text, const Args& args, std::string_view name) {
  OCTET_ASSIGN_OR_RETURN(const std::string* needle, NeedText(args, 0, "sub", name));
  if (name == "count") {
    int64_t count = 0;
    if (needle->empty()) return Value::Int(static_cast<int64_t>(CharCount(text)) + 1);
    for (size_t at = text.find(*needle); at != std::string_view::npos;
         at = text.find(*needle, at + needle->size())) {
      ++count;
    }
    return Value::Int(count);
  }
  const size_t at = name == "rfind" ? text.rfind(*needle) : text.find(*needle);
  if (at == std::string_view::npos) return Value::Int(-1);
  return Value::Int(static_cast<int64_t>(CharCount(text.substr(0, at))));
}

Result JoinText(const std::string& separator, const Args& args, Budget* budget) {
  const Value* list = args.Get(0, "iterable");
  if (list == nullptr) return BadArgument("join", "an argument is missing");
  OCTET_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(*list, budget));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].is_string()) return BadArgument("join", items[i].TypeName() + " in the list");
    if (i > 0) out += separator;
    out += items[i].text();
    if (out.size() > kTemplateOutputBytesMax) break;
  }
  OCTET_RETURN_IF_ERROR(budget->ChargeSize(out.size()));
  return Value::String(std::move(out));
}

Result SplitLines(std::string_view text, Budget* budget) {
  std::vector<Value> lines;
  while (!text.empty()) {
    const size_t end = text.find_first_of("\r\n");
    lines.push_back(Value::String(std::string(text.substr(0, end))));
    OCTET_RETURN_IF_ERROR(budget->Charge(1));
    if (end == std::string_view::npos) break;
    const bool crlf = text.substr(end, 2) == "\r\n";
    text.remove_prefix(end + (crlf ? 2 : 1));
  }
  return Value::List(std::move(lines));
}

template <typename Test>
Value AllChars(std::string_view text, const Test& test) {
  bool all = !text.empty();
  while (all && !text.empty()) {
    const Utf8Char c = DecodeUtf8(text);
    all = test(c.code);
    text.remove_prefix(c.length);
  }
  return Value::Bool(all);
}

bool IsDecimal(uint32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code)) == UTF8PROC_CATEGORY_ND;
}

constexpr std::string_view kStringMethods[] = {
    "strip",    "lstrip",     "rstrip",       "split",       "rsplit",  "startswith",
    "endswith", "upper",      "lower",        "replace",     "title",   "capitalize",
    "find",     "rfind",      "count",        "join",        "isspace", "isdigit",
    "isalpha",  "splitlines", "removeprefix", "removesuffix"};
constexpr std::string_view kDictMethods[] = {"items", "keys", "values", "get"};

Result CallStringMethod(const std::string& text, std::string_view name, const Args& args,
                        Budget* budget) {
  OCTET_RETURN_IF_ERROR(budget->ChargeSize(text.size()));
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    OCTET_ASSIGN_OR_RETURN(const std::string* chars, TextArgument(args, 0, "chars", name));
    return Value::String(std::string(Strip(text, chars, name != "rstrip", name != "lstrip")));
  }
  if (name == "split" || name == "rsplit") return Split(text, args, name == "rsplit", budget);
  if (name == "startswith" || name == "endswith") return HasAffix(text, args, name == "startswith");
  if (name == "upper") return Value::String(ToUpper(text));
  if (name == "lower") return Value::String(ToLower(text));
  if (name == "title") return Value::String(Title(text));
  if (name == "capitalize") return Value::String(Capitalize(text));
  if (name == "join") return JoinText(text, args, budget);
  if (name == "splitlines") return SplitLines(text, budget);
  if (name == "isspace") return AllChars(text, IsPythonSpace);
  if (name == "isdigit") return AllChars(text, IsDecimal);
  if (name == "isalpha") return AllChars(text, IsLetter);
  if (name == "replace") {
    OCTET_ASSIGN_OR_RETURN(const std::string* from, NeedText(args, 0, "old", name));
    OCTET_ASSIGN_OR_RETURN(const std::string* to, NeedText(args, 1, "new", name));
    OCTET_ASSIGN_OR_RETURN(const int64_t count, IntArgument(args, 2, "count", name, -1));
    OCTET_ASSIGN_OR_RETURN(std::string out, ReplaceText(text, *from, *to, count, budget));
    return Value::String(std::move(out));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    OCTET_ASSIGN_OR_RETURN(const std::string* affix, NeedText(args, 0, "prefix", name));
    const size_t kept = text.size() - std::min(text.size(), affix->size());
    if (name == "removeprefix") {
      return Value::String(text.starts_with(*affix) ? text.substr(affix->size()) : text);
    }
    return Value::String(text.ends_with(*affix) ? text.substr(0, kept) : text);
  }
  return Find(text, args, name);
}

}  // namespace

bool HasMethod(const Value& object, std::string_view name) {
  if (object.is_string())
    return std::count(std::begin(kStringMethods), std::end(kStringMethods), name);
  if (object.is_dict()) return std::count(std::begin(kDictMethods), std::end(kDictMethods), name);
  return object.is(Value::Type::kLoop) && name == "cycle";
}

Result CallMethod(const Value& object, std::string_view name, const Args& args, Budget* budget) {
  if (object.is_string()) return CallStringMethod(object.text(), name, args, budget);
  if (object.is(Value::Type::kLoop)) {
    if (args.positional.empty()) return BadArgument("cycle", "an argument is missing");
    OCTET_ASSIGN_OR_RETURN(const Value index, GetAttribute(object, "index0"));
    return args.positional[static_cast<size_t>(index.integer()) % args.positional.size()];
  }
  const DictData& dict = object.dict();
  if (name == "get") {
    const Value* key = args.Get(0, "key");
    if (key == nullptr) return BadArgument("get", "an argument is missing");
    const Value* found = key->is_string() ? dict.Find(key->text()) : nullptr;
    const Value* fallback = args.Get(1, "default");
    if (found != nullptr) return *found;
    return fallback != nullptr ? *fallback : Value::None();
  }
  OCTET_RETURN_IF_ERROR(budget->Charge(2 * dict.entries().size()));
  std::vector<Value> out;
  for (const auto& [key, value] : dict.entries()) {
    if (name == "keys") {
      out.push_back(Value::String(key));
    } else if (name == "values") {
      out.push_back(value);
    } else {
      out.push_back(Value::Tuple({Value::String(key), value}));
    }
  }
  return Value::List(std::move(out));
}

std::string_view Strip(std::string_view text, const std::string* chars, bool left, bool right) {
  const auto strips = [&](std::string_view character, uint32_t code) {
    return chars == nullptr ? IsPythonSpace(code) : chars->find(character) != std::string::npos;
  };
  while (left && !text.empty()) {
    const Utf8Char c = DecodeUtf8(text);
    if (!strips(text.substr(0, c.length), c.code)) break;
    text.remove_prefix(c.length);
  }
  while (right && !text.empty()) {
    const size_t at = PreviousChar(text, text.size());
    if (!strips(text.substr(at), DecodeUtf8(text.substr(at)).code)) break;
    text.remove_suffix(text.size() - at);
  }
  return text;
}

std::string ToUpper(std::string_view text) {
  return MapCase(text, [](bool, bool) { return Case::kUpper; });
}

std::string ToLower(std::string_view text) {
  return MapCase(text, [](bool, bool) { return Case::kLower; });
}

std::string Capitalize(std::string_view text) {
  return MapCase(text, [](bool first, bool) { return first ? Case::kUpper : Case::kLower; });
}

absl::StatusOr<std::string> ReplaceText(std::string_view text, std::string_view from,
                                        std::string_view to, int64_t count, Budget* budget) {
  if (from.empty()) return BadArgument("replace", "the text to replace is empty");
  std::string out;
  for (int64_t done = 0; count < 0 || done < count; ++done) {
    const size_t at = text.find(from);
    if (at == std::string_view::npos) break;
    out += text.substr(0, at);
    out += to;
    text.remove_prefix(at + from.size());
    if (out.size() > kTemplateOutputBytesMax) break;
  }
  out += text;
  OCTET_RETURN_IF_ERROR(budget->ChargeSize(out.size()));
  return out;
}

}  // namespace octet::chat_template_internal
