#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"
#include "model/chat_template/expr_parser.h"
#include "model/chat_template/runtime.h"

namespace octet::chat_template_internal {
namespace {

constexpr std::string_view kFilters[] = {
    "abs",    "capitalize", "count",   "d",       "default",    "dictsort", "first",  "float",
    "indent", "int",        "items",   "join",    "last",       "length",   "list",   "lower",
    "map",    "reject",     "replace", "reverse", "rejectattr", "safe",     "select", "selectattr",
    "string", "title",      "tojson",  "trim",    "unique",     "upper"};

constexpr std::string_view kTests[] = {
    "boolean", "callable", "defined", "divisibleby", "eq",        "equalto", "even",
    "false",   "float",    "ge",      "gt",          "in",        "integer", "iterable",
    "le",      "lower",    "lt",      "mapping",     "ne",        "none",    "number",
    "odd",     "sequence", "string",  "true",        "undefined", "upper"};

absl::Status BadFilter(std::string_view name, std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("filter ", std::string(name), ": ", std::string(what)));
}

// Jinja's title: words start after blanks, "-" and opening brackets.
std::string TitleFilter(const std::string& text) {
  std::string out;
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = text.find_first_of("- \t\n\v\f\r({[<", begin);
    const size_t length = end == std::string::npos ? std::string::npos : end - begin;
    out += Capitalize(std::string_view(text).substr(begin, length));
    if (end == std::string::npos) break;
    out.push_back(text[end]);
    begin = end + 1;
  }
  return out;
}

Result Join(const Value& value, const Args& args, Budget* budget) {
  OCTET_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(value, budget));
  std::string separator;
  if (const Value* given = args.Get(0, "d"); given != nullptr) {
    OCTET_ASSIGN_OR_RETURN(separator, ToString(*given, budget));
  }
  const Value* attribute = args.Get(1, "attribute");
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    Value item = items[i];
    if (attribute != nullptr) {
      OCTET_ASSIGN_OR_RETURN(item, GetItem(item, *attribute));
    }
    OCTET_ASSIGN_OR_RETURN(const std::string text, ToString(item, budget));
    if (i > 0) out += separator;
    out += text;
    OCTET_RETURN_IF_ERROR(budget->Charge(separator.size() / kTemplateBytesPerStep));
    if (out.size() > kTemplateOutputBytesMax) break;
  }
  OCTET_RETURN_IF_ERROR(budget->ChargeSize(out.size()));
  return Value::String(std::move(out));
}

Result Indent(const Value& value, const Args& args, Budget* budget) {
  OCTET_ASSIGN_OR_RETURN(const std::string text, ToString(value, budget));
  const Value* width = args.Get(0, "width");
  const Value* first = args.Get(1, "first");
  const Value* blank = args.Get(2, "blank");
  std::string pad(4, ' ');
  if (width != nullptr && width->is_string()) pad = width->text();
  if (width != nullptr && width->is_integer()) {
    pad = std::string(static_cast<size_t>(std::clamp<int64_t>(width->integer(), 0, 1000)), ' ');
  }
  std::string out = first != nullptr && first->Truth() ? pad : "";
  for (size_t i = 0; i < text.size(); ++i) {
    out.push_back(text[i]);
    if (text[i] != '\n') continue;
    const bool empty_line = i + 1 >= text.size() || text[i + 1] == '\n';
    if (!empty_line || (blank != nullptr && blank->Truth())) out += pad;
    OCTET_RETURN_IF_ERROR(budget->Charge(1 + pad.size() / kTemplateBytesPerStep));
  }
  OCTET_RETURN_IF_ERROR(budget->ChargeSize(out.size()));
  return Value::String(std::move(out));
}

