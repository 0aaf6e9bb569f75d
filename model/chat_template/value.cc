#include "model/chat_template/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"

namespace octet::chat_template_internal {

Value Value::Bool(bool value) {
  Value v(Type::kBool);
  v.integer_ = value ? 1 : 0;
  return v;
}

Value Value::Int(int64_t value) {
  Value v(Type::kInt);
  v.integer_ = value;
  return v;
}

Value Value::Float(double value) {
  Value v(Type::kFloat);
  v.float_ = value;
  return v;
}

Value Value::Sequence(std::vector<Value> items, bool tuple) {
  Value v(Type::kList);
  auto data = std::make_shared<ListData>();
  for (const Value& item : items) data->depth = std::max(data->depth, item.depth() + 1);
  data->items = std::move(items);
  data->tuple = tuple;
  v.list_ = std::move(data);
  return v;
}

Value Value::List(std::vector<Value> items) { return Sequence(std::move(items), false); }
Value Value::Tuple(std::vector<Value> items) { return Sequence(std::move(items), true); }
bool Value::is_tuple() const { return is_list() && list_->tuple; }

Value Value::Dict(std::shared_ptr<DictData> dict, Type type) {
  Value v(type);
  v.dict_ = std::move(dict);
  return v;
}

absl::StatusOr<Value> Value::FromJson(const nlohmann::ordered_json& json, uint32_t depth) {
  if (depth >= kTemplateDepthMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("chat template variables are nested deeper than ", kTemplateDepthMax));
  }
  if (json.is_boolean()) return Bool(json.get<bool>());
  if (json.is_number_integer()) return Int(json.get<int64_t>());
  if (json.is_number()) return Float(json.get<double>());
  if (json.is_string()) return String(json.get<std::string>());
  if (json.is_array()) {
    std::vector<Value> items;
    for (const auto& entry : json) {
      OCTET_ASSIGN_OR_RETURN(Value item, FromJson(entry, depth + 1));
      items.push_back(std::move(item));
    }
    return List(std::move(items));
  }
  if (json.is_object()) {
    auto dict = std::make_shared<DictData>();
    for (const auto& [key, entry] : json.items()) {
      OCTET_ASSIGN_OR_RETURN(Value item, FromJson(entry, depth + 1));
      dict->Set(key, std::move(item));
    }
    return Dict(std::move(dict));
  }
  return None();
}

const std::vector<Value>& Value::items() const { return list_->items; }

bool Value::Truth() const {
  switch (type_) {
    case Type::kUndefined:
    case Type::kNone:
      return false;
    case Type::kBool:
    case Type::kInt:
      return integer_ != 0;
    case Type::kFloat:
      return float_ != 0;
    case Type::kString:
      return !text_->empty();
    case Type::kList:
      return !list_->items.empty();
    case Type::kDict:
      return !dict_->entries().empty();
    default:
      return true;
  }
}

uint32_t Value::depth() const {
  if (is_list()) return list_->depth;
  if (is_dict() || is(Type::kLoop)) return dict_->depth();
  return is(Type::kNamespace) ? 1 : 0;
}

std::string Value::TypeName() const {
  switch (type_) {
    case Type::kUndefined:
      return absl::StrCat("undefined (", *text_, ")");
    case Type::kNone:
      return "none";
    case Type::kBool:
      return "a boolean";
    case Type::kInt:
      return "an integer";
    case Type::kFloat:
      return "a float";
    case Type::kString:
      return "a string";
    case Type::kList:
      return "a list";
    case Type::kDict:
      return "a mapping";
    case Type::kNamespace:
      return "a namespace";
    case Type::kLoop:
      return "a loop";
    case Type::kFunction:
      return absl::StrCat("the function ", *text_);
  }
  return "a value";
}

void DictData::Set(std::string key, Value value) {
  depth_ = std::max(depth_, value.depth() + 1);
  auto [it, inserted] = index_.try_emplace(key, entries_.size());
  if (inserted) {
    entries_.emplace_back(std::move(key), std::move(value));
  } else {
    entries_[it->second].second = std::move(value);
  }
}

const Value* DictData::Find(std::string_view key) const {
  auto it = index_.find(absl::string_view(key.data(), key.size()));
  return it == index_.end() ? nullptr : &entries_[it->second].second;
}

void DictData::Clear() {
  entries_.clear();
  index_.clear();
}

size_t CharCount(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

std::vector<uint32_t> CharOffsets(std::string_view text) {
  std::vector<uint32_t> offsets;
  for (uint32_t i = 0; i < text.size(); ++i) {
    if ((static_cast<uint8_t>(text[i]) & 0xC0) != 0x80) offsets.push_back(i);
  }
  offsets.push_back(static_cast<uint32_t>(text.size()));
  return offsets;
}

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const size_t e = text.find('e');
  int exponent = 0;
  const size_t digits_at = text[e + 1] == '+' ? e + 2 : e + 1;
  std::from_chars(text.data() + digits_at, text.data() + text.size(), exponent);
  if (exponent < -4 || exponent >= 16) return std::string(text);
  const auto fixed =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed).ptr;
  std::string out(buffer, fixed);
  if (out.find('.') == std::string::npos) out += ".0";
  return out;
}

}  // namespace octet::chat_template_internal
