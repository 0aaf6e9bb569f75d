// What templates can do with values: operators, conversions, filters, tests and methods. Every
// function charges a budget for what it makes or walks over, so that a template ends.
#ifndef OCTET_MODEL_CHAT_TEMPLATE_RUNTIME_H_
#define OCTET_MODEL_CHAT_TEMPLATE_RUNTIME_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/limits.h"
#include "model/chat_template/value.h"

namespace octet::chat_template_internal {

// Steps of one rendering. RESOURCE_EXHAUSTED once all are spent.
class Budget {
 public:
  explicit Budget(uint64_t steps_max) : steps_max_(steps_max) {}
  absl::Status Charge(uint64_t steps);
  // For a string of so many bytes or a list of so many items; also bounds its size.
  absl::Status ChargeSize(uint64_t size);

 private:
  const uint64_t steps_max_;
  uint64_t steps_ = 0;
};

// Evaluated arguments of a call.
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // The argument at a position or of a name; nullptr: not given.
  const Value* Get(size_t position, std::string_view name) const;
};

using Result = absl::StatusOr<Value>;

// ---- conversions (runtime.cc) ----
// Python's str(value) and repr(value).
absl::StatusOr<std::string> ToString(const Value& value, Budget* budget);
absl::StatusOr<std::string> Repr(const Value& value, Budget* budget);
// json.dumps(value, ensure_ascii=False, indent=indent); indent -1: one line.
absl::StatusOr<std::string> ToJsonText(const Value& value, int indent, Budget* budget);
// The items that a loop visits: of a list, the keys of a mapping, the characters of a string.
absl::StatusOr<std::vector<Value>> Iterate(const Value& value, Budget* budget);
absl::StatusOr<int64_t> Length(const Value& value);

// ---- operators (operators.cc) ----
Result BinaryOp(std::string_view op, const Value& a, const Value& b, Budget* budget);
Result UnaryOp(std::string_view op, const Value& a);
absl::StatusOr<bool> Equals(const Value& a, const Value& b, Budget* budget);
// Negative, 0 or positive.
absl::StatusOr<int> Compare(const Value& a, const Value& b);
Result GetAttribute(const Value& object, std::string_view name);
Result GetItem(const Value& object, const Value& key);
// step nullopt or bounds nullopt: left out.
Result Slice(const Value& object, std::optional<int64_t> begin, std::optional<int64_t> end,
             std::optional<int64_t> step, Budget* budget);

// ---- methods (methods.cc) ----
// Whether values of object's type have the method; attributes of mappings come second to it.
bool HasMethod(const Value& object, std::string_view name);
Result CallMethod(const Value& object, std::string_view name, const Args& args, Budget* budget);
// What str.strip() and the like do; chars nullptr: white space.
std::string_view Strip(std::string_view text, const std::string* chars, bool left, bool right);
std::string ToUpper(std::string_view text);
std::string ToLower(std::string_view text);
// The first character in upper case and the rest in lower case.
std::string Capitalize(std::string_view text);
absl::StatusOr<std::string> ReplaceText(std::string_view text, std::string_view from,
                                        std::string_view to, int64_t count, Budget* budget);

// ---- filters and tests (builtins.cc) ----
Result CallFilter(std::string_view name, const Value& value, const Args& args, Budget* budget);
absl::StatusOr<bool> CallTest(std::string_view name, const Value& value, const Args& args,
                              Budget* budget);

}  // namespace octet::chat_template_internal

#endif  // OCTET_MODEL_CHAT_TEMPLATE_RUNTIME_H_
