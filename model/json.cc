#include "model/json.h"

#include <exception>
#include <stdexcept>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace octet {
namespace {

using Json = nlohmann::json;

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

// Follows the parser's events; throws inside ParseJsonBounded only, which catches everything.
class BoundsCheck {
 public:
  explicit BoundsCheck(int depth_max) : depth_max_(depth_max) {}

  void OnEvent(Json::parse_event_t event, const Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        CountValue();
        if (++depth_ > depth_max_) {
          throw std::length_error(absl::StrCat("nested deeper than ", depth_max_));
        }
        if (event == Json::parse_event_t::object_start) keys_.emplace_back();
        break;
      case Json::parse_event_t::object_end:
        keys_.pop_back();
        --depth_;
        break;
      case Json::parse_event_t::array_end:
        --depth_;
        break;
      case Json::parse_event_t::key:
        if (!keys_.back().insert(parsed.get<std::string>()).second) {
          throw std::invalid_argument(absl::StrCat("key ", JsonForError(parsed), " appears twice"));
        }
        break;
      case Json::parse_event_t::value:
        CountValue();
        break;
    }
  }

 private:
  void CountValue() {
    if (++values_ > kJsonValuesMax) {
      throw std::length_error(absl::StrCat("more than ", kJsonValuesMax, " values"));
    }
  }

  const int depth_max_;
  int depth_ = 0;
  uint64_t values_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;
};

absl::Status WrongType(const char* key, std::string_view where, const Json& value,
                       std::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrCat(View(where), ": field \"", key, "\" is ",
                                                 JsonForError(value), ", allowed is ",
                                                 View(allowed)));
}

absl::Status Missing(const char* key, std::string_view where) {
  return absl::InvalidArgumentError(absl::StrCat(View(where), ": field \"", key, "\" is missing"));
}

}  // namespace

absl::StatusOr<Json> ParseJsonBounded(std::string_view bytes, uint64_t bytes_max, int depth_max) {
  if (bytes.size() > bytes_max) {
    return absl::InvalidArgumentError(
        absl::StrCat("JSON is ", bytes.size(), " bytes long, allowed are ", bytes_max));
  }
  try {
    BoundsCheck check(depth_max);
    return Json::parse(bytes.begin(), bytes.end(),
                       [&check](int, Json::parse_event_t event, Json& parsed) {
                         check.OnEvent(event, parsed);
                         return true;
                       });
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("bad JSON: ", e.what()));
  }
}

const Json* JsonFind(const Json& value, const char* key) {
  if (!value.is_object()) return nullptr;
  auto it = value.find(key);
  return it == value.end() || it->is_null() ? nullptr : &*it;
}

std::string JsonForError(const Json& value) {
  if (value.is_array()) return absl::StrCat("an array of ", value.size());
  if (value.is_object()) return absl::StrCat("an object of ", value.size());
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 80) text = absl::StrCat(text.substr(0, 77), "...");
  return text;
}

absl::StatusOr<std::string> JsonString(const Json& object, const char* key,
                                       std::string_view where) {
  const Json* value = JsonFind(object, key);
  if (value == nullptr) return Missing(key, where);
  if (!value->is_string()) return WrongType(key, where, *value, "a string");
  return value->get_ref<const std::string&>();
}

absl::StatusOr<std::string> JsonStringOr(const Json& object, const char* key,
                                         std::string_view where, std::string_view fallback) {
  if (JsonFind(object, key) == nullptr) return std::string(fallback);
  return JsonString(object, key, where);
}

absl::StatusOr<bool> JsonBoolOr(const Json& object, const char* key, std::string_view where,
                                bool fallback) {
  const Json* value = JsonFind(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return WrongType(key, where, *value, "true or false");
  return value->get<bool>();
}

absl::StatusOr<int64_t> JsonInt(const Json& object, const char* key, std::string_view where,
                                int64_t min, int64_t max) {
  const Json* value = JsonFind(object, key);
  if (value == nullptr) return Missing(key, where);
  const std::string allowed = absl::StrCat("an integer from ", min, " to ", max);
  if (!value->is_number_integer()) return WrongType(key, where, *value, allowed);
  if (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return WrongType(key, where, *value, allowed);
  }
  const int64_t number = value->get<int64_t>();
  if (number < min || number > max) return WrongType(key, where, *value, allowed);
  return number;
}

absl::StatusOr<int64_t> JsonIntOr(const Json& object, const char* key, std::string_view where,
                                  int64_t min, int64_t max, int64_t fallback) {
  if (JsonFind(object, key) == nullptr) return fallback;
  return JsonInt(object, key, where, min, max);
}

}  // namespace octet
