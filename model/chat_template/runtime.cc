#include "model/chat_template/runtime.h"

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"
#include "model/tokenizer/utf8.h"

namespace octet::chat_template_internal {
namespace {

void AppendHex(std::string_view prefix, uint32_t code, int digits, std::string* out) {
  *out += prefix;
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) {
    out->push_back("0123456789abcdef"[code >> shift & 15]);
  }
}

std::string ReprOfString(const std::string& text) {
  const bool single = text.find('\'') != std::string::npos;
  const char quote = single && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    if (c == quote || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<uint8_t>(c) < 0x20 || c == 0x7F) {
      AppendHex("\\x", static_cast<uint8_t>(c), 2, &out);
    } else {
      out.push_back(c);
    }
  }
  out.push_back(quote);
  return out;
}

std::string JsonOfString(const std::string& text) {
  constexpr std::string_view kSpecial = "\"\\\n\r\t\b\f";
  constexpr std::string_view kLetters = "\"\\nrtbf";
  std::string out = "\"";
  for (const char c : text) {
    const size_t special = kSpecial.find(c);
    if (special != std::string_view::npos) {
      out.push_back('\\');
      out.push_back(kLetters[special]);
    } else if (static_cast<uint8_t>(c) < 0x20) {
      AppendHex("\\u", static_cast<uint8_t>(c), 4, &out);
    } else {
      out.push_back(c);
    }
  }
  out.push_back('"');
  return out;
}

// Writes values into one string, charging as it goes.
class Writer {
 public:
  Writer(bool json, int indent, Budget* budget) : json_(json), indent_(indent), budget_(budget) {}

  absl::Status Write(const Value& value, int level) {
    OCTET_RETURN_IF_ERROR(budget_->Charge(1));
    switch (value.type()) {
      case Value::Type::kNone:
        return Put(json_ ? "null" : "None");
      case Value::Type::kBool:
        if (json_) return Put(value.integer() != 0 ? "true" : "false");
        return Put(value.integer() != 0 ? "True" : "False");
      case Value::Type::kInt:
        return Put(absl::StrCat(value.integer()));
      case Value::Type::kFloat:
        return Put(FloatRepr(value.number()));
      case Value::Type::kString:
        return Put(json_ ? JsonOfString(value.text()) : ReprOfString(value.text()));
      case Value::Type::kList:
        return List(value, level);
      case Value::Type::kDict:
        return Dict(value.dict(), level);
      default:
        break;
    }
    if (json_) {
      return absl::InvalidArgumentError(
          absl::StrCat(value.TypeName(), " cannot be written as JSON"));
    }
    return Put(value.is_undefined() ? "Undefined" : absl::StrCat("<", value.TypeName(), ">"));
  }

  std::string Take() { return std::move(out_); }

 private:
  absl::Status Put(std::string_view text) {
    out_ += text;
    if (out_.size() > kTemplateOutputBytesMax) return budget_->ChargeSize(out_.size());
    return budget_->Charge(text.size() / kTemplateBytesPerStep);
  }

  absl::Status NewLine(int level) {
    if (indent_ < 0) return absl::OkStatus();
    return Put("\n" + std::string(static_cast<size_t>(indent_ * level), ' '));
  }

  absl::Status Comma() { return Put(indent_ < 0 ? ", " : ","); }