Result ToInt(const Value& value, const Args& args) {
  const Value* fallback = args.Get(0, "default");
  if (value.is_integer()) return Value::Int(value.integer());
  if (value.is_number() && std::fabs(value.number()) < 9e18) {
    return Value::Int(static_cast<int64_t>(value.number()));
  }
  if (value.is_string()) {
    const std::string_view text = Strip(value.text(), nullptr, true, true);
    int64_t number = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
    if (!text.empty() && parsed.ec == std::errc() && parsed.ptr == text.data() + text.size()) {
      return Value::Int(number);
    }
  }
  return fallback != nullptr ? *fallback : Value::Int(0);
}

Result ToFloat(const Value& value, const Args& args) {
  const Value* fallback = args.Get(0, "default");
  if (value.is_number()) return Value::Float(value.number());
  if (value.is_string()) {
    const std::string_view text = Strip(value.text(), nullptr, true, true);
    double number = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
    if (!text.empty() && parsed.ec == std::errc() && parsed.ptr == text.data() + text.size()) {
      return Value::Float(number);
    }
  }
  return fallback != nullptr ? *fallback : Value::Float(0);
}

// map: by attribute, or through another filter.
Result Map(const Value& value, const Args& args, Budget* budget) {
  OCTET_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(value, budget));
  std::vector<Value> out;
  const Value* attribute = args.positional.empty() ? args.Get(0, "attribute") : nullptr;
  if (attribute == nullptr && (args.positional.empty() || !args.positional[0].is_string())) {
    return BadFilter("map", "needs attribute= or the name of a filter");
  }
  Args rest;
  if (attribute == nullptr) {
    if (!IsFilter(args.positional[0].text()) || args.positional[0].text() == "map") {
      return BadFilter("map", absl::StrCat("filter ", args.positional[0].text().substr(0, 40),
                                           " is not supported here"));
    }
    rest.positional.assign(args.positional.begin() + 1, args.positional.end());
    rest.named = args.named;
  }
  const Value* fallback = args.Get(1, "default");
  for (const Value& item : items) {
    OCTET_RETURN_IF_ERROR(budget->Charge(1));
    if (attribute == nullptr) {
      OCTET_ASSIGN_OR_RETURN(Value mapped,
                             CallFilter(args.positional[0].text(), item, rest, budget));
      out.push_back(std::move(mapped));
      continue;
    }
    OCTET_ASSIGN_OR_RETURN(Value mapped, GetItem(item, *attribute));
    if (mapped.is_undefined() && fallback != nullptr) mapped = *fallback;
    out.push_back(std::move(mapped));
  }
  return Value::List(std::move(out));
}

// select, reject and their forms that test an attribute.
Result Select(std::string_view name, const Value& value, const Args& args, Budget* budget) {
  OCTET_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(value, budget));
  const bool by_attribute = name.ends_with("attr");
  const bool keep = name.starts_with("select");
  const size_t test_at = by_attribute ? 1 : 0;
  if (by_attribute && args.positional.empty()) return BadFilter(name, "needs an attribute");
  const Value* test = args.Get(test_at, "");
  if (test != nullptr && (!test->is_string() || !IsTest(test->text()))) {
    return BadFilter(name, "the test is not supported");
  }
  Args rest;
  for (size_t i = test_at + 1; i < args.positional.size(); ++i) {
    rest.positional.push_back(args.positional[i]);
  }
  std::vector<Value> out;
  for (const Value& item : items) {
    OCTET_RETURN_IF_ERROR(budget->Charge(1));
    Value tested = item;
    if (by_attribute) {
      OCTET_ASSIGN_OR_RETURN(tested, GetItem(item, args.positional[0]));
    }
    bool passes = tested.Truth();
    if (test != nullptr) {
      OCTET_ASSIGN_OR_RETURN(passes, CallTest(test->text(), tested, rest, budget));
    }
    if (passes == keep) out.push_back(item);
  }
  return Value::List(std::move(out));
}

