// Chat templates: the Jinja that model publishers ship beside a tokenizer, interpreted within
// bounds. The subset is what chat templates use; templates are data from strangers, so there is no
// way from one to a file, the network or an unbounded amount of time or memory.
#ifndef OCTET_MODEL_CHAT_TEMPLATE_CHAT_TEMPLATE_H_
#define OCTET_MODEL_CHAT_TEMPLATE_CHAT_TEMPLATE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/limits.h"
#include "nlohmann/json.hpp"

namespace octet {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", or what the template knows
  std::string content;
};

struct ChatTemplateOptions {
  bool add_generation_prompt = true;
  std::string bos_token;  // spelled as in the vocabulary; empty: none
  std::string eos_token;
  // More variables ("tools", "date_string", ...), an object or null; keeps the order of its
  // members.
  nlohmann::ordered_json variables;
  // Of one rendering: nodes and operators evaluated, loops gone round, bytes and items made.
  uint64_t steps_max = kTemplateStepsMax;
};

namespace chat_template_internal {
struct Program;
}

// A parsed template. Immutable and cheap to copy; Render is thread-safe.
class ChatTemplate {
 public:
  // trim_blocks and lstrip_blocks are on, as in transformers. INVALID_ARGUMENT names the line of a
  // syntax error; UNIMPLEMENTED the tag, filter, test or function that is not supported.
  static absl::StatusOr<ChatTemplate> Parse(std::string_view source);

  // The prompt text. It spells its own BOS where the template has one: encode it with parse_special
  // and without add_bos. INVALID_ARGUMENT: raise_exception or an error of evaluation, with its
  // line; RESOURCE_EXHAUSTED: steps_max or one of kTemplate{Depth,OutputBytes}Max (core/limits.h).
  absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                                     const ChatTemplateOptions& options) const;

  // The same with messages as JSON: an array of objects that may hold more than role and content
  // (tool_calls, name, lists of content parts).
  absl::StatusOr<std::string> RenderJson(const nlohmann::ordered_json& messages,
                                         const ChatTemplateOptions& options) const;

 private:
  explicit ChatTemplate(std::shared_ptr<const chat_template_internal::Program> program)
      : program_(std::move(program)) {}

  std::shared_ptr<const chat_template_internal::Program> program_;
};

}  // namespace octet

#endif  // OCTET_MODEL_CHAT_TEMPLATE_CHAT_TEMPLATE_H_
