#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"
#include "model/chat_template/runtime.h"

namespace octet::chat_template_internal {
namespace {

absl::Status BadOperands(std::string_view op, const Value& a, const Value& b) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", std::string(op), "\" cannot join ", a.TypeName(), " and ", b.TypeName()));
}

absl::Status OutOfRange() { return absl::InvalidArgumentError("an integer is out of range"); }
absl::Status DivisionByZero() { return absl::InvalidArgumentError("division by zero"); }

Result IntegerOp(std::string_view op, int64_t a, int64_t b) {
  int64_t out = 0;
  if (op == "+") return __builtin_add_overflow(a, b, &out) ? Result(OutOfRange()) : Value::Int(out);
  if (op == "-") return __builtin_sub_overflow(a, b, &out) ? Result(OutOfRange()) : Value::Int(out);
  if (op == "*") return __builtin_mul_overflow(a, b, &out) ? Result(OutOfRange()) : Value::Int(out);
  if (op == "**") {
    if (b < 0 || b > 64) return OutOfRange();
    out = 1;
    for (int64_t i = 0; i < b; ++i) {
      if (__builtin_mul_overflow(out, a, &out)) return OutOfRange();
    }
    return Value::Int(out);
  }
  if (b == 0) return DivisionByZero();
  if (op == "/") return Value::Float(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) return op == "%" ? Result(Value::Int(0)) : IntegerOp("-", 0, a);
  // Python rounds a quotient down; the remainder has the divisor's sign.
  const int64_t remainder = a % b;
  const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
  if (op == "%") return Value::Int(adjust ? remainder + b : remainder);
  return Value::Int(a / b - (adjust ? 1 : 0));
}

Result FloatOp(std::string_view op, double a, double b) {
  if (op == "+") return Value::Float(a + b);
  if (op == "-") return Value::Float(a - b);
  if (op == "*") return Value::Float(a * b);
  if (op == "**") return absl::UnimplementedError("\"**\" of floats is not supported");
  if (b == 0) return DivisionByZero();
  if (op == "/") return Value::Float(a / b);
  const double quotient = std::floor(a / b);
  return Value::Float(op == "//" ? quotient : a - quotient * b);
}

Result Repeat(const Value& value, int64_t count, Budget* budget) {
  const uint64_t times = static_cast<uint64_t>(std::clamp<int64_t>(count, 0, 1 << 30));
  if (value.is_string()) {
    OCTET_RETURN_IF_ERROR(budget->ChargeSize(value.text().size() * times));
    std::string out;
    for (uint64_t i = 0; i < times && !value.text().empty(); ++i) out += value.text();
    return Value::String(std::move(out));
  }
  OCTET_RETURN_IF_ERROR(budget->Charge(value.items().size() * times));
  std::vector<Value> out;
  for (uint64_t i = 0; i < times && !value.items().empty(); ++i) {
    out.insert(out.end(), value.items().begin(), value.items().end());
  }
  return Value::List(std::move(out));
}

Result Add(const Value& a, const Value& b, Budget* budget) {
  if (a.is_string() && b.is_string()) {
    OCTET_RETURN_IF_ERROR(budget->ChargeSize(a.text().size() + b.text().size()));
    return Value::String(a.text() + b.text());
  }
  if (a.is_list() && b.is_list()) {
    OCTET_RETURN_IF_ERROR(budget->Charge(a.items().size() + b.items().size()));
    std::vector<Value> out = a.items();
    out.insert(out.end(), b.items().begin(), b.items().end());
    return Value::List(std::move(out));
  }
  return BadOperands("+", a, b);
}