Result Unique(const Value& value, Budget* budget) {
  OCTET_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(value, budget));
  std::vector<Value> out;
  for (const Value& item : items) {
    bool known = false;
    for (size_t i = 0; i < out.size() && !known; ++i) {
      OCTET_ASSIGN_OR_RETURN(known, Equals(item, out[i], budget));
    }
    if (!known) out.push_back(item);
  }
  return Value::List(std::move(out));
}

Result DictSort(const Value& value, Budget* budget) {
  if (!value.is_dict()) return BadFilter("dictsort", value.TypeName() + " in place of a mapping");
  auto entries = value.dict().entries();
  OCTET_RETURN_IF_ERROR(budget->Charge(entries.size() * 20));
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return ToLower(a.first) < ToLower(b.first);
  });
  std::vector<Value> out;
  for (const auto& [key, entry] : entries) {
    out.push_back(Value::Tuple({Value::String(key), entry}));
  }
  return Value::List(std::move(out));
}

Result Ends(std::string_view name, const Value& value, Budget* budget) {
  OCTET_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(value, budget));
  if (name == "list") return Value::List(std::move(items));
  if (name == "reverse") {
    std::reverse(items.begin(), items.end());
    if (!value.is_string()) return Value::List(std::move(items));
    std::string out;
    for (const Value& item : items) out += item.text();
    return Value::String(std::move(out));
  }
  if (items.empty()) return Value::Undefined(std::string(name));
  return name == "first" ? items.front() : items.back();
}

Result TextFilter(std::string_view name, const Value& value, const Args& args, Budget* budget) {
  OCTET_ASSIGN_OR_RETURN(std::string text, ToString(value, budget));
  OCTET_RETURN_IF_ERROR(budget->ChargeSize(text.size()));
  if (name == "upper") return Value::String(ToUpper(text));
  if (name == "lower") return Value::String(ToLower(text));
  if (name == "capitalize") return Value::String(Capitalize(text));
  if (name == "title") return Value::String(TitleFilter(text));
  if (name == "trim") {
    const Value* chars = args.Get(0, "chars");
    const bool given = chars != nullptr && chars->is_string();
    return Value::String(std::string(Strip(text, given ? &chars->text() : nullptr, true, true)));
  }
  if (name == "replace") {
    const Value* from = args.Get(0, "s");
    const Value* to = args.Get(1, "replacement");
    const Value* count = args.Get(2, "count");
    if (from == nullptr || to == nullptr) return BadFilter(name, "needs two strings");
    OCTET_ASSIGN_OR_RETURN(const std::string old_text, ToString(*from, budget));
    OCTET_ASSIGN_OR_RETURN(const std::string new_text, ToString(*to, budget));
    const int64_t limit = count != nullptr && count->is_integer() ? count->integer() : -1;
    OCTET_ASSIGN_OR_RETURN(text, ReplaceText(text, old_text, new_text, limit, budget));
  }
  return Value::String(std::move(text));  // string, safe
}

absl::StatusOr<bool> OperatorTest(std::string_view op, const Value& value, const Args& args,
                                  Budget* budget) {
  const Value* other = args.Get(0, "other");
  if (other == nullptr) return absl::InvalidArgumentError("a test lacks its argument");
  OCTET_ASSIGN_OR_RETURN(const Value result, BinaryOp(op, value, *other, budget));
  return result.Truth();
}

}  // namespace

bool IsFilter(std::string_view name) {
  return std::count(std::begin(kFilters), std::end(kFilters), name) > 0;
}

bool IsTest(std::string_view name) {
  return std::count(std::begin(kTests), std::end(kTests), name) > 0;
}

