// A model as its clients see it: what a request is checked against, its tokenizer, its chat
// template. No protobuf.
#ifndef OCTET_ROUTER_API_SERVED_MODEL_H_
#define OCTET_ROUTER_API_SERVED_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/ids.h"
#include "core/model_config.h"
#include "model/chat_template/chat_template.h"
#include "model/tokenizer/tokenizer.h"

namespace octet {

struct ModelIdentity {
  ModelConfig config;
  std::string name;
  std::string compute_digest;
  uint32_t context = 0;  // longest prompt plus generation accepted
};

// Stands in for the tokenizer of a model that has none: no id has text, and text can't be encoded
// (FAILED_PRECONDITION).
std::shared_ptr<const Tokenizer> NoTokenizer();
// The result of ModelPackage::LoadTokenizer, with NoTokenizer in the place of NOT_FOUND.
absl::StatusOr<std::shared_ptr<const Tokenizer>> OrNoTokenizer(
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer);

// Immutable; every method is thread-safe and does not block.
class ServedModel {
 public:
  // A chat template that does not parse only fails chat requests, with the parser's words.
  ServedModel(ModelIdentity identity, std::shared_ptr<const Tokenizer> tokenizer);

  const ModelIdentity& identity() const { return identity_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  std::shared_ptr<const Tokenizer> shared_tokenizer() const { return tokenizer_; }

  // Raw text by the model's rules: BOS where it was trained with one, special tokens by their
  // spelling.
  absl::StatusOr<std::vector<TokenId>> EncodeText(const std::string& text, bool add_bos) const;
  // Rendered with the model's template, ready for the assistant's turn. FAILED_PRECONDITION where
  // the model has no template or one that is not supported.
  absl::StatusOr<std::vector<TokenId>> EncodeChat(const std::vector<ChatMessage>& messages) const;

 private:
  const ModelIdentity identity_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  absl::StatusOr<ChatTemplate> template_;
  ChatTemplateOptions template_options_;
};

}  // namespace octet

#endif  // OCTET_ROUTER_API_SERVED_MODEL_H_