absl::StatusOr<bool> Contains(const Value& item, const Value& container, Budget* budget) {
  if (container.is_string()) {
    if (!item.is_string()) return BadOperands("in", item, container);
    OCTET_RETURN_IF_ERROR(budget->ChargeSize(container.text().size()));
    return container.text().find(item.text()) != std::string::npos;
  }
  if (container.is_dict()) {
    return item.is_string() && container.dict().Find(item.text()) != nullptr;
  }
  if (container.is_undefined()) return false;
  if (!container.is_list()) return BadOperands("in", item, container);
  for (const Value& candidate : container.items()) {
    OCTET_ASSIGN_OR_RETURN(const bool equal, Equals(item, candidate, budget));
    if (equal) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<bool> Equals(const Value& a, const Value& b, Budget* budget) {
  OCTET_RETURN_IF_ERROR(budget->Charge(1));
  if (a.is_number() && b.is_number()) {
    return a.is_integer() && b.is_integer() ? a.integer() == b.integer() : a.number() == b.number();
  }
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Value::Type::kString:
    case Value::Type::kFunction:
      return a.text() == b.text();
    case Value::Type::kList: {
      if (a.items().size() != b.items().size()) return false;
      for (size_t i = 0; i < a.items().size(); ++i) {
        OCTET_ASSIGN_OR_RETURN(const bool equal, Equals(a.items()[i], b.items()[i], budget));
        if (!equal) return false;
      }
      return true;
    }
    case Value::Type::kDict: {
      if (a.dict().entries().size() != b.dict().entries().size()) return false;
      for (const auto& [key, value] : a.dict().entries()) {
        const Value* other = b.dict().Find(key);
        if (other == nullptr) return false;
        OCTET_ASSIGN_OR_RETURN(const bool equal, Equals(value, *other, budget));
        if (!equal) return false;
      }
      return true;
    }
    case Value::Type::kNamespace:
    case Value::Type::kLoop:
      return a.shared_dict() == b.shared_dict();
    default:
      return true;  // none and undefined
  }
}

absl::StatusOr<int> Compare(const Value& a, const Value& b) {
  if (a.is_integer() && b.is_integer()) {
    return a.integer() < b.integer() ? -1 : a.integer() > b.integer();
  }
  if (a.is_number() && b.is_number()) return a.number() < b.number() ? -1 : a.number() > b.number();
  if (a.is_string() && b.is_string()) return a.text().compare(b.text());
  return BadOperands("<", a, b);
}

Result BinaryOp(std::string_view op, const Value& a, const Value& b, Budget* budget) {
  if (op == "==" || op == "!=") {
    OCTET_ASSIGN_OR_RETURN(const bool equal, Equals(a, b, budget));
    return Value::Bool(equal == (op == "=="));
  }
  if (op == "in" || op == "not in") {
    OCTET_ASSIGN_OR_RETURN(const bool contains, Contains(a, b, budget));
    return Value::Bool(contains == (op == "in"));
  }
  if (op[0] == '<' || op[0] == '>') {
    OCTET_ASSIGN_OR_RETURN(const int order, Compare(a, b));
    const bool strict = op[0] == '<' ? order < 0 : order > 0;
    return Value::Bool(strict || (op.size() == 2 && order == 0));
  }
  if (op == "~") {
    OCTET_ASSIGN_OR_RETURN(std::string left, ToString(a, budget));
    OCTET_ASSIGN_OR_RETURN(const std::string right, ToString(b, budget));
    OCTET_RETURN_IF_ERROR(budget->ChargeSize(left.size() + right.size()));
    return Value::String(left + right);
  }
  if (a.is_integer() && b.is_integer()) return IntegerOp(op, a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return FloatOp(op, a.number(), b.number());
  if (op == "+") return Add(a, b, budget);
  if (op == "*" && (a.is_string() || a.is_list()) && b.is_integer()) {
    return Repeat(a, b.integer(), budget);
  }
  if (op == "*" && (b.is_string() || b.is_list()) && a.is_integer()) {
    return Repeat(b, a.integer(), budget);
  }
  return BadOperands(op, a, b);
}

Result UnaryOp(std::string_view op, const Value& a) {
  if (op == "not") return Value::Bool(!a.Truth());
  if (a.is_integer()) return op == "+" ? Value::Int(a.integer()) : IntegerOp("-", 0, a.integer());
  if (a.is_number()) return Value::Float(op == "+" ? a.number() : -a.number());
  return absl::InvalidArgumentError(absl::StrCat("\"", std::string(op), "\" of ", a.TypeName()));
}

Result GetAttribute(const Value& object, std::string_view name) {
  if (object.is_undefined()) {
    return absl::InvalidArgumentError(
        absl::StrCat(object.TypeName(), " has no attribute \"", std::string(name), "\""));
  }
  if (object.is_dict() || object.is(Value::Type::kNamespace) || object.is(Value::Type::kLoop)) {
    if (const Value* found = object.dict().Find(name); found != nullptr) return *found;
  }
  return Value::Undefined(std::string(name));
}

Result GetItem(const Value& object, const Value& key) {
  if (key.is_string()) return GetAttribute(object, key.text());
  if (object.is_undefined()) {
    return absl::InvalidArgumentError(absl::StrCat(object.TypeName(), " has no items"));
  }
  if (!key.is_integer() || !(object.is_list() || object.is_string())) {
    return Value::Undefined("item");
  }
  OCTET_ASSIGN_OR_RETURN(const int64_t length, Length(object));
  const int64_t index = key.integer() < 0 ? key.integer() + length : key.integer();
  if (index < 0 || index >= length) return Value::Undefined(absl::StrCat("item ", key.integer()));
  if (object.is_list()) return object.items()[static_cast<size_t>(index)];
  const std::vector<uint32_t> offsets = CharOffsets(object.text());
  const uint32_t begin = offsets[static_cast<size_t>(index)];
  return Value::String(
      object.text().substr(begin, offsets[static_cast<size_t>(index) + 1] - begin));
}

Result Slice(const Value& object, std::optional<int64_t> begin, std::optional<int64_t> end,
             std::optional<int64_t> step, Budget* budget) {
  if (object.is_undefined()) return Value::List({});
  if (!object.is_list() && !object.is_string()) {
    return absl::InvalidArgumentError(absl::StrCat(object.TypeName(), " cannot be sliced"));
  }
  OCTET_ASSIGN_OR_RETURN(const int64_t length, Length(object));
  const int64_t stride = step.value_or(1);
  if (stride == 0 || stride < -(int64_t{1} << 40) || stride > (int64_t{1} << 40)) {
    return absl::InvalidArgumentError("the step of a slice is zero or out of range");
  }
  const int64_t low = stride > 0 ? 0 : -1;
  const int64_t high = stride > 0 ? length : length - 1;
  const auto bound = [&](std::optional<int64_t> given, int64_t fallback) {
    if (!given.has_value()) return fallback;
    const int64_t clamped = std::clamp<int64_t>(*given, -length - 1, length + 1);
    return std::clamp(clamped < 0 ? clamped + length : clamped, low, high);
  };
  const int64_t from = bound(begin, stride > 0 ? low : high);
  const int64_t to = bound(end, stride > 0 ? high : low);
  OCTET_RETURN_IF_ERROR(budget->ChargeSize(static_cast<uint64_t>(length)));
  std::vector<size_t> indices;
  for (int64_t i = from; stride > 0 ? i < to : i > to; i += stride) {
    indices.push_back(static_cast<size_t>(i));
  }
  if (object.is_list()) {
    OCTET_RETURN_IF_ERROR(budget->Charge(indices.size()));
    std::vector<Value> items;
    for (const size_t i : indices) items.push_back(object.items()[i]);
    return Value::List(std::move(items));
  }
  const std::vector<uint32_t> offsets = CharOffsets(object.text());
  std::string out;
  for (const size_t i : indices)
    out += object.text().substr(offsets[i], offsets[i + 1] - offsets[i]);
  return Value::String(std::move(out));
}

}  // namespace octet::chat_template_internal