Result CallFilter(std::string_view name, const Value& value, const Args& args, Budget* budget) {
  if (name == "length" || name == "count") {
    OCTET_ASSIGN_OR_RETURN(const int64_t length, Length(value));
    return Value::Int(length);
  }
  if (name == "default" || name == "d") {
    const Value* fallback = args.Get(0, "default_value");
    const Value* falsy = args.Get(1, "boolean");
    const bool use = value.is_undefined() || (falsy != nullptr && falsy->Truth() && !value.Truth());
    if (!use) return value;
    return fallback != nullptr ? *fallback : Value::String("");
  }
  if (name == "tojson") {
    const Value* indent = args.Get(0, "indent");
    const bool given = indent != nullptr && indent->is_integer() && indent->integer() >= 0;
    const int width = given ? static_cast<int>(std::min<int64_t>(indent->integer(), 64)) : -1;
    OCTET_ASSIGN_OR_RETURN(std::string text, ToJsonText(value, width, budget));
    return Value::String(std::move(text));
  }
  if (name == "first" || name == "last" || name == "list" || name == "reverse") {
    return Ends(name, value, budget);
  }
  if (name == "items") {
    if (value.is_undefined()) return Value::List({});
    if (!value.is_dict()) return BadFilter(name, value.TypeName() + " in place of a mapping");
    return CallMethod(value, "items", {}, budget);
  }
  if (name == "abs") {
    if (!value.is_number()) return BadFilter(name, value.TypeName() + " in place of a number");
    const bool negative = value.number() < 0;
    return UnaryOp(negative ? "-" : "+", value);
  }
  if (name == "join") return Join(value, args, budget);
  if (name == "map") return Map(value, args, budget);
  if (name == "int") return ToInt(value, args);
  if (name == "float") return ToFloat(value, args);
  if (name == "indent") return Indent(value, args, budget);
  if (name == "unique") return Unique(value, budget);
  if (name == "dictsort") return DictSort(value, budget);
  if (name.starts_with("select") || name.starts_with("reject")) {
    return Select(name, value, args, budget);
  }
  return TextFilter(name, value, args, budget);
}

absl::StatusOr<bool> CallTest(std::string_view name, const Value& value, const Args& args,
                              Budget* budget) {
  using Type = Value::Type;
  constexpr std::pair<std::string_view, std::string_view> kOperators[] = {
      {"eq", "=="}, {"equalto", "=="}, {"ne", "!="}, {"lt", "<"},
      {"le", "<="}, {"gt", ">"},       {"ge", ">="}, {"in", "in"}};
  for (const auto& [test, op] : kOperators) {
    if (name == test) return OperatorTest(op, value, args, budget);
  }
  if (name == "defined") return !value.is_undefined();
  if (name == "undefined") return value.is_undefined();
  if (name == "none") return value.is_none();
  if (name == "string") return value.is_string();
  if (name == "mapping") return value.is_dict();
  if (name == "iterable" || name == "sequence") {
    const bool undefined = name == "iterable" && value.is_undefined();
    return value.is_list() || value.is_dict() || value.is_string() || undefined;
  }
  if (name == "boolean") return value.is(Type::kBool);
  if (name == "true") return value.is(Type::kBool) && value.Truth();
  if (name == "false") return value.is(Type::kBool) && !value.Truth();
  if (name == "integer") return value.is(Type::kInt);
  if (name == "float") return value.is(Type::kFloat);
  if (name == "number") return value.is_number();
  if (name == "callable") return value.is(Type::kFunction);
  if (name == "upper" || name == "lower") {
    OCTET_ASSIGN_OR_RETURN(const std::string text, ToString(value, budget));
    const std::string mapped = name == "upper" ? ToUpper(text) : ToLower(text);
    return text == mapped && ToUpper(text) != ToLower(text);
  }
  Value divisor = Value::Int(2);
  if (name == "divisibleby") {
    const Value* given = args.Get(0, "num");
    if (given == nullptr) return absl::InvalidArgumentError("divisibleby needs a number");
    divisor = *given;
  }
  OCTET_ASSIGN_OR_RETURN(const Value remainder, BinaryOp("%", value, divisor, budget));
  return remainder.Truth() == (name == "odd");
}

}  // namespace octet::chat_template_internal
