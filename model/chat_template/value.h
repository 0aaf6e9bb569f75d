// Values of the template language: Python's, as far as templates show them.
#ifndef OCTET_MODEL_CHAT_TEMPLATE_VALUE_H_
#define OCTET_MODEL_CHAT_TEMPLATE_VALUE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace octet::chat_template_internal {

struct ListData;
class DictData;

// Cheap to copy: strings, lists and dicts are shared and never change, namespaces are shared and
// do.
class Value {
 public:
  enum class Type : uint8_t {
    kUndefined,  // text: the name that was looked up
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kList,
    kDict,
    kNamespace,
    kLoop,      // a dict, with cycle()
    kFunction,  // text: its name
  };

  Value() = default;
  static Value Undefined(std::string name) { return Value(Type::kUndefined, std::move(name)); }
  static Value Function(std::string name) { return Value(Type::kFunction, std::move(name)); }
  static Value None() { return Value(Type::kNone); }
  static Value Bool(bool value);
  static Value Int(int64_t value);
  static Value Float(double value);
  static Value String(std::string text) { return Value(Type::kString, std::move(text)); }
  static Value List(std::vector<Value> items);
  // A list that prints with parentheses.
  static Value Tuple(std::vector<Value> items);
  static Value Dict(std::shared_ptr<DictData> dict, Type type = Type::kDict);
  // RESOURCE_EXHAUSTED: nested deeper than kTemplateDepthMax.
  static absl::StatusOr<Value> FromJson(const nlohmann::ordered_json& json, uint32_t depth = 0);

  Type type() const { return type_; }
  bool is(Type type) const { return type_ == type; }
  bool is_undefined() const { return is(Type::kUndefined); }
  bool is_none() const { return is(Type::kNone); }
  bool is_string() const { return is(Type::kString); }
  bool is_list() const { return is(Type::kList); }
  bool is_dict() const { return is(Type::kDict); }
  bool is_integer() const { return is(Type::kInt) || is(Type::kBool); }
  bool is_number() const { return is_integer() || is(Type::kFloat); }

  int64_t integer() const { return integer_; }  // also of a bool
  double number() const { return is(Type::kFloat) ? float_ : static_cast<double>(integer_); }
  const std::string& text() const { return *text_; }
  const std::vector<Value>& items() const;
  bool is_tuple() const;
  const DictData& dict() const { return *dict_; }
  // Namespaces only.
  DictData* mutable_dict() const { return dict_.get(); }
  const std::shared_ptr<DictData>& shared_dict() const { return dict_; }

  // Python's bool(value).
  bool Truth() const;
  // Levels of lists and dicts in it; namespaces count as one level.
  uint32_t depth() const;
  // "a string", "a list", ... for errors.
  std::string TypeName() const;

 private:
  static Value Sequence(std::vector<Value> items, bool tuple);
  explicit Value(Type type) : type_(type) {}
  Value(Type type, std::string text)
      : type_(type), text_(std::make_shared<const std::string>(std::move(text))) {}

  Type type_ = Type::kNone;
  int64_t integer_ = 0;
  double float_ = 0;
  std::shared_ptr<const std::string> text_;
  std::shared_ptr<const ListData> list_;
  std::shared_ptr<DictData> dict_;
};

struct ListData {
  std::vector<Value> items;
  uint32_t depth = 1;
  bool tuple = false;
};

// String keys in the order of their insertion.
class DictData {
 public:
  void Set(std::string key, Value value);
  const Value* Find(std::string_view key) const;
  const std::vector<std::pair<std::string, Value>>& entries() const { return entries_; }
  uint32_t depth() const { return depth_; }
  void Clear();

 private:
  std::vector<std::pair<std::string, Value>> entries_;
  absl::flat_hash_map<std::string, size_t> index_;
  uint32_t depth_ = 1;
};

// Characters of UTF-8 text, which Python's len, indices and slices count.
size_t CharCount(std::string_view text);
// Offsets of the characters of text, and its size at the end.
std::vector<uint32_t> CharOffsets(std::string_view text);

// Python's repr of a float: "1.0", "0.1", "1e+20".
std::string FloatRepr(double value);

}  // namespace octet::chat_template_internal

#endif  // OCTET_MODEL_CHAT_TEMPLATE_VALUE_H_
