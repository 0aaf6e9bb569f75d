// Builds the tree of a template.
#ifndef OCTET_MODEL_CHAT_TEMPLATE_PARSER_H_
#define OCTET_MODEL_CHAT_TEMPLATE_PARSER_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "model/chat_template/ast.h"
#include "model/chat_template/lexer.h"

namespace octet::chat_template_internal {

// Errors name the line. INVALID_ARGUMENT: not a template, or nested too deep (core/limits.h);
// UNIMPLEMENTED: a tag, filter or test that is not supported.
absl::StatusOr<std::unique_ptr<Program>> ParseTemplate(const std::vector<Token>& tokens);

}  // namespace octet::chat_template_internal

#endif  // OCTET_MODEL_CHAT_TEMPLATE_PARSER_H_
