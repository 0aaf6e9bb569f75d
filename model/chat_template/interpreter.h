// Runs the tree of a template.
#ifndef OCTET_MODEL_CHAT_TEMPLATE_INTERPRETER_H_
#define OCTET_MODEL_CHAT_TEMPLATE_INTERPRETER_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "model/chat_template/ast.h"
#include "model/chat_template/value.h"

namespace octet::chat_template_internal {

// The text that program makes of the variables in so many steps. Errors as ChatTemplate::Render.
absl::StatusOr<std::string> Run(const Program& program,
                                std::vector<std::pair<std::string, Value>> variables,
                                uint64_t steps_max);

}  // namespace octet::chat_template_internal

#endif  // OCTET_MODEL_CHAT_TEMPLATE_INTERPRETER_H_
