#include "model/chat_template/chat_template.h"

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "model/chat_template/ast.h"
#include "model/chat_template/interpreter.h"
#include "model/chat_template/lexer.h"
#include "model/chat_template/parser.h"
#include "model/tokenizer/utf8.h"

namespace octet {

using chat_template_internal::Value;

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(std::string_view source) {
  if (source.size() > kTemplateBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("chat template is ", source.size(),
                                                   " bytes long, allowed are ", kTemplateBytesMax));
  }
  const size_t valid = Utf8ValidLength(source);
  if (valid != source.size()) {
    return absl::InvalidArgumentError(absl::StrCat("chat template is not UTF-8 at byte ", valid));
  }
  OCTET_ASSIGN_OR_RETURN(const auto tokens, chat_template_internal::Lex(source));
  OCTET_ASSIGN_OR_RETURN(auto program, chat_template_internal::ParseTemplate(tokens));
  return ChatTemplate(std::shared_ptr<const chat_template_internal::Program>(std::move(program)));
}

absl::StatusOr<std::string> ChatTemplate::Render(const std::vector<ChatMessage>& messages,
                                                 const ChatTemplateOptions& options) const {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ChatMessage& message : messages) {
    nlohmann::ordered_json entry = nlohmann::ordered_json::object();
    entry["role"] = message.role;
    entry["content"] = message.content;
    list.push_back(std::move(entry));
  }
  return RenderJson(list, options);
}

absl::StatusOr<std::string> ChatTemplate::RenderJson(const nlohmann::ordered_json& messages,
                                                     const ChatTemplateOptions& options) const {
  if (!messages.is_array()) return absl::InvalidArgumentError("chat messages must be an array");
  std::vector<std::pair<std::string, Value>> variables;
  OCTET_ASSIGN_OR_RETURN(Value list, Value::FromJson(messages));
  variables.emplace_back("messages", std::move(list));
  variables.emplace_back("add_generation_prompt", Value::Bool(options.add_generation_prompt));
  variables.emplace_back("bos_token", Value::String(options.bos_token));
  variables.emplace_back("eos_token", Value::String(options.eos_token));
  if (!options.variables.is_null() && !options.variables.is_object()) {
    return absl::InvalidArgumentError("chat template variables must be an object");
  }
  for (const auto& [name, value] : options.variables.items()) {
    OCTET_ASSIGN_OR_RETURN(Value converted, Value::FromJson(value));
    variables.emplace_back(name, std::move(converted));
  }
  OCTET_ASSIGN_OR_RETURN(std::string text, chat_template_internal::Run(
                                               *program_, std::move(variables), options.steps_max));
  const size_t valid = Utf8ValidLength(text);
  if (valid == text.size()) return text;
  return absl::InvalidArgumentError(absl::StrCat("the rendered chat is not UTF-8 at byte ", valid));
}

}  // namespace octet
