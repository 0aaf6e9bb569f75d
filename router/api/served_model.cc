#include "router/api/served_model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/status_macros.h"

namespace octet {
namespace {

class EmptyTokenizer final : public Tokenizer {
 public:
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view,
                                              const EncodeOptions&) const override {
    return absl::FailedPreconditionError("this model has no tokenizer; send token ids");
  }
  std::string Serialize() const override { return ""; }
};

absl::StatusOr<ChatTemplate> ParseTemplate(const std::string& source) {
  if (source.empty()) {
    return absl::FailedPreconditionError(
        "this model has no chat template; send the prompt as text or token ids");
  }
  auto parsed = ChatTemplate::Parse(source);
  if (parsed.ok()) return parsed;
  return absl::FailedPreconditionError(
      absl::StrCat("the model's chat template is not supported: ", parsed.status().message()));
}

}  // namespace

std::shared_ptr<const Tokenizer> NoTokenizer() { return std::make_shared<EmptyTokenizer>(); }

absl::StatusOr<std::shared_ptr<const Tokenizer>> OrNoTokenizer(
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer) {
  if (absl::IsNotFound(tokenizer.status())) return NoTokenizer();
  OCTET_RETURN_IF_ERROR(tokenizer.status());
  return std::shared_ptr<const Tokenizer>(*std::move(tokenizer));
}

ServedModel::ServedModel(ModelIdentity identity, std::shared_ptr<const Tokenizer> tokenizer)
    : identity_(std::move(identity)),
      tokenizer_(std::move(tokenizer)),
      template_(ParseTemplate(tokenizer_->chat_template())) {
  if (tokenizer_->bos_id().has_value()) {
    template_options_.bos_token = tokenizer_->TokenBytes(*tokenizer_->bos_id());
  }
  if (!tokenizer_->eos_ids().empty()) {
    template_options_.eos_token = tokenizer_->TokenBytes(tokenizer_->eos_ids().front());
  }
}

absl::StatusOr<std::vector<TokenId>> ServedModel::EncodeText(const std::string& text,
                                                             bool add_bos) const {
  EncodeOptions options;
  options.add_bos = add_bos && tokenizer_->add_bos_default();
  options.parse_special = true;
  return tokenizer_->Encode(text, options);
}

absl::StatusOr<std::vector<TokenId>> ServedModel::EncodeChat(
    const std::vector<ChatMessage>& messages) const {
  OCTET_RETURN_IF_ERROR(template_.status());
  OCTET_ASSIGN_OR_RETURN(const std::string text, template_->Render(messages, template_options_));
  EncodeOptions options;
  options.parse_special = true;
  return tokenizer_->Encode(text, options);
}

}  // namespace octet