  absl::Status List(const Value& list, int level) {
    const std::vector<Value>& items = list.items();
    const bool tuple = !json_ && list.is_tuple();
    if (items.empty()) return Put(tuple ? "()" : "[]");
    OCTET_RETURN_IF_ERROR(Put(tuple ? "(" : "["));
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) OCTET_RETURN_IF_ERROR(Comma());
      OCTET_RETURN_IF_ERROR(NewLine(level + 1));
      OCTET_RETURN_IF_ERROR(Write(items[i], level + 1));
    }
    if (tuple) return Put(items.size() == 1 ? ",)" : ")");
    OCTET_RETURN_IF_ERROR(NewLine(level));
    return Put("]");
  }

  absl::Status Dict(const DictData& dict, int level) {
    if (dict.entries().empty()) return Put("{}");
    OCTET_RETURN_IF_ERROR(Put("{"));
    bool first = true;
    for (const auto& [key, value] : dict.entries()) {
      if (!first) OCTET_RETURN_IF_ERROR(Comma());
      first = false;
      OCTET_RETURN_IF_ERROR(NewLine(level + 1));
      OCTET_RETURN_IF_ERROR(Put(json_ ? JsonOfString(key) : ReprOfString(key)));
      OCTET_RETURN_IF_ERROR(Put(": "));
      OCTET_RETURN_IF_ERROR(Write(value, level + 1));
    }
    OCTET_RETURN_IF_ERROR(NewLine(level));
    return Put("}");
  }

  const bool json_;
  const int indent_;
  Budget* budget_;
  std::string out_;
};

}  // namespace

absl::Status Budget::Charge(uint64_t steps) {
  steps_ += steps;
  if (steps_ <= steps_max_) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the template needs more than ", steps_max_, " steps"));
}

absl::Status Budget::ChargeSize(uint64_t size) {
  if (size > kTemplateOutputBytesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the template makes more than ", kTemplateOutputBytesMax, " bytes"));
  }
  return Charge(1 + size / kTemplateBytesPerStep);
}

const Value* Args::Get(size_t position, std::string_view name) const {
  if (position < positional.size()) return &positional[position];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

absl::StatusOr<std::string> ToString(const Value& value, Budget* budget) {
  if (value.is_string()) {
    OCTET_RETURN_IF_ERROR(budget->ChargeSize(value.text().size()));
    return value.text();
  }
  if (value.is_undefined()) return std::string();
  return Repr(value, budget);
}

absl::StatusOr<std::string> Repr(const Value& value, Budget* budget) {
  Writer writer(/*json=*/false, -1, budget);
  OCTET_RETURN_IF_ERROR(writer.Write(value, 0));
  return writer.Take();
}

absl::StatusOr<std::string> ToJsonText(const Value& value, int indent, Budget* budget) {
  Writer writer(/*json=*/true, indent, budget);
  OCTET_RETURN_IF_ERROR(writer.Write(value, 0));
  return writer.Take();
}

absl::StatusOr<std::vector<Value>> Iterate(const Value& value, Budget* budget) {
  if (value.is_list()) {
    OCTET_RETURN_IF_ERROR(budget->Charge(value.items().size()));
    return value.items();
  }
  std::vector<Value> items;
  if (value.is_dict()) {
    OCTET_RETURN_IF_ERROR(budget->Charge(value.dict().entries().size()));
    for (const auto& [key, entry] : value.dict().entries()) items.push_back(Value::String(key));
    return items;
  }
  if (value.is_string()) {
    OCTET_RETURN_IF_ERROR(budget->Charge(value.text().size()));
    std::string_view rest = value.text();
    while (!rest.empty()) {
      const size_t length = DecodeUtf8(rest).length;
      items.push_back(Value::String(std::string(rest.substr(0, length))));
      rest.remove_prefix(length);
    }
    return items;
  }
  if (value.is_undefined()) return items;
  return absl::InvalidArgumentError(absl::StrCat(value.TypeName(), " cannot be iterated over"));
}

absl::StatusOr<int64_t> Length(const Value& value) {
  if (value.is_list()) return static_cast<int64_t>(value.items().size());
  if (value.is_dict()) return static_cast<int64_t>(value.dict().entries().size());
  if (value.is_string()) return static_cast<int64_t>(CharCount(value.text()));
  if (value.is_undefined()) return 0;
  return absl::InvalidArgumentError(absl::StrCat(value.TypeName(), " has no length"));
}

}  // namespace octet::chat_template_internal
